"""The Cayley map."""

from __future__ import annotations

import torch
from torch import Tensor

from qpeft.generators.frames.lie import LieFrame


class CayleyFrame(LieFrame):
    """First K columns of (I + A)(I - A)^{-1}, A = B - B^T (Quantum-PEFT, arXiv 2503.05431, Q_C).

    Orthonormal for every B, up to rounding. It trains NK' - K'(K'+1)/2 numbers. The system solved is 2K' x 2K', by
    Woodbury's identity, not N x N: see `LieFrame`.

    Example:
        >>> frame = CayleyFrame(size=12, columns=3).double()
        >>> frame.num_parameters
        30
        >>> bool(frame.orthogonality_error() < 1e-12)
        True
    """

    def series(self, Z: Tensor, T: Tensor) -> Tensor:
        """g(Z) T with g(z) = 2 / (1 - z)."""
        identity = torch.eye(Z.shape[1], dtype=Z.dtype, device=Z.device)
        solution: Tensor = torch.linalg.solve(identity - Z, T)
        return 2 * solution
