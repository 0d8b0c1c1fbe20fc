"""Ansätze: circuits with free angles, all built by one layered builder and kept in one registry.

`n_local` follows Qiskit's circuit of that name: a layer is a sequence of (gate, pattern) pairs, and every rotation gets
an angle of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qpeft.errors import CircuitError, unknown_name
from qpeft.qcircuits.builder import CircuitBuilder
from qpeft.qcircuits.circuit import Circuit
from qpeft.qcircuits.gates import gate
from qpeft.registry import Registry

Block = tuple[str, str]  # (gate name, pattern name)
AnsatzFunction = Callable[[int, int], Circuit]  # (num_qubits, reps) -> Circuit

PATTERNS: dict[str, Callable[[int], list[tuple[int, ...]]]] = {
    "all": lambda n: [(q,) for q in range(n)],
    "chain": lambda n: [(q, q + 1) for q in range(n - 1)],  # ascending: (0, 1) acts first
    "ring": lambda n: [(q, (q + 1) % n) for q in range(n)] if n > 2 else [(q, q + 1) for q in range(n - 1)],
    "even_pairs": lambda n: [(q, q + 1) for q in range(0, n - 1, 2)],
    "odd_pairs": lambda n: [(q, q + 1) for q in range(1, n - 1, 2)],
}


def n_local(num_qubits: int, reps: int, layer: Sequence[Block], initial: Sequence[Block] = ()) -> Circuit:
    """`initial` once, then `layer` `reps` times.

    Args:
        num_qubits: Number of qubits.
        reps: Number of layers, 0 or more.
        layer: (gate, pattern) pairs, in time order. A single-qubit gate under a pattern of pairs acts on every qubit of
            those pairs.
        initial: Pairs that come once, before the layers.

    Raises:
        CircuitError: Unknown gate or pattern, or a two-qubit gate under the pattern "all".

    Example:
        >>> print(n_local(3, 1, [("ry", "all"), ("cx", "chain")]))
        q0: ─ry(θ0)──●─────
                     │
        q1: ─ry(θ1)──x──●──
                        │
        q2: ─ry(θ2)─────x──
    """
    if reps < 0:
        raise CircuitError(f"reps must be 0 or more; given {reps}")
    builder = CircuitBuilder(num_qubits)
    for name, pattern in [*initial, *(block for _ in range(reps) for block in layer)]:
        if pattern not in PATTERNS:
            raise CircuitError(unknown_name("pattern", pattern, PATTERNS))
        groups = PATTERNS[pattern](num_qubits)
        if gate(name).num_qubits == 1:
            groups = [(q,) for q in sorted({q for group in groups for q in group})]
        elif pattern == "all":
            raise CircuitError(f"{name} acts on pairs; the pattern 'all' names single qubits. Use 'chain' or 'ring'")
        for qubits in groups:
            builder.append(name, qubits)
    return builder.build()


@dataclass(frozen=True)
class Ansatz:
    """A registered ansatz: calling it with (num_qubits, reps) gives the `Circuit`."""

    build: AnsatzFunction
    summary: str
    source: str

    def __call__(self, num_qubits: int, reps: int) -> Circuit:
        return self.build(num_qubits, reps)


ANSATZE: Registry[Ansatz] = Registry("ansatz")


def register_ansatz(name: str, build: AnsatzFunction, summary: str = "", source: str = "user") -> None:
    """Makes `build(num_qubits, reps)` available under `name` wherever an ansatz is named."""
    ANSATZE.register(name, Ansatz(build, summary, source))


def ansatz(name: str, num_qubits: int, reps: int) -> Circuit:
    """The registered ansatz `name`; raises `ConfigError` with the nearest names if there is none."""
    return ANSATZE[name](num_qubits, reps)


_QPA = "Quantum Parameter Adaptation, arXiv 2410.09846"


def _register(name: str, summary: str, source: str, layer: Sequence[Block], initial: Sequence[Block] = ()) -> None:
    register_ansatz(name, lambda num_qubits, reps: n_local(num_qubits, reps, layer, initial), summary, source)


_CHAIN: Block = ("cx", "chain")
_register("ry_cnot", "RY on every qubit, CNOT chain", f"{_QPA}, eq. 1", [("ry", "all"), _CHAIN])
_register("rx_cnot", "RX on every qubit, CNOT chain", f"{_QPA}, eq. 12", [("rx", "all"), _CHAIN])
_register(
    "rxrz_cnot", "RX, CNOT chain, RZ, CNOT chain", f"{_QPA}, eq. 13", [("rx", "all"), _CHAIN, ("rz", "all"), _CHAIN]
)
_register(
    "ryrz_cnot", "RY, CNOT chain, RZ, CNOT chain", f"{_QPA}, eq. 14", [("ry", "all"), _CHAIN, ("rz", "all"), _CHAIN]
)
_register(
    "simplified_two_design",
    "RY on every qubit, then CZ and RY on even and on odd pairs",
    "Quantum-PEFT, arXiv 2503.05431, eq. 2; PennyLane's SimplifiedTwoDesign",
    layer=[("cz", "even_pairs"), ("ry", "even_pairs"), ("cz", "odd_pairs"), ("ry", "odd_pairs")],
    initial=[("ry", "all")],
)
