"""The canonical coset decomposition: a product of Householder reflections."""

from __future__ import annotations

import torch
from torch import Tensor

from qpeft.generators.frames.gram import gram
from qpeft.generators.frames.triangle import Triangle, TriangularFrame
from qpeft.generators.frames.truncation import Truncation, checked_truncation


class HouseholderFrame(TriangularFrame):
    """K columns of Q = H_1 H_2 ... H_K', H_k = I - 2 n_k n_k^T (Quantum-PEFT, arXiv 2503.05431, Q_H).

    n_k is column k of B, with 1 added at row k, normalised. The paper leaves that pivot open; with 1 there, a column
    is never zero, and B = 0 gives the first K columns of the identity with the first K' negated.

    Orthonormal for every B, up to rounding. It trains NK' - K'(K'+1)/2 numbers; triangle="diagonal" trains the pivots
    too, which only rescales n_k. The reflections are taken together: Q = I - V T V^T with V the columns before
    normalising and T^{-1} the strict upper triangle of V^T V plus half its diagonal (UT transform; Joffrain et al.,
    ACM TOMS 32, 2006). So time is O(N K' (K' + K)), memory O(N K), and nothing is N x N.

    Args:
        size: Rows N of a frame, at least 2.
        columns: Columns K of a frame, from 1 to N.
        count: How many frames are generated in one call.
        intrinsic_rank: Columns K' of B that train, from 1 to K; K if not given.
        triangle: "strict" or "diagonal".
        init_scale: Length of a column of B at the start.
        truncate: "columns" takes the first K columns of Q; "rows" its first K rows, transposed. Either way a
            generic B moves the frame in as many directions as it has numbers, but the frames differ.

    Raises:
        ConfigError: If a number or `truncate` is outside what is allowed.

    Example:
        >>> frame = HouseholderFrame(size=12, columns=3).double()
        >>> frame.num_parameters
        30
        >>> bool(frame.orthogonality_error() < 1e-12)
        True
    """

    def __init__(
        self,
        size: int,
        columns: int,
        count: int = 1,
        intrinsic_rank: int | None = None,
        *,
        triangle: Triangle = "strict",
        init_scale: float | None = None,
        truncate: Truncation = "columns",
    ) -> None:
        self.truncate = checked_truncation(truncate)
        super().__init__(size, columns, count, intrinsic_rank, triangle=triangle, init_scale=init_scale)

    def forward(self) -> Tensor:
        """Returns the frames, (count, size, columns)."""
        B, rank = self.block(), self.intrinsic_rank
        eye = torch.eye(self.size, self.columns, dtype=B.dtype, device=B.device)
        V = B + eye[:, :rank]
        top = B[:, :rank]
        inner = gram(B) + top + top.mT + eye[:rank, :rank]  # V^T V, without adding small numbers to large sums
        inverse_T = inner.triu(1) + torch.diag_embed(inner.diagonal(dim1=1, dim2=2) / 2)
        if self.truncate == "rows":  # Q^T = I - V T^T V^T
            inverse_T = inverse_T.mT
        top_of_V = V[:, : self.columns].mT
        weights: Tensor = torch.linalg.solve_triangular(inverse_T, top_of_V, upper=self.truncate == "columns")
        return eye - V @ weights

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, truncate={self.truncate!r}"
