"""A saved adapter on its base model, both found from the adapter's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open

import qpeft.adapters  # noqa: F401  (registers our adapters with peft)
from qpeft.errors import ConfigError, QpeftError
from qpeft.training.config import ModelOptions
from qpeft.training.heads import PEFT_HEADS
from qpeft.training.models import load_causal, load_config, load_tokenizer
from qpeft.training.recipe import resolved_of_run
from qpeft.training.tasks.classifier import load_classifier


def load_saved(adapter: Path, model: str | None = None) -> PeftModel:
    """An adapter as `save_pretrained` wrote it, on its base model in single precision, in evaluation mode.

    Args:
        adapter: Its folder.
        model: The base model: id on the hub, folder, or embedded; the one that the adapter names if not given.

    Raises:
        ConfigError: A folder without an adapter, damaged files, a task that is not known here, or a base model that the
            adapter does not fit.
    """
    config = _read_config(adapter)
    shapes = _tensor_shapes(adapter)
    base = model or config.base_model_name_or_path
    if not base:
        raise ConfigError(f"{adapter / CONFIG_NAME} names no base model; give it as --model")
    bare, fresh = _load_base(adapter, config, shapes, base)
    try:
        loaded = PeftModel.from_pretrained(bare, adapter, config=config)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error) if isinstance(error, QpeftError) else _first_lines(error)
        raise ConfigError(f"the adapter {adapter} does not fit the model {base}: {reason}") from error
    needed = set(get_peft_model_state_dict(loaded, save_embedding_layers=False))
    allowed = needed | set(get_peft_model_state_dict(loaded, save_embedding_layers=True))
    odd = sorted(needed - shapes.keys()) or sorted(shapes.keys() - allowed)
    if odd:
        raise ConfigError(
            f"the adapter {adapter} does not fit the model {base}: {len(odd)} tensors ({odd[0]}, ...) are in only one "
            "of them. Give the model it was trained on"
        )
    random = [name for name in fresh if not any(f".{name}." in f".{key}" for key in shapes)]
    if random:
        raise ConfigError(f"neither the model {base} nor the adapter has weights for {random[0]}; it would be random")
    return loaded.eval()


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2])


def _read_config(adapter: Path) -> PeftConfig:
    """The adapter's config; raises `ConfigError` for a folder without one, or one that cannot be read."""
    if not (adapter / CONFIG_NAME).is_file():
        inner = adapter / "adapter"
        hint = f"; did you mean {inner}?" if (inner / CONFIG_NAME).is_file() else ", which save_pretrained writes"
        raise ConfigError(f"{adapter} holds no {CONFIG_NAME}{hint}")
    try:
        return PeftConfig.from_pretrained(str(adapter))
    except QpeftError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{adapter / CONFIG_NAME} cannot be read ({error}): it is damaged, or of a newer peft; save the adapter "
            "again"
        ) from error


def _tensor_shapes(adapter: Path) -> dict[str, list[int]]:
    """The tensors of the adapter's file, by name; raises `ConfigError` for a file that is missing or damaged."""
    path = adapter / SAFETENSORS_WEIGHTS_NAME
    if not path.is_file():
        raise ConfigError(
            f"{adapter} holds no {SAFETENSORS_WEIGHTS_NAME}; only weights in the safetensors format are read"
        )
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118  (no mapping)
    except SafetensorError as error:
        raise ConfigError(f"{path} is damaged ({error}); save or download the adapter again") from error


def _load_base(
    adapter: Path, config: PeftConfig, shapes: dict[str, list[int]], base: str
) -> tuple[Any, list[str]]:  # fmt: skip
    """The base model for the adapter's task, and the modules that its checkpoint has no weights for."""
    if config.task_type in (None, "CAUSAL_LM"):
        return load_causal(ModelOptions(base)), []
    if config.task_type == "SEQ_CLS":
        names = _class_names(load_config(base), shapes, resolved_of_run(adapter).get("labels"))
        found = load_classifier(ModelOptions(base), names, _padding(base))
        return found.model, found.fresh
    raise ConfigError(
        f"the command line exports adapters of the tasks CAUSAL_LM and SEQ_CLS; this one is of {config.task_type}. In "
        "Python, qpeft.export_adapter(model, folder) exports any"
    )


def _class_names(config: Any, shapes: dict[str, list[int]], trained_on: Any) -> list[str] | None:
    """Names of a classifier's classes, as many as the adapter's own head has; None for a single real number.

    They are those that its run was trained on, if that is known, else the base model's.
    """
    # A head may have inner layers, as wide as the model; its last one is the narrowest.
    heads = [shape[0] for key, shape in shapes.items() if any(part in PEFT_HEADS for part in key.split("."))]
    names = trained_on if isinstance(trained_on, list) else list(config.id2label.values())
    count = min(heads, default=len(names))
    if count == 1:
        return None
    return names if len(names) == count else [f"LABEL_{i}" for i in range(count)]


def _padding(base: str) -> Any:
    """The token that classifiers are padded with: the model's, else its tokeniser's; None if neither has one."""
    config = load_config(base)
    if config.pad_token_id is not None:
        return config.pad_token_id
    try:
        tokenizer = load_tokenizer(base)
    except ConfigError:
        return None
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
