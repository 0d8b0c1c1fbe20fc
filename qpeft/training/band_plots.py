"""Plots of positive values with confidence bands, in panels, with derived lines to hold them against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpeft.training.plots import canvas, panels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCE_STYLES = ("--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PANELS_A_ROW = 3
PANEL_WIDTH, BESIDE_PANELS, MARGIN = 2.3, 2.0, 0.8  # inches; the margin is on the left, the legend on the right
DOUBTFUL = "few samples decide"
MARKERS_A_LINE = 16  # more would run into each other


@dataclass(frozen=True)
class BandLine:
    """A line of positive values with a confidence band.

    Attributes:
        label: Its name.
        xs: Where its points are.
        values: Their heights.
        lows: Lower ends of the band.
        highs: Upper ends.
        doubtful: Whether each point is to be drawn hollow; none if empty.
    """

    label: str
    xs: Sequence[float]
    values: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    doubtful: Sequence[bool] = ()


@dataclass(frozen=True)
class ReferenceLine:
    """A derived line that measured ones are held against.

    Attributes:
        label: Its name in the legend; lines of one name share an entry.
        xs: Where its points are.
        values: Their heights.
        of: Label of the measured line whose colour it takes; the common grey if None.
    """

    label: str
    xs: Sequence[float]
    values: Sequence[float]
    of: str | None = None


@dataclass(frozen=True)
class BandPanel:
    """One panel: its title, the measured lines and the derived ones."""

    title: str
    lines: Sequence[BandLine]
    references: Sequence[ReferenceLine]


def bands_plot(
    paths: Sequence[Path], panels: Sequence[BandPanel], title: str, xlabel: str, ylabel: str, legend: str,
    log_x: bool = False,
) -> Figure:  # fmt: skip
    """Panels side by side that share their axes, the heights on a logarithmic scale.

    Colours run from dark to light with the order of the labels (cividis, which colour-blind readers see alike), and
    every label has a marker of its own.

    Args:
        paths: Where to save.
        panels: The panels; three in a row.
        title: What all panels show.
        xlabel: Label of the horizontal axes.
        ylabel: Label of the vertical axes, with its unit.
        legend: Title of the legend: what the lines differ in.
        log_x: Whether the horizontal scale is logarithmic to base 2.
    """
    from matplotlib.lines import Line2D

    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    shades = dict(zip(labels, _shades(len(labels)), strict=True))
    markers = {label: MARKERS[place % len(MARKERS)] for place, label in enumerate(labels)}
    names = list(dict.fromkeys(reference.label for panel in panels for reference in panel.references))
    dashes = {name: REFERENCE_STYLES[place % len(REFERENCE_STYLES)] for place, name in enumerate(names)}
    columns = min(len(panels), PANELS_A_ROW)
    rows = -(-len(panels) // columns)
    handles: dict[str, Any] = {}
    doubts: dict[str, Any] = {}
    ticks = sorted({x for panel in panels for line in panel.lines for x in line.xs}) if log_x else None
    width = BESIDE_PANELS + PANEL_WIDTH * columns
    with canvas(*paths, size=(width, 1.0 + 2.2 * rows)) as drawing:
        for axes, panel in zip(panels_of(drawing, len(panels), columns), panels, strict=True):
            for reference in panel.references:
                colour = "0.25" if reference.of is None else shades[reference.of]
                look: dict[str, Any] = {
                    "color": colour,
                    "linestyle": dashes[reference.label],
                    "linewidth": 1.2,
                    "zorder": 3,
                }
                if len(set(reference.xs)) == 1:  # a line of one point would not be seen
                    axes.axhline(reference.values[0], **look)
                else:
                    axes.plot(reference.xs, reference.values, **look)
                handles[reference.label] = Line2D([], [], color="0.25", linestyle=dashes[reference.label])
            for line in panel.lines:
                colour = shades[line.label]
                (handles[line.label],) = axes.plot(
                    line.xs,
                    line.values,
                    color=colour,
                    marker=markers[line.label],
                    markersize=3.5,
                    linewidth=1.2,
                    markevery=-(-len(line.xs) // MARKERS_A_LINE) or 1,
                )
                axes.fill_between(line.xs, line.lows, line.highs, color=colour, alpha=0.25, linewidth=0)
                hollow = [(x, y) for x, y, is_so in zip(line.xs, line.values, line.doubtful, strict=False) if is_so]
                if hollow:
                    look = {"linestyle": "none", "markersize": 3.5, "markerfacecolor": "white", "zorder": 4}
                    axes.plot(*zip(*hollow, strict=True), color=colour, marker=markers[line.label], **look)
                    doubts[DOUBTFUL] = Line2D([], [], color="0.25", marker="o", **look)
            if not any(line.xs for line in panel.lines):
                axes.text(0.5, 0.5, "vanishes", transform=axes.transAxes, ha="center", color="0.4")
            _scale(axes, panel.title, ticks)
        middle = (MARGIN + PANEL_WIDTH * columns / 2) / width  # of the panels: beside them stands the legend
        drawing.suptitle(title, x=middle, fontsize="medium")
        drawing.supxlabel(xlabel, x=middle, fontsize="medium")
        drawing.supylabel(ylabel, fontsize="medium")
        drawing.legend(
            [*(handles[name] for name in (*labels, *names)), *doubts.values()], [*labels, *names, *doubts],
            title=legend, alignment="left", loc="outside right upper",
        )  # fmt: skip
    return drawing


def _scale(axes: Any, title: str, ticks: Sequence[float] | None) -> None:
    """Ticks make the horizontal scale logarithmic, to base 2."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize="medium")
    axes.set_yscale("log")
    if ticks is not None:
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def _shades(number: int) -> list[Any]:
    """Colours from dark to light, their lightest end left out: it is hard to see on white."""
    import matplotlib as mpl

    return [mpl.colormaps["cividis"](0.85 * place / max(1, number - 1)) for place in range(number)]
