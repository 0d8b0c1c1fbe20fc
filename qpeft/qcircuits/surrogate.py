"""One engine forward, another backward: the idea behind "straight-through"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qpeft.qcircuits.circuit import Circuit
from qpeft.qcircuits.engine import Engine, require_engine
from qpeft.qcircuits.seeding import Draws


class _Substitute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, differentiable: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[None, Tensor]:
        return None, cotangent


def substitute(value: Tensor, differentiable: Tensor) -> Tensor:
    """`value`, bit for bit, with the gradient of `differentiable`."""
    out: Tensor = _Substitute.apply(value, differentiable)  # type: ignore[no-untyped-call]
    return out


@dataclass(frozen=True)
class Surrogate(Engine):
    """Probabilities of `forward`, gradients of `backward`.

    The gradient is that of the second engine's probabilities at the same angles, with the cotangent of the first one's:
    what trains on a simulator or device that cannot be differentiated, as well as the two engines agree.

    Args:
        forward: Gives the numbers; never differentiated.
        backward: Gives the gradient; runs only when one is wanted, its own forward pass included.

    Raises:
        ConfigError: One of them is no engine.

    Example:
        >>> from qpeft.qcircuits import SampledEngine, StatevectorEngine
        >>> engine = Surrogate(SampledEngine(StatevectorEngine(), shots=1000), StatevectorEngine())
    """

    forward: Engine
    backward: Engine

    def __post_init__(self) -> None:
        require_engine(self.forward, "forward")
        require_engine(self.backward, "backward")

    def probabilities(self, circuit: Circuit, angles: Tensor) -> Tensor:
        """See `Engine.probabilities`."""
        if not (torch.is_grad_enabled() and angles.requires_grad):
            return self.forward.probabilities(circuit, angles)
        ours, theirs = self.draws, getattr(self.backward, "draws", None)
        if ours is not None and theirs is not None:  # one call, one number: the run repeats if it is resumed
            theirs.call = ours.call
        with torch.no_grad():
            value = self.forward.probabilities(circuit, angles)
        return substitute(value, self.backward.probabilities(circuit, angles))

    @property
    def draws(self) -> Draws | None:
        """The forward engine's counter of calls, or else the backward engine's, if one draws at random."""
        ours: Draws | None = getattr(self.forward, "draws", None)
        return ours or getattr(self.backward, "draws", None)

    def check(self, circuit: Circuit, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        self.forward.check(circuit, dtype, device)
        self.backward.check(circuit, dtype, device)

    def describe(self) -> dict[str, Any]:
        forward, backward = self.forward.describe(), self.backward.describe()
        return super().describe() | {
            "diff_method": f"{backward['engine']} ({backward.get('diff_method', 'its own rule')})",
            "forward": forward, "backward": backward,
        }  # fmt: skip
