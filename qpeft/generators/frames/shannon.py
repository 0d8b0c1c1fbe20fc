"""Frames of any size, put together from frames whose size is a power of two."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from qpeft.errors import ConfigError
from qpeft.generators.frames.acting import ActingFrame
from qpeft.generators.frames.base import FrameFactory
from qpeft.generators.frames.pauli import PauliFrame

ANGLES = ("full", "single")


class ShannonFrame(ActingFrame):
    """The first K columns of a cosine-sine (quantum Shannon) decomposition, orthonormal for any N.

    arXiv 2503.05431, eq. 4: with N = N1 + N2, N1 the largest power of two below N,

        Q = diag(U1, U2) M diag(V1, V2),    M = [[C, -S, 0], [0, 0, I], [S, C, 0]]

    where U1 and V2 are orthogonal of size N1, U2 and V1 of size N2, and C and S are the cosines and sines of N2 angles.
    N2 is decomposed again until it is a power of two; a matrix of size 1 is the number 1. So it trains
    P(N) = 2 P(N1) + 2 P(N2) + N2 numbers a frame: the angles outweigh the logarithmic rest unless they are one. Every
    factor acts on N x K blocks; nothing is N x N.

    V2 acts on rows that are zero in the first N2 columns, so for K <= N2 its numbers change nothing in the frame. The
    paper counts them; with `whole=False` they are left out.

    Args:
        size: N, at least 3 and no power of two.
        columns: K.
        count: Number of frames.
        node: Makes the frames of the powers of two; they must act on blocks (`PauliFrame` and `NodeFrame` do).
        angles: "full" trains N2 angles in each M, "single" one that all N2 share.
        whole: Whether to keep the numbers that only `act_on` needs.

    Attributes:
        angles: (count, N2) or (count, 1) in radians, uniform in [-pi, pi] at the start.

    Raises:
        ConfigError: A power of two, a node that cannot act or that keeps rows, or another setting outside what is
            allowed.

    Example:
        >>> frame = ShannonFrame(768, 3)  # 512 + 256
        >>> frame.num_parameters, ShannonFrame(768, 3, angles="single").num_parameters
        (350, 95)
        >>> ShannonFrame(768, 3, whole=False).num_parameters  # 350 less the 25 of V2
        325
        >>> bool(frame.orthogonality_error() < 1e-5)
        True
    """

    def __init__(
        self, size: int, columns: int, count: int = 1, node: FrameFactory = PauliFrame,
        angles: Literal["full", "single"] = "full", whole: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(size, columns, count)
        if not size & (size - 1):
            raise ConfigError(f"N = {size} is a power of two and needs no decomposition; use the node itself")
        if angles not in ANGLES:
            raise ConfigError(f"angles is {angles!r}; it must be 'full' (N2 a matrix) or 'single' (one)")
        self.larger = 1 << (size.bit_length() - 1)  # N1
        self.smaller = size - self.larger  # N2
        self.kind = angles

        def build(part: int, whole: bool = True) -> ActingFrame | None:
            return _factor(part, min(columns, part), count, node, angles, whole)

        self.has_v2 = whole or columns > self.smaller
        self.v1, self.u2 = build(self.smaller, self.has_v2), build(self.smaller)
        self.v2, self.u1 = build(self.larger) if self.has_v2 else None, build(self.larger)
        number = self.smaller if angles == "full" else 1
        self.angles = nn.Parameter((2 * torch.rand(count, number) - 1) * torch.pi)

    def forward(self) -> Tensor:
        if self.columns > self.smaller:
            return super().forward()
        top = self.angles.new_ones(self.count, 1, 1) if self.v1 is None else self.v1()
        frame = self._after_v(top, top.new_zeros(self.count, self.larger, self.columns))
        if self.v2 is None:
            return frame
        return frame + 0 * sum(parameter.sum() for parameter in self.v2.parameters())  # zero gradients, not none

    def act_on(self, block: Tensor) -> Tensor:
        """Q @ block, (count, N, k).

        Raises:
            ConfigError: The frame is not whole.
        """
        if not self.has_v2:
            raise ConfigError("this ShannonFrame has only the numbers of its first columns; make it with whole=True")
        top, bottom = block.split([self.smaller, self.larger], dim=1)
        return self._after_v(_act(self.v1, top), _act(self.v2, bottom))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.larger} + {self.smaller}, angles={self.kind!r}"

    def _after_v(self, top: Tensor, bottom: Tensor) -> Tensor:
        """diag(U1, U2) M on V's rows: `top` (count, N2, k), `bottom` (count, N1, k)."""
        angles = self.angles[..., None]
        cosine, sine = angles.cos(), angles.sin()
        middle, rest = bottom.split([self.smaller, self.larger - self.smaller], dim=1)
        first = torch.cat([cosine * top - sine * middle, rest], dim=1)
        return torch.cat([_act(self.u1, first), _act(self.u2, sine * top + cosine * middle)], dim=1)


def _factor(
    size: int, columns: int, count: int, node: FrameFactory, angles: Literal["full", "single"], whole: bool
) -> ActingFrame | None:
    """An orthogonal factor; None stands for the 1 x 1 matrix 1."""
    if size == 1:
        return None
    if size & (size - 1):
        return ShannonFrame(size, columns, count, node, angles, whole)
    frame = node(size, columns, count)
    if not isinstance(frame, ActingFrame):
        raise ConfigError(
            f"{type(frame).__name__} cannot act on a block of columns, as the factors of ShannonFrame do; use it "
            "without ShannonFrame, if it takes any size, or give PauliFrame or NodeFrame"
        )
    if isinstance(frame, PauliFrame) and frame.truncate != "columns":
        # Of transposed nodes it would be columns of a matrix that is neither Q nor Q^T.
        raise ConfigError(
            f"truncate is {frame.truncate!r}, and a cosine-sine decomposition keeps columns alone; use "
            "truncate='columns', or other_sizes='pad' (PaddedFrame) with rows"
        )
    return frame


def _act(frame: ActingFrame | None, block: Tensor) -> Tensor:
    return block if frame is None else frame.act_on(block)
