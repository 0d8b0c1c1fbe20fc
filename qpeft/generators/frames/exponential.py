"""The exponential map."""

from __future__ import annotations

import torch
from torch import Tensor

from qpeft.generators.frames.lie import LieFrame


class ExponentialFrame(LieFrame):
    """First K columns of exp(A), A = B - B^T (Quantum-PEFT, arXiv 2503.05431, Q_E).

    Orthonormal for every B, up to rounding. It trains NK' - K'(K'+1)/2 numbers. The exponential taken is of a matrix
    of 2K' + K rows, not of A, which is N x N: see `LieFrame`.

    Example:
        >>> frame = ExponentialFrame(size=12, columns=3).double()
        >>> frame.num_parameters
        30
        >>> bool(frame.orthogonality_error() < 1e-12)
        True
    """

    def series(self, Z: Tensor, T: Tensor) -> Tensor:
        """g(Z) T with g(z) = (exp(z) - 1) / z."""
        # exp([[Z, T], [0, 0]]) = [[exp(Z), g(Z) T], [0, I]], which divides by nothing (Van Loan, 1978).
        augmented = torch.nn.functional.pad(torch.cat([Z, T], dim=2), (0, 0, 0, T.shape[2]))
        exponential: Tensor = torch.linalg.matrix_exp(augmented)
        return exponential[:, : Z.shape[1], Z.shape[1] :]
