"""The Neumann series of the Cayley map."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from qpeft.errors import ConfigError
from qpeft.generators.frames.power_series import PowerSeriesFrame


class NeumannFrame(PowerSeriesFrame):
    """First K columns of (I + A) sum_{p=0..P} A^p, A = B - B^T (Quantum-PEFT, arXiv 2503.05431, Q_N).

    The series stands for the inverse in the Cayley map and converges only for a = ||A||_2 < 1: the frame is then
    at most r = a^(P+1) away from Cayley's, and |U^T U - I| is at most 2r + r^2. `forward` refuses a norm of 1 or
    more, which training may reach; looking at the norm makes a GPU wait once a call.

    It trains NK' - K'(K'+1)/2 numbers. An order costs one product of a 2K' x 2K' matrix with K columns: see
    `LieFrame`.

    Example:
        >>> frame = NeumannFrame(size=12, columns=3, order=18, init_scale=0.1).double()
        >>> frame.num_parameters
        30
        >>> bool(frame.orthogonality_error() < 1e-6)
        True
    """

    default_init_scale: ClassVar[float] = 0.25  # keeps ||A|| below 1 at the start, even for K' = N

    def forward(self) -> Tensor:
        """Returns the frames, (count, size, columns).

        Raises:
            ConfigError: If a norm ||A||_2 is 1 or more.
        """
        norms = self.spectral_norm()
        if not bool((norms < 1).all()):
            raise ConfigError(
                f"the Neumann series needs ||A||_2 < 1, and frame {int(norms.argmax()) + 1} of {self.count} has "
                f"{float(norms.max()):.4g}; take the Cayley frame, which holds at any norm, or a smaller init_scale or "
                "learning rate"
            )
        return super().forward()

    def series(self, Z: Tensor, T: Tensor) -> Tensor:
        """g(Z) T with g(z) = 2 sum_{p=0..P-1} z^p + z^P, by Horner's rule."""
        total = T
        for _ in range(self.order):
            total = 2 * T + Z @ total
        return total
