"""Training of SoRA's gates: a gradient step, then a soft threshold (Ding et al., EMNLP 2023).

    g <- T_xi(g - eta * gradient),  T_xi(u) = sign(u) max(|u| - xi, 0)

The optimiser makes the inner step, without weight decay on the gates. A gate at zero is not frozen: it comes back if
one step would move it by more than xi. While it is zero its row of A and column of B have no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qpeft.adapters.sora import GatedLinear
from qpeft.errors import ConfigError


def soft_threshold(u: Tensor, xi: float) -> Tensor:
    """sign(u) max(|u| - xi, 0), the v that minimises (u - v)^2 / 2 + xi |v|.

    Example:
        >>> soft_threshold(torch.tensor([1.0, 0.25, -2.0]), 0.5).tolist()
        [0.5, 0.0, -1.5]
    """
    return F.softshrink(u, xi)


def _training(model: nn.Module) -> Iterator[GatedLinear]:
    """The gated layers whose gates train: those of the active adapters."""
    return (m for m in model.modules() if isinstance(m, GatedLinear) and m.gate.requires_grad)


@torch.no_grad()
def proximal_step(model: nn.Module) -> None:
    """Shrinks the gates that train by their adapter's threshold; call it after each `optimizer.step()`.

    Raises:
        ConfigError: Gates in half precision, which cannot hold so small a change.
    """
    for layer in _training(model):
        if layer.gate.dtype not in (torch.float32, torch.float64):
            raise ConfigError(
                f"the gates are in {layer.gate.dtype}, too coarse to shrink by {layer.threshold:g}; train adapters in "
                "float32 (peft's default, autocast_adapter_dtype=True) and do not convert the model afterwards"
            )
        layer.gate.copy_(soft_threshold(layer.gate, layer.threshold))


def gate_penalty(model: nn.Module) -> Tensor:
    """`gate_l1` times the mean absolute value of all gates that train; add it to the loss."""
    layers = list(_training(model))
    total = sum((layer.gate_l1 * layer.gate.abs().sum() for layer in layers), torch.zeros(()))
    return total / max(1, sum(layer.gate.numel() for layer in layers))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: all parameters that train, with weight decay on all but the gates."""
    gates = [layer.gate for layer in _training(model)]  # in the model's order: optimisers save their state by place
    decayed = [p for p in model.parameters() if p.requires_grad and not any(p is gate for gate in gates)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": gates, "weight_decay": 0.0}]


class ProximalGates(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Trains the gates of SoRA adapters in a `transformers.Trainer`; does nothing for other models.

    Before an optimiser step it takes the gates out of the weight decay, after it it shrinks them; `gate_l1` is added to
    the gradient of the full batch, so that it is clipped with it, and does not show in the logged loss.
    """

    def __init__(self) -> None:
        self._split: list[tuple[dict[str, Any], list[nn.Parameter]]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.fp16 and any(layer.gate_l1 for layer in _training(kwargs["model"])):
            raise ConfigError("gate_l1 does not go with fp16, whose gradients are scaled; use bf16, or gate_l1=0")

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The penalty depends on the gates alone, so its gradient may come before those of the batches add up.
        gates = [layer.gate for layer in _training(kwargs["model"]) if layer.gate_l1]
        if gates:
            for gate, gradient in zip(gates, torch.autograd.grad(gate_penalty(kwargs["model"]), gates), strict=True):
                gate.grad = gradient

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # For the step only: a checkpoint holds the groups the Trainer made, else it could not be resumed.
        gates = {layer.gate for layer in _training(kwargs["model"])}
        groups = kwargs["optimizer"].param_groups
        for group in [group for group in groups if group.get("weight_decay")]:
            params = group["params"]
            split = [p for p in params if p in gates]
            if split:
                self._split.append((group, params))
                group["params"] = [p for p in params if p not in gates]
                groups.append({**group, "params": split, "weight_decay": 0.0})

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        optimizer = kwargs["optimizer"]
        del optimizer.param_groups[len(optimizer.param_groups) - len(self._split) :]
        for group, params in self._split:
            group["params"] = params
        self._split.clear()
        if not getattr(optimizer, "step_was_skipped", False):  # fp16 skips steps whose gradients overflow
            proximal_step(kwargs["model"])
