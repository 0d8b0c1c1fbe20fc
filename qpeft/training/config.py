"""The settings of a training run: one dataclass tree behind the command line, TOML files and `--help`."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, field
from typing import Any

from qpeft.engines import check_engine
from qpeft.errors import ConfigError
from qpeft.options import option

CLEANINGS = ("none", "wikitext", "stories")


def _finite(section: object, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{name} is {value}; it must be a finite number")


def _at_least(least: int, section: object, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        if value is not None and value < least:
            raise ConfigError(f"{name} is {value}; it must be at least {least}")


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
    """The text it is adapted to."""

    data: str = option(MISSING, "text file, folder with train/valid/test text files, dataset on the hub, or embedded")
    data_config: str | None = option(None, "configuration of a hub dataset, e.g. wikitext-2-raw-v1")
    text_column: str = option("text", "column of a dataset that holds the text")
    test_data: str | None = option(None, "text file to evaluate on, if not part of --data")
    clean: str = option("none", "wikitext: undo its spacing, drop unknown words; stories: drop end-of-text lines")
    by_line: bool = option(False, "tokenise non-empty lines one by one, without their line ends")
    context: int = option(256, "tokens in a training example")
    max_train_chars: int | None = option(None, "use only so many characters of the training text")
    max_train_chunks: int | None = option(None, "use only so many training examples")
    max_test_chars: int | None = option(None, "use only so many characters of the test text")

    def __post_init__(self) -> None:
        if self.clean not in CLEANINGS:
            raise ConfigError(f"clean {self.clean!r} is not one of {', '.join(CLEANINGS)}")
        _at_least(2, self, "context")
        _at_least(1, self, "max_train_chars", "max_train_chunks", "max_test_chars")


@dataclass(frozen=True)
class AdapterOptions:
    """Which adapter to train, and its settings."""

    method: str = option("qpa", "adaptation method: qpa or lora")
    rank: int = option(4, "rank r of the update")
    alpha: float | None = option(None, "scale: the update is multiplied by alpha / rank (2 * rank if not given)")
    dropout: float = option(0.0, "dropout on the adapter's input")
    targets: list[str] | None = option(None, "layers to adapt, e.g. lm_head or q_proj, or all-linear (the output head)")
    preset: str = option("default", "qpa: default or paper; sets hidden, activation, transform and start")
    chunk_size: int | None = option(None, "qpa: weights generated for each basis state")
    budget: int | None = option(None, "qpa: most numbers to train; chooses the chunk size (half of LoRA r=1)")
    ansatz: str = option("ry_cnot", "qpa: circuit, a registered ansatz")
    reps: int = option(8, "qpa: layers of the ansatz")
    hidden: list[int] | None = option(None, "qpa: widths of the mapping network's hidden layers")
    activation: str | None = option(None, "qpa: activation of the mapping network")
    transform: str | None = option(None, "qpa: what is done to the probabilities")
    start: str | None = option(None, "qpa: identity (adapter starts at zero) or paper (all random)")
    source: str = option("circuit", "qpa: circuit, or a classical control: frozen, free, mlp, none")
    engine: str = option("exact", "qpa: engine that runs the circuit, NAME[@DEVICE][:SHOTS], e.g. exact:20x, aer:20x")
    diff_method: str | None = option(None, "qpa: how the engine is differentiated; see qpeft engines")
    gradient_shots: str | None = option(None, "qpa: shots of each circuit of a sampled gradient, e.g. 100x")

    def __post_init__(self) -> None:
        _at_least(1, self, "rank", "chunk_size", "budget")
        _at_least(0, self, "reps")
        _finite(self, "alpha")
        check_engine(self.engine, self.diff_method, self.gradient_shots)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; it must be at least 0 and below 1")


@dataclass(frozen=True)
class TrainingOptions:
    """How it is trained."""

    steps: int = option(300, "optimiser steps")
    batch_size: int = option(4, "examples a step and device")
    accumulation: int = option(1, "batches a step: gradients are accumulated over them")
    learning_rate: float | None = option(None, "peak learning rate (the method's own if not given; 0.03 for qpa)")
    warmup_steps: int = option(10, "steps of linear warm-up; the rate then falls linearly to 0")
    weight_decay: float = option(0.0, "AdamW's weight decay")
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm")
    checkpointing: bool = option(False, "recompute activations in the backward pass, to save memory")
    seed: int = option(0, "seed of everything random")

    def __post_init__(self) -> None:
        _at_least(1, self, "steps", "batch_size", "accumulation")
        _finite(self, "weight_decay")
        _at_least(0, self, "warmup_steps", "weight_decay", "seed")
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
        _at_least(1, self, "save_every", "log_every", "test_batch_size")
        if self.resume and self.overwrite:
            raise ConfigError("give --resume or --overwrite, not both")


@dataclass(frozen=True)
class TrainConfig:
    """All settings of `qpeft train`."""

    model: ModelOptions
    data: DataOptions
    adapter: AdapterOptions = field(default_factory=AdapterOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    run: RunOptions = field(default_factory=RunOptions)

    @property
    def settings(self) -> dict[str, Any]:
        """What `qpeft.adapters.methods.peft_config` takes."""
        return {**asdict(self.adapter), "seed": self.training.seed}
