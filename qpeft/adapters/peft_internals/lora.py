"""A LoRA tuner whose factors, and DoRA magnitudes, are generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer, LoraModel
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from qpeft.adapters.generated import WeightSource
from qpeft.adapters.peft_internals.dora import generate_magnitude
from qpeft.adapters.peft_internals.targets import embeddings_of
from qpeft.adapters.peft_internals.tuner import GeneratedTuner
from qpeft.errors import ConfigError


class GeneratedLoraModel(GeneratedTuner, LoraModel):  # type: ignore[misc]  # peft is untyped
    """A LoRA tuner whose factors a bank generates."""

    roles = ("lora_A", "lora_B")

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        if "_tied" not in self.__dict__:
            self._tied: dict[str, nn.Parameter] = {}
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def replace(self, layer: Any, adapter_name: str, source: WeightSource, name: str) -> None:
        super().replace(layer, adapter_name, source, name)
        config = self.peft_config[adapter_name]
        if config.use_dora:
            generate_magnitude(
                layer, adapter_name, source, name, relative=config.dora_magnitude == "relative",
                of_inputs=config.dora_magnitude_size == "in",
            )  # fmt: skip

    def _check_tied_modules(self, model: nn.Module, peft_config: Any) -> None:
        """PEFT warns here that merging corrupts a tied head; ours unties it first (see `_untie`)."""

    def _get_tied_target_modules(self, model: nn.Module) -> list[str]:
        """For the same reason there is nothing to warn of when merging."""
        return []

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        raise ConfigError(
            "generated weights cannot be averaged: the mean of two banks' parameters does not generate the mean of "
            "their weights. Export each adapter with qpeft.export_lora and combine the LoRA files"
        )

    # ---- merging

    def _untie(self, adapter_names: Sequence[str]) -> None:
        """Gives a targeted head that shares its weight with the input embedding a copy of its own."""
        embeddings = embeddings_of(self.model, "get_input_embeddings")
        for name, layer in self.model.named_modules():
            if embeddings is None or not isinstance(layer, LoraLayer) or not set(adapter_names) & layer.lora_A.keys():
                continue
            base, shared = layer.get_base_layer(), getattr(embeddings, "weight", None)
            if base is not embeddings and isinstance(shared, nn.Parameter) and base.weight is shared:
                self._tied[name] = shared
                base.weight = nn.Parameter(shared.detach().clone(), requires_grad=False)

    def _retie(self) -> None:
        """Gives heads that are not merged the input embedding's weight back."""
        for name in list(self._tied):
            layer: Any = self.model.get_submodule(name)
            if isinstance(layer, LoraLayer) and not layer.merged:
                layer.get_base_layer().weight = self._tied.pop(name)

    @torch.no_grad()
    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        self._untie(adapter_names or self.active_adapters)
        try:
            super().merge_adapter(adapter_names, safe_merge)
        finally:
            self._retie()

    @torch.no_grad()
    def unmerge_adapter(self) -> None:
        super().unmerge_adapter()
        self._retie()

    @torch.no_grad()
    def _unload_and_optionally_merge(
        self, merge: bool = True, progressbar: bool = False, safe_merge: bool = False, adapter_names: Any = None
    ) -> nn.Module:
        if merge:
            self._untie(adapter_names or self.active_adapters)
        try:
            model: Any = super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)
        except BaseException:
            self._retie()
            raise
        if self._tied:  # merged, now or before: saving must keep the head
            model.config.tie_word_embeddings = False
        unloaded: nn.Module = model
        return unloaded


def lora_layers(model: nn.Module, adapter_name: str) -> dict[str, LoraLinear]:
    """The adapted layers of a tuner's inner model, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer) and adapter_name in m.lora_A}


def fully_trained(model: PeftModel, adapter_name: str) -> dict[str, Tensor]:
    """The tensors of an adapter's `modules_to_save`, under the names of a file."""
    state = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    wrapped = tuple(f"{n}." for n, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper))
    return {key: tensor.cpu().contiguous() for key, tensor in state.items() if key.startswith(wrapped)}
