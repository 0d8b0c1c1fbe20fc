"""The registry of methods: what `--method` may name, and the PEFT config each stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig, PeftConfig

from qpeft.adapters.config import QPAConfig
from qpeft.registry import Registry

Settings = dict[str, Any]  # the fields of `qpeft.training.config.AdapterOptions`, and a seed

QPA_SETTINGS = (
    "preset", "chunk_size", "budget", "ansatz", "reps", "hidden", "activation", "transform", "start", "source",
    "engine", "diff_method", "gradient_shots", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A row of the registry.

    Attributes:
        make: (fields all LoRA-shaped configs share, settings) -> PEFT config.
        summary: One line.
        source: Where it comes from.
        learning_rate: What to use if none is given; from a study on small language models' output heads.
        preset_learning_rates: The same for presets that need another.
    """

    make: Callable[[dict[str, Any], Settings], PeftConfig]
    summary: str
    source: str
    learning_rate: float
    preset_learning_rates: dict[str, float] = field(default_factory=dict)


METHODS: Registry[Method] = Registry(
    "method",
    {
        "qpa": Method(
            lambda common, settings: QPAConfig(**common, **{name: settings[name] for name in QPA_SETTINGS}),
            "a circuit and a small network generate the LoRA weights", "arXiv 2410.09846", 3e-2, {"paper": 1e-2},
        ),
        "lora": Method(
            lambda common, settings: LoraConfig(**common), "low-rank adaptation, peft's own", "arXiv 2106.09685", 3e-2
        ),
    },
)  # fmt: skip


def peft_config(settings: Settings, task_type: str) -> PeftConfig:
    """The PEFT config of `settings["method"]`.

    Args:
        settings: Method, rank, alpha, dropout, targets and the method's own settings.
        task_type: peft's name of the task, e.g. "CAUSAL_LM".
    """
    targets = settings["targets"]
    if targets is not None:
        names = [name.strip() for entry in targets for name in entry.split(",")]
        targets = "all-linear" if names == ["all-linear"] else names
    rank, alpha = settings["rank"], settings["alpha"]
    common = {
        "r": rank, "lora_alpha": 2 * rank if alpha is None else alpha, "lora_dropout": settings["dropout"],
        "target_modules": targets, "task_type": task_type,
    }  # fmt: skip
    return METHODS[settings["method"]].make(common, settings)


def check_settings(settings: Settings) -> None:
    """Raises what building the adapter would, as far as that needs no model: unknown names, missing packages."""
    config = peft_config(settings, "CAUSAL_LM")
    if isinstance(config, QPAConfig):
        config.build_engine()
