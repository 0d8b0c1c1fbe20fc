"""Plots: one style, colour-blind safe (Okabe and Ito), labelled with units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLE: dict[str, Any] = {
    "figure.figsize": (6.4, 4.0), "figure.dpi": 150, "font.size": 10, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False,
}  # fmt: skip


@contextmanager
def figure(path: Path) -> Iterator[Any]:
    """Axes in the house style; saved to `path` when the block ends. Needs no display."""
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}):
        canvas = Figure(layout="constrained")
        FigureCanvasAgg(canvas)
        yield canvas.add_subplot()
        temporary = path.with_name(f".{path.name}")
        canvas.savefig(temporary, format=path.suffix.removeprefix("."))
        temporary.replace(path)


def loss_plot(
    path: Path, curves: dict[str, Sequence[tuple[int, float]]], before: float, after: dict[str, float]
) -> None:
    """Training loss against step, with the test loss before and after as levels.

    Args:
        path: Where to save.
        curves: Name of a run to its (step, training loss in nats per token).
        before: Test loss of the unadapted model, nats per token.
        after: Name of a run to its final test loss, nats per token.
    """
    with figure(path) as axes:
        axes.axhline(before, color="0.4", linestyle=":", label="test, before")
        for index, (name, points) in enumerate(curves.items()):
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(*zip(*points, strict=True), color=colour, label=f"{name}, training")
            if name in after:
                axes.axhline(after[name], color=colour, linestyle="--", label=f"{name}, test, after")
        axes.set(xlabel="step", ylabel="cross entropy (nats per token)")
        axes.figure.legend(loc="outside lower center", ncols=len(curves) + 1)
