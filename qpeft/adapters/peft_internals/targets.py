"""Which layers a config targets, and their shapes."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer, _maybe_include_all_linear_layers
from torch import nn
from transformers.pytorch_utils import Conv1D

from qpeft.errors import ConfigError, unknown_name

Shape = tuple[int, int]  # (out_features, in_features)


def _linear_shape(module: Any) -> Shape | None:
    """(out_features, in_features) of a Linear or Conv1D, wrapped or not; None for anything else."""
    base: Any = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    if isinstance(base, nn.Linear):
        return base.out_features, base.in_features
    if isinstance(base, Conv1D):
        fan_in, fan_out = base.weight.shape
        return int(fan_out), int(fan_in)
    return None


def _outer_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by name, less what lies inside a layer that a tuner has wrapped."""
    found: dict[str, nn.Module] = {}
    wrapped: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(wrapped):
            continue
        found[name] = module
        if isinstance(module, BaseTunerLayer):
            wrapped += (f"{name}.",)
    return found


def linear_layers(model: nn.Module) -> dict[str, Shape]:
    """Every Linear and Conv1D of a model, by name, those wrapped by a tuner included once."""
    shapes = {name: _linear_shape(module) for name, module in _outer_modules(model).items()}
    return {name: shape for name, shape in shapes.items() if shape is not None}


def embeddings_of(model: Any, getter: str) -> nn.Module | None:
    """What a transformers model's `get_input_embeddings` or `get_output_embeddings` gives; None for other models."""
    try:
        module: nn.Module | None = getattr(model, getter)()
    except (AttributeError, NotImplementedError):
        return None
    return module


def head_name(model: nn.Module) -> str:
    """Name of the output layer (`lm_head` in most models).

    Raises:
        ConfigError: The model has none, or it is no Linear.
    """
    head = embeddings_of(model, "get_output_embeddings")
    for name, module in model.named_modules():
        if module is head and _linear_shape(module) is not None:
            return str(name)
    raise ConfigError(
        f"{type(model).__name__} has no output head that is a Linear layer; name the layers to adapt "
        "(target_modules, or --targets on the command line)"
    )


def resolve_targets(model: nn.Module, config: LoraConfig) -> dict[str, Shape]:
    """The layers a config targets, in the model's order; `target_modules=None` means the output head.

    Raises:
        ConfigError: A named target matches no Linear or Conv1D layer (the message lists the nearest), or none is left.
    """
    if config.target_modules is None:
        config.target_modules = {head_name(model)}
    config = _maybe_include_all_linear_layers(config, model)
    layers = linear_layers(model)
    modules = _outer_modules(model).keys()
    matched = {name for name in modules if LoraModel._check_target_module_exists(config, name)}
    short = sorted({name.rsplit(".", 1)[-1] for name in layers})
    if isinstance(config.target_modules, str):
        if not matched & layers.keys():
            raise ConfigError(unknown_name("target layer", config.target_modules, short))
    else:
        for target in sorted(config.target_modules):
            if not any(name == target or name.endswith(f".{target}") for name in modules):
                raise ConfigError(unknown_name("target layer", target, short))
    unsuited = sorted(matched - layers.keys())
    if unsuited:
        kinds = {type(model.get_submodule(name)).__name__ for name in unsuited}
        raise ConfigError(
            f"target {unsuited[0]!r} is a {' / '.join(sorted(kinds))}; only Linear and Conv1D layers can be adapted. "
            f"Available: {', '.join(short)}"
        )
    if not matched:
        raise ConfigError(
            "no layer is left to adapt: check target_modules, exclude_modules and layers_to_transform. "
            f"Available: {', '.join(short)}"
        )
    return {name: shape for name, shape in layers.items() if name in matched}
