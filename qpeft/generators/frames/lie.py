"""Frames from the Lie algebra: U = f(A) I_{N,K} of a skew-symmetric A of low rank, without ever building A."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from qpeft.generators.frames.gram import gram
from qpeft.generators.frames.triangle import TriangularFrame


class LieFrame(TriangularFrame):
    """First K columns of f(A), where A = B - B^T and f(0) = 1 (Quantum-PEFT, arXiv 2503.05431).

    B has K' columns, so A = X J X^T has rank 2K' at most, with X = [B, E] (E the first K' columns of the identity)
    and J = [[0, I], [-I, 0]]. Every power of A is then A^p = X Z^(p-1) J X^T with Z = J X^T X, and

        f(A) I_{N,K} = I_{N,K} + X g(Z) J X_{:K}^T,        g(z) = (f(z) - 1) / z,

    exactly. Time is O(N K' (K' + K)) and memory O(N K) beside B; Z is 2K' x 2K', and nothing is N x N. A map is its
    `series` g alone.

    B = 0 gives the first K columns of the identity. Truncating to rows instead of columns would give f(A)^T =
    f(-A), which is this frame at -B, so there is no such option. A diagonal of B cancels in A: with
    triangle="diagonal" those K' numbers are counted, but move nothing.
    """

    @abstractmethod
    def series(self, Z: Tensor, T: Tensor) -> Tensor:
        """g(Z) T of Z (count, 2K', 2K') and T (count, 2K', K)."""

    def forward(self) -> Tensor:
        """Returns the frames, (count, size, columns)."""
        B = self.block()
        rank = self.intrinsic_rank
        # X = [B / s, E s] gives the same A for every s > 0. This s keeps Z no larger than A is; no gradient is due.
        s = torch.linalg.matrix_norm(B.detach(), keepdim=True).clamp_min(1).sqrt()
        eye = torch.eye(self.size, self.columns, dtype=B.dtype, device=B.device)
        X_top = torch.cat([B[:, : self.columns] / s, s * eye[: self.columns, :rank]], dim=2)  # (count, K, 2K')
        T = self.series(_times_j(_gram_of_x(B, s)), _times_j(X_top.mT))
        frame = B @ (T[:, :rank] / s) + eye
        return torch.cat([frame[:, :rank] + s * T[:, rank:], frame[:, rank:]], dim=1)

    @torch.no_grad()
    def spectral_norm(self) -> Tensor:
        """||A||_2 of each frame, (count,), from the 2K' x 2K' Gram matrix of X."""
        B = self.block()
        eigenvalues, vectors = torch.linalg.eigh(_gram_of_x(B, torch.ones_like(B[:, :1, :1])))
        root = vectors * eigenvalues.clamp_min(0).sqrt()[:, None] @ vectors.mT  # X = (orthonormal) root
        norms: Tensor = torch.linalg.matrix_norm(root @ _times_j(root), ord=2)
        return norms


def _gram_of_x(B: Tensor, s: Tensor) -> Tensor:
    """X^T X of X = [B / s, E s], (count, 2K', 2K')."""
    rank = B.shape[2]
    top = B[:, :rank]
    eye = torch.eye(rank, dtype=B.dtype, device=B.device)
    return torch.cat([torch.cat([gram(B) / s**2, top.mT], dim=2), torch.cat([top, s**2 * eye], dim=2)], dim=1)


def _times_j(matrix: Tensor) -> Tensor:
    """J times `matrix`: its lower half above its negated upper half."""
    upper, lower = matrix.chunk(2, dim=1)
    return torch.cat([lower, -upper], dim=1)
