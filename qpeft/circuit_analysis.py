"""Expressibility and entangling capability of ansätze against qubits and layers: `qpeft circuit analyse`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from qpeft.errors import ConfigError
from qpeft.files import write_text
from qpeft.qcircuits import ANSATZE, Circuit
from qpeft.qcircuits.expressivity import check, divergence_from_haar, entangling_capability, pair_fidelities
from qpeft.qcircuits.haar import log_haar_masses

TABLE = "expressivity.csv"


@dataclass(frozen=True)
class Settings:
    """How the descriptors are sampled; see `qpeft.qcircuits.expressivity`."""

    samples: int
    bins: int
    seed: int


@dataclass(frozen=True)
class Point:
    """An ansatz of one size, whose circuit can be sampled."""

    ansatz: str
    qubits: int
    reps: int
    circuit: Circuit

    @property
    def work(self) -> int:
        """Amplitudes that pass through operations for each state."""
        amplitudes: int = 2**self.qubits
        return amplitudes * len(self.circuit.operations)


@dataclass(frozen=True)
class Row:
    """What was found at a point: the columns of the table. Nats; `real_...` is None where gates are complex."""

    ansatz: str
    qubits: int
    reps: int
    parameters: int
    depth: int
    expressibility: float
    expressibility_error: float
    expressibility_bias: float
    real_expressibility: float | None
    real_expressibility_error: float | None
    entangling_capability: float
    entangling_capability_error: float


def plan(names: Sequence[str], qubits: Sequence[int], reps: Sequence[int], settings: Settings) -> list[Point]:
    """All combinations, each checked before any work.

    Raises:
        ConfigError: Unknown ansatz, settings outside what is allowed, or a circuit that has no angles or does not fit;
            the message names it.
    """
    log_haar_masses(2, settings.bins)
    points = []
    for name in names:
        for num_qubits in qubits:
            for layers in reps:
                circuit = ANSATZE[name](num_qubits, layers)
                try:
                    check(circuit, settings.samples, settings.seed)
                except ConfigError as error:
                    raise ConfigError(f"{name} on {num_qubits} qubit(s) with reps={layers}: {error}") from None
                points.append(Point(name, num_qubits, layers, circuit))
    return points


def analyse(points: Sequence[Point], settings: Settings, progress: Callable[[int], object]) -> Iterator[Row]:
    """A row a point, as soon as it is there; `progress` is called with the work done, `total_work` in all."""
    for point in points:
        circuit, samples, seed = point.circuit, settings.samples, settings.seed

        def pairs_done(number: int, work: int = point.work) -> None:
            progress(2 * number * work)

        def states_done(number: int, work: int = point.work) -> None:
            progress(number * work)

        fidelities = pair_fidelities(circuit, samples, seed, pairs_done)
        found = divergence_from_haar(fidelities, point.qubits, settings.bins, seed)
        real = divergence_from_haar(fidelities, point.qubits, settings.bins, seed, "real")
        entangling = entangling_capability(circuit, samples, seed, states_done)
        yield Row(
            point.ansatz, point.qubits, point.reps, circuit.num_parameters, circuit.depth,
            found.divergence, found.error, found.bias,
            real.divergence if circuit.is_real else None, real.error if circuit.is_real else None,
            entangling.mean, entangling.error,
        )  # fmt: skip


def total_work(points: Sequence[Point], settings: Settings) -> int:
    return 3 * settings.samples * sum(point.work for point in points)


def expected(num_qubits: int, settings: Settings, states: str = "complex", reference: str = "complex") -> float:
    """The divergence from `reference` that so many samples of random states show, about.

    The states' own, and (m - 1) / (2 samples) for finite samples, with m the expected number of occupied bins.
    """
    own, others = (log_haar_masses(2**num_qubits, settings.bins, kind) for kind in (states, reference))
    masses = np.exp(own)
    with np.errstate(divide="ignore"):  # a bin of mass 1 is occupied for certain
        occupied = -np.expm1(settings.samples * np.log1p(-masses))
    return float(masses @ (own - others) + (occupied.sum() - 1) / (2 * settings.samples))


def first_bin(num_qubits: int, settings: Settings) -> float:
    """Share of the fidelities of Haar-random states that lie in the first bin."""
    return float(np.exp(log_haar_masses(2**num_qubits, settings.bins)[0]))


def write_table(folder: Path, rows: Sequence[Row], settings: Settings) -> None:
    """Writes `expressivity.csv`: the rows, each with the settings that it was sampled with."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for kind in (Row, Settings) for field in fields(kind)])
    writer.writerows([*astuple(row), *astuple(settings)] for row in rows)
    write_text(folder / TABLE, text.getvalue())
