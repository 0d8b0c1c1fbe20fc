"""SoRA: LoRA with a gate for each rank, which training with a soft threshold drives to exact zeros."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig
from torch import Tensor, nn

from qpeft.adapters.card import CardConfig
from qpeft.adapters.lora_options import check_lora_options
from qpeft.adapters.peft_internals import QpeftType, lora_layers, register
from qpeft.adapters.peft_internals.sora import GatedLoraModel
from qpeft.adapters.peft_internals.strict import check_adapter
from qpeft.errors import ConfigError
from qpeft.options import option

GATE_STARTS = ("normal", "ones")


@dataclass
class SoRAConfig(CardConfig, LoraConfig):  # type: ignore[misc]  # peft is untyped
    """Configuration of sparse low-rank adaptation (Ding et al., EMNLP 2023).

    An update is (lora_alpha / r) B diag(g) A with a gate vector g of r numbers for each layer. After each optimiser
    step the gates are moved towards zero by `threshold`, and those nearer than that are set to zero. Nothing does this
    by itself: give a `transformers.Trainer` the callback `qpeft.adapters.proximal.ProximalGates()`, or call
    `qpeft.adapters.proximal.proximal_step(model)` after `optimizer.step()`.

    Example:
        >>> SoRAConfig(r=8, target_modules=["q_proj"]).threshold
        0.0003
    """

    threshold: float = option(
        3e-4, "xi, by which each step shrinks the gates (eta * lambda in the paper, sparse_lambda_2 in its code)"
    )
    gate_l1: float = option(0.0, "weight of the mean absolute gate in the loss (sparse_lambda in the paper's code)")
    gate_start: str = option(
        "normal", "'normal' (N(0, 1), as in the paper's code) or 'ones' (a LoRA; first zeros after 1 / threshold steps)"
    )
    # peft saves the whole embedding matrix beside an adapter of `lm_head` unless token rows are listed: none are.
    trainable_token_indices: Any = option({}, "always empty")

    def __post_init__(self) -> None:
        check_lora_options(self, "SoRA", covers=("alpha_pattern",))
        super().__post_init__()
        self.peft_type = QpeftType.SORA
        for name in ("threshold", "gate_l1"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} is {value!r}; it must be a finite number of at least 0")
        if self.gate_start not in GATE_STARTS:
            raise ConfigError(f"gate_start {self.gate_start!r} is not one of {', '.join(GATE_STARTS)}")


class GatedLinear(nn.Module):
    """diag(g) A, where peft keeps A of a LoRA layer.

    Args:
        down: The `nn.Linear` that holds A (r x in_features); its parameter is taken over.
        config: Gives the start of the gates, their threshold and penalty.
    """

    bias = None

    def __init__(self, down: nn.Linear, config: SoRAConfig) -> None:
        super().__init__()
        self.threshold, self.gate_l1 = float(config.threshold), float(config.gate_l1)
        self.ungated = down.weight
        start = torch.ones_like(down.weight[:, 0])
        if config.gate_start == "normal":
            start = torch.randn_like(start)
        self.gate = nn.Parameter(start.detach(), requires_grad=down.weight.requires_grad)  # (r,)

    @property
    def weight(self) -> Tensor:
        return self.gate[:, None] * self.ungated

    @property
    def in_features(self) -> int:
        return self.ungated.shape[1]

    @property
    def out_features(self) -> int:
        return self.ungated.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., r), g * (A x)."""
        return F.linear(x, self.ungated) * self.gate

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, threshold={self.threshold:g}"


class SoRAModel(GatedLoraModel):
    """The tuner behind `SoRAConfig`."""

    def gated(self, config: SoRAConfig, down: nn.Linear) -> GatedLinear:
        return GatedLinear(down, config)

    def ranks(self, adapter_name: str = "default") -> dict[str, int]:
        """Number of gates of each layer that are not zero: the rank its update is left with."""
        return {
            name: int(layer.lora_A[adapter_name].gate.count_nonzero())
            for name, layer in self._layers(adapter_name).items()
        }

    @torch.no_grad()
    def pruned_factors(self, adapter_name: str = "default") -> dict[str, tuple[Tensor, Tensor]]:
        """Each layer's factors without the ranks whose gate is zero, the gates folded into B.

        The scale lora_alpha / r of the rank training began with is not folded in: it is `layer.scaling` and stays what
        it was. A layer without any gate left keeps its first rank, with B = 0, since a LoRA has rank 1 at least.

        Returns:
            Layer name to (A, B diag(g)), of k x in_features and out_features x k.
        """
        pruned = {}
        for name, layer in self._layers(adapter_name).items():
            down, up = layer.lora_A[adapter_name], layer.lora_B[adapter_name].weight
            kept = down.gate.nonzero()[:, 0]
            if not len(kept):
                kept = kept.new_zeros(1)
            pruned[name] = down.ungated[kept], up[:, kept] * down.gate[kept]
        return pruned

    def effective_parameters(self, adapter_name: str = "default") -> int:
        """Numbers in the pruned factors: sum over layers of ||g||_0 (in + out), with ||g||_0 taken as 1 at least."""
        return sum(A.numel() + B.numel() for A, B in self.pruned_factors(adapter_name).values())

    def _layers(self, adapter_name: str) -> dict[str, Any]:
        check_adapter(self, adapter_name)
        return lora_layers(self.model, adapter_name)


register(QpeftType.SORA, SoRAConfig, SoRAModel)
