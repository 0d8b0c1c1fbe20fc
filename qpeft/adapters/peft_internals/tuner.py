"""Tuners whose adapter weights are generated: what is the same whichever tuner of peft (or ours) they change."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.utils.hooks import RemovableHandle

from qpeft.adapters.generated import Bank, GeneratedLinear, GeneratedTensor, WeightSource
from qpeft.adapters.peft_internals.strict import StrictTuner
from qpeft.adapters.peft_internals.targets import Shape, resolve_targets
from qpeft.errors import ConfigError


def _check_adapter_name(adapter_name: str, bank: nn.Module) -> None:
    """Refuses a name that is also a part of the bank's keys: peft would leave those keys out when it saves others."""
    taken = {part for key in bank.state_dict() for part in key.split(".")}
    if adapter_name in taken or "." in adapter_name:
        raise ConfigError(
            f"{adapter_name!r} cannot name an adapter: names with a dot and {', '.join(sorted(taken))} are taken"
        )


class GeneratedTuner(StrictTuner):
    """Mixed in before a tuner: a bank generates what the tuner would train, one bank an adapter, kept on the tuner.

    The tuner's layers hold stand-ins where it put trainable modules; its forward, merge and conversion paths only read
    `.weight` or call them.

    Attributes:
        roles: The layers' dicts of modules that are replaced, by attribute name.
        stand_in: What replaces them.
    """

    uses_shared_state = True
    roles: ClassVar[tuple[str, ...]]
    stand_in: ClassVar[type[GeneratedTensor]] = GeneratedLinear

    @abstractmethod
    def build_bank(self, config: Any, targets: dict[str, Shape]) -> Bank:
        """The bank of one adapter; `targets` maps layer names to (out_features, in_features).

        Called before the model is touched, so that it can refuse.
        """

    @classmethod
    def bank_attribute(cls) -> str:
        """Where the banks are: the name contains the tuner's prefix, so peft saves them."""
        return f"{cls.prefix.rstrip('_')}_bank"

    @property
    def banks(self) -> nn.ModuleDict:
        """The banks by adapter name."""
        banks = self._modules[self.bank_attribute()]
        assert isinstance(banks, nn.ModuleDict)
        return banks

    def bank(self, adapter_name: str = "default") -> Any:
        """The module that generates an adapter's weights."""
        return self.banks[adapter_name]

    # ---- building

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """PEFT's injection, after which the weights come from the bank."""
        if self.bank_attribute() not in self._modules:
            self.add_module(self.bank_attribute(), nn.ModuleDict())
            self._sources: dict[str, WeightSource] = {}
            self._layers: dict[str, list[BaseTunerLayer]] = {}
            self._generating_hooks: tuple[RemovableHandle, ...] = ()
        config = self.peft_config[adapter_name]
        shapes = resolve_targets(model, config)
        bank = self.build_bank(config, shapes)
        _check_adapter_name(adapter_name, bank)

        training = [(parameter, parameter.requires_grad) for parameter in self.banks.parameters()]
        with warnings.catch_warnings():
            # peft notes that Conv1D needs fan_in_fan_out; it then sets that layer by layer, which is what we want.
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        layers = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, BaseTunerLayer) and adapter_name in getattr(module, self.roles[0], ())
        }
        if list(layers) != list(shapes):
            raise RuntimeError(f"peft adapted {list(layers)}, expected {list(shapes)}; please report this")
        self.banks[adapter_name] = bank
        self._move_adapter_to_device_of_base_layer(adapter_name)
        source = self._sources[adapter_name] = WeightSource(bank)
        self._layers[adapter_name] = list(layers.values())
        for name, layer in layers.items():
            self.replace(layer, adapter_name, source, name)
        if not self._generating_hooks:  # not earlier: a refused adapter leaves no hook behind
            # On the inner model, because `generate()` bypasses the tuner's own forward; bound methods, because lambdas
            # do not survive deepcopy.
            self._generating_hooks = (
                model.register_forward_pre_hook(self._begin_forward, prepend=True),
                model.register_forward_hook(self._end_forward, always_call=True),
            )
        # Decided once, here: scanning all modules at every forward would cost more than the generator on large models.
        self._checkpointed = [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]
        bank.requires_grad_(adapter_name in self.active_adapters and not config.inference_mode)
        for parameter, trained in training:  # peft keeps what it was for the adapters that were there
            parameter.requires_grad_(trained)

    def replace(self, layer: Any, adapter_name: str, source: WeightSource, name: str) -> None:
        """Puts stand-ins into one layer."""
        for role in self.roles:
            getattr(layer, role)[adapter_name] = self.stand_in(source, name, role)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """PEFT calls this on every module that has it after it has loaded an adapter's weights."""
        bank = self.banks[adapter_name]
        device = device or next(iter(self.model.parameters())).device
        if not any(p.is_meta for p in bank.parameters()):  # else the weights are yet to come (low_cpu_mem_usage)
            bank.to("cpu" if device.type == "meta" else device)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if adapter_name in self.banks:
            self.banks[adapter_name].float()

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        head = f"base_model.{cls.bank_attribute()}."
        if key.startswith(f"{head}{adapter_name}."):
            return key.replace(f"{head}{adapter_name}.", head, 1)
        name: str = super()._remove_adapter_name_from_key(key, adapter_name)
        return name

    # ---- running

    def _begin_forward(self, module: nn.Module, args: Any) -> None:
        self._refuse_reentrant_checkpointing()
        for name, layers in self._layers.items():
            if any(name in layer.active_adapters and not (layer.disable_adapters or layer.merged) for layer in layers):
                source = self._sources[name]
                if source.bank.draws and source.bank.training != module.training:
                    source.bank.train(module.training)  # the inner model alone was switched
                source.begin_forward()  # else nobody asks for the weights

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

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_name, inference_mode)
        self._train_active(inference_mode)

    def _train_active(self, inference_mode: bool = False) -> None:
        """What peft does to the parameters in its layers when it changes what is active."""
        for name, bank in self.banks.items():
            bank.requires_grad_(self._is_active(name) and not inference_mode)

    def _is_active(self, adapter_name: str) -> bool:
        # Asked of the layers: when peft deletes the active adapter, they may not all go on with the same one.
        return any(adapter_name in layer.active_adapters for layer in self._layers.get(adapter_name, ()))

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        super().set_requires_grad(adapter_names, requires_grad)
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            self.banks[name].requires_grad_(requires_grad)

    def delete_adapter(self, adapter_name: str) -> None:
        was_active = self._is_active(adapter_name)
        super().delete_adapter(adapter_name)
        del self.banks[adapter_name], self._sources[adapter_name], self._layers[adapter_name]
        if was_active:
            self._train_active()

    @torch.no_grad()
    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        model: nn.Module = super()._unload_and_optionally_merge(*args, **kwargs)
        for hook in self._generating_hooks:
            hook.remove()
        return model


def bank_of(model: Any, adapter_name: str = "default") -> Bank | None:
    """The bank that generates an adapter's weights in a PEFT model; None for an adapter that stores them."""
    tuner = model.base_model
    if isinstance(tuner, GeneratedTuner):
        bank = dict(tuner.banks.items()).get(adapter_name)
    else:  # a prefix
        encoder = dict(getattr(model, "prompt_encoder", {}).items()).get(adapter_name)
        bank = getattr(encoder, "bank", None)
    return bank if isinstance(bank, Bank) else None
