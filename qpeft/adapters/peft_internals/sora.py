"""A LoRA tuner with gates between the two factors.

It is peft's `LoraModel`; as soon as peft has made a layer's `nn.Linear` for A, a module that holds A and the gates
takes its place. Forward, merging, mixed batches and quantised layers only read its `.weight` or call it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import nn

from qpeft.adapters.peft_internals.strict import StrictTuner
from qpeft.adapters.peft_internals.targets import resolve_targets
from qpeft.adapters.peft_internals.tied import UntyingLoraModel
from qpeft.errors import ConfigError


class GatedLoraModel(StrictTuner, UntyingLoraModel):
    """A LoRA tuner whose A is what `gated` makes of it."""

    @abstractmethod
    def gated(self, config: Any, down: nn.Linear) -> nn.Module:
        """The module that stands for A of one layer; `down` is peft's, initialised, on the layer's device."""

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """PEFT's injection, once the targets are known to be layers that can be adapted.

        Raises:
            ConfigError: A target that is missing or no Linear or Conv1D, or one smaller than the rank.
        """
        config = self.peft_config[adapter_name]
        if config.target_modules is not None:  # else peft chooses those usual for the architecture
            resolve_targets(model, config)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _create_and_replace(
        self, lora_config: Any, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module, *args: Any,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        # Here and not after the injection, since peft creates layers without memory where it is to save memory.
        super()._create_and_replace(lora_config, adapter_name, target, target_name, parent, *args, **kwargs)
        factors = getattr(parent, target_name).lora_A
        factors[adapter_name] = self.gated(lora_config, factors[adapter_name])

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        raise ConfigError(
            "gated adapters cannot be averaged: the mean of gates and factors is not the mean of the updates. Export "
            "each adapter with qpeft.export_lora and combine the LoRA files"
        )
