"""What tuners share that wrap single layers and change what flows through them, not their weights.

peft's own tuners of this kind (IA3, for one) repeat these lines; here they stand once. Quantised base layers need no
case of their own, since only the base layer's forward is called.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from qpeft.adapters.peft_internals.strict import StrictTuner
from qpeft.adapters.peft_internals.targets import linear_shape, resolve_targets
from qpeft.errors import ConfigError
from qpeft.options import option


@dataclass
class LayerTunerConfig(PeftConfig):  # type: ignore[misc]  # peft is untyped
    """Which layers are adapted, in peft's words."""

    target_modules: list[str] | set[str] | str | None = option(
        None, "layers to adapt: names, a regular expression or 'all-linear'; the output head if not given"
    )
    exclude_modules: list[str] | set[str] | str | None = option(
        None, "layers to leave out: names or a regular expression"
    )
    layers_to_transform: list[int] | int | None = option(None, "indices of the blocks whose layers are adapted")
    layers_pattern: list[str] | str | None = option(None, "name of the list of blocks, if it is an unusual one")
    modules_to_save: list[str] | None = option(None, "other modules to train in full and to save")
    # peft saves the whole embedding matrix beside an adapter of `lm_head` unless token rows are listed: none are.
    trainable_token_indices: ClassVar[dict[str, list[int]]] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, str) or _are_names(value)):
                raise ConfigError(f"{name} is {value!r}; give layer names as a list, or a regular expression as text")
            if isinstance(value, list | tuple):
                setattr(self, name, set(value))
        if self.layers_pattern and self.layers_to_transform is None:
            raise ConfigError("layers_pattern needs layers_to_transform: give the indices of the blocks")
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ConfigError(
                "layers_to_transform cannot be combined with a target_modules that is text: write the indices into "
                "the regular expression, or list the names of the layers"
            )

    def choose_targets(self, model: nn.Module) -> None:
        """Called before the layers are looked up; a preset fills in `target_modules` here."""


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple | set) and all(isinstance(name, str) and name for name in value)


class TunedLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]  # peft is untyped
    """Holds a Linear or Conv1D and the adapters around it; cannot be merged.

    The name of a subclass contains "Linear": by that peft counts a wrapped layer among "all-linear".
    Several active adapters act one after another, in the order they were activated.
    """

    cannot_merge: ClassVar[str]  # why, for the error message

    # What peft's base class has, for the type checker.
    active_adapters: list[str]
    disable_adapters: bool
    set_adapter: Callable[..., None]
    _move_adapter_to_device_of_base_layer: Callable[..., None]
    _cast_input_dtype: Callable[..., Tensor]

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        shape = linear_shape(base_layer)
        assert shape is not None  # other layers are refused before they are wrapped
        self.out_features, self.in_features = shape
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True  # what peft's switch changes

    @abstractmethod
    def add_adapter(self, adapter_name: str, config: Any) -> None:
        """Puts the adapter's modules into the dicts of `adapter_layer_names`."""

    def update_layer(self, adapter_name: str, config: Any) -> None:
        """Adds an adapter, on the base layer's device."""
        self.add_adapter(adapter_name, config)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise ConfigError(merge_refusal(self.cannot_merge))

    def unmerge(self) -> None:
        warnings.warn("Nothing is merged, so there is nothing to unmerge.", stacklevel=2)

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """`x` in an adapter's dtype, unless peft's switch `disable_input_dtype_casting` is on."""
        return self._cast_input_dtype(x, dtype)


def merge_refusal(reason: str) -> str:
    """The sentence for every way to ask for a merge."""
    return (
        f"this adapter cannot be merged: {reason}. Keep the adapter and save it with save_pretrained; model.unload() "
        "gives the base model back without it"
    )


class LayerTuner(StrictTuner):
    """Wraps each target in `tuner_layer_cls`."""

    tuner_layer_cls: type[TunedLayer]

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """PEFT's injection, after bad targets were refused.

        Raises:
            ConfigError: A target that the model does not have, or that is no Linear or Conv1D.
        """
        config = self.peft_config[adapter_name]
        config.choose_targets(model)
        resolve_targets(model, config)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def new_layer(self, base_layer: nn.Module, adapter_name: str) -> TunedLayer:
        """The wrapper of a layer that has none yet."""
        return self.tuner_layer_cls(base_layer, adapter_name)

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module,
        current_key: str, parameter_name: str | None = None,
    ) -> None:  # fmt: skip
        if isinstance(target, TunedLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = self.new_layer(target, adapter_name)
        layer.update_layer(adapter_name, peft_config)
        if adapter_name not in self.active_adapters:  # a further adapter does not train until it is activated
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_tied_modules(self, model: nn.Module, peft_config: Any) -> None:
        """PEFT warns here that merging corrupts a tied head, which cannot happen; its other warnings stay."""
        if peft_config.modules_to_save:
            super()._check_tied_modules(model, peft_config)

    def _check_merge_allowed(self) -> None:
        raise ConfigError(merge_refusal(self.tuner_layer_cls.cannot_merge))

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """PEFT enters this around each call and drops `adapter_names` afterwards, which would be silently wrong."""
        if kwargs.get("adapter_names") is not None:
            raise ConfigError(
                f"adapter_names is not available with {type(self).__name__}: all rows of a batch go through the active "
                "adapters. Call the model once for each adapter, after model.set_adapter(name)"
            )
        yield
