"""Plots of the distribution that a circuit has on several engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qpeft.adapters.regenerate import Deviation
from qpeft.errors import ConfigError
from qpeft.training.plots import COLOURS, canvas, panels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = "the panel's engine"
PANELS_A_ROW = 2
MOST_NAMED = 16  # states that fit under a panel by their bits


@dataclass(frozen=True, eq=False)
class Distribution:
    """A circuit's distribution as an engine gives it.

    Attributes:
        label: The engine's name.
        probabilities: (2**N,) in the order of the basis states, qubit 0 the most significant bit.
        shots: Measurements it was estimated from; None if it was calculated.
    """

    label: str
    probabilities: Tensor
    shots: int | None = None


def distribution_plot(paths: Sequence[Path], exact: Distribution, others: Sequence[Distribution]) -> Figure:
    """A panel an engine: its probabilities as points over the exact ones as steps, the likeliest state first.

    A band around the exact probabilities p shows what finite shots alone would do: one standard deviation of the
    frequency of n measurements, sqrt(p (1 - p) / n). Every panel's title gives its total variation, sum |p - q| / 2.

    Args:
        paths: Where to save.
        exact: The exact distribution; it decides the order of the states.
        others: What is held against it.

    Raises:
        ConfigError: Nothing to hold against it, or distributions of other sizes.

    Example:
        >>> import torch
        >>> exact = Distribution("exact", torch.tensor([0.2, 0.8]))
        >>> figure = distribution_plot([], exact, [Distribution("exact:50x", torch.tensor([0.25, 0.75]), shots=100)])
        >>> figure.axes[0].get_title()
        'exact:50x, total variation 0.050'
    """
    if not others:
        raise ConfigError("there is no distribution to hold against the exact one; give at least one")
    states = exact.probabilities.numel()
    for other in others:
        if other.probabilities.numel() != states:
            raise ConfigError(
                f"{other.label} has {other.probabilities.numel()} probabilities, {exact.label} has {states}; "
                "give distributions of one circuit"
            )
    order = exact.probabilities.detach().double().cpu().argsort(descending=True, stable=True)
    columns = min(len(others), PANELS_A_ROW)
    rows = -(-len(others) // columns)
    handles: dict[str, Any] = {}
    with canvas(*paths, size=(1.2 + 3.4 * columns, 1.2 + 2.2 * rows)) as drawing:
        grid = panels_of(drawing, len(others), columns)
        for place, (axes, other) in enumerate(zip(grid, others, strict=True), 1):  # the exact one has the first colour
            handles |= _panel(axes, exact, other, order, COLOURS[place % len(COLOURS)])
            _name_states(axes, order)
        handles[POINTS] = handles.pop(POINTS)  # the last one, also where the first panels have no shots
        named = "" if states <= MOST_NAMED else f" (of {states})"
        drawing.supxlabel(f"basis state, the likeliest first{named}", fontsize="medium")
        drawing.supylabel("probability", fontsize="medium")
        legend = drawing.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=len(handles))
        points: Any = legend.legend_handles[-1]
        points.set(color="0.3", sizes=[16])  # they stand for those of every panel, whatever their colour
    return drawing


def _panel(axes: Any, exact: Distribution, other: Distribution, order: Tensor, colour: str) -> dict[str, Any]:
    """Draws one panel; gives what the legend shows."""
    p, q = (one.probabilities.detach().double().cpu()[order] for one in (exact, other))
    edges = [place - 0.5 for place in range(len(order) + 1)]
    shown = {exact.label: axes.stairs(p.numpy(), edges, color="0.2", linewidth=0.9, zorder=2)}
    if other.shots is not None:
        spread = (p * (1 - p) / other.shots).sqrt()
        low, high = (p - spread).clamp(min=0).numpy(), (p + spread).numpy()
        shown["± one standard deviation of the shots"] = axes.stairs(
            high, edges, baseline=low, fill=True, color="0.82", zorder=1
        )
    size = 60 / max(4, len(order)) + 4
    shown[POINTS] = axes.scatter(range(len(order)), q.numpy(), s=size, color=colour, zorder=3)
    axes.set_title(
        f"{other.label}, total variation {Deviation.between(q, p).total_variation:.3f}", fontsize="medium"
    )  # fmt: skip
    return shown


def _name_states(axes: Any, order: Tensor) -> None:
    """Few states by their bits, many by their rank."""
    if len(order) <= MOST_NAMED:
        digits = (len(order) - 1).bit_length()
        axes.set_xticks(range(len(order)), [f"{state:0{digits}b}" for state in order.tolist()], rotation=90)
    axes.grid(axis="x", visible=False)
    axes.margins(x=0.01)
