"""The registry of methods: what `--method` may name, and the PEFT config each stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig, PeftConfig

from qpeft.adapters.config import GeneratedConfig, QPAConfig
from qpeft.generator_settings import SETTING_NAMES
from qpeft.registry import Registry

Settings = Mapping[str, Any]  # the settings of all sections of `qpeft.training.config.TrainConfig`, by name
Fields = dict[str, str]  # config field to the setting that fills it


@dataclass(frozen=True)
class Method:
    """A row of the registry.

    Attributes:
        config: The PEFT config it stands for.
        fields: Config fields and the settings that fill them.
        trains: Which tensors train.
        count: How many numbers that is, as a formula.
        source: Where it comes from.
        learning_rate: What to use if none is given; from a study on small language models' output heads.
        preset_learning_rates: The same for presets that need another.
        merges: Whether the update can be merged into the base weights.
        exports: What a trained adapter is exported as: a plain "lora", "merged" weights, a standard "prefix", or the
            "stored" form of the same adapter, without a circuit.
        fixed: Config fields that make the method what it is.
        derived: Config fields computed from settings.
    """

    config: type[PeftConfig]
    fields: Fields
    trains: str
    count: str
    source: str
    learning_rate: float
    merges: bool = True
    exports: str = "lora"
    preset_learning_rates: Mapping[str, float] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    derived: Callable[[Settings], dict[str, Any]] = lambda settings: {}

    @property
    def generates(self) -> bool:
        """Whether a circuit generates the adapter's weights."""
        return issubclass(self.config, GeneratedConfig)


TARGETED: Fields = {"target_modules": "targets"}
LORA: Fields = TARGETED | {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"}
GENERATED: Fields = {name: name for name in (*SETTING_NAMES, "seed")}
DORA: Fields = {"dora_magnitude": "dora_magnitude", "dora_magnitude_size": "dora_magnitude_size"}

METHODS: Registry[Method] = Registry(
    "method",
    {
        "qpa": Method(
            QPAConfig, LORA | GENERATED, "circuit and network that generate LoRA's A and B",
            "angles + network", "arXiv 2410.09846", 3e-2, preset_learning_rates={"paper": 1e-2},
        ),
        "qpa-dora": Method(
            QPAConfig, LORA | GENERATED | DORA, "circuit and network that generate DoRA's A, B and magnitudes",
            "angles + network", "arXiv 2410.09846", 3e-2, preset_learning_rates={"paper": 1e-2},
            fixed={"use_dora": True},
        ),
        "lora": Method(
            LoraConfig, LORA, "A (r x in), B (out x r)", "r (in + out)", "arXiv 2106.09685", 3e-2
        ),
        "dora": Method(
            LoraConfig, LORA, "A (r x in), B (out x r), a magnitude for each output", "r (in + out) + out",
            "arXiv 2402.09353", 3e-2, fixed={"use_dora": True},
        ),
    },
)  # fmt: skip


def peft_config(settings: Settings, task_type: str) -> PeftConfig:
    """The PEFT config of `settings["method"]`.

    Args:
        settings: The settings of all sections, by name.
        task_type: peft's name of the task, e.g. "CAUSAL_LM".

    Raises:
        ConfigError: An unknown method, or settings it does not allow.
    """
    method = METHODS[settings["method"]]
    given = {**settings, "targets": _target_names(settings["targets"])}
    if given["alpha"] is None:
        given["alpha"] = 2 * given["rank"]
    filled = {name: given[setting] for name, setting in method.fields.items()}
    return method.config(task_type=task_type, **filled, **method.fixed, **method.derived(given))


def _target_names(targets: list[str] | None) -> list[str] | str | None:
    if targets is None:
        return None
    names = [name.strip() for entry in targets for name in entry.split(",")]
    return "all-linear" if names == ["all-linear"] else names


def check_settings(settings: Settings, task_type: str) -> None:
    """Raises what building the adapter would, as far as that needs no model: unknown names, missing packages."""
    config = peft_config(settings, task_type)
    if isinstance(config, GeneratedConfig):
        config.build_engine()
