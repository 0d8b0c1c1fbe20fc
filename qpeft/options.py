"""One dataclass tree behind the command line, TOML files and `--help`.

A section is a frozen dataclass whose fields come from `option`, with a default and a help text. A tree is a dataclass
of sections. Leaf names are unique in a tree, so that a command-line flag needs no section name.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from qpeft.errors import ConfigError, unknown_name

Tree = TypeVar("Tree")


def option(default: Any, text: str) -> Any:
    """A dataclass field with a help text; lists and dicts are copied for each instance; `MISSING` makes it required."""
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata={"help": text})
    return dataclasses.field(default=default, metadata={"help": text})


def finite(section: object, *names: str) -> None:
    """Raises `ConfigError` if a setting of these names is given and not a finite number."""
    for name in names:
        value = getattr(section, name)
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{name} is {value}; it must be a finite number")


def at_least(least: int, section: object, *names: str) -> None:
    """Raises `ConfigError` if a setting of these names is given and below `least`."""
    for name in names:
        value = getattr(section, name)
        if value is not None and value < least:
            raise ConfigError(f"{name} is {value}; it must be at least {least}")


def is_whole(value: Any) -> bool:
    """Whether a value is an int; True is no number here."""
    return type(value) is int


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raises `ConfigError` unless the value of a setting is a whole number of at least `least`."""
    if not is_whole(value) or value < least:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def listed(text: str) -> list[str]:
    """What stands between commas."""
    return [item.strip() for item in text.split(",") if item.strip()]


def whole_numbers(name: str, text: str, least: int = 1) -> list[int]:
    """Numbers of at least `least` and ranges of them, in order, each once.

    Raises:
        ConfigError: Anything else.

    Example:
        >>> whole_numbers("qubits", "2-4,8")
        [2, 3, 4, 8]
    """
    found: set[int] = set()
    for item in listed(text):
        ends = re.fullmatch(r"(\d{1,6})(-(\d{1,6}))?", item)
        low, high = (int(ends[1]), int(ends[3] or ends[1])) if ends else (-1, -1)
        if not least <= low <= high:
            raise ConfigError(f"{name} is {text!r}; give numbers from {least} to 999,999, or ranges: 2-8 or 2,4,6")
        found |= set(range(low, high + 1))
    if not found:
        raise ConfigError(f"{name} is {text!r}; give at least one number, e.g. 2-8 or 2,4,6")
    return sorted(found)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One setting: its section, name, type, default and help text."""

    section: str
    name: str
    type: Any
    default: Any
    help: str

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


def leaves(tree: type) -> Iterator[Leaf]:
    """Every setting of a tree, in order."""
    for field in dataclasses.fields(tree):
        section = typing.get_type_hints(tree)[field.name]
        hints = typing.get_type_hints(section)
        for leaf in dataclasses.fields(section):
            default = leaf.default if leaf.default_factory is dataclasses.MISSING else leaf.default_factory()
            yield Leaf(field.name, leaf.name, hints[leaf.name], default, leaf.metadata["help"])


def read_toml(path: Path) -> dict[str, dict[str, Any]]:
    """A TOML file of sections; raises `ConfigError` if it is missing or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no config file {path}") from None
    except OSError as error:
        raise ConfigError(f"the config file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error


def build(tree: type[Tree], sections: Mapping[str, Any], flags: Mapping[str, Any]) -> Tree:
    """A tree from TOML sections and command-line flags; flags that are not None win.

    Raises:
        ConfigError: An unknown section or setting, a value of the wrong type, or a required setting left out.
    """
    known: dict[str, dict[str, Leaf]] = {}
    for leaf in leaves(tree):
        known.setdefault(leaf.section, {})[leaf.name] = leaf
    values: dict[str, dict[str, Any]] = {section: {} for section in known}
    for section, settings in sections.items():
        if section not in known:
            raise ConfigError(unknown_name("config section", section, known))
        if not isinstance(settings, Mapping):
            raise ConfigError(f"{section} is {settings!r}; expected a section of settings, [{section}]")
        for name, value in settings.items():
            if name not in known[section]:
                raise ConfigError(unknown_name(f"setting in [{section}]", name, known[section]))
            values[section][name] = _checked(known[section][name], value)
    for section, settings in known.items():
        for name, leaf in settings.items():
            if flags.get(name) is not None:
                values[section][name] = _checked(leaf, flags[name])
            elif name not in values[section] and leaf.default is dataclasses.MISSING:
                raise ConfigError(f"{leaf.flag} is required ({leaf.help}); give it as a flag or in [{section}]")
    hints = typing.get_type_hints(tree)
    return tree(**{section: hints[section](**settings) for section, settings in values.items()})


def _checked(leaf: Leaf, value: Any) -> Any:
    allowed = [t for t in _alternatives(leaf.type) if t is not type(None)]
    for kind in allowed:
        if typing.get_origin(kind) is list:
            (item,) = typing.get_args(kind)
            if isinstance(value, list) and all(type(v) is item for v in value):
                return value
        elif type(value) is kind:
            return value
        elif kind is float and type(value) is int:
            return float(value)
    names = " or ".join(str(kind).removeprefix("<class '").removesuffix("'>") for kind in allowed)
    raise ConfigError(f"{leaf.name} is {value!r} ({type(value).__name__}); expected {names}")


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def to_sections(tree: Any) -> dict[str, dict[str, Any]]:
    """The tree as TOML sections, settings that are None left out."""
    return {
        section: {name: value for name, value in settings.items() if value is not None}
        for section, settings in dataclasses.asdict(tree).items()
    }


def cli_parameters(tree: type, required: tuple[str, ...] = ()) -> list[inspect.Parameter]:
    """One keyword parameter a setting, for a typer command; None stands for "not given".

    Args:
        tree: The tree.
        required: Settings shown as required.
    """
    import typer

    parameters = []
    for leaf in leaves(tree):
        kinds = [t for t in _alternatives(leaf.type) if t is not type(None)]
        shown = "required" if leaf.name in required else _shown(leaf.default)
        flag = leaf.flag if kinds[0] is not bool else f"{leaf.flag}/--no-{leaf.flag.removeprefix('--')}"
        info = typer.Option(
            flag, help=f"{leaf.help} ({shown})" if shown else leaf.help, show_default=False,
            rich_help_panel=leaf.section.capitalize(),
        )  # fmt: skip
        annotation = typing.Annotated[kinds[0] | None, info]  # type: ignore[valid-type]
        parameters.append(
            inspect.Parameter(leaf.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )
    return parameters


def _shown(default: Any) -> str:
    if default in (None, dataclasses.MISSING, False, []):
        return ""
    return f"default: {', '.join(map(str, default)) if isinstance(default, list) else default}"


def with_options(tree: type, required: tuple[str, ...]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command one flag for every setting of a dataclass tree; it receives those that were given."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(**flags: Any) -> None:
            function(**flags)

        own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.kind is p.KEYWORD_ONLY]
        parameters = [*own, *cli_parameters(tree, required)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__doc__, command.__name__ = function.__doc__, function.__name__
        return command

    return decorate
