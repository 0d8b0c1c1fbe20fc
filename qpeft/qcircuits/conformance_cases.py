"""The circuits and angles that `qpeft.qcircuits.conformance` asks an engine about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qpeft.qcircuits.ansatz import ANSATZE
from qpeft.qcircuits.builder import CircuitBuilder
from qpeft.qcircuits.circuit import Angle, Circuit
from qpeft.qcircuits.gates import GATES, gate

QUBITS = (1, 2, 3, 5)
POINTS = 4  # angles a circuit is asked at: as many as the largest batch has


@dataclass(frozen=True, eq=False)
class Case:
    """A circuit, where to ask it, and whether to differentiate it (that is dear: not every circuit is)."""

    name: str
    circuit: Circuit
    points: npt.NDArray[np.float64]  # (POINTS, P)
    differentiate: bool


def cases(num_qubits: int) -> Iterator[Case]:
    """The circuits on `num_qubits` qubits; the same at every call."""
    rng = np.random.default_rng(num_qubits)
    circuits = {name: build(num_qubits, 2) for name, build in ANSATZE.items()} | {
        "not symmetric": _not_symmetric(num_qubits),
        "random": _random(num_qubits, rng),
        "no parameters": _no_parameters(num_qubits),
        "no operations": Circuit(num_qubits, (), 2),
    }
    for name, circuit in circuits.items():
        points = rng.uniform(-np.pi, np.pi, (POINTS, circuit.num_parameters))
        points = points.astype(np.float32).astype(np.float64)  # the same angles in both dtypes
        yield Case(f"{name}, N={num_qubits}", circuit, points, num_qubits == 3 or name == "random")


def _not_symmetric(num_qubits: int) -> Circuit:
    builder = CircuitBuilder(num_qubits).append("ry", (0,), 0.4).append("x", (0,))
    for q in range(num_qubits):
        builder.append("ry", (q,))
    for q in range(num_qubits - 1):
        builder.append("cx", (q, q + 1)).append("rx", (q + 1,))
    return builder.build()


def _no_parameters(num_qubits: int) -> Circuit:
    last = num_qubits - 1
    builder = CircuitBuilder(num_qubits).append("x", (0,)).append("h", (last,)).append("t", (last,))
    builder.append("ry", (last,), 0.3)
    for q in range(last):
        builder.append("ecr", (q, q + 1))
    return builder.build()


def _random(num_qubits: int, rng: np.random.Generator) -> Circuit:
    """Every gate that fits, in random order, between rotations that keep all amplitudes alive."""
    fitting = [name for name, row in GATES.items() if row.num_qubits <= num_qubits]
    num_parameters = 1 + len(fitting) // 3  # fewer than places, so that some are shared
    builder = CircuitBuilder(num_qubits)

    def angle() -> Angle:
        index = int(rng.integers(num_parameters)) if rng.random() < 0.8 else None
        return Angle(index, float(rng.choice([1.0, -1.0, 0.5, 2.0])), float(rng.choice([0.0, rng.uniform(-1, 1)])))

    for position, name in enumerate(rng.permutation(fitting).tolist()):
        if position % 2 == 0:
            builder.append(str(rng.choice(["rx", "ry"])), (position // 2 % num_qubits,), angle())
        qubits = rng.permutation(num_qubits)[: gate(name).num_qubits].tolist()
        builder.append(name, qubits, angle() if gate(name).has_angle else None)
    built = builder.build()
    return Circuit(num_qubits, built.operations, num_parameters + 1)  # the last parameter acts nowhere
