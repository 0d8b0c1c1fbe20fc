"""Which layers a config targets, and their shapes."""

from __future__ import annotations

from typing import Any

from peft import AdaLoraConfig, LoraConfig, PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTunerLayer, _maybe_include_all_linear_layers, check_target_module_exists
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import get_pattern_key
from torch import nn
from transformers.pytorch_utils import Conv1D

from qpeft.errors import ConfigError, unknown_name
from qpeft.options import is_whole

Shape = tuple[int, int]  # (out_features, in_features)
_LINEAR_ONLY = (PeftType.LOHA, PeftType.LOKR, PeftType.OFT, PeftType.BOFT)


def linear_shape(module: Any) -> Shape | None:
    """(out_features, in_features) of a Linear or Conv1D, wrapped or not; None for anything else."""
    base = _bare(module)
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
    shapes = {name: linear_shape(module) for name, module in _outer_modules(model).items()}
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
    name = _head(model)
    if name is None:
        raise ConfigError(
            f"{type(model).__name__} has no output head that is a Linear layer; name the layers to adapt "
            "(target_modules, or --targets on the command line)"
        )
    return name


def _head(model: nn.Module) -> str | None:
    head = embeddings_of(model, "get_output_embeddings")
    named = (name for name, module in model.named_modules() if module is head and linear_shape(module) is not None)
    return next(named, None)


def default_targets(model: nn.Module, config: PeftConfig) -> set[str]:
    """What `target_modules=None` means: the output head; for other tasks than language modelling, PEFT's own choice.

    Raises:
        ConfigError: The model has no such head, or PEFT knows no choice for its architecture.
    """
    if config.task_type in (None, "CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return {head_name(model)}
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
        raise ConfigError(
            f"there are no usual target layers for a {kind or type(model).__name__} model; name the layers to adapt "
            "(target_modules, or --targets on the command line)"
        )
    return set(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING[kind])


def _adaptable(model: nn.Module, config: PeftConfig) -> dict[str, Shape]:
    """The layers that a config's method can adapt."""
    kinds = _kinds(config)
    found = {name: module for name, module in _outer_modules(model).items() if isinstance(_bare(module), kinds)}
    shapes = {name: linear_shape(module) or _embedding_shape(module) for name, module in found.items()}
    return {name: shape for name, shape in shapes.items() if shape is not None}


def _kinds(config: PeftConfig) -> tuple[type[nn.Module], ...]:
    """The classes of layers that a config's method can adapt, of those whose shape is known here."""
    if config.peft_type in _LINEAR_ONLY:
        return (nn.Linear,)
    return (nn.Linear, Conv1D, nn.Embedding) if config.peft_type == PeftType.LORA else (nn.Linear, Conv1D)


def _bare(module: Any) -> Any:
    """A layer without the adapters that wrap it."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _embedding_shape(module: Any) -> Shape | None:
    """(embedding_dim, num_embeddings) of an embedding, wrapped or not: the shape of LoRA's update of it."""
    base = _bare(module)
    return (base.embedding_dim, base.num_embeddings) if isinstance(base, nn.Embedding) else None


def check_ranks(config: PeftConfig, layers: dict[str, Shape]) -> None:
    """Refuses a rank that no LoRA, or variant of it, of a layer can have; elsewhere in peft `r` means other things.

    Raises:
        ConfigError: Names the layer and the largest rank.
    """
    if not isinstance(config, LoraConfig):
        return
    rank = config.init_r if isinstance(config, AdaLoraConfig) else config.r
    patterns: dict[str, Any] = config.rank_pattern or {}
    for name, (fan_out, fan_in) in layers.items():
        given, most = patterns.get(get_pattern_key(patterns.keys(), name), rank), min(fan_out, fan_in)
        if is_whole(given) and given > most:
            raise ConfigError(
                f"rank {given} is above the size of {name} ({fan_out} x {fan_in}): no update of it has a rank above "
                f"{most}. Lower the rank, or leave the layer out"
            )


def resolve_targets(model: nn.Module, config: PeftConfig) -> dict[str, Shape]:
    """The layers a config targets, in the model's order; see `default_targets` for `target_modules=None`.

    They are Linear and Conv1D layers; for plain LoRA also embeddings, for peft's LoHa, LoKr, OFT and BOFT Linear alone.

    Raises:
        ConfigError: A named target matches no such layer (the message lists the nearest), none is left, or one is
            smaller than the rank.
    """
    if config.target_modules is None:
        config.target_modules = default_targets(model, config)
    config = _maybe_include_all_linear_layers(config, model)
    layers = _adaptable(model, config)
    modules = _outer_modules(model).keys()
    matched = {name for name in modules if check_target_module_exists(config, name)}
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
        kind = type(model.get_submodule(unsuited[0])).__name__
        suited = " and ".join(", ".join(suited.__name__ for suited in _kinds(config)).rsplit(", ", 1))
        raise ConfigError(
            f"target {unsuited[0]!r} is {'an' if kind[0] in 'AEIO' else 'a'} {kind}; only {suited} layers can be "
            f"adapted. Available: {', '.join(short)}"
        )
    if not matched:
        raise ConfigError(
            "no layer is left to adapt: check target_modules, exclude_modules and layers_to_transform. "
            f"Available: {', '.join(short)}"
        )
    targeted = {name: shape for name, shape in layers.items() if name in matched}
    check_ranks(config, targeted)
    return targeted


def adapted_layers(model: Any) -> dict[str, Shape]:
    """The layers of a PEFT model that hold an adapter, by name.

    If none does (a prefix) it is the output head, and nothing where there is no such Linear layer (a classifier).
    """
    inner = model.get_base_model()
    found = {name: layer for name, layer in _outer_modules(inner).items() if isinstance(layer, BaseTunerLayer)}
    shapes = {name: linear_shape(layer) or _embedding_shape(layer) for name, layer in found.items()}
    if found:
        return {name: shape for name, shape in shapes.items() if shape is not None}
    head = _head(inner)
    return {} if head is None else {head: linear_layers(inner)[head]}
