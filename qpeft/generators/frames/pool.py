"""Frames of several sizes, generated with one call for each size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from qpeft.errors import ConfigError
from qpeft.generators.frames.base import Frame, FrameFactory
from qpeft.generators.frames.traced import Numbers, TracedFrame
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
        keep_initial: Whether to keep the initial numbers, for `initial()`: they are saved as the others are.

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
        made, quantised = {}, []
        for size in sorted(numbers):
            try:
                frame_of_size = frame(size, columns, count * numbers[size])
                names = [] if pack is None else _groups(frame_of_size)
                made[str(size)] = TracedFrame(frame_of_size, pack(frame_of_size, names).quantized if pack else None)
            except ConfigError as error:
                raise type(error)(f"frames of size N = {size}: {error}") from error
            quantised += [f"{size}.{name}" for name in names]
        self.by_size = nn.ModuleDict({size: traced.frame for size, traced in made.items()})
        self.sizes, self.count, self._made_by = list(sizes), count, made
        self._kept = {name: f"initial_{name.replace('.', '_')}" for name in self.trained() if keep_initial}
        for name, buffer in self._kept.items():  # a buffer's name has no dot
            self.register_buffer(buffer, self.trained()[name].detach().clone())
        packed = pack(self, [self._kept[name] for name in quantised]) if pack and keep_initial else None
        self._initial_by = {
            size: TracedFrame(traced.frame, None if packed is None else partial(_quantized, packed, self._kept, size))
            for size, traced in made.items()
        }

    def trained(self) -> dict[str, nn.Parameter]:
        """The frames' parameters by name, as `by_size` has them."""
        return dict(self.by_size.named_parameters())

    @property
    def num_kept(self) -> int:
        """How many initial numbers are kept."""
        return sum(self.get_buffer(buffer).numel() for buffer in self._kept.values())

    def forward(self) -> list[Tensor]:
        """The frames, (count, size, columns) each, in the order of `sizes`."""
        return self._frames(self._made_by, self.trained())

    def initial(self) -> list[Tensor]:
        """The frames as they were before training."""
        return self._frames(self._initial_by, {name: self.get_buffer(buffer) for name, buffer in self._kept.items()})

    def _frames(
        self, made_by: dict[str, TracedFrame], numbers: dict[str, Tensor] | dict[str, nn.Parameter]
    ) -> list[Tensor]:
        groups = {}
        for size, traced in made_by.items():
            own = {name: numbers[f"{size}.{name}"] for name, _ in traced.frame.named_parameters()}
            groups[size] = iter(traced(own).unflatten(0, (-1, self.count)).unbind(0))
        return [next(groups[str(size)]) for size in self.sizes]


def _groups(frame: Frame) -> list[str]:
    """The parameters to quantise. One number a frame, the shared angle of a decomposition, is no group: it stays."""
    return [name for name, parameter in frame.named_parameters() if parameter.numel() > frame.count]


def _quantized(packed: PackedParameters, kept: dict[str, str], size: str, numbers: Numbers) -> Numbers:
    """The initial numbers of one size as they are saved: they are packed as buffers of the pool."""
    buffers = {kept[f"{size}.{name}"]: number for name, number in numbers.items()}
    return dict(zip(numbers, packed.quantized(buffers).values(), strict=True))
