"""The table of a study of gradients: a row a point, as data frames and as plots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from qpeft.errors import ConfigError, UnknownNameError, unknown_name
from qpeft.training.trainability.statistics import Band, Decay, Spread, fit_decay

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


@dataclass(frozen=True)
class VarianceRow:
    """The variance of dL/dtheta at one point.

    Attributes:
        ansatz: Name of the ansatz, or of a circuit of one's own.
        qubits: N.
        reps: Layers of the ansatz, or repetitions of the circuit.
        observable: "global" or "local", or the name of another objective.
        engine: What ran the circuit.
        spread: The variances: averaged over all angles, over those of each layer, and of each.
        two_design: What an angle between two 2-designs would have, real ones if the circuit is real, and with the
            engine's shots; None where it is not derived, as under noise.
        one_layer: What each angle has in a layer of RY or RX with CNOTs; None for other points.
    """

    ansatz: str
    qubits: int
    reps: int
    observable: str
    engine: str
    spread: Spread
    two_design: float | None
    one_layer: float | None

    @property
    def variance(self) -> float:
        """The average over all angles."""
        return self.spread.all.variance


@dataclass(frozen=True)
class DecayRow:
    """How the variance falls with N in one ansatz at one number of layers; `decay` is None if nothing can be fitted."""

    ansatz: str
    reps: int
    observable: str
    engine: str
    decay: Decay | None


@dataclass(frozen=True)
class VarianceTable:
    """The rows of a study; iterates over them, and shows itself as a table in notebooks.

    Attributes:
        rows: One a point.
    """

    rows: tuple[VarianceRow, ...]

    def __iter__(self) -> Iterator[VarianceRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> VarianceRow: ...

    @overload
    def __getitem__(self, place: slice) -> VarianceTable: ...

    def __getitem__(self, place: int | slice) -> VarianceRow | VarianceTable:
        return VarianceTable(self.rows[place]) if isinstance(place, slice) else self.rows[place]

    def where(self, **chosen: Any) -> VarianceTable:
        """The rows whose attributes have these values, e.g. ``where(observable="global", reps=4)``.

        Args:
            chosen: Attribute to its value, or to several, e.g. ``qubits=range(2, 5)``.

        Raises:
            ConfigError: An attribute that rows do not have, or no row left.
        """
        rows = self.rows
        for name, value in chosen.items():
            if name not in CHOSEN_BY:
                raise UnknownNameError(unknown_name("column", name, CHOSEN_BY))
            allowed = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
            there = dict.fromkeys(getattr(row, name) for row in rows)
            rows = tuple(row for row in rows if getattr(row, name) in allowed)
            if not rows:
                raise ConfigError(f"no row has {name} {value!r}; there are {', '.join(map(str, there))}")
        return VarianceTable(rows)

    def decays(self) -> list[DecayRow]:
        """The fitted decay with N of every ansatz, number of layers, observable and engine."""
        return [
            DecayRow(
                ansatz, reps, observable, engine, fit_decay([r.qubits for r in group], [r.variance for r in group])
            )
            for (ansatz, reps, observable, engine), group in grouped(
                self.rows, "ansatz", "reps", "observable", "engine"
            )
        ]

    @property
    def has_decays(self) -> bool:
        """Whether any decay could be fitted, for which it takes two numbers of qubits."""
        return any(row.decay is not None for row in self.decays())

    def to_pandas(self, what: str = "points") -> DataFrame:
        """A data frame.

        Args:
            what: "points", a row a point; "layers" or "parameters", a row for each layer or angle of each point, both
                counted from 0; "decays", a row a fitted line.

        Raises:
            ConfigError: Another name.
        """
        import pandas as pd

        if what not in RECORDS:
            raise UnknownNameError(unknown_name("table", what, RECORDS))
        return pd.DataFrame(RECORDS[what](self))

    def plot(self, against: str = "qubits", paths: Sequence[Path] = ()) -> Figure:
        """The variances on a logarithmic scale, a panel an ansatz, with confidence bands and what is derived.

        Args:
            against: "qubits" (a line a number of layers), "reps" (a line a number of qubits), "engine" (against qubits
                at the most layers, a line an engine), or "layer" (against the layer inside the deepest circuits, a
                line a number of qubits).
            paths: Where to save, in the format of each suffix: .png, .svg or .pdf.

        Raises:
            ConfigError: Another name, or rows of more than one observable or engine that one plot cannot hold; `where`
                chooses.
        """
        from qpeft.training.trainability.plots import draw

        return draw(self, against, paths)

    def _repr_html_(self) -> str:
        frame, digits = self.to_pandas(), "{:.3g}".format
        shown: str = frame.to_html(index=False, na_rep="", float_format=digits, max_rows=SHOWN_ROWS)
        return shown


def grouped(rows: Iterable[VarianceRow], *names: str) -> list[tuple[tuple[Any, ...], list[VarianceRow]]]:
    """Rows that agree in these attributes, in the order in which they first appear."""
    groups: dict[tuple[Any, ...], list[VarianceRow]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
    return list(groups.items())


def _key(row: VarianceRow | DecayRow) -> dict[str, Any]:
    return {"ansatz": row.ansatz, "observable": row.observable, "engine": row.engine}


def _size(row: VarianceRow) -> dict[str, Any]:
    return {**_key(row), "qubits": row.qubits, "reps": row.reps}


def _band(band: Band) -> dict[str, float]:
    return {"variance": band.variance, "low": band.low, "high": band.high}


def _points(table: VarianceTable) -> list[dict[str, Any]]:
    return [
        {**_size(row), "angles": len(row.spread.parameters), "initialisations": row.spread.initialisations,
         "effective": row.spread.effective,
         **_band(row.spread.all), "two_design": row.two_design, "one_layer": row.one_layer}
        for row in table
    ]  # fmt: skip


def _layers(table: VarianceTable) -> list[dict[str, Any]]:
    return [{**_size(row), "layer": n, **_band(band)} for row in table for n, band in enumerate(row.spread.layers)]


def _parameters(table: VarianceTable) -> list[dict[str, Any]]:
    return [
        {**_size(row), "parameter": number, "variance": variance}
        for row in table for number, variance in enumerate(row.spread.parameters)
    ]  # fmt: skip


def _decays(table: VarianceTable) -> list[dict[str, Any]]:
    return [
        {**_key(row), "reps": row.reps, "rate": row.decay and row.decay.rate, "error": row.decay and row.decay.error,
         "points": row.decay.points if row.decay else 0}
        for row in table.decays()
    ]  # fmt: skip


SHOWN_ROWS = 60  # of a long table in a notebook
CHOSEN_BY = ("ansatz", "qubits", "reps", "observable", "engine")
RECORDS = {"points": _points, "layers": _layers, "parameters": _parameters, "decays": _decays}
