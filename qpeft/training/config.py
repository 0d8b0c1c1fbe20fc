"""The settings of a training run: one dataclass tree behind the command line, TOML files and `--help`."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from qpeft.errors import ConfigError, unknown_name
from qpeft.frame_settings import FrameSettings
from qpeft.options import at_least, finite, option
from qpeft.training.adapter_options import AdapterOptions, CarrierOptions, GeneratorOptions, method_settings

CLEANINGS = ("none", "wikitext", "stories")
CLASSIFICATION_METRICS = ("accuracy", "f1", "matthews", "pearson", "spearman")
TASK_SETTINGS = {  # the data settings that only one task takes
    "language-modelling": ("clean", "by_line", "max_train_chars", "max_train_chunks", "max_test_chars"),
    "classification": (
        "second_text_column", "label_column", "metric", "max_train_examples", "max_test_examples",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ModelOptions:
    """The language model that is adapted."""

    model: str = option(MISSING, "model id on the Hugging Face hub, a folder, or embedded")
    dtype: str = option("float32", "dtype of the frozen weights: float32, bfloat16 or float16")

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"dtype {self.dtype!r} is not one of float32, bfloat16, float16")


@dataclass(frozen=True)
class DataOptions:
    """What it is adapted to: a task and its data."""

    data: str = option(
        MISSING, "text file, folder with train/valid/test text files (for classification TSV or CSV), dataset on the "
        "hub, or embedded",
    )  # fmt: skip
    task: str = option("language-modelling", "language-modelling or classification")
    data_config: str | None = option(None, "configuration of a hub dataset, e.g. wikitext-2-raw-v1 or sst2")
    text_column: str | None = option(None, "column that holds the text (text; for classification, detected)")
    test_data: str | None = option(None, "file to evaluate on, if not part of --data")
    context: int = option(256, "tokens in a training example")
    clean: str = option("none", "wikitext: undo its spacing, drop unknown words; stories: drop end-of-text lines")
    by_line: bool = option(False, "tokenise non-empty lines one by one, without their line ends")
    max_train_chars: int | None = option(None, "use only so many characters of the training text")
    max_train_chunks: int | None = option(None, "use only so many training examples of a text")
    max_test_chars: int | None = option(None, "use only so many characters of the test text")
    second_text_column: str | None = option(None, "classification: column of the second text (detected)")
    label_column: str | None = option(None, "classification: column of the label (detected)")
    metric: str | None = option(
        None, "classification: accuracy, f1 or matthews; for real labels pearson or spearman (the first of these)"
    )
    max_train_examples: int | None = option(None, "classification: use only so many rows, drawn alike for every seed")
    max_test_examples: int | None = option(None, "classification: the same for the rows to evaluate on")

    def __post_init__(self) -> None:
        if self.task not in TASK_SETTINGS:
            raise ConfigError(unknown_name("task", self.task, TASK_SETTINGS))
        if self.clean not in CLEANINGS:
            raise ConfigError(f"clean {self.clean!r} is not one of {', '.join(CLEANINGS)}")
        if self.metric is not None and self.metric not in CLASSIFICATION_METRICS:
            raise ConfigError(unknown_name("metric", self.metric, CLASSIFICATION_METRICS))
        at_least(2, self, "context")
        at_least(1, self, "max_train_chars", "max_train_chunks", "max_test_chars")
        at_least(1, self, "max_train_examples", "max_test_examples")
        defaults = {field.name: field.default for field in fields(self)}
        for task, names in TASK_SETTINGS.items():
            given = [name for name in names if getattr(self, name) != defaults[name]]
            if given and task != self.task:
                raise ConfigError(f"{given[0]} is a setting of the task {task}; this task is {self.task}. Leave it out")


@dataclass(frozen=True)
class TrainingOptions:
    """How it is trained."""

    steps: int = option(300, "optimiser steps")
    batch_size: int = option(4, "examples a step and device")
    accumulation: int = option(1, "batches a step: gradients are accumulated over them")
    learning_rate: float | None = option(
        None,
        "peak learning rate (the method's own if not given; classification: a third, as short searches on SST-2 "
        "with inner layers suggest)",
    )
    warmup_steps: int = option(10, "steps of linear warm-up; the rate then falls linearly to 0")
    weight_decay: float = option(0.0, "AdamW's weight decay")
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm")
    checkpointing: bool = option(False, "recompute activations in the backward pass, to save memory")
    seed: int = option(0, "seed of everything random")

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "batch_size", "accumulation")
        finite(self, "weight_decay")
        at_least(0, self, "warmup_steps", "weight_decay", "seed")
        if self.seed >= 2**32:
            raise ConfigError(f"seed is {self.seed}; it must be below 2**32")
        for name in ("learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}; it must be a finite number above 0")


@dataclass(frozen=True)
class RunOptions:
    """Where the results go."""

    output: str | None = option(None, "folder of the run (runs/METHOD-MODEL if not given)")
    resume: bool = option(False, "go on from the last checkpoint in the output folder")
    overwrite: bool = option(False, "replace the run in the output folder")
    save_every: int = option(100, "steps between checkpoints")
    log_every: int = option(10, "steps between points of the loss curve")
    test_batch_size: int = option(16, "examples a batch in evaluation")
    paper_metric: bool = option(False, "also the papers' perplexity, which counts padding (lines padded to 512)")

    def __post_init__(self) -> None:
        at_least(1, self, "save_every", "log_every", "test_batch_size")
        if self.resume and self.overwrite:
            raise ConfigError("give --resume or --overwrite, not both")


@dataclass(frozen=True)
class TrainConfig:
    """All settings of `qpeft train`."""

    model: ModelOptions
    data: DataOptions
    adapter: AdapterOptions = field(default_factory=AdapterOptions)
    carrier: CarrierOptions = field(default_factory=CarrierOptions)
    generator: GeneratorOptions = field(default_factory=GeneratorOptions)
    frame: FrameSettings = field(default_factory=FrameSettings)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    run: RunOptions = field(default_factory=RunOptions)

    @property
    def settings(self) -> dict[str, Any]:
        """What `qpeft.adapters.methods.Method.peft_config` takes."""
        return method_settings(
            self.adapter, self.carrier, self.generator, self.frame, seed=self.training.seed,
            steps=self.training.steps,
        )  # fmt: skip
