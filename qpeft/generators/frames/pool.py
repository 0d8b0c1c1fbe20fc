"""Frames of several sizes, generated with one call for each size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from qpeft.errors import ConfigError
from qpeft.generators.frames.base import Frame, FrameFactory
from qpeft.generators.frames.traced import TracedFrame
from qpeft.generators.packed_state import PackedParameters

Pack = Callable[[nn.Module, Sequence[str]], PackedParameters]


class FramePool(nn.Module):
    """The frames of a list of sizes; those of equal size come from one module.

    Args:
        sizes: N of each frame.
        columns: K.
        frame: Makes the frames of one size: (size, columns, count) -> Frame.
        count: Frames of each entry of `sizes`.
        pack: Given a frame and its parameters' names, quantises them and packs them on save, if given: `pack_on_save`.
        keep_initial: Whether to keep the initial numbers, for `initial()`: they are saved with the others.

    Raises:
        ConfigError: Frames that cannot be made, or numbers that cannot be packed; the message names the size.

    Example:
        >>> from qpeft.generators.frames import PauliFrame
        >>> pool = FramePool([8, 4, 8], columns=2, frame=PauliFrame)
        >>> [tuple(frame.shape) for frame in pool()], len(pool.by_size)
        ([(1, 8, 2), (1, 4, 2), (1, 8, 2)], 2)
    """

    def __init__(
        self, sizes: Sequence[int], columns: int, frame: FrameFactory, count: int = 1,
        pack: Pack | None = None, keep_initial: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        numbers = Counter(sizes)
        made = {}
        for size in sorted(numbers):
            try:
                made[str(size)] = _traced(frame(size, columns, count * numbers[size]), pack)
            except ConfigError as error:
                raise type(error)(f"frames of size N = {size}: {error}") from error
        self.by_size = nn.ModuleDict({size: traced.frame for size, traced in made.items()})
        self.sizes, self.count, self._made_by = list(sizes), count, made
        self._kept = {name: f"initial_{name.replace('.', '_')}" for name in self.trained() if keep_initial}
        for name, buffer in self._kept.items():  # a buffer's name has no dot
            self.register_buffer(buffer, self.trained()[name].detach().clone())

    def trained(self) -> dict[str, nn.Parameter]:
        """The frames' parameters by name, as `by_size` has them."""
        return dict(self.by_size.named_parameters())

    @property
    def num_kept(self) -> int:
        """How many initial numbers are kept."""
        return sum(self.get_buffer(buffer).numel() for buffer in self._kept.values())

    def forward(self) -> list[Tensor]:
        """The frames, (count, size, columns) each, in the order of `sizes`."""
        return self._frames(self.trained())

    def initial(self) -> list[Tensor]:
        """The frames as they were before training."""
        return self._frames({name: self.get_buffer(buffer) for name, buffer in self._kept.items()})

    def _frames(self, numbers: dict[str, Tensor] | dict[str, nn.Parameter]) -> list[Tensor]:
        groups = {}
        for size, traced in self._made_by.items():
            own = {name: numbers[f"{size}.{name}"] for name, _ in traced.frame.named_parameters()}
            groups[size] = iter(traced(own).unflatten(0, (-1, self.count)).unbind(0))
        return [next(groups[str(size)]) for size in self.sizes]


def _traced(frame: Frame, pack: Pack | None) -> TracedFrame:
    if pack is None:
        return TracedFrame(frame)
    # A tensor with one number a frame, the shared angle of a decomposition, is no group: it stays as it is.
    names = [name for name, parameter in frame.named_parameters() if parameter.numel() > frame.count]
    return TracedFrame(frame, pack(frame, names).quantized)
