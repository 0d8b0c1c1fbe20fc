"""A LoRA tuner whose factors are generated.

It is peft's `LoraModel`, whose layers hold `GeneratedLinear` where peft put trainable `nn.Linear`s: peft's forward,
merge and conversion paths only read `.weight` or call the module.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer, LoraModel
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qpeft.adapters.generated import GeneratedLinear, WeightSource
from qpeft.adapters.peft_internals.targets import Shape, embeddings_of, resolve_targets
from qpeft.errors import ConfigError


def _check_adapter_name(adapter_name: str, bank: nn.Module) -> None:
    """Refuses a name that is also a part of the bank's keys: peft would leave those keys out when it saves others."""
    taken = {part for key in bank.state_dict() for part in key.split(".")}
    if adapter_name in taken or "." in adapter_name:
        raise ConfigError(
            f"{adapter_name!r} cannot name an adapter: names with a dot and {', '.join(sorted(taken))} are taken"
        )


class GeneratedLoraModel(LoraModel):  # type: ignore[misc]  # peft is untyped
    """A LoRA tuner whose factors a bank generates, one bank an adapter, kept once on the tuner."""

    uses_shared_state = True
    lora_bank: nn.ModuleDict  # the name contains the tuner's prefix, so peft saves it

    @abstractmethod
    def build_bank(self, config: Any, targets: dict[str, tuple[Shape, int]]) -> nn.Module:
        """The bank of one adapter; `targets` maps layer names to ((out_features, in_features), rank).

        Called before the model is touched, so that it can refuse. Its `forward()` maps each name to `Factors`, and it
        has at least one buffer or parameter that tells its device.
        """

    # ---- building

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """PEFT's injection, after which the factors come from the bank."""
        if "lora_bank" not in self._modules:
            self.lora_bank = nn.ModuleDict()
            self._sources: dict[str, WeightSource] = {}
            self._a_layer: dict[str, LoraLayer] = {}  # one of each adapter: they are disabled and merged together
            self._tied: dict[str, nn.Parameter] = {}
            self._hooks: tuple[RemovableHandle, ...] = ()
        config = self.peft_config[adapter_name]
        shapes = resolve_targets(model, config)
        bank = self.build_bank(config, {name: (shape, config.r) for name, shape in shapes.items()})
        _check_adapter_name(adapter_name, bank)

        with warnings.catch_warnings():
            # peft notes that Conv1D needs fan_in_fan_out; it then sets that layer by layer, which is what we want.
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer) and adapter_name in m.lora_A}
        if list(layers) != list(shapes):
            raise RuntimeError(f"peft adapted {list(layers)}, expected {list(shapes)}; please report this")
        self.lora_bank[adapter_name] = bank
        self._move_adapter_to_device_of_base_layer(adapter_name)
        source = self._sources[adapter_name] = WeightSource(bank)
        self._a_layer[adapter_name] = next(iter(layers.values()))
        for name, layer in layers.items():
            layer.lora_A[adapter_name] = GeneratedLinear(source, name, "A")
            layer.lora_B[adapter_name] = GeneratedLinear(source, name, "B")
        if not self._hooks:  # not earlier: a refused adapter leaves no hook behind
            # On the inner model, because `generate()` bypasses the tuner's own forward; bound methods, because lambdas
            # do not survive deepcopy.
            self._hooks = (
                model.register_forward_pre_hook(self._begin_forward, prepend=True),
                model.register_forward_hook(self._end_forward, always_call=True),
            )
        # Decided once, here: scanning all modules at every forward would cost more than the generator on large models.
        self._checkpointed = [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]
        self._sync_requires_grad()

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """PEFT calls this on every module that has it after it has loaded an adapter's weights."""
        bank = self.lora_bank[adapter_name]
        device = device or next(iter(self.model.parameters())).device
        if not any(p.is_meta for p in bank.parameters()):  # else the weights are yet to come (low_cpu_mem_usage)
            bank.to("cpu" if device.type == "meta" else device)

    def _check_tied_modules(self, model: nn.Module, peft_config: Any) -> None:
        """PEFT warns here that merging corrupts a tied head; ours unties it first (see `_untie`)."""

    def _get_tied_target_modules(self, model: nn.Module) -> list[str]:
        """For the same reason there is nothing to warn of when merging."""
        return []

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if adapter_name in self.lora_bank:
            self.lora_bank[adapter_name].float()

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        head = f"base_model.lora_bank.{adapter_name}."
        if key.startswith(head):
            return key.replace(head, "base_model.lora_bank.", 1)
        name: str = super()._remove_adapter_name_from_key(key, adapter_name)
        return name

    # ---- running

    def _begin_forward(self, module: nn.Module, args: Any) -> None:
        self._refuse_reentrant_checkpointing()
        for name in self.active_adapters:
            layer = self._a_layer.get(name)
            if layer is not None and not (layer.disable_adapters or layer.merged):  # else nobody asks for the weights
                self._sources[name].begin_forward()

    def _end_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        for source in self._sources.values():
            source.end_forward()

    def _refuse_reentrant_checkpointing(self) -> None:
        """Generated weights enter a checkpointed block from outside; the reentrant kind loses their gradient."""
        for module in self._checkpointed:
            if module.gradient_checkpointing and module.training and torch.is_grad_enabled():
                function = getattr(module, "_gradient_checkpointing_func", None)
                if getattr(function, "keywords", {}).get("use_reentrant", False):
                    raise ConfigError(
                        "gradient checkpointing is on with use_reentrant=True, which generated weights cannot work "
                        'with; pass gradient_checkpointing_kwargs={"use_reentrant": False}'
                    )

    # ---- adapters on and off

    def _sync_requires_grad(self, inference_mode: bool | None = None) -> None:
        for name, bank in self.lora_bank.items():
            frozen = self.peft_config[name].inference_mode if inference_mode is None else inference_mode
            bank.requires_grad_(name in self.active_adapters and not frozen)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_name, inference_mode)
        if "lora_bank" in self._modules:
            self._sync_requires_grad(inference_mode or None)

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        super().set_requires_grad(adapter_names, requires_grad)
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            self.lora_bank[name].requires_grad_(requires_grad)

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        del self.lora_bank[adapter_name], self._sources[adapter_name], self._a_layer[adapter_name]
        self._sync_requires_grad()

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
        for hook in self._hooks:
            hook.remove()
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
