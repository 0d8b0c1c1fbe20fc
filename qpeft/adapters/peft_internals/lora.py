"""A LoRA tuner whose factors, and DoRA magnitudes, are generated."""

from __future__ import annotations

from typing import Any

from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import nn

from qpeft.adapters.generated import WeightSource
from qpeft.adapters.peft_internals.dora import generate_magnitude
from qpeft.adapters.peft_internals.tied import UntyingLoraModel
from qpeft.adapters.peft_internals.tuner import GeneratedTuner
from qpeft.errors import ConfigError


class GeneratedLoraModel(GeneratedTuner, UntyingLoraModel):
    """A LoRA tuner whose factors a bank generates."""

    roles = ("lora_A", "lora_B")

    def replace(self, layer: Any, adapter_name: str, source: WeightSource, name: str) -> None:
        super().replace(layer, adapter_name, source, name)
        config = self.peft_config[adapter_name]
        if config.use_dora:
            generate_magnitude(
                layer, adapter_name, source, name, relative=config.dora_magnitude == "relative",
                of_inputs=config.dora_magnitude_size == "in",
                from_norm=config.dora_magnitude == "relative" or config.start == "identity",
            )  # fmt: skip

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        raise ConfigError(
            "generated weights cannot be averaged: the mean of two banks' parameters does not generate the mean of "
            "their weights. Export each adapter with qpeft.export_lora and combine the LoRA files"
        )


def lora_layers(model: nn.Module, adapter_name: str) -> dict[str, LoraLinear]:
    """The adapted layers of a tuner's inner model, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer) and adapter_name in m.lora_A}
