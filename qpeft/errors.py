"""The exceptions qpeft raises for input it cannot work with.

All of them are `ValueError`s: code that guards against bad input in the usual way keeps working. Each message says
what was given, what is allowed and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QpeftError(ValueError):
    """Base of every error qpeft raises on purpose."""


class CircuitError(QpeftError):
    """A circuit that cannot exist: unknown gate, repeated qubit, missing angle."""


class EngineError(QpeftError):
    """A circuit that an engine cannot run: wrong dtype, wrong shape, too many qubits."""


class JobError(EngineError):
    """A job on a device that failed or got lost as often as it was tried."""


class NoiseError(QpeftError):
    """A channel or noise model that is not physical."""


class ConfigError(QpeftError):
    """A setting outside what is allowed."""


class UnknownNameError(ConfigError, KeyError):
    """A name that is not in its registry (also a `KeyError`, since registries are mappings)."""

    __str__ = Exception.__str__  # KeyError's would show the message quoted


class RunError(QpeftError):
    """A run folder that cannot be used as asked."""


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> str:
    """The sentence for a name that is not in a registry: what was given, the nearest names, all names."""
    names = list(allowed)
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    listed = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    return f"unknown {kind} {name!r}.{hint} Available: {listed}"
