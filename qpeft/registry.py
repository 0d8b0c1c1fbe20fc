"""A registry: names to objects, with an error that lists the nearest names.

Ansätze, engines, methods, activations and probability transforms each live in one registry; the command line, the
configuration and the documentation read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from qpeft.errors import ConfigError, UnknownNameError, unknown_name

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """A mapping that refuses to overwrite an entry and explains a missing one.

    Example:
        >>> colours = Registry("colour", {"red": 1})
        >>> colours["red"]
        1
        >>> colours["reed"]
        Traceback (most recent call last):
        ...
        qpeft.errors.UnknownNameError: unknown colour 'reed'. Did you mean 'red'? Available: red
    """

    def __init__(self, kind: str, entries: Mapping[str, T] | None = None) -> None:
        self.kind = kind
        self._entries: dict[str, T] = dict(entries or {})

    def register(self, name: str, entry: T) -> T:
        """Adds `entry` under `name`; raises `ConfigError` if the name is taken."""
        if name in self._entries:
            raise ConfigError(f"{self.kind} {name!r} is already registered; choose another name")
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        if not isinstance(name, str) or name not in self._entries:
            raise UnknownNameError(unknown_name(self.kind, str(name), self._entries))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
