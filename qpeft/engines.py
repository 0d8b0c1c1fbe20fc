"""The registry of engines: one name, the same in Python, TOML and on the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qpeft.qcircuits import Engine, StatevectorEngine
from qpeft.registry import Registry


@dataclass(frozen=True)
class EngineEntry:
    """How to make an engine, and one line on what it is."""

    make: Callable[[], Engine]
    summary: str


ENGINES: Registry[EngineEntry] = Registry(
    "engine", {"exact": EngineEntry(StatevectorEngine, "exact statevector in torch, adjoint differentiation")}
)


def get_engine(name: str) -> Engine:
    """The engine called `name`; raises `ConfigError` with the nearest names if there is none."""
    return ENGINES[name].make()
