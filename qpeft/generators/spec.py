"""Sizes and counts of a QPA generator, known before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from qpeft.errors import ConfigError
from qpeft.generators.mapping import ACTIVATIONS, mapping_parameters
from qpeft.generators.transforms import TRANSFORMS
from qpeft.qcircuits import ANSATZE, Circuit

CIRCUIT_SOURCES = ("circuit", "frozen", "free")  # these run the circuit, to train it or for its start
SOURCES = (*CIRCUIT_SOURCES, "mlp", "none")

AnsatzLike = str | Circuit | Callable[[int, int], Circuit]


def qubits_for(num_chunks: int) -> int:
    """N = max(1, ceil(log2 n_ch)): one basis state a chunk (arXiv 2410.09846, eq. 8; at least one qubit)."""
    return max(1, (num_chunks - 1).bit_length())


@dataclass(frozen=True)
class QPASpec:
    """What a `QPAGenerator` will be.

    Attributes:
        target_size: m, how many numbers to generate.
        chunk_size: n_mlp, how many of them one basis state gives.
        ansatz: A registered name, a function (num_qubits, reps) -> Circuit, or a Circuit.
        reps: Layers of the ansatz; a given Circuit has its own.
        hidden: Widths of the mapping network's hidden layers.
        activation: Its activation, a name in `ACTIVATIONS`.
        transform: What is done to the probabilities, a name in `TRANSFORMS`.
        source: Where each basis state's number comes from: the "circuit"; or a classical control: the same circuit
            "frozen" at its random start, a "free" trainable number each, a small "mlp" on the basis label with as many
            parameters as the circuit, or "none" (the label alone).
        zero_last: Whether the last layer starts at zero, so that the generated vector does.

    Raises:
        ConfigError: A value outside what is allowed.
    """

    target_size: int
    chunk_size: int
    ansatz: AnsatzLike = field(default="ry_cnot", hash=False)
    reps: int = 8
    hidden: tuple[int, ...] = (16,)
    activation: str = "gelu"
    transform: str = "scaled"
    source: str = "circuit"
    zero_last: bool = True

    def __post_init__(self) -> None:
        if self.target_size < 1:
            raise ConfigError(f"target_size is {self.target_size}; at least 1 number must be generated")
        if not 1 <= self.chunk_size <= self.target_size:
            raise ConfigError(
                f"chunk size {self.chunk_size} is not in 1 to {self.target_size}, the number of generated weights"
            )
        if self.reps < 0:
            raise ConfigError(f"reps is {self.reps}; it must be 0 or more")
        if any(width < 1 for width in self.hidden):
            raise ConfigError(f"hidden widths must be at least 1; given {self.hidden}")
        if self.source not in SOURCES:
            raise ConfigError(f"source {self.source!r} is not one of {', '.join(SOURCES)}")
        ACTIVATIONS[self.activation], TRANSFORMS[self.transform]  # an unknown name raises
        if isinstance(self.ansatz, str):
            ANSATZE[self.ansatz]
        elif isinstance(self.ansatz, Circuit) and self.ansatz.num_qubits != self.num_qubits:
            raise ConfigError(
                f"the given circuit has {self.ansatz.num_qubits} qubits; {self.target_size} weights in chunks of "
                f"{self.chunk_size} are {self.num_chunks} chunks and need {self.num_qubits} qubits. Change the chunk "
                "size, or give a function (num_qubits, reps) -> Circuit"
            )

    @property
    def num_chunks(self) -> int:
        """n_ch = ceil(m / n_mlp) (arXiv 2410.09846, eq. 7)."""
        return -(-self.target_size // self.chunk_size)

    @property
    def num_qubits(self) -> int:
        return qubits_for(self.num_chunks)

    @cached_property
    def circuit(self) -> Circuit:
        """The circuit, built for `num_qubits`."""
        if isinstance(self.ansatz, Circuit):
            return self.ansatz
        build = ANSATZE[self.ansatz] if isinstance(self.ansatz, str) else self.ansatz
        circuit = build(self.num_qubits, self.reps)
        if not isinstance(circuit, Circuit):
            raise ConfigError(f"the ansatz function returned a {type(circuit).__name__}; expected a qpeft Circuit")
        if circuit.num_qubits != self.num_qubits:
            raise ConfigError(
                f"the ansatz function was asked for {self.num_qubits} qubits and returned a circuit on "
                f"{circuit.num_qubits}"
            )
        return circuit

    @property
    def uses_circuit(self) -> bool:
        """Whether the source runs the circuit, to train it or for its start."""
        return self.source in CIRCUIT_SOURCES

    @property
    def label_mlp_width(self) -> int:
        """Hidden width of the control "mlp" that brings it closest to as many parameters as the circuit has angles."""
        return max(1, round((self.circuit.num_parameters - 1) / (self.num_qubits + 2)))

    @property
    def source_parameters(self) -> int:
        """Trained numbers of the source."""
        match self.source:
            case "circuit":
                return self.circuit.num_parameters
            case "free":
                return self.num_chunks
            case "mlp":
                return mapping_parameters((self.num_qubits, self.label_mlp_width, 1))
            case _:
                return 0

    @property
    def mapping_widths(self) -> tuple[int, ...]:
        features = self.num_qubits + (self.source != "none")
        return (features, *self.hidden, self.chunk_size)

    @property
    def num_parameters(self) -> int:
        """Trained numbers in all: what `sum(p.numel())` over the built generator gives."""
        return self.source_parameters + mapping_parameters(self.mapping_widths)

    @classmethod
    def within_budget(cls, target_size: int, budget: int, **options: Any) -> QPASpec:
        """The spec with the largest chunk size that trains at most `budget` numbers.

        Args:
            target_size: m.
            budget: Most trained numbers.
            **options: Other fields of the spec.

        Raises:
            ConfigError: Even the smallest generator is larger; the message says how large it is.
        """
        filled = (_fill(smallest, budget) for smallest in _smallest_by_qubits(cls, target_size, options))
        specs = [spec for spec in filled if spec is not None]
        if not specs:
            least = cls.smallest(target_size, **options).num_parameters
            raise ConfigError(
                f"a budget of {budget} parameters is too small: the smallest generator of {target_size} weights with "
                f"these settings trains {least}. Raise the budget, or use smaller hidden widths or fewer reps"
            )
        return max(specs, key=lambda spec: spec.chunk_size)

    @classmethod
    def smallest(cls, target_size: int, **options: Any) -> QPASpec:
        """The spec that trains the fewest numbers."""
        starts = list(_smallest_by_qubits(cls, target_size, options))
        best: QPASpec | None = min(starts, key=lambda spec: spec.num_parameters)
        while best is not None:  # larger chunks are fewer, which the control "free" may gain from
            least, budget = best, best.num_parameters - 1
            best = next((spec for start in starts if (spec := _fill(start, budget))), None)
        return least


def _smallest_by_qubits(cls: type[QPASpec], target_size: int, options: dict[str, Any]) -> Iterator[QPASpec]:
    """For each possible number of qubits, the spec with the smallest chunk size."""
    given, most = options.get("ansatz"), qubits_for(target_size)
    if isinstance(given, Circuit) and given.num_qubits > most:
        raise ConfigError(
            f"the given circuit has {given.num_qubits} qubits; {target_size} weights are at most as many chunks and "
            f"need at most {most} qubits. Give a smaller circuit, or a function (num_qubits, reps) -> Circuit"
        )
    refusal: Exception | None = None
    buildable = 0
    for num_qubits in range(1, most + 1):
        if isinstance(given, Circuit) and given.num_qubits != num_qubits:
            continue
        spec = cls(target_size, -(-target_size // 2**num_qubits), **options)
        try:
            _ = spec.num_parameters
        except Exception as error:  # a function of the user's own may need more qubits than the smallest sizes have
            refusal = error
            continue
        buildable += 1
        yield spec
    if not buildable and refusal is not None:
        raise ConfigError(f"the ansatz function fails for every size from 1 to {most} qubits: {refusal}") from refusal


def _fill(smallest: QPASpec, budget: int) -> QPASpec | None:
    """The largest chunk size with as many qubits as `smallest` that keeps to the budget, or None.

    Each further output costs one more row of the last layer. A smaller chunk never makes the source smaller (the
    control "free" grows), so going down by less than the excess in rows cannot be enough.
    """
    m, qubits, row = smallest.target_size, smallest.num_qubits, smallest.mapping_widths[-2] + 1
    chunk_size = m if qubits == 1 else (m - 1) // 2 ** (qubits - 1)  # one more would need a qubit less
    while chunk_size >= smallest.chunk_size:
        spec = replace(smallest, chunk_size=chunk_size)
        excess = spec.num_parameters - budget
        if excess <= 0:
            return spec
        chunk_size -= -(-excess // row)
    return None
