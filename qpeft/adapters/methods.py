"""Methods: what a row of the registry says, and how settings become its PEFT config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig
from torch import nn
from transformers import TrainerCallback

from qpeft.adapters.built_config import BuiltConfig
from qpeft.adapters.config import GeneratedConfig
from qpeft.errors import ConfigError

Settings = Mapping[str, Any]  # the settings of all sections of `qpeft.training.config.TrainConfig`, by name


@dataclass(frozen=True)
class Method:
    """A row of the registry, `qpeft.adapters.method_table.METHODS`.

    Attributes:
        config: The PEFT config it stands for.
        fields: Config fields and the settings that fill them; a setting that is None leaves the field's default.
        trains: Which tensors train.
        count: How many numbers that is for each target (in, out), as a formula.
        source: Where it comes from.
        learning_rate: What to use if none is given; from studies on small language models' output heads.
        alpha: The scale if none is given; twice the rank if None.
        learning_rates: The same where a setting has a value that needs another: (setting, value) to rate.
        merges: Whether the update can be merged into the base weights.
        export: What a trained adapter is exported as: a plain "lora", "merged" weights, a standard "prefix", or the
            same adapter with "stored" weights, which needs no circuit.
        fixed: Config fields that make the method what it is.
        derived: Config fields computed from settings.
        derived_from: The settings `derived` looks at.
        callbacks: What a Trainer of the model needs besides its own.
    """

    config: type[PeftConfig]
    fields: Mapping[str, str]
    trains: str
    count: str
    source: str
    learning_rate: float
    alpha: float | None = None
    learning_rates: Mapping[tuple[str, str], float] = field(default_factory=dict)
    merges: bool = True
    export: str = "lora"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    derived: Callable[[Settings], dict[str, Any]] = lambda settings: {}
    derived_from: tuple[str, ...] = ()
    callbacks: Callable[[nn.Module], list[TrainerCallback]] = lambda model: []

    @property
    def generates(self) -> bool:
        """Whether the adapter's weights are generated from fewer numbers."""
        return issubclass(self.config, BuiltConfig)

    def usual_learning_rate(self, settings: Settings) -> float:
        """The learning rate to use if none is given."""
        own = (rate for (setting, value), rate in self.learning_rates.items() if settings[setting] == value)
        return next(own, self.learning_rate)

    def peft_config(self, settings: Settings, task_type: str) -> PeftConfig:
        """The PEFT config for these settings.

        Args:
            settings: The settings of all sections, by name.
            task_type: peft's name of the task, e.g. "CAUSAL_LM".

        Raises:
            ConfigError: Settings it does not allow.
        """
        given = {**settings, "targets": _target_names(settings["targets"])}
        if given["alpha"] is None:
            given["alpha"] = 2 * given["rank"] if self.alpha is None else self.alpha
        filled = {name: given[setting] for name, setting in self.fields.items() if given[setting] is not None}
        return self.config(task_type=task_type, **filled, **self.fixed, **self.derived(given))

    def refuse_unused(self, settings: Settings, defaults: Settings) -> None:
        """Raises `ConfigError` for settings that differ from their defaults and that this method does not look at."""
        own = {*self.fields.values(), *self.derived_from} - {"seed", "steps"}
        unused = [
            name for name in settings.keys() - own - {"method", "seed", "steps"} if settings[name] != defaults[name]
        ]
        if unused:
            first, *others = (f"--{name.replace('_', '-')}" for name in [min(unused), *sorted(own)])
            raise ConfigError(
                f"{first} is no setting of the method {settings['method']}; leave it out. It takes {', '.join(others)}"
            )

    def check(self, settings: Settings, task_type: str) -> None:
        """Raises what building the adapter would, as far as that needs no model: unknown names, missing packages."""
        config = self.peft_config(settings, task_type)
        if isinstance(config, GeneratedConfig):
            config.build_engine()


def _target_names(targets: list[str] | None) -> list[str] | str | None:
    if targets is None:
        return None
    names = [name.strip() for entry in targets for name in entry.split(",")]
    return "all-linear" if names == ["all-linear"] else names
