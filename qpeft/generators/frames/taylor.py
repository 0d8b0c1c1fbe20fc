"""The Taylor series of the exponential map."""

from __future__ import annotations

from torch import Tensor

from qpeft.generators.frames.power_series import PowerSeriesFrame


class TaylorFrame(PowerSeriesFrame):
    """First K columns of sum_{p=0..P} A^p / p!, A = B - B^T (Quantum-PEFT, arXiv 2503.05431, Q_T).

    Orthonormal only up to its remainder: with a = ||A||_2, the frame is at most r = a^(P+1) / (P+1)! away from the
    exponential's, and |U^T U - I| is at most 2r + r^2. At P = 18 that is below rounding for a <= 1 and 6e-10 at
    a = 2.5; at P = 3 it is 9e-2 at a = 1. `spectral_norm()` gives a.

    It trains NK' - K'(K'+1)/2 numbers. The default order is the paper's for ViT; it takes P = 3 for GPT-2. An order
    costs one product of a 2K' x 2K' matrix with K columns: see `LieFrame`.

    Example:
        >>> frame = TaylorFrame(size=12, columns=3, order=18, init_scale=0.1).double()
        >>> frame.num_parameters
        30
        >>> bool(frame.orthogonality_error() < 1e-12)
        True
    """

    def series(self, Z: Tensor, T: Tensor) -> Tensor:
        """g(Z) T with g(z) = sum_{p=1..P} z^(p-1) / p!, by Horner's rule."""
        total = T
        for p in range(self.order, 1, -1):
            total = T + Z @ total / p
        return total
