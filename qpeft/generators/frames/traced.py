"""Frames in a graph of `torch.compile`: each family as one operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from qpeft.errors import ConfigError
from qpeft.generators.frames.base import Frame
from qpeft.generators.traced import register, traced_call
from qpeft.qcircuits.engine import full_precision

Numbers = dict[str, Tensor]  # by the names of a frame's parameters


class TracedFrame:
    """Generates a frame's matrices, with or without a compiler around.

    A compiler cannot look into every frame: some keep tables in Python, and one looks at its numbers. In its graph they
    are one operator, which gives the same numbers. Autocast is off in both.

    It is no module: the frame's parameters belong to whoever holds the frame, under the names they have there. Copies
    and pickles of a module that holds both hold copies of both.

    Args:
        frame: The frame, which trains as before.
        prepare: What is done to the numbers by name before the frame is made from them, such as quantising them. It is
            a part of the operator: a compiler that fused it with other work would round differently, or not at all.
            Differentiable, by a module-level function or a method, as others do not survive copies.

    Example:
        >>> from qpeft.generators.frames import PauliFrame
        >>> frame = PauliFrame(8, 2)
        >>> generate = TracedFrame(frame)
        >>> torch.equal(generate(), frame())
        True
        >>> generate({"angles": torch.zeros(1, 7)})[0].abs().sum()  # in place of the parameter
        tensor(2.)
    """

    def __init__(self, frame: Frame, prepare: Callable[[Numbers], Numbers] | None = None) -> None:
        self.frame, self.prepare = frame, prepare
        self._handle = register(self)

    def __reduce__(self) -> tuple[type[TracedFrame], tuple[Frame, Callable[[Numbers], Numbers] | None]]:
        return TracedFrame, (self.frame, self.prepare)  # a copy registers itself

    def __call__(self, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """The frames (count, size, columns); gradients reach the parameters, or the values in their place.

        Args:
            values: Tensors that stand for parameters, by name.

        Raises:
            ConfigError: A name that no parameter has.
        """
        numbers: Numbers = dict(self.frame.named_parameters())
        unknown = [name for name in values or () if name not in numbers]
        if unknown:
            raise ConfigError(
                f"a {type(self.frame).__name__} has no parameter {', '.join(unknown)}; it has {', '.join(numbers)}"
            )
        numbers.update(values or {})
        if torch.compiler.is_compiling():
            flat = torch.cat([number.reshape(-1) for number in numbers.values()])
            return traced_call(self._handle, [self.frame.count, self.frame.size, self.frame.columns], flat)
        with full_precision(next(iter(numbers.values())).device):
            return self._generate(numbers)

    def run(self, values: Tensor, state: Sequence[Tensor]) -> Tensor:
        """The frames from all parameters in one vector, in the order of `named_parameters`."""
        parameters = dict(self.frame.named_parameters())
        parts = values.split([parameter.numel() for parameter in parameters.values()])
        shaped = zip(parameters.items(), parts, strict=True)
        return self._generate({name: part.view(parameter.shape) for (name, parameter), part in shaped})

    def _generate(self, numbers: Numbers) -> Tensor:
        frames: Tensor = functional_call(self.frame, self.prepare(numbers) if self.prepare else numbers)
        return frames
