"""The canonical coset decomposition: a product of Householder reflections."""

from __future__ import annotations

import torch
from torch import Tensor

from qpeft.generators.frames.gram import gram
from qpeft.generators.frames.truncation import TruncatedFrame


class HouseholderFrame(TruncatedFrame):
    """K columns of Q = H_1 H_2 ... H_K', H_k = I - 2 n_k n_k^T (Quantum-PEFT, arXiv 2503.05431, Q_H).

    n_k is column k of B, with 1 added at row k, normalised. The paper leaves that pivot open; with 1 there, a strict
    column is never zero, and B = 0 gives the first K columns of the identity with the first K' negated.

    Orthonormal for every B, up to rounding. It trains NK' - K'(K'+1)/2 numbers; triangle="diagonal" trains the pivots
    too, which only rescales n_k. The reflections are taken together: Q = I - V T V^T with V the columns before
    normalising and T^{-1} the strict upper triangle of V^T V plus half its diagonal (UT transform; Joffrain et al.,
    ACM TOMS 32, 2006). So time is O(N K' (K' + K)), memory O(N K), and nothing is N x N.

    At a generic B the first K columns and the first K rows each move in as many directions as there are numbers, so
    that either truncation will do.

    Example:
        >>> frame = HouseholderFrame(size=12, columns=3).double()
        >>> frame.num_parameters
        30
        >>> bool(frame.orthogonality_error() < 1e-12)
        True
    """

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
