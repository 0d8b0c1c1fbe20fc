"""Merging a LoRA into an output head that shares its weight with the input embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer, LoraModel
from torch import nn

from qpeft.adapters.peft_internals.targets import embeddings_of


class UntyingLoraModel(LoraModel):  # type: ignore[misc]  # peft is untyped
    """A LoRA tuner whose merge leaves the input embedding alone, where peft's changes it with a tied head.

    While an adapter is merged into such a head, the head has a weight of its own.
    """

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        if "_tied" not in self.__dict__:
            self._tied: dict[str, nn.Parameter] = {}
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _check_tied_modules(self, model: nn.Module, peft_config: Any) -> None:
        """PEFT warns here that merging corrupts a tied head; ours unties it first (see `_untie`)."""

    def _get_tied_target_modules(self, model: nn.Module) -> list[str]:
        """For the same reason there is nothing to warn of when merging."""
        return []

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

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_name, inference_mode)  # which unmerges what is merged
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
