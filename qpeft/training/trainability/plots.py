"""The plots of a study of gradients: variance against qubits, layers, engines, and the place inside a circuit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qpeft.errors import ConfigError, UnknownNameError, unknown_name
from qpeft.training.band_plots import BandLine, BandPanel, ReferenceLine, bands_plot
from qpeft.training.trainability.gradients import OBSERVABLES
from qpeft.training.trainability.statistics import VANISHING, Band
from qpeft.training.trainability.table import VarianceRow, VarianceTable, grouped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {
    "global": r"global observable, $|0\cdots0\rangle\langle0\cdots0|$",
    "local": "local observable, $Z_0$",
    "loss-0": "QPA loss at the start",
}
TWO_DESIGN = "2-design"
ONE_LAYER = "1 layer, derived"
ENGINE = "engine"


def draw(table: VarianceTable, against: str, paths: Sequence[Path]) -> Figure:
    """See `VarianceTable.plot`."""
    if against not in AGAINST:
        raise UnknownNameError(unknown_name("axis", against, AGAINST))
    for name in ("observable", "engine"):
        there = dict.fromkeys(getattr(row, name) for row in table)
        if len(there) > 1 and name != against:
            raise ConfigError(
                f"the rows have the {name}s {', '.join(there)}, and a plot takes one; choose by "
                f'where({name}="{next(iter(there))}")'
            )
    return AGAINST[against](table.rows, paths)


def _qubits(rows: Sequence[VarianceRow], paths: Sequence[Path]) -> Figure:
    panels = [
        BandPanel(name, _lines(found, "reps"), _against_qubits(found)) for (name,), found in grouped(rows, "ansatz")
    ]
    return bands_plot(paths, panels, _title(rows), "qubits $N$", _ylabel(rows), "layers")


def _reps(rows: Sequence[VarianceRow], paths: Sequence[Path]) -> Figure:
    panels = [
        BandPanel(name, _lines(found, "qubits"), _against_reps(found)) for (name,), found in grouped(rows, "ansatz")
    ]
    return bands_plot(paths, panels, _title(rows), "layers", _ylabel(rows), "qubits $N$", log_x=True)


def _engines(rows: Sequence[VarianceRow], paths: Sequence[Path]) -> Figure:
    shown = _deepest(rows)
    panels = [
        BandPanel(name, _lines(found, "engine"), _of_engines(found)) for (name,), found in grouped(shown, "ansatz")
    ]
    return bands_plot(paths, panels, _title(shown), f"qubits $N$ ({shown[0].reps} layers)", _ylabel(shown), "engine")


def _layer(rows: Sequence[VarianceRow], paths: Sequence[Path]) -> Figure:
    """The last layers of a circuit hold angles that a local observable does not see, the first those that it mixes."""
    shown = _deepest(rows)
    panels = [
        BandPanel(
            name,
            [
                _line(str(r.qubits), [(n, band, False) for n, band in enumerate(r.spread.layers)])
                for r in _by_qubits(found)
            ],
            _levels(found, [0, max(len(row.spread.layers) for row in found) - 1]),
        )
        for (name,), found in grouped(shown, "ansatz")
    ]
    places = f"place of the rotations, counted from the input ({shown[0].reps} layers)"
    return bands_plot(paths, panels, _title(shown), places, _ylabel(shown), "qubits $N$")


AGAINST: dict[str, Callable[[Sequence[VarianceRow], Sequence[Path]], Figure]] = {
    "qubits": _qubits, "reps": _reps, ENGINE: _engines, "layer": _layer,
}  # fmt: skip


def _deepest(rows: Sequence[VarianceRow]) -> list[VarianceRow]:
    """Those of the most layers."""
    most = max(row.reps for row in rows)
    return [row for row in rows if row.reps == most]


def _by_qubits(rows: Sequence[VarianceRow]) -> list[VarianceRow]:
    return sorted(rows, key=lambda row: row.qubits)


def _title(rows: Sequence[VarianceRow]) -> str:
    """The observable; the engine where there is one and it is not exact."""
    name, engines = rows[0].observable, {row.engine for row in rows}
    shown = NAMES.get(name, re.sub(r"^loss-(\d+)$", r"QPA loss after \1 steps", name))
    return shown + (f"; {rows[0].engine}" if len(engines) == 1 and engines != {"exact"} else "")


def _ylabel(rows: Sequence[VarianceRow]) -> str:
    unit = r"rad$^{-2}$" if rows[0].observable in OBSERVABLES else r"nats$^2$ rad$^{-2}$"
    return rf"$\mathrm{{Var}}(\partial L/\partial\theta)$ ({unit})"


def _lines(rows: Sequence[VarianceRow], differ_in: str) -> list[BandLine]:
    """Against the number of layers if they differ in qubits, else against qubits; smallest line first."""
    place = "reps" if differ_in == "qubits" else "qubits"
    ordered = sorted(rows, key=lambda row: (getattr(row, differ_in), getattr(row, place)))
    return [
        _line(str(name), [(getattr(row, place), row.spread.all, row.spread.has_heavy_tails) for row in group])
        for (name,), group in grouped(ordered, differ_in)
    ]


def _line(label: str, points: Iterable[tuple[int, Band, bool]]) -> BandLine:
    """A line of (place, variance, whether few samples decide it).

    What vanishes (a variance of 0, or of rounding errors) has no place on a logarithmic scale.
    """
    shown = [point for point in points if point[1].variance > VANISHING]
    bands = [band for _, band, _ in shown]
    return BandLine(
        label, [x for x, _, _ in shown], [band.variance for band in bands], [band.low for band in bands],
        [band.high for band in bands], [doubtful for _, _, doubtful in shown],
    )  # fmt: skip


def _against_qubits(rows: Sequence[VarianceRow]) -> list[ReferenceLine]:
    layers = {row.qubits: row.one_layer for row in rows if row.one_layer is not None}
    drawn = ((TWO_DESIGN, _designs(rows)), (ONE_LAYER, layers))
    return [ReferenceLine(name, sorted(at), [at[n] for n in sorted(at)]) for name, at in drawn if at]


def _of_engines(rows: Sequence[VarianceRow]) -> list[ReferenceLine]:
    """Each engine's 2-design, in the colour of its line: shots add to it."""
    designs = [(engine, _designs(group)) for (engine,), group in grouped(rows, "engine")]
    return [ReferenceLine(TWO_DESIGN, sorted(at), [at[n] for n in sorted(at)], engine) for engine, at in designs if at]


def _against_reps(rows: Sequence[VarianceRow]) -> list[ReferenceLine]:
    return _levels(rows, [min(row.reps for row in rows), max(row.reps for row in rows)])


def _levels(rows: Sequence[VarianceRow], ends: Sequence[int]) -> list[ReferenceLine]:
    """Each number of qubits' 2-design, in the colour of its line."""
    return [ReferenceLine(TWO_DESIGN, ends, [level] * 2, str(n)) for n, level in sorted(_designs(rows).items())]


def _designs(rows: Sequence[VarianceRow]) -> dict[int, float]:
    return {row.qubits: row.two_design for row in rows if row.two_design is not None}
