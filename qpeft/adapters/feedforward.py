"""Feed-forward bottleneck adapters, and the two published places to put them: Houlsby's and Pfeiffer's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from qpeft.adapters.card import CardConfig
from qpeft.adapters.peft_internals.layer_tuner import LayerTuner, LayerTunerConfig, TunedLayer
from qpeft.adapters.peft_internals.registration import QpeftType, register
from qpeft.adapters.peft_internals.targets import linear_layers
from qpeft.errors import ConfigError
from qpeft.generators.mapping import ACTIVATIONS
from qpeft.options import check_whole, option

PLACEMENTS = ("before", "after")

# model_type -> (output projection of attention, of the feed-forward network), as they are named within a block.
_LLAMA = ("self_attn.o_proj", "mlp.down_proj")
_BERT = ("attention.output.dense", "output.dense")
_NEOX = ("attention.dense", "mlp.dense_4h_to_h")
_VIT = ("attention.o_proj", "mlp.fc2")
OUTPUT_PROJECTIONS: dict[str, tuple[str, str]] = {
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gpt_neo": ("attn.attention.out_proj", "mlp.c_proj"),
    "gptj": ("attn.out_proj", "mlp.fc_out"),
    "gpt_neox": _NEOX,
    "opt": ("self_attn.out_proj", "fc2"),
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2"), _LLAMA),
    "phi": ("self_attn.dense", "mlp.fc2"),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "deberta-v2"), _BERT),
    "distilbert": ("attention.out_lin", "ffn.lin2"),
    "modernbert": ("attn.Wo", "mlp.Wo"),
    **dict.fromkeys(("vit", "deit"), _VIT),
}


@dataclass
class FeedForwardConfig(CardConfig, LayerTunerConfig):
    """Configuration of residual bottleneck adapters, h + W_up act(W_down h).

    h is the input (`placement="before"`) or the output of each target; W_down is (bottleneck, H), W_up (H, bottleneck)
    with H the width of h. The defaults are those of the feed-forward adapter of arXiv 2410.09846: before the output
    head, H / 4 wide, without biases.

    Example:
        >>> FeedForwardConfig(target_modules=["lm_head"]).width(768)
        192
    """

    bottleneck: int | None = option(None, "width of the bottleneck; H / reduction_factor if not given")
    reduction_factor: int = option(4, "H / bottleneck, where the bottleneck is not given")
    placement: str = option("before", "adapt the target's input ('before') or its output ('after')")
    nonlinearity: str = option("gelu", "activation of the bottleneck")
    use_bias: bool = option(False, "train biases in both projections")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = QpeftType.FEED_FORWARD
        if self.bottleneck is not None:
            check_whole("bottleneck", self.bottleneck)
        check_whole("reduction_factor", self.reduction_factor)
        if self.placement not in PLACEMENTS:
            raise ConfigError(f"placement {self.placement!r} is not one of {', '.join(PLACEMENTS)}")
        _ = ACTIVATIONS[self.nonlinearity]
        if not isinstance(self.use_bias, bool):
            raise ConfigError(f"use_bias is {self.use_bias!r}; it must be true or false")

    def width(self, features: int) -> int:
        """Width of the bottleneck where the adapted tensor has this many features; at least 1."""
        return self.bottleneck or max(features // self.reduction_factor, 1)


@dataclass
class PfeifferConfig(FeedForwardConfig):
    """An adapter after each feed-forward network's output projection (arXiv 2005.00247).

    ReLU, biases and a reduction factor of 16 as there. The adapter works on the projection's output; in the paper it
    follows the residual sum and norm. Saved with explicit settings, it loads as a `FeedForwardConfig`.
    """

    placement: str = option("after", "adapt the target's input ('before') or its output ('after')")
    reduction_factor: int = option(16, "H / bottleneck, where the bottleneck is not given")
    nonlinearity: str = option("relu", "activation of the bottleneck")
    use_bias: bool = option(True, "train biases in both projections")

    def projections(self, attention: str, feed_forward: str) -> tuple[str, ...]:
        """Those of a block's two output projections that get an adapter."""
        return (feed_forward,)

    def choose_targets(self, model: nn.Module) -> None:
        """Fills in the output projections of the model's architecture if no targets are given.

        Raises:
            ConfigError: The architecture is not in `OUTPUT_PROJECTIONS`.
        """
        if self.target_modules is not None:
            return
        model_type = getattr(getattr(model, "config", None), "model_type", None)
        layers = linear_layers(model)
        if model_type not in OUTPUT_PROJECTIONS:
            raise ConfigError(
                f"{type(self).__name__} does not know where the blocks of model type {model_type!r} end; give "
                "target_modules, the output projections of attention and feed-forward network, out of "
                f"{', '.join(sorted({name.rsplit('.', 1)[-1] for name in layers}))}. "
                f"Known: {', '.join(OUTPUT_PROJECTIONS)}"
            )
        paths = "|".join(map(re.escape, self.projections(*OUTPUT_PROJECTIONS[model_type])))
        # With the block's index: BERT's "output.dense" alone would also match "attention.output.dense".
        found = (re.search(rf"(?:^|\.)(\d+\.(?:{paths}))$", name) for name in layers)
        self.target_modules = {str(match[1]) for match in found if match}


@dataclass
class HoulsbyConfig(PfeifferConfig):
    """An adapter after each attention's and each feed-forward network's output projection (arXiv 1902.00751).

    GELU and biases as in the authors' code, a reduction factor of 16 as in most comparisons. The start is exactly the
    identity (W_up zero), where the paper's is near it. Saved with explicit settings, it loads as a
    `FeedForwardConfig`.
    """

    nonlinearity: str = option("gelu", "activation of the bottleneck")

    def projections(self, attention: str, feed_forward: str) -> tuple[str, ...]:
        """Both."""
        return attention, feed_forward


class FeedForwardLinear(TunedLayer):
    """A Linear or Conv1D with bottleneck adapters on its input or output.

    Each adapter's two projections are called and asked for their weight's dtype, and nothing else, so that modules
    which compute their weight can stand in their place.
    """

    adapter_layer_names = ("ffa_down", "ffa_up")
    other_param_names = ("ffa_act", "placement")
    cannot_merge = "its bottleneck is not linear, so no weight matrix gives the same outputs"

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__(base_layer, adapter_name)
        self.ffa_down, self.ffa_up, self.ffa_act = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.placement: dict[str, str] = {}

    def add_adapter(self, adapter_name: str, config: FeedForwardConfig) -> None:
        features = self.in_features if config.placement == "before" else self.out_features
        width = config.width(features)
        down = nn.Linear(features, width, bias=config.use_bias)
        up = nn.Linear(width, features, bias=config.use_bias)
        for parameter in up.parameters():
            nn.init.zeros_(parameter)
        self.ffa_down[adapter_name], self.ffa_up[adapter_name] = down, up
        self.ffa_act[adapter_name] = ACTIVATIONS[config.nonlinearity]()
        self.placement[adapter_name] = config.placement

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        out: Tensor = self.base_layer(self._adapted(x, "before"), *args, **kwargs)
        return self._adapted(out, "after")

    def _adapted(self, h: Tensor, placement: str) -> Tensor:
        """`h` after the active adapters of a placement, one after another."""
        if self.disable_adapters:
            return h
        for name in self.active_adapters:
            if self.placement.get(name) == placement:
                down: Any = self.ffa_down[name]
                bottleneck = self.ffa_act[name](down(self.cast(h, down.weight.dtype)))
                h = h + self.ffa_up[name](bottleneck).to(h.dtype)
        return h


class FeedForwardModel(LayerTuner):
    """The tuner behind `FeedForwardConfig`."""

    prefix = "ffa_"
    tuner_layer_cls = FeedForwardLinear


register(QpeftType.FEED_FORWARD, FeedForwardConfig, FeedForwardModel)
