"""The points of a study of gradients: which circuits, which costs, on which engines."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qpeft.engines import check_engine, get_engine
from qpeft.errors import ConfigError
from qpeft.options import check_whole
from qpeft.qcircuits import ANSATZE, Circuit, Engine
from qpeft.qcircuits.ansatz import AnsatzFunction
from qpeft.training.trainability.gradients import Objective, Observable, check_room, check_size

Circuits = str | Circuit | AnsatzFunction | Iterable[str] | Mapping[str, Circuit | AnsatzFunction]
"""Names of registered ansätze, a circuit, a function (num_qubits, reps) -> Circuit, or such by a name of one's own."""


@dataclass(frozen=True)
class Point:
    """One variance to find.

    Attributes:
        ansatz: Name of the ansatz, or of a circuit of one's own.
        reps: Its layers; for a circuit of one's own, how often it is repeated.
        circuit: What they give.
        objective: What is differentiated.
        engine: Runs it, in the grammar of `qpeft.engines`.
    """

    ansatz: str
    reps: int
    circuit: Circuit
    objective: Objective
    engine: str

    @property
    def num_qubits(self) -> int:
        return self.circuit.num_qubits

    @property
    def observable(self) -> str:
        return self.objective.name

    @property
    def label(self) -> str:
        """A name for the terminal and for files, e.g. ``ry_cnot-n4-r2-global-exact``."""
        size = f"n{self.num_qubits}-r{self.reps}"
        return f"{plain(self.ansatz)}-{size}-{plain(self.observable)}-{plain(self.engine)}"

    @property
    def is_noisy(self) -> bool:
        """Whether the engine simulates a device's noise, which takes 4**N numbers."""
        name, _ = check_engine(self.engine)
        return name.name in ("pauli", "aer") and name.device is not None

    @property
    def is_ideal(self) -> bool:
        """Whether the engine gives what the circuit does, but for shots; PennyLane's devices are simulators."""
        name, _ = check_engine(self.engine)
        return name.device is None or name.name == "pennylane"

    @property
    def shots(self) -> int | None:
        """Shots of each circuit, or None for none."""
        name, _ = check_engine(self.engine)
        return None if name.shots is None else name.shots.number(self.num_qubits)

    def new_engine(self, seed: int) -> Engine:
        """The point's engine; shots are also drawn for its gradient, by the parameter-shift rule."""
        name, _ = check_engine(self.engine)
        own = np.random.SeedSequence([seed, self.num_qubits, self.circuit.num_parameters]).generate_state(1)[0]
        return get_engine(self.engine, "parameter-shift" if name.shots is not None else None, seed=int(own))

    def identity(self, initialisations: int, seed: int) -> dict[str, Any]:
        """What decides the point's numbers, as plain data."""
        checksum = hashlib.sha256(self.circuit.to_json().encode()).hexdigest()
        return {
            **self.objective.settings, "observable": self.observable, "engine": self.engine,
            "initialisations": initialisations, "seed": seed, "num_qubits": self.num_qubits, "reps": self.reps,
            "circuit": checksum,
        }  # fmt: skip


def plain(name: str) -> str:
    """A name as a part of a file's."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)


def plan_points(
    circuits: Circuits,
    qubits: Sequence[int],
    reps: Sequence[int],
    observables: Sequence[str | Objective],
    engines: Sequence[str],
) -> list[Point]:
    """All combinations, circuits outside, engines inside.

    Raises:
        ConfigError: A circuit without trainable angles, one that does not fit into memory, a number of qubits or
            repetitions below 1, an unknown ansatz, observable or engine, or nothing to do.
    """
    for what, numbers in (("qubits", qubits), ("reps", reps)):
        for number in _given(what, numbers):
            check_whole(what, number)
    objectives = [Observable(o) if isinstance(o, str) else o for o in _given("observables", observables)]
    points = [
        Point(name, layers, circuit, objective, engine)
        for name, layers, circuit in _circuits(circuits, qubits, reps)
        for objective in objectives
        for engine in _given("engines", engines)
    ]
    made = {point.engine: point.new_engine(0) for point in points[: len(engines)]}
    for point in points:
        point.objective.check(point.circuit)
        check_size(made[point.engine], point.circuit, point.engine, point.is_noisy)
    labels = [point.label for point in points]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ConfigError(
            f"the points {', '.join(twice[:3])} are asked for twice; give each number once, and names that differ in "
            "letters, digits, _ or -"
        )
    return points


def _given(what: str, values: Sequence[Any]) -> Sequence[Any]:
    if isinstance(values, str) or not values:
        raise ConfigError(f"{what} is {values!r}; give a list of at least one, e.g. {_EXAMPLES[what]}")
    return values


_EXAMPLES = {"qubits": "[2, 4, 6]", "reps": "[1, 4, 16]", "observables": "['global']", "engines": "['exact']"}


def _registered(name: object) -> AnsatzFunction:
    if not isinstance(name, str):
        raise ConfigError(
            f"the list of circuits has a {type(name).__name__} in it; give circuits of your own with names, e.g. "
            "{'mine': circuit}"
        )
    return ANSATZE[name]


def _circuits(given: Circuits, qubits: Sequence[int], reps: Sequence[int]) -> Iterable[tuple[str, int, Circuit]]:
    """(name, reps, circuit) of each; one of one's own has its own number of qubits."""
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Circuit) or callable(given):
        given = {"circuit": given}
    families = given if isinstance(given, Mapping) else {name: _registered(name) for name in given}
    if not families:
        raise ConfigError(f"there is no circuit; give an ansatz ({', '.join(ANSATZE)}) or a Circuit")
    found = []
    for name, family in families.items():
        if not isinstance(family, Circuit) and not callable(family):
            raise ConfigError(
                f"{name!r} is {family!r}; give a Circuit, or a function of num_qubits and reps that makes one"
            )
        for number in [family.num_qubits] if isinstance(family, Circuit) else qubits:
            check_room(number)  # before a circuit of a million qubits is built
            for layers in reps:
                circuit = family.repeat(layers) if isinstance(family, Circuit) else family(number, layers)
                if not isinstance(circuit, Circuit):
                    raise ConfigError(f"{name!r} made {circuit!r} of {number} qubits and {layers} reps, not a Circuit")
                if not circuit.num_parameters:
                    raise ConfigError(
                        f"{name!r} with {number} qubits and {layers} reps has no trainable angles; give a circuit with "
                        "at least one free angle"
                    )
                found.append((name, layers, circuit))
    return found
