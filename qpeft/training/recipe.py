"""How the base model of a saved adapter is loaded: known to the run that trained it, whose folder lies around it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from qpeft.errors import QpeftError
from qpeft.options import build, read_toml
from qpeft.training.config import TrainConfig
from qpeft.training.runs import read_settings
from qpeft.training.tasks import task_for

_CLASSIFIER = [
    "# As many labels as the adapter's head has, in the order it was trained on, and the token that pads:",
    "base_model = AutoModelForSequenceClassification.from_pretrained(..., num_labels=..., pad_token_id=...)",
]


def resolved_of_run(adapter: Path) -> dict[str, Any]:
    """What the run found in its data, from the settings beside the adapter; empty for an adapter of no run."""
    try:
        return read_toml(_settings(adapter)).get("resolved", {})
    except (QpeftError, OSError):  # another program's file
        return {}


def loading_lines(adapter: Path, task_type: str | None, model: str | None) -> list[str]:
    """Lines of Python that load `base_model` for an adapter; none where nothing is special.

    Args:
        adapter: Its folder.
        task_type: peft's name of its task.
        model: The base model, if it is not the run's.
    """
    if task_type != "SEQ_CLS":
        return []
    resolved = resolved_of_run(adapter)
    try:
        config = build(TrainConfig, read_settings(_settings(adapter)), {})
        if model is not None:
            config = replace(config, model=replace(config.model, model=model))
        return task_for(config).loading(resolved)
    except (QpeftError, OSError, KeyError):  # of no run, or of one with other settings than today's
        return _CLASSIFIER


def _settings(adapter: Path) -> Path:
    return adapter.resolve().parent / "config.toml"
