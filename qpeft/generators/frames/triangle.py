"""Frames whose trained numbers are the first columns of a lower triangle."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from qpeft.errors import ConfigError
from qpeft.generators.frames.base import Frame

Triangle = Literal["strict", "diagonal"]


def triangle_parameters(size: int, rank: int, triangle: Triangle = "strict") -> int:
    """Numbers below the diagonal of the first `rank` columns K' of an N x N matrix.

    "strict" counts N K' - K' (K' + 1) / 2, the dimension of the Stiefel manifold of K' columns (Quantum-PEFT,
    arXiv 2503.05431); "diagonal" adds the K' numbers on the diagonal.
    """
    strict = size * rank - rank * (rank + 1) // 2
    return strict + (rank if triangle == "diagonal" else 0)


class TriangularFrame(Frame):
    """A frame made from B, (count, N, K'), of which the numbers below the diagonal train.

    The intrinsic rank K' <= K masks the columns of B after the first K': they stay zero, so they are not stored. The
    frame has K columns all the same.

    Args:
        size: Rows N of a frame, at least 2.
        columns: Columns K of a frame, from 1 to N.
        count: How many frames are generated in one call.
        intrinsic_rank: Columns K' of B that train, from 1 to K; K if not given.
        triangle: "strict", or "diagonal" to train the diagonal too. Every published count that is known to match
            includes the diagonal, though it adds nothing to what a frame can be: see each map.
        init_scale: Entries of B start as N(0, init_scale^2 / N), so a column of B has length of about `init_scale`
            whatever N is; the class's `default_init_scale` if not given.

    Raises:
        ConfigError: If a number is outside what is allowed.
    """

    default_init_scale: ClassVar[float] = 0.5

    def __init__(
        self,
        size: int,
        columns: int,
        count: int = 1,
        intrinsic_rank: int | None = None,
        *,
        triangle: Triangle = "strict",
        init_scale: float | None = None,
    ) -> None:
        super().__init__(size, columns, count)
        rank = columns if intrinsic_rank is None else intrinsic_rank
        if not 1 <= rank <= columns:
            raise ConfigError(f"intrinsic rank K' must be from 1 to K = {columns}, got {rank}; lower it or raise K")
        if triangle not in get_args(Triangle):
            raise ConfigError(f"triangle must be 'strict' or 'diagonal', got {triangle!r}")
        scale = self.default_init_scale if init_scale is None else init_scale
        if not (math.isfinite(scale) and scale >= 0):
            raise ConfigError(f"init_scale must be finite and at least 0, got {scale}")
        self.intrinsic_rank = rank
        self.triangle: Triangle = triangle
        self.init_scale = scale
        self.entries = nn.Parameter(torch.empty(count, triangle_parameters(size, rank, triangle)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the entries of B anew."""
        nn.init.normal_(self.entries, std=self.init_scale / math.sqrt(self.size))

    def block(self) -> Tensor:
        """The trained columns of B, (count, size, intrinsic_rank), zero above the diagonal."""
        rank = self.intrinsic_rank
        offset = 0 if self.triangle == "diagonal" else -1
        row, column = torch.tril_indices(rank, rank, offset, device=self.entries.device)
        top = self.entries.new_zeros(self.count, rank, rank)
        # The entries lie row by row: those of the triangle on top come first, full rows follow.
        top[:, row, column] = self.entries[:, : len(row)]
        rest = self.entries[:, len(row) :].view(self.count, self.size - rank, rank)
        return torch.cat([top, rest], dim=1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, intrinsic_rank={self.intrinsic_rank}, triangle={self.triangle!r}"
