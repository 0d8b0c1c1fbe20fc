"""Frames of any size, cut from frames of the next power of two."""

from __future__ import annotations

import torch
from torch import Tensor

from qpeft.errors import ConfigError
from qpeft.generators.frames.base import Frame, FrameFactory
from qpeft.generators.frames.pauli import PauliFrame


class PaddedFrame(Frame):
    """The first N rows of a frame of the next power of two, as if the layer were padded with zeros to that size.

    A layer of N inputs or outputs that is padded with zeros to 2^q, adapted there and cut to N again, is adapted by
    just these rows. It trains as few numbers as the padded frame. **The rows are not orthonormal**: what the padded
    columns hold in the other 2^q - N rows is lost, their norms are below 1, and `orthogonality_error` says by how much
    (up to 1). For orthonormal columns take `orthonormalize=True` or `ShannonFrame`.

    Args:
        size: N.
        columns: K.
        count: Number of frames.
        node: Makes the padded frames.
        orthonormalize: Whether to make the columns orthonormal: P R^{-1} with the Cholesky factor R^T R = P^T P of the
            cut P, (N, K). That is smooth in P and costs O(N K^2). In float32 the error grows with P's condition number
            squared: small unless nearly all of a column lies in the rows cut off.

    Raises:
        ConfigError: A number outside what is allowed.

    Example:
        >>> frame = PaddedFrame(768, 3)  # from 1024
        >>> frame.num_parameters  # 3 * 10 - 2
        28
        >>> bool(frame.orthogonality_error() < 1e-5), bool((frame().norm(dim=1) <= 1 + 1e-5).all())
        (False, True)
        >>> bool(PaddedFrame(768, 3, orthonormalize=True).orthogonality_error() < 1e-4)
        True
    """

    def __init__(
        self, size: int, columns: int, count: int = 1, node: FrameFactory = PauliFrame, orthonormalize: bool = False
    ) -> None:
        super().__init__(size, columns, count)
        self.orthonormalize = orthonormalize
        padded = 1 << (size - 1).bit_length()
        self.padded = node(padded, columns, count)
        if (self.padded.size, self.padded.columns, self.padded.count) != (padded, columns, count):
            raise ConfigError(
                f"node made {self.padded.count} frames of {self.padded.size} x {self.padded.columns}; asked for "
                f"{count} of {padded} x {columns}"
            )

    def forward(self) -> Tensor:
        frames: Tensor = self.padded()[:, : self.size]
        if not self.orthonormalize:
            return frames
        upper = torch.linalg.cholesky(frames.mT @ frames, upper=True)
        orthonormal: Tensor = torch.linalg.solve_triangular(upper, frames, upper=True, left=False)
        return orthonormal

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, orthonormalize={self.orthonormalize}"
