"""The additive prefix: a trained vector for each position, added to a layer's input.

arXiv 2410.09846 describes a prefix prepended to the input of the output head. Along the sequence that would change no
real token's logits, since the head sees each position alone; added position by position it has an effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from qpeft.adapters.card import CardConfig
from qpeft.adapters.peft_internals.layer_tuner import LayerTuner, LayerTunerConfig, TunedLayer
from qpeft.adapters.peft_internals.registration import QpeftType, register
from qpeft.adapters.peft_internals.targets import embeddings_of
from qpeft.adapters.positions import Positions
from qpeft.errors import ConfigError
from qpeft.options import check_whole, option


@dataclass
class AdditivePrefixConfig(CardConfig, LayerTunerConfig):
    """Configuration of an additive prefix, x_t + P_t with P of shape (length, in_features).

    x_t is the target's input at position t. Positions from `length` on get nothing. The default length is the papers'
    longest input, 512 tokens; the default target is the output head.

    Positions are the model's `position_ids` where it is given them, as `generate()` does; otherwise they count from
    the first token, padding included.
    """

    length: int = option(512, "number of positions that get a vector")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = QpeftType.ADDITIVE_PREFIX
        check_whole("length", self.length)


class AdditivePrefixLinear(TunedLayer):
    """A Linear or Conv1D to whose input each active adapter adds a vector for the position.

    Args:
        base_layer: The layer.
        adapter_name: The first adapter.
        positions: Where in the sequence the model is.
        is_head: Whether it is the output head, which is given only the positions whose logits are asked for.
    """

    adapter_layer_names = ("additive_prefix",)
    cannot_merge = "what it adds depends on the position, so no weight matrix gives the same outputs"

    def __init__(self, base_layer: nn.Module, adapter_name: str, positions: Positions, is_head: bool) -> None:
        super().__init__(base_layer, adapter_name)
        self.additive_prefix = nn.ModuleDict()
        self.positions, self.is_head = positions, is_head

    def add_adapter(self, adapter_name: str, config: AdditivePrefixConfig) -> None:
        table = nn.Embedding(config.length, self.in_features)
        nn.init.zeros_(table.weight)
        self.additive_prefix[adapter_name] = table

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        active = [name for name in self.active_adapters if name in self.additive_prefix]
        if active and not self.disable_adapters:
            positions = self.positions.of(x, self.is_head)
            for name in active:
                x = x + _rows(self.additive_prefix[name].weight, positions).to(x.dtype)
        out: Tensor = self.base_layer(x, *args, **kwargs)
        return out


def _rows(table: Any, positions: Tensor) -> Tensor:
    """(length, H) at (...) -> (..., H); zero outside the table."""
    length = table.shape[0]
    inside = (positions >= 0) & (positions < length)
    rows: Tensor = F.embedding(positions.clamp(0, length - 1), table) * inside.unsqueeze(-1)
    return rows


class AdditivePrefixModel(LayerTuner):
    """The tuner behind `AdditivePrefixConfig`."""

    prefix = "additive_prefix"
    tuner_layer_cls = AdditivePrefixLinear

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """PEFT's injection; the first one also makes the model tell its positions.

        Raises:
            ConfigError: A target that cannot be adapted, or an encoder-decoder model.
        """
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise ConfigError(
                f"{type(model).__name__} is an encoder-decoder model, which has two sequences and so no one position; "
                "an additive prefix needs a model with one sequence"
            )
        is_first = "positions" not in self.__dict__
        if is_first:
            self.positions = Positions(model)
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        if is_first:  # after the injection: a refused adapter leaves no hook behind
            self._hooks = self.positions.follow(model)

    def new_layer(self, base_layer: nn.Module, adapter_name: str) -> TunedLayer:
        is_head = base_layer is embeddings_of(self.model, "get_output_embeddings")
        return AdditivePrefixLinear(base_layer, adapter_name, self.positions, is_head)

    def unload(self) -> nn.Module:
        """The base model without adapters and hooks."""
        model: nn.Module = super().unload()
        for hook in self._hooks:
            hook.remove()
        return model


register(QpeftType.ADDITIVE_PREFIX, AdditivePrefixConfig, AdditivePrefixModel)
