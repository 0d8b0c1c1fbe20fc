"""The figures of a comparison, for its folder and for notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qpeft.errors import RunError
from qpeft.training.compare_summary import Summary, summaries
from qpeft.training.plots import FinalValues, SeedCurves, curves_plot, final_plot
from qpeft.training.vary import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qpeft.training.compare import Comparison


def loss_figure(comparison: Comparison, *paths: Path) -> Figure:
    """Training loss against step: the mean of the seeds; up to three combinations have a band over them.

    Args:
        comparison: What `qpeft.training.compare.compare` gave.
        *paths: Where to save; it is only returned if there is none.

    Raises:
        RunError: No run succeeded.
    """
    curves = [_curves(summary, comparison.plan) for summary in _succeeded(comparison)]
    return curves_plot(
        paths, ", ".join(comparison.plan.varied), curves, comparison.task.loss(comparison.measured).title
    )


def final_figure(comparison: Comparison, *paths: Path) -> Figure:
    """The metric on the test data after training: every seed, the mean and its 95% confidence interval.

    Where the circuit is compared with its controls, labels give the trained numbers, and a second panel the paired
    differences to the circuit. Arguments and errors are those of `loss_figure`.
    """
    plan, metric = comparison.plan, comparison.primary
    finals = [_final(summary, plan) for summary in _succeeded(comparison)]
    title = ", ".join(plan.varied) + (" (numbers that train)" if plan.has_controls else "")
    better = "left" if metric.higher_is_better else "right"
    differences = f"less the circuit's run with the same seed\n({metric.name}; the circuit is better {better} of 0)"
    return final_plot(paths, title, finals, f"{metric.title}; {metric.direction}", differences)


def _succeeded(comparison: Comparison) -> list[Summary]:
    found = [summary for summary in summaries(comparison) if summary.metrics]
    if not found:
        raise RunError(f"no run of the comparison in {comparison.folder} succeeded: there is nothing to draw")
    return found


def _curves(summary: Summary, plan: Plan) -> SeedCurves:
    curves = [outcome.curve for outcome in summary.outcomes if outcome.metrics is not None]
    losses = [[loss for _, loss in curve] for curve in curves]
    return SeedCurves(summary.combination.label, [step for step, _ in curves[0]], losses, _colour(summary, plan))


def _colour(summary: Summary, plan: Plan) -> int | None:
    """A source has one colour in both figures, whatever its size."""
    return plan.varied["source"].index(summary.combination.values["source"]) if plan.has_controls else None


def _final(summary: Summary, plan: Plan) -> FinalValues:
    exact = summary.exact_values if summary.samples else []
    label, means = summary.combination.label, summary.means
    interval = means[summary.primary.key].half_width
    if not plan.has_controls:
        return FinalValues(label, summary.values, exact, interval)
    differences = [] if summary.is_reference else summary.differences
    return FinalValues(
        f"{label} ({summary.trained:,})", summary.values, exact, interval, differences,
        means["difference"].half_width, _colour(summary, plan),
    )  # fmt: skip
