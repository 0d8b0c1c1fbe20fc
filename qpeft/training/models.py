"""Loading language models, with clear errors for what cannot be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from qpeft.errors import ConfigError
from qpeft.training import embedded
from qpeft.training.config import ModelOptions


def _locate(model: str) -> str:
    """The folder or hub id to load; a path that is no model folder is refused here, before any look at the hub."""
    if model == embedded.NAME:
        return str(embedded.MODEL_FOLDER)
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(f"the folder {model} has no config.json; give a folder that save_pretrained wrote")
    elif path.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ConfigError(f"{model} is no model folder; give a folder with config.json, a hub id, or {embedded.NAME}")
    return model


def _load(auto_class: Any, model: str, kind: str = "a causal language model", **kwargs: Any) -> Any:
    try:
        return auto_class.from_pretrained(_locate(model), trust_remote_code=False, **kwargs)
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"model {model!r} cannot be loaded as {kind}: {first} Give a folder, a hub id (and be "
            f"online, or have it cached), or {embedded.NAME}"
        ) from error


def load_config(model: str) -> Any:
    """A model's config alone, no weights."""
    from transformers import AutoConfig

    return _load(AutoConfig, model)


def load_weights(auto_class: Any, options: ModelOptions, kind: str, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """A model of an auto class, and what transformers says about its weights (`missing_keys`, ...)."""
    dtype = getattr(torch, options.dtype)
    model, info = _load(auto_class, options.model, kind, dtype=dtype, output_loading_info=True, **kwargs)
    return model, info


def load_causal(options: ModelOptions) -> nn.Module:
    """The causal language model, as it is on the CPU."""
    from transformers import AutoModelForCausalLM

    model: nn.Module
    model, info = load_weights(AutoModelForCausalLM, options, "a causal language model")
    if info["missing_keys"]:
        raise ConfigError(
            f"the checkpoint {options.model} lacks weights of a causal language model "
            f"({', '.join(sorted(info['missing_keys'])[:3])}, ...); it is another kind of model, or damaged"
        )
    return model


def load_model(options: ModelOptions) -> nn.Module:
    """The language model with frozen weights, on the first GPU if there is one."""
    model = load_causal(options)
    model.requires_grad_(False)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(model: str) -> Any:
    """The model's tokeniser."""
    from transformers import AutoTokenizer

    return _load(AutoTokenizer, model)


def skeleton(config: Any) -> nn.Module:
    """The model without weights (on the meta device): names and shapes for counting."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise ConfigError(f"a {config.model_type} model is no causal language model") from error
    return model


def num_positions(config: Any) -> int | None:
    """How many tokens the model can attend over; None if it does not say."""
    for name in ("max_position_embeddings", "n_positions"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    return None
