"""Plots: one style, colour-blind safe (Okabe and Ito), labelled with units.

Every function returns its matplotlib `Figure`, which a notebook with ``%matplotlib inline`` shows, and saves it to the
paths it is given: PNG, or SVG and PDF for print.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpeft.files import staged

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINE_STYLES = ("-", "--", ":", "-.")
CURVE_STYLES: tuple[Any, ...] = (  # seven, which six colours meet in 42 pairs
    "-", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 1.5, 1, 1.5)), (0, (9, 3)), (0, (4, 1, 1, 1, 1, 1)), (0, (2, 2)),
)  # fmt: skip
MOST_BANDS = 3  # more would cover one another
STYLE: dict[str, Any] = {
    "figure.figsize": (6.4, 4.0), "figure.dpi": 150, "font.size": 10, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False,
}  # fmt: skip


@contextmanager
def canvas(*paths: Path, size: tuple[float, float] | None = None) -> Iterator[Figure]:
    """An empty figure in the house style; saved to every path, in the format of its suffix, when the block ends.

    Needs no display. `size` is width and height in inches.
    """
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}):
        empty = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(empty)
        yield empty
        for path in paths:
            with staged(path) as temporary:
                empty.savefig(temporary)


def panels_of(drawing: Figure, number: int, columns: int) -> list[Any]:
    """So many axes in rows of `columns`, which share their scales; the lowest of each column has its numbers."""
    rows = -(-number // columns)
    grid: list[Any] = list(drawing.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for below, axes in enumerate(grid[number:], number - columns):
        grid[below].xaxis.set_tick_params(labelbottom=True)  # nothing stands below it
        axes.remove()
    return grid[:number]


def loss_plot(
    paths: Sequence[Path], curves: dict[str, Sequence[tuple[int, float]]], before: float, after: dict[str, float],
    loss: str,
) -> Figure:  # fmt: skip
    """Training loss against step, with the test loss before and after as levels.

    Args:
        paths: Where to save.
        curves: Name of a run to its (step, training loss).
        before: Test loss of the unadapted model.
        after: Name of a run to its final test loss.
        loss: What the loss is, with its unit.
    """
    with canvas(*paths) as drawing:
        axes = drawing.add_subplot()
        axes.axhline(before, color="0.4", linestyle=":", label="test, before")
        for index, (name, points) in enumerate(curves.items()):
            colour = _colour(index)
            axes.plot(*zip(*points, strict=True), color=colour, label=f"{name}, training")
            if name in after:
                axes.axhline(after[name], color=colour, linestyle="--", label=f"{name}, test, after")
        axes.set(xlabel="step", ylabel=loss)
        drawing.legend(loc="outside lower center", ncols=len(curves) + 1)
    return drawing


@dataclass(frozen=True)
class SeedCurves:
    """Loss curves of one combination of settings.

    Attributes:
        label: Its name.
        steps: (n,) steps.
        losses: (seeds, n) training losses, one row a seed.
        colour: Index of the colour; the place among the combinations if None.
    """

    label: str
    steps: Sequence[int]
    losses: Sequence[Sequence[float]]
    colour: int | None = None


def curves_plot(paths: Sequence[Path], title: str, curves: Sequence[SeedCurves], loss: str) -> Figure:
    """Mean training loss against step; up to three curves have a band from the lowest to the highest seed.

    The legend stands beside the curves, in the order in which they end.

    Args:
        paths: Where to save.
        title: Title of the legend: what was varied.
        curves: The combinations; every one has a colour and dashes of its own, up to 42 of them.
        loss: What the loss is, with its unit.
    """
    from matplotlib.ticker import MaxNLocator

    with canvas(*paths, size=(7.4, 4.0)) as drawing:
        axes = drawing.add_subplot()
        ends = []
        for index, curve in enumerate(curves):
            colour = _colour(index if curve.colour is None else curve.colour)
            style = CURVE_STYLES[index % len(CURVE_STYLES)]  # overlapping lines stay visible
            columns = list(zip(*curve.losses, strict=True))
            mean = [sum(column) / len(column) for column in columns]
            marker = "o" if len(mean) == 1 else None  # a single point has no line
            (line,) = axes.plot(curve.steps, mean, color=colour, linestyle=style, marker=marker, label=curve.label)
            if len(curves) <= MOST_BANDS:
                low, high = [min(column) for column in columns], [max(column) for column in columns]
                axes.fill_between(curve.steps, low, high, color=colour, alpha=0.12, linewidth=0)
            ends.append((mean[-1], line))
        axes.set(xlabel="step", ylabel=f"training {loss}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = [line for _, line in sorted(ends, key=lambda end: -end[0])]
        drawing.legend(handles=handles, title=title, loc="outside right upper", alignment="left")
    return drawing


@dataclass(frozen=True)
class FinalValues:
    """What the runs of one combination of settings ended at, in some metric of the test data.

    Attributes:
        label: Its name.
        values: One a seed.
        exact: The same with weights generated by exact simulation; empty where that changes nothing.
        interval: Half of the confidence interval around their mean.
        differences: From what it is compared with, one a pair of runs; empty where there is nothing to compare.
        difference_interval: Half of the confidence interval around their mean.
        colour: Index of the colour; the place among the combinations if None.
    """

    label: str
    values: Sequence[float]
    exact: Sequence[float] = ()
    interval: float | None = None
    differences: Sequence[float] = ()
    difference_interval: float | None = None
    colour: int | None = None


def final_plot(
    paths: Sequence[Path], title: str, finals: Sequence[FinalValues], metric: str, differences: str = ""
) -> Figure:
    """The final metric of every combination: a point a seed, a bar at their mean, a diamond at the exact weights'.

    Args:
        paths: Where to save.
        title: Label of the vertical axis: what was varied.
        finals: The combinations, from top to bottom.
        metric: Its name and direction.
        differences: What the differences are; a second panel shows them if any combination has some.
    """
    from matplotlib.ticker import MaxNLocator

    has_differences = any(final.differences for final in finals)
    size = (9.6 if has_differences else 6.4, 1.5 + 0.4 * len(finals))
    with canvas(*paths, size=size) as drawing:
        panels: Any = drawing.subplots(1, 2 if has_differences else 1, squeeze=False, sharey=True)[0]
        axes, seed, mean, interval, exact = panels[0], None, None, None, None
        for row, final in enumerate(finals):
            colour = _colour(row if final.colour is None else final.colour)
            seed, mean, line = _row(axes, row, final.values, final.interval, colour)
            interval = line or interval
            if final.exact:
                exact = axes.scatter(
                    [_mean(final.exact)], [row], s=60, marker="D", facecolors="none", edgecolors="0.2", zorder=4
                )
            if final.differences:
                _row(panels[1], row, final.differences, final.difference_interval, colour)
        axes.set(xlabel=f"test data after training ({metric})", ylabel=title)
        axes.set_yticks(range(len(finals)), [final.label for final in finals])
        axes.set_ylim(len(finals) - 0.5, -0.5)
        for panel in panels:
            panel.xaxis.set_major_locator(MaxNLocator(5))  # long numbers would touch
        if has_differences:
            engine: Any = drawing.get_layout_engine()
            engine.set(wspace=0.05)  # the panels' numbers would touch
            panels[1].set_xlabel(differences)
            panels[1].axvline(0, color="0.2", linewidth=1)
        shown = {
            "a seed": seed, "mean": mean, "95% confidence interval": interval, "mean with exact weights": exact,
        }  # fmt: skip
        handles = {name: handle for name, handle in shown.items() if handle is not None}
        legend: Any = drawing.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles)
        )
        for name, handle in zip(handles, legend.legend_handles, strict=True):
            if name != "mean with exact weights":
                handle.set_color("0.4")  # they stand for every combination, whatever its colour
    return drawing


def _row(axes: Any, row: int, values: Sequence[float], interval: float | None, colour: str) -> tuple[Any, Any, Any]:
    """Seeds, mean and interval of one combination; the interval is None if there is none."""
    seed = axes.scatter(values, [row] * len(values), s=28, color=colour, alpha=0.75, zorder=3)
    (mean,) = axes.plot([_mean(values)] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=2)
    if interval is None:
        return seed, mean, None
    ends = [_mean(values) - interval, _mean(values) + interval]
    (line,) = axes.plot(ends, [row, row], color=colour, linewidth=1.2, marker="|", markersize=7)
    return seed, mean, line


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
