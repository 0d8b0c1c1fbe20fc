"""What every tuner of ours refuses, where peft warns or does something else than was asked for."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig, PeftMixedModel, PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from qpeft.adapters.peft_internals.loading import check_weights
from qpeft.errors import ConfigError


class StrictTuner(BaseTuner):  # type: ignore[misc]  # peft is untyped
    """Mixed in before a tuner: refuses models with another tuner's adapters, and weights that do not fit."""

    def __init__(
        self, model: nn.Module, peft_config: PeftConfig | dict[str, PeftConfig], adapter_name: str, *args: Any,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        config = peft_config[adapter_name] if isinstance(peft_config, dict) else peft_config
        # Not in `inject_adapter`: before it, peft writes the new config over those the model already has.
        refuse_adapted(model, config.peft_type, shared_state=self.uses_shared_state)
        super().__init__(model, peft_config, adapter_name, *args, **kwargs)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        remapped: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(
            model, config, adapter_name, state_dict
        )
        check_weights(model, adapter_name, remapped)
        return remapped

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        raise ConfigError(
            f"adapters of a {type(self).__name__} cannot be averaged: the mean of their numbers does not do the mean "
            "of what they do. Use one at a time, with model.set_adapter(name)"
        )


def check_adapter(holder: Any, adapter_name: str) -> None:
    """Raises `ConfigError` unless a PEFT model or tuner has an adapter of this name."""
    if adapter_name not in holder.peft_config:
        raise ConfigError(f"there is no adapter {adapter_name!r}; the model has {', '.join(holder.peft_config)}")


def refuse_adapted(model: nn.Module, peft_type: str, *, shared_state: bool) -> None:
    """Refuses a model that another tuner has already changed.

    A tuner without shared state may come upon its own kind: transformers makes a new one for each adapter it adds.

    Raises:
        ConfigError: The model holds other adapters.
    """
    wrapped = isinstance(model, PeftModel | PeftMixedModel)
    if not wrapped and not any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        return
    held: dict[str, PeftConfig] = getattr(model, "peft_config", None) or {}
    if held and not wrapped and not shared_state and all(other.peft_type == peft_type for other in held.values()):
        return
    names = ", ".join(f"{name!r} ({_plain(config.peft_type)})" for name, config in held.items())
    raise ConfigError(
        f"the model already holds {f'the adapters {names}' if names else 'adapters'}, and a {_plain(peft_type)} "
        "adapter cannot be put on top of them. Give a further adapter of the same kind to the PeftModel's "
        "add_adapter(name, config); for one of another kind take the base model back first, with unload() or "
        "merge_and_unload()"
    )


def _plain(peft_type: Any) -> str:
    return str(getattr(peft_type, "value", peft_type))
