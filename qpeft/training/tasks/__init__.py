"""What a model is adapted for: each task owns its model class, its data, its loss and its metrics."""

from __future__ import annotations

from qpeft.training.config import TrainConfig
from qpeft.training.tasks.base import Metric, Prepared, Task
from qpeft.training.tasks.classification import Classification
from qpeft.training.tasks.language_modelling import LanguageModelling

TASKS: dict[str, type[Task]] = {"language-modelling": LanguageModelling, "classification": Classification}

__all__ = ["TASKS", "Metric", "Prepared", "Task", "task_for"]


def task_for(config: TrainConfig) -> Task:
    """The task that `--task` names, with its settings."""
    return TASKS[config.data.task](config)
