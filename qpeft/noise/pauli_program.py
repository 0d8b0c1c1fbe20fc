"""Compiles a circuit under noise into a short list of two-qubit Pauli transfer matrices.

Every gate, with the error that follows it, is a transfer matrix affine in cos and sin of its angle. Single-qubit
matrices are merged into the next two-qubit one (those after the last one into it), and two-qubit matrices that follow
one another on the same pair are merged too: what is left is one 16 x 16 matrix a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from qpeft.errors import NoiseError
from qpeft.noise.channels import RealMatrix, reversed_qubits, unitary
from qpeft.qcircuits.circuit import Angle, Circuit, Operation
from qpeft.qcircuits.gates import gate
from qpeft.qcircuits.program import MatrixTable, kronecker, products

ErrorOf = Callable[[str, tuple[int, ...]], RealMatrix | None]
"""(gate, qubits) -> the error channel that follows the ideal gate, or None."""

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class PauliProgram:
    """A compiled circuit for one dtype and device.

    Attributes:
        num_qubits: Qubits of the evolution, at least 2; the last one idles if the circuit has one.
        steps: The pair of qubits of each step, in ascending order.
        singles: The single-qubit matrices.
        single_runs: Which of them multiply to slot 2 l (first qubit of layer l) and 2 l + 1 (second qubit).
        pairs: The two-qubit matrices.
        pair_of_layer: Which of them follows in layer l; the number of matrices stands for the identity.
        layer_runs: Which layers multiply to each step.
    """

    num_qubits: int
    steps: tuple[Pair, ...]
    singles: MatrixTable | None
    single_runs: tuple[Tensor, ...]
    pairs: MatrixTable | None
    pair_of_layer: tuple[Tensor, ...]
    layer_runs: tuple[Tensor, ...]

    def matrices(self, angles: Tensor) -> Tensor:
        """Angles (B, P) -> the matrix of every step, (B, S, 16, 16)."""
        batch = len(angles)
        none = angles.new_zeros(batch, 0, 4, 4)
        singles = none if self.singles is None else self.singles.matrices(angles)
        layers = kronecker(products(singles, self.single_runs).unflatten(1, (-1, 2)))
        if self.pairs is not None:
            layers = products(self.pairs.matrices(angles), self.pair_of_layer) @ layers
        return products(layers, self.layer_runs)


def compile_noisy(
    circuit: Circuit, error_of: ErrorOf, dtype: torch.dtype, device: torch.device
) -> PauliProgram:  # fmt: skip
    """The program of a circuit of single-angle rotations and constant gates, with an error after each."""
    builder = _Builder(max(2, circuit.num_qubits))
    for operation in circuit.operations:
        builder.add(operation, _harmonics(operation, error_of(operation.gate, operation.qubits)))
    return builder.finish(circuit.num_parameters, dtype, device)


def _harmonics(operation: Operation, error: RealMatrix | None) -> RealMatrix:
    """(3, d, d): C0 + cos(t) C1 + sin(t) C2 of the gate's transfer matrix and the error after it."""
    row = gate(operation.gate)
    if not row.has_angle:
        constant = unitary(row.at())
        parts = np.stack([constant, np.zeros_like(constant), np.zeros_like(constant)])
    elif row.gaps == (1.0,):
        zero, quarter, half = (unitary(row.at(angle)) for angle in (0, np.pi / 2, np.pi))
        mean = (zero + half) / 2
        parts = np.stack([mean, (zero - half) / 2, quarter - mean])
    else:
        raise NoiseError(f"{operation.describe()} cannot run under noise; decompose it into rotations first")
    parts = parts if error is None else error @ parts
    return parts if operation.qubits == tuple(sorted(operation.qubits)) else np.stack([*map(reversed_qubits, parts)])


@dataclass
class _Factors:
    """The rows of a `MatrixTable` to be."""

    angles: list[Angle] = field(default_factory=list)
    frequencies: list[float] = field(default_factory=list)
    harmonics: list[RealMatrix] = field(default_factory=list)

    def add(self, angle: Angle | None, harmonics: RealMatrix) -> int:
        self.angles.append(angle or Angle(None))
        self.frequencies.append(0.0 if angle is None else 1.0)
        self.harmonics.append(harmonics)
        return len(self.angles) - 1

    def table(self, num_parameters: int, dtype: torch.dtype, device: torch.device) -> MatrixTable | None:
        if not self.angles:
            return None
        harmonics = np.array(self.harmonics)
        return MatrixTable.from_harmonics(self.angles, self.frequencies, harmonics, num_parameters, dtype, device)


class _Builder:
    """Collects operations into layers and steps."""

    def __init__(self, num_qubits: int) -> None:
        self.num_qubits = num_qubits
        self.singles, self.pairs = _Factors(), _Factors()
        self.waiting: list[list[int]] = [[] for _ in range(num_qubits)]  # single-qubit factors not yet in a layer
        self.last: list[int | None] = [None] * num_qubits  # the last step on each qubit
        self.steps: list[Pair] = []
        self.layers_of: list[list[int]] = []
        self.slots: list[list[int]] = []
        self.pair_of_layer: list[int | None] = []

    def add(self, operation: Operation, harmonics: RealMatrix) -> None:
        if len(operation.qubits) == 1:
            self.waiting[operation.qubits[0]].append(self.singles.add(operation.angle, harmonics))
            return
        low, high = sorted(operation.qubits)
        self._layer((low, high), self.pairs.add(operation.angle, harmonics))

    def _layer(self, qubits: Pair, pair: int | None) -> None:
        """A layer on these qubits, in their last step if that is the last of both."""
        low, high = qubits
        step = self.last[low]
        if step is None or step != self.last[high]:
            step = len(self.steps)
            self.steps.append(qubits)
            self.layers_of.append([])
            self.last[low] = self.last[high] = step
        self.layers_of[step].append(len(self.pair_of_layer))
        self.pair_of_layer.append(pair)
        self.slots += [self.waiting[low], self.waiting[high]]
        self.waiting[low], self.waiting[high] = [], []

    def finish(self, num_parameters: int, dtype: torch.dtype, device: torch.device) -> PauliProgram:
        for qubit in range(self.num_qubits):
            if self.waiting[qubit]:
                step = self.last[qubit]
                beside = (qubit, qubit + 1) if qubit + 1 < self.num_qubits else (qubit - 1, qubit)
                self._layer(beside if step is None else self.steps[step], None)
        if not self.steps:
            self._layer((0, 1), None)
        num_singles, num_pairs = len(self.singles.angles), len(self.pairs.angles)
        return PauliProgram(
            self.num_qubits, tuple(self.steps),
            self.singles.table(num_parameters, dtype, device), _indices(self.slots, num_singles, device),
            self.pairs.table(num_parameters, dtype, device),
            _indices([[num_pairs if p is None else p] for p in self.pair_of_layer], num_pairs, device),
            _indices(self.layers_of, len(self.pair_of_layer), device),
        )  # fmt: skip


def _indices(runs: list[list[int]], identity: int, device: torch.device) -> tuple[Tensor, ...]:
    """Runs of factors as one tensor a position, filled up with the identity."""
    longest = max(1, *map(len, runs))
    filled = [run + [identity] * (longest - len(run)) for run in runs]
    return tuple(torch.tensor(position, device=device) for position in zip(*filled, strict=True))
