"""`resolved` of a generated adapter's config: what its settings came to when it was built, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qpeft.errors import ConfigError
from qpeft.generators.spec import QPASpec
from qpeft.options import is_whole
from qpeft.qcircuits import Circuit

_PARTS = {"generators": list, "circuits": list, "frozen_checksum": str, "settings": dict}
_SIZES = ("target_size", "chunk_size", "circuit")


def is_resolved(data: Any) -> bool:
    """Whether data read from a file can be what `describe` gave."""
    if not isinstance(data, dict) or not all(isinstance(data.get(name), kind) for name, kind in _PARTS.items()):
        return False
    generators, circuits = data["generators"], len(data["circuits"])
    return bool(generators) and all(
        isinstance(one, dict) and all(is_whole(one.get(name)) for name in _SIZES) and 0 <= one["circuit"] < circuits
        for one in generators
    )


def describe(specs: Sequence[QPASpec]) -> dict[str, Any]:
    """The generators, and each different circuit once."""
    circuits: list[Circuit] = []
    for spec in specs:
        if spec.circuit not in circuits:
            circuits.append(spec.circuit)
    return {
        "generators": [
            {
                "target_size": spec.target_size, "chunk_size": spec.chunk_size, "num_chunks": spec.num_chunks,
                "num_qubits": spec.num_qubits, "num_parameters": spec.num_parameters,
                "circuit": circuits.index(spec.circuit),
            }
            for spec in specs
        ],
        "circuits": [circuit.to_dict() for circuit in circuits],
    }  # fmt: skip


def changed_settings(saved: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Names of the settings that are not as they were saved; one that is not there, as in older files, is None."""
    return [name for name in {**settings, **saved} if saved.get(name) != settings.get(name)]


def another_build(saved: dict[str, Any], settings: dict[str, Any], sizes: str | None) -> ConfigError:
    """The error where a saved adapter would come out as another one.

    Args:
        saved: The settings it was built with.
        settings: Those now.
        sizes: How the model differs, if it does.
    """
    changed = changed_settings(saved, settings)
    problems = [f"its config's {', '.join(changed)} changed since it was built"] if changed else []
    return ConfigError(
        f"the saved adapter cannot be rebuilt: {'; '.join(problems + ([sizes] if sizes else []))}. Load it unchanged "
        "on the model it was trained on; for a new adapter, dataclasses.replace(config, resolved=None) makes a config "
        "of its own"
    )
