"""The plots of a study of gradients: variance against qubits, against layers, and on different engines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qpeft.training.band_plots import BandLine, BandPanel, ReferenceLine, bands_plot
from qpeft.training.trainability import VarianceRow
from qpeft.training.trainability_gradients import OBSERVABLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {
    "global": r"global observable, $|0\cdots0\rangle\langle0\cdots0|$",
    "local": "local observable, $Z_0$",
    "loss-0": "QPA loss at the start",
}
TWO_DESIGN = "2-design"
ONE_LAYER = "1 layer, derived"


def qubits_plot(paths: Sequence[Path], rows: Sequence[VarianceRow]) -> Figure:
    """Variance against the number of qubits, a panel an ansatz, a line a number of layers.

    Args:
        paths: Where to save.
        rows: Those of one observable and engine.
    """
    panels = [
        BandPanel(name, _lines(found, lambda row: row.reps, lambda row: row.num_qubits), _against_qubits(found))
        for name, found in _groups(rows, lambda row: row.ansatz)
    ]
    return bands_plot(paths, panels, _title(rows), "qubits $N$", _ylabel(rows), "layers")


def reps_plot(paths: Sequence[Path], rows: Sequence[VarianceRow]) -> Figure:
    """Variance against the number of layers, a panel an ansatz, a line a number of qubits; arguments as above."""
    panels = [
        BandPanel(name, _lines(found, lambda row: row.num_qubits, lambda row: row.reps), _against_reps(found))
        for name, found in _groups(rows, lambda row: row.ansatz)
    ]
    return bands_plot(paths, panels, _title(rows), "layers", _ylabel(rows), "qubits $N$", log_x=True)


def engines_plot(paths: Sequence[Path], rows: Sequence[VarianceRow]) -> Figure:
    """Variance against the number of qubits at the most layers, a panel an ansatz, a line an engine.

    Args:
        paths: Where to save.
        rows: Those of one observable.
    """
    deepest = max(row.reps for row in rows)
    shown = [row for row in rows if row.reps == deepest]
    panels = [
        BandPanel(name, _lines(found, lambda row: row.engine, lambda row: row.num_qubits), _against_qubits(found))
        for name, found in _groups(shown, lambda row: row.ansatz)
    ]
    return bands_plot(paths, panels, _title(shown), f"qubits $N$ ({deepest} layers)", _ylabel(shown), "engine")


def _title(rows: Sequence[VarianceRow]) -> str:
    """The observable; the engine where there is one and it is not exact."""
    name, engines = rows[0].observable, {row.engine for row in rows}
    shown = NAMES.get(name, re.sub(r"^loss-(\d+)$", r"QPA loss after \1 steps", name))
    return shown + (f"; {rows[0].engine}" if len(engines) == 1 and engines != {"exact"} else "")


def _ylabel(rows: Sequence[VarianceRow]) -> str:
    unit = r"rad$^{-2}$" if rows[0].observable in OBSERVABLES else r"nats$^2$ rad$^{-2}$"
    return rf"$\mathrm{{Var}}(\partial L/\partial\theta)$ ({unit})"


def _groups(
    rows: Iterable[VarianceRow], key: Callable[[VarianceRow], str | int]
) -> list[tuple[str, list[VarianceRow]]]:
    groups: dict[str | int, list[VarianceRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return [(str(name), found) for name, found in groups.items()]


def _lines(
    rows: Sequence[VarianceRow], line: Callable[[VarianceRow], int | str], place: Callable[[VarianceRow], int]
) -> list[BandLine]:
    """What vanishes (a variance of exactly 0) has no place on a logarithmic scale."""
    found = []
    for name, group in _groups(sorted(rows, key=lambda row: (line(row), place(row))), line):
        shown = [row for row in group if row.variance > 0]
        bands = [row.spread.all for row in shown]
        found.append(
            BandLine(
                name, [place(row) for row in shown], [band.variance for band in bands], [band.low for band in bands],
                [band.high for band in bands],
            )
        )  # fmt: skip
    return found


def _against_qubits(rows: Sequence[VarianceRow]) -> list[ReferenceLine]:
    designs = {row.num_qubits: row.two_design for row in rows if row.two_design is not None}
    layers = {row.num_qubits: row.one_layer for row in rows if row.one_layer is not None}
    drawn = ((TWO_DESIGN, designs), (ONE_LAYER, layers))
    return [ReferenceLine(name, sorted(at), [at[n] for n in sorted(at)]) for name, at in drawn if at]


def _against_reps(rows: Sequence[VarianceRow]) -> list[ReferenceLine]:
    """Levels, in the colours of their lines."""
    ends = [min(row.reps for row in rows), max(row.reps for row in rows)]
    designs = {row.num_qubits: row.two_design for row in rows if row.two_design is not None}
    return [ReferenceLine(TWO_DESIGN, ends, [level] * 2, str(n)) for n, level in sorted(designs.items())]
