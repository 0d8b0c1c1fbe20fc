"""Putting an adapter on a model, with clear errors and without peft's notes."""

from __future__ import annotations

import warnings

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn

from qpeft.adapters.peft_internals import resolve_targets
from qpeft.adapters.peft_internals.layer_tuner import LayerTunerConfig
from qpeft.errors import ConfigError


def attach(model: nn.Module, config: PeftConfig) -> PeftModel:
    """The model with the adapter; `target_modules=None` means the same layers for every method.

    Raises:
        ConfigError: A target that is not there (the nearest is named), a rank above a layer's size, or anything else
            that peft refuses of its own methods.
    """
    if isinstance(config, LayerTunerConfig):
        config.choose_targets(model)
    if not config.is_prompt_learning:
        resolve_targets(model, config)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # ours untie it to merge
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        warnings.filterwarnings("ignore", message="Failed to load the CUDA extension", module="peft")  # of BOFT
        warnings.filterwarnings("ignore", message="Setting boft_n_butterfly_factor to 1", module="peft")
        if type(config).__module__.startswith("qpeft."):
            return get_peft_model(model, config)  # ours refuse in their own words; another error of theirs is a fault
        try:
            return get_peft_model(model, config)
        except (TypeError, ValueError) as error:
            kind = getattr(config.peft_type, "value", config.peft_type)
            raise ConfigError(f"peft cannot put a {kind} adapter on this model: {error}") from error
