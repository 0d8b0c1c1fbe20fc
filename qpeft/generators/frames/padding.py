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
    just these rows, made orthonormal again. It trains as few numbers as the padded frame.

    Args:
        size: N.
        columns: K.
        count: Number of frames.
        node: Makes the padded frames.
        orthonormalize: Whether to make the cut columns orthonormal. If not, what they hold in the other 2^q - N rows is
            lost, and their norms are below 1. If so, they are the Q of P = Q R, R with a positive diagonal, of the
            cut P, (N, K). That is smooth in P and costs O(N K^2). It is orthonormal up to rounding; where K is near N,
            columns of P may nearly depend on each other, and the gradients are large. Looking at that makes a GPU wait
            once a call.

    Raises:
        ConfigError: A number outside what is allowed. At the call: columns to make orthonormal that depend on each
            other.

    Example:
        >>> frame = PaddedFrame(768, 3)  # from 1024
        >>> frame.num_parameters  # 3 * 10 - 2
        28
        >>> bool(frame.orthogonality_error() < 1e-5)
        True
        >>> bool((PaddedFrame(768, 3, orthonormalize=False)().norm(dim=1) < 1).all())
        True
    """

    def __init__(
        self, size: int, columns: int, count: int = 1, node: FrameFactory = PauliFrame, orthonormalize: bool = True
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
        # Not by a Cholesky factor of P^T P: its condition number is squared, which in float32 costs the orthonormality
        # and at last the factor, where K is near N.
        orthonormal, upper = torch.linalg.qr(frames)
        scales = upper.diagonal(dim1=-2, dim2=-1)
        left = scales.detach().abs().amin(1)
        if not bool((left > torch.finfo(left.dtype).eps).all()):
            raise ConfigError(
                f"the first {self.size} of {self.padded.size} rows of frame {int(left.argmin())} of {self.count} do "
                f"not have {self.columns} independent columns, so they cannot be made orthonormal; take "
                "other_sizes='single' or 'full' (ShannonFrame), fewer columns (a lower rank), or another circuit"
            )
        frame: Tensor = orthonormal * scales.detach().sign()[:, None]
        return frame

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, orthonormalize={self.orthonormalize}"
