"""Varied settings: `KEY=VALUE,VALUE` texts become one checked configuration for every combination."""

from __future__ import annotations

import dataclasses
import itertools
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qpeft.errors import ConfigError, unknown_name
from qpeft.options import Leaf, build, leaves
from qpeft.training.config import TrainConfig

DEFAULT = "default"  # the value of a setting that is not given
NOT_VARIED = {
    "seed": "use --seeds, or --seed for the first of them",
    **dict.fromkeys(("task", "metric"), "it decides what is compared; give it once"),
    **dict.fromkeys(("output", "resume", "overwrite"), "it says where results go; give it once"),
}
BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Combination:
    """One value of every varied setting, and the configuration they make; its seed is the first one.

    Attributes:
        values: Setting to its value.
        config: The configuration.
        fitted: What of a control was changed so that it trains about as many numbers as the circuit, e.g. `chunk size
            131`; None if nothing was.
    """

    values: dict[str, Any]
    config: TrainConfig
    fitted: str | None = None

    @property
    def label(self) -> str:
        """The values, e.g. `exact:10x, ry_cnot`."""
        return ", ".join([*map(value_text, self.values.values()), *self._budget])

    @property
    def assignments(self) -> str:
        """The same with names, e.g. `engine=exact:10x, ansatz=ry_cnot`."""
        return ", ".join([assignments(self.values), *self._budget])

    @property
    def _budget(self) -> list[str]:
        return [] if self.fitted is None else ["equal budget"]

    def seeded(self, seed: int) -> TrainConfig:
        """The configuration with another seed."""
        return dataclasses.replace(self.config, training=dataclasses.replace(self.config.training, seed=seed))


@dataclass(frozen=True)
class Plan:
    """What a comparison runs: every combination of the varied settings with every seed.

    Attributes:
        varied: Setting to its values.
        combinations: All of them; the last setting changes fastest.
        seeds: The seeds.
    """

    varied: dict[str, list[Any]]
    combinations: list[Combination]
    seeds: list[int]

    @property
    def has_controls(self) -> bool:
        """Whether the circuit is compared with its classical controls."""
        sources = self.varied.get("source", [])
        return "circuit" in sources and len(sources) > 1

    def reference(self, combination: Combination) -> Combination:
        """What a combination is compared with: the circuit with the same other settings, else the first combination."""
        if not self.has_controls:
            return self.combinations[0]
        values = {**combination.values, "source": "circuit"}
        return next(one for one in self.combinations if one.values == values)


def plan(vary: Sequence[str], seeds: int, sections: Mapping[str, Any], flags: Mapping[str, Any]) -> Plan:
    """Reads what is to be varied and checks every combination.

    Args:
        vary: Texts `KEY=VALUE,VALUE,...`; the items of a list are joined by +, and `default` leaves a setting that has
            no fixed default to its own.
        seeds: How many seeds; they count up from the common settings' seed.
        sections: Common settings as TOML sections.
        flags: Common settings as command-line flags, which win.

    Raises:
        ConfigError: A text that does not parse, an unknown or repeated setting, a value of another type, or a
            combination that the configuration refuses (the message says which).

    Example:
        >>> found = plan(["engine=exact,exact:10x", "rank=2,4"], 3, {}, {"model": "embedded", "data": "embedded"})
        >>> [combination.label for combination in found.combinations]
        ['exact, 2', 'exact, 4', 'exact:10x, 2', 'exact:10x, 4']
        >>> found.seeds
        [0, 1, 2]
    """
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; it must be at least 1")
    varied = _parse(vary)
    for name in varied:
        if flags.get(name) is not None:
            raise ConfigError(f"{name} is both given and varied; leave out --{name.replace('_', '-')}")
    common = {
        section: {name: value for name, value in settings.items() if name not in varied}
        if isinstance(settings, Mapping) else settings
        for section, settings in sections.items()
    }  # fmt: skip
    combinations, refused = [], {}
    for chosen in itertools.product(*varied.values()):
        values = dict(zip(varied, chosen, strict=True))
        try:
            combinations.append(Combination(values, build(TrainConfig, common, {**flags, **values})))
        except ConfigError as error:
            refused[assignments(values)] = str(error)
    if refused:
        combination, reason = next(iter(refused.items()))
        if not combinations and len(set(refused.values())) == 1:
            raise ConfigError(reason)  # in every combination: what is varied is not at fault
        raise ConfigError(f"the combination {combination} is refused: {reason}")
    first = combinations[0].config.training.seed
    last = combinations[0].seeded(first + seeds - 1)  # refused if it is too large
    return Plan(varied, combinations, list(range(first, last.training.seed + 1)))


def value_text(value: Any) -> str:
    """A value as it is written after `KEY=`."""
    if value is None:
        return DEFAULT
    if isinstance(value, bool):
        return str(value).lower()
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def assignments(values: Mapping[str, Any]) -> str:
    """Settings and their values in one line."""
    return ", ".join(f"{name}={value_text(value)}" for name, value in values.items())


def _parse(vary: Sequence[str]) -> dict[str, list[Any]]:
    if not vary:
        raise ConfigError("nothing is varied; give --vary KEY=VALUE,VALUE, e.g. --vary engine=exact,exact:10x")
    known = {leaf.name: leaf for leaf in leaves(TrainConfig)}
    varied: dict[str, list[Any]] = {}
    for text in vary:
        key, equals, listed = text.partition("=")
        name = key.strip().removeprefix("--").replace("-", "_")
        if not equals or not name:
            raise ConfigError(f"--vary {text!r} does not parse; expected KEY=VALUE,VALUE, e.g. engine=exact,exact:10x")
        if name not in known:
            raise ConfigError(unknown_name("setting", name, known))
        if name in NOT_VARIED:
            raise ConfigError(f"{name} cannot be varied: {NOT_VARIED[name]}")
        if name in varied:
            raise ConfigError(f"{name} is varied twice; give all its values in one list")
        items = [item.strip() for item in listed.split(",")]
        if not all(items):
            raise ConfigError(f"--vary {text!r} has an empty value; give at least one value, separated by commas")
        values = [_value(known[name], item) for item in items]
        for place, value in enumerate(values):
            if value in values[:place]:
                raise ConfigError(f"{name} has the value {value_text(value)} twice; give it once")
        varied[name] = values
    return varied


def _value(leaf: Leaf, text: str) -> Any:
    """A text as a value of the setting's type."""
    kinds = list(typing.get_args(leaf.type)) if isinstance(leaf.type, types.UnionType) else [leaf.type]
    if type(None) in kinds:
        if text == DEFAULT:
            return None
        kinds.remove(type(None))
    (kind,) = kinds
    try:
        if typing.get_origin(kind) is list:
            (item,) = typing.get_args(kind)
            return [item(part.strip()) for part in text.split("+")]
        return BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        allowed = "true or false" if kind is bool else getattr(kind, "__name__", str(kind))
        if typing.get_origin(kind) is list:
            allowed = f"{item.__name__}s joined by +"
        raise ConfigError(f"{leaf.name} has the value {text!r}; expected {allowed}") from None
