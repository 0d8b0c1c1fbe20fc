"""A compiled circuit: the steps to take, and their matrices as a function of the angles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qpeft.qcircuits.circuit import Angle, Operation
from qpeft.qcircuits.gates import gate


@dataclass(frozen=True)
class LocalStep:
    """Row `row` of the program's table of 2 x 2 matrices: one matrix a qubit."""

    row: int


@dataclass(frozen=True, eq=False)
class MonomialStep:
    """`new[i] = phases[i] * old[source[i]]`; None stands for the identity permutation or for no phases."""

    source: Tensor | None
    inverse: Tensor | None
    phases: Tensor | None


@dataclass(frozen=True)
class PairStep:
    """Matrix `index` of the program's table of 4 x 4 matrices, on two qubits."""

    index: int
    qubits: tuple[int, int]


Step = LocalStep | MonomialStep | PairStep


@dataclass(frozen=True, eq=False)
class MatrixTable:
    """Gate matrices as a function of the angles: U_g = C0_g + cos(w_g t_g) C1_g + sin(w_g t_g) C2_g.

    What changes nothing is None: a parameter order that is the angles' own, offsets or constants that are all zero.
    """

    num_gates: int
    parameter: Tensor | None  # (G,) which theta; any where the angle is constant
    scale: Tensor  # (G,) w times the angle's scale; 0 where the angle is constant
    offset: Tensor | None  # (G,) w times the angle's offset
    constant: Tensor | None  # (G, d, d) C0
    cosine: Tensor  # (G, d, d) C1
    sine: Tensor  # (G, d, d) C2

    @classmethod
    def of(
        cls, operations: list[Operation], num_parameters: int, dtype: torch.dtype, device: torch.device
    ) -> MatrixTable:
        """The table of the operations' unitaries."""
        rows = [gate(o.gate) for o in operations]
        angles = [o.angle or Angle(None) for o in operations]
        frequencies = [row.frequency if row.has_angle else 0.0 for row in rows]
        harmonics = np.array([row.harmonics for row in rows])
        return cls.from_harmonics(angles, frequencies, harmonics, num_parameters, dtype, device)

    @classmethod
    def from_harmonics(
        cls, angles: list[Angle], frequencies: list[float], harmonics: npt.NDArray[np.inexact],
        num_parameters: int, dtype: torch.dtype, device: torch.device,
    ) -> MatrixTable:  # fmt: skip
        """The table of matrices with these harmonics, (G, 3, d, d), at frequency * angle (frequency 0: constant)."""
        parameter = [angle.index or 0 for angle in angles]
        pairs = list(zip(angles, frequencies, strict=True))
        scale = [0.0 if angle.index is None else frequency * angle.scale for angle, frequency in pairs]
        offset = [frequency * angle.offset for angle, frequency in pairs]
        values = torch.from_numpy(harmonics if dtype.is_complex else harmonics.real)
        constant, cosine, sine = values.to(device=device, dtype=dtype).unbind(1)
        real = dtype.to_real()
        return cls(
            len(angles),
            None if parameter == list(range(num_parameters)) else torch.tensor(parameter, device=device),
            torch.tensor(scale, dtype=real, device=device),
            torch.tensor(offset, dtype=real, device=device) if any(offset) else None,
            constant if constant.any() else None, cosine, sine,
        )  # fmt: skip

    def matrices(self, angles: Tensor) -> Tensor:
        """Angles (B, P) -> matrices (B, G, d, d)."""
        if self.parameter is None:
            phase = angles * self.scale
        elif angles.shape[-1]:
            phase = angles.index_select(-1, self.parameter) * self.scale
        else:
            phase = angles.new_zeros(angles.shape[0], self.num_gates)
        if self.offset is not None:
            phase = phase + self.offset
        phase = phase[..., None, None]
        matrices = torch.addcmul(phase.cos() * self.cosine, phase.sin(), self.sine)
        return matrices if self.constant is None else matrices + self.constant


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled circuit for one dtype and device.

    Attributes:
        num_qubits: N.
        steps: What to do, in order.
        local: The single-qubit gates of all `LocalStep`s, or None.
        runs: For position k in a qubit's run of gates, which gate stands at (row, qubit): tensors (rows * N,), in which
            the number of gates stands for the identity; None if that is just every gate in order.
        blocks: (number of blocks, qubits a block) for each block size, from qubit 0 on.
        pairs: The gates of all `PairStep`s, or None.
        dtype: dtype of the state.
    """

    num_qubits: int
    steps: tuple[Step, ...]
    local: MatrixTable | None
    runs: tuple[Tensor, ...] | None
    blocks: tuple[tuple[int, int], ...]
    pairs: MatrixTable | None
    dtype: torch.dtype

    @cached_property
    def layers(self) -> int:
        """Number of `LocalStep`s."""
        return sum(isinstance(step, LocalStep) for step in self.steps)

    def matrices(self, angles: Tensor) -> list[Tensor]:
        """The matrices of every step at angles (B, P).

        Returns:
            For each block size a tensor (B, rows, number of blocks, d, d); then, if there are any, the pairs
            (B, pairs, 4, 4).
        """
        n = self.num_qubits
        out: list[Tensor] = []
        if self.local is not None:
            table = self.local.matrices(angles)
            if self.runs is not None:
                table = products(table, self.runs)
            table = table.unflatten(1, (-1, n))  # (B, rows, N, 2, 2)
            parts = table.split([count * size for count, size in self.blocks], dim=2)
            for part, (count, size) in zip(parts, self.blocks, strict=True):
                out.append(kronecker(part.unflatten(2, (count, size))))
        if self.pairs is not None:
            out.append(self.pairs.matrices(angles))
        return out


def products(table: Tensor, runs: tuple[Tensor, ...]) -> Tensor:
    """Products of a table's matrices.

    Args:
        table: (B, G, d, d).
        runs: `runs[k][r]` says which matrix is the k-th factor of product r, in time order; G stands for the identity.

    Returns:
        (B, R, d, d)
    """
    identity = torch.eye(table.shape[-1], dtype=table.dtype, device=table.device).expand(len(table), 1, -1, -1)
    factors = torch.cat([table, identity], dim=1)
    product = factors.index_select(1, runs[0])
    for later in runs[1:]:
        product = factors.index_select(1, later) @ product
    return product


def kronecker(factors: Tensor) -> Tensor:
    """(..., k, d, d) -> (..., d**k, d**k): the Kronecker product over the axis k, first factor most significant."""
    k = factors.shape[-3]
    if k == 1:
        return factors.squeeze(-3)
    if k % 2:
        left, right = factors[..., 0, :, :], kronecker(factors[..., 1:, :, :])
    else:  # pairs at once, then the product of the pairs
        left, right = factors.unflatten(-3, (k // 2, 2)).unbind(-3)
    *many, a, _ = left.shape
    b = right.shape[-1]
    product = (left.view(*many, a, 1, a, 1) * right.view(*many, 1, b, 1, b)).view(*many, a * b, a * b)
    return product if k % 2 else kronecker(product)
