"""What every frame is: matrices with orthonormal columns, generated together from few trained numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from qpeft.errors import ConfigError
from qpeft.options import is_whole


class Frame(nn.Module, ABC):
    """`count` matrices with orthonormal columns, (count, size, columns), generated together.

    A subclass keeps its trained numbers in tensors whose first axis is `count`, so that all layers of equal size
    come from one batched call. Frames are meant for float32 and float64: half precision, and autocast to it, would
    lose the orthonormality they exist for.

    Args:
        size: Rows N of a frame, at least 2.
        columns: Columns K of a frame, from 1 to N.
        count: How many frames are generated in one call.

    Raises:
        ConfigError: If a number is outside what is allowed.
    """

    def __init__(self, size: int, columns: int, count: int = 1) -> None:
        super().__init__()
        for name, number in (("size N", size), ("columns K", columns), ("count", count)):
            if not is_whole(number):
                raise ConfigError(f"{name} of a frame is {number!r}; it must be a whole number")
        if size < 2:
            raise ConfigError(f"a frame needs size N >= 2, got {size}; a layer this narrow needs no adapter")
        if not 1 <= columns <= size:
            raise ConfigError(
                f"a frame of size N = {size} has K = 1 to {size} columns, got {columns}; lower K or leave the layer out"
            )
        if count < 1:
            raise ConfigError(f"count must be at least 1 frame, got {count}")
        self.size = size
        self.columns = columns
        self.count = count

    @abstractmethod
    def forward(self) -> Tensor:
        """Returns the frames, (count, size, columns)."""

    @property
    def num_parameters(self) -> int:
        """Trained numbers of all `count` frames."""
        return sum(parameter.numel() for parameter in self.parameters())

    @torch.no_grad()
    def orthogonality_error(self) -> Tensor:
        """Largest entry of |U^T U - I| of each frame, (count,), float64: the product's own rounding stays out."""
        return orthogonality_error(self())

    def extra_repr(self) -> str:
        return f"size={self.size}, columns={self.columns}, count={self.count}"


def orthogonality_error(frames: Tensor) -> Tensor:
    """`Frame.orthogonality_error` of frames (count, N, K) that are at hand, (count,), float64."""
    frames = frames.double()
    identity = torch.eye(frames.shape[-1], dtype=frames.dtype, device=frames.device)
    return (frames.mT @ frames - identity).abs().amax(dim=(-2, -1))


FrameFactory = Callable[[int, int, int], Frame]  # (size, columns, count) -> Frame; a frame class is one
