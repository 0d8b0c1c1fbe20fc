"""Plots of expressibility and entangling capability against the number of layers.

A colour and a marker stand for an ansatz, a line style for a number of qubits, grey levels for random states, and bars
for one standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpeft.circuit_analysis import Row, Settings, expected
from qpeft.qcircuits.haar import REFERENCES, haar_entanglement
from qpeft.training.band_plots import MARKERS
from qpeft.training.plots import COLOURS, LINE_STYLES, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (7.4, 4.0)  # inches
GREYS = {"complex": "0.3", "real": "0.65"}  # of the random states


def expressibility_plot(paths: Sequence[Path], rows: Sequence[Row], settings: Settings) -> Figure:
    """Divergence from Haar-random states, with what as many samples of random states show.

    Args:
        paths: Where to save.
        rows: What was found.
        settings: What it was sampled with.
    """
    with canvas(*paths, size=SIZE) as drawing:
        axes = drawing.add_subplot()
        _lines(axes, rows, "expressibility")
        _levels(axes, rows, lambda size, kind: expected(size, settings, kind))
        axes.set(yscale="log", ylabel="KL divergence from Haar-random states (nats)")
    return drawing


def entangling_plot(paths: Sequence[Path], rows: Sequence[Row]) -> Figure:
    """Mean Meyer-Wallach entanglement, with that of random states.

    Args:
        paths: Where to save.
        rows: What was found.
    """
    with canvas(*paths, size=SIZE) as drawing:
        axes = drawing.add_subplot()
        _lines(axes, rows, "entangling_capability")
        _levels(axes, rows, haar_entanglement)
        axes.set(ylim=(-0.02, 1.02), ylabel="mean Meyer-Wallach entanglement Q")
    return drawing


def _lines(axes: Any, rows: Sequence[Row], value: str) -> None:
    names, sizes = _names(rows), _sizes(rows)
    for name in names:
        for size in sizes:
            points = sorted((row for row in rows if (row.ansatz, row.qubits) == (name, size)), key=lambda row: row.reps)
            axes.errorbar(
                [row.reps for row in points], [getattr(row, value) for row in points],
                [getattr(row, f"{value}_error") for row in points], linestyle=_style(sizes, size), capsize=2,
                **_look(names.index(name)),
            )  # fmt: skip
    reps = sorted({row.reps for row in rows})
    if reps[0] > 0:
        axes.set_xscale("log", base=2)
    axes.set_xticks(reps, [str(number) for number in reps])
    axes.minorticks_off()
    axes.set_xlabel("number of layers (reps)")


def _levels(axes: Any, rows: Sequence[Row], level: Callable[[int, str], float]) -> None:
    """What random states show, as a function of their number of qubits and kind; and the legend of the whole plot."""
    from matplotlib.lines import Line2D

    sizes = _sizes(rows)
    kinds = REFERENCES if any(row.real_expressibility is not None for row in rows) else ("complex",)
    handles = [Line2D([], [], label=name, **_look(index)) for index, name in enumerate(_names(rows))]
    for kind in kinds:
        for size in sizes:
            axes.axhline(level(size, kind), color=GREYS[kind], linewidth=1, linestyle=_style(sizes, size), zorder=1)
        handles.append(Line2D([], [], color=GREYS[kind], linewidth=1, label=f"random {kind} states"))
    handles += [
        Line2D([], [], color="0.3", linestyle=_style(sizes, size), label=f"{size} qubit{'s' * (size > 1)}")
        for size in sizes
    ]
    axes.figure.legend(handles=handles, loc="outside right upper", alignment="left")


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.ansatz for row in rows))


def _sizes(rows: Sequence[Row]) -> list[int]:
    return sorted({row.qubits for row in rows})


def _look(index: int) -> dict[str, Any]:
    """Of an ansatz: hollow markers, so that those beneath are seen."""
    return {
        "color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "markerfacecolor": "none",
        "markersize": 6,
    }  # fmt: skip


def _style(sizes: Sequence[int], size: int) -> str:
    return LINE_STYLES[sizes.index(size) % len(LINE_STYLES)]
