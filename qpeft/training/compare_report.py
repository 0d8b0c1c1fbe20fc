"""The results of a comparison: tables, plots and a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from qpeft.files import write_text
from qpeft.noise.survey import stale
from qpeft.training.compare_summary import Summary, summaries
from qpeft.training.plots import FinalValues, SeedCurves, curves_plot, final_plot
from qpeft.training.report import calibrations, markdown_table
from qpeft.training.vary import value_text

if TYPE_CHECKING:
    from qpeft.training.compare import Comparison, Outcome


def shown_table(comparison: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows for a reader."""
    first, metric = comparison.plan.combinations[0].label, comparison.primary
    form = f".{metric.digits + 1}f"
    header = (
        *comparison.plan.varied, metric.name, f"less {first}", "exact weights", "total variation", "fidelity",
        "trained", "ms/step", "runs",
    )  # fmt: skip
    rows = []
    for summary in summaries(comparison):
        spreads = summary.spreads
        seconds = spreads["seconds_per_step"].mean
        failed = f" ({len(summary.failures)} failed)" if summary.failures else ""
        rows.append((
            *map(value_text, summary.combination.values.values()),
            spreads[metric.key].text(form) if summary.metrics else "failed",
            "–" if summary.combination.label == first else spreads["difference"].text(f"+{form}"),
            spreads[f"exact_{metric.key}"].mean_text(form), spreads["total_variation"].mean_text(".3f"),
            spreads["fidelity"].mean_text(".3f"),
            f"{summary.metrics[0]['parameters']['trained']:,}" if summary.metrics else "–",
            "–" if seconds is None else f"{1000 * seconds:.0f}", f"{len(summary.metrics)}{failed}",
        ))  # fmt: skip
    return header, rows


def write_tables(comparison: Comparison) -> None:
    """Writes `table.csv` and `runs.csv` into the comparison's folder, of the runs so far (at least one)."""
    folder = comparison.folder
    write_text(folder / "table.csv", _csv(_table_row(summary) for summary in summaries(comparison)))
    write_text(folder / "runs.csv", _csv(_run_row(outcome, comparison.primary.key) for outcome in comparison.outcomes))


def write_results(comparison: Comparison) -> None:
    """Writes `report.md`, and the plots as PNG and SVG, into the comparison's folder."""
    folder = comparison.folder
    succeeded = [summary for summary in summaries(comparison) if summary.metrics]
    write_text(folder / "report.md", _page(comparison, bool(succeeded)))
    if succeeded:
        title = ", ".join(comparison.plan.varied)
        loss, metric = comparison.task.loss(comparison.measured), comparison.primary
        losses, finals = ([folder / f"{name}.{kind}" for kind in ("png", "svg")] for name in ("loss", "final"))
        curves_plot(losses, title, [_curves(summary) for summary in succeeded], loss.title)
        final_plot(finals, title, [_final(s) for s in succeeded], f"{metric.title}; {metric.direction}")


def _curves(summary: Summary) -> SeedCurves:
    curves = [outcome.curve for outcome in summary.outcomes if outcome.metrics is not None]
    return SeedCurves(
        summary.combination.label, [step for step, _ in curves[0]], [[loss for _, loss in curve] for curve in curves]
    )


def _final(summary: Summary) -> FinalValues:
    exact = summary.exact_values if summary.samples else []
    return FinalValues(summary.combination.label, summary.values, exact)


def _table_row(summary: Summary) -> dict[str, Any]:
    row: dict[str, Any] = {name: value_text(value) for name, value in summary.combination.values.items()}
    row |= {"runs": len(summary.metrics), "failed": len(summary.failures)}
    row["trained"] = summary.metrics[0]["parameters"]["trained"] if summary.metrics else None
    for name, spread in summary.spreads.items():
        row |= {f"{name}_mean": spread.mean, f"{name}_std": spread.std}
    row["failure"] = "; ".join(dict.fromkeys(str(outcome.failure) for outcome in summary.failures))
    return row


def _run_row(outcome: Outcome, primary: str) -> dict[str, Any]:
    row: dict[str, Any] = {name: value_text(value) for name, value in outcome.combination.values.items()}
    row |= {"seed": outcome.seed, "folder": f"runs/{outcome.folder.name}"}
    metrics = outcome.metrics or {}
    after, before = metrics.get("after", {}), metrics.get("before", {})
    exact = metrics.get("against_exact") or {}
    return row | {
        f"{primary}_before": before.get(primary), primary: after.get(primary),
        f"exact_{primary}": exact.get("after", {}).get(primary),
        "weights": metrics.get("export", {}).get("weights"), "total_variation": exact.get("total_variation"),
        "fidelity": exact.get("fidelity"), "trained": metrics.get("parameters", {}).get("trained"),
        "seconds_per_step": metrics.get("seconds_per_step"), "failure": outcome.failure,
    }  # fmt: skip


def _csv(rows: Iterable[dict[str, Any]]) -> str:
    rows = list(rows)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _page(comparison: Comparison, has_plots: bool) -> str:
    plan = comparison.plan
    config = plan.combinations[0].config
    seeds = ", ".join(map(str, plan.seeds))
    metric = comparison.primary
    before = sorted({metric.text(o.metrics["before"], 1) for o in comparison.outcomes if o.metrics is not None})
    fixed = {
        "model": config.model.model,
        "task": config.data.task,
        "data": config.data.data,
        "steps": config.training.steps,
    }
    told = "; ".join(f"{name}: {value}" for name, value in fixed.items() if name not in plan.varied)
    lines = [
        f"# {config.adapter.method} compared over {', '.join(plan.varied)}", "",
        f"{told}; seeds {seeds}. Runs of one seed start from the same numbers and see the same examples in the same "
        "order, as far as their sizes agree.", "",
        *markdown_table(*shown_table(comparison)), "",
        f"* {metric.name}: {metric.title} of the test data ({metric.direction}), mean ± standard deviation (over n - "
        "1) of the seeds; before training "
        f"{' or '.join(before) or 'not known'}.",
        "* less ...: the same less the first row's run with the same seed, so that what seeds share cancels.",
        f"* exact weights: {metric.name} with the weights generated by exact simulation at the same trained numbers, "
        "not those of the engine's last sample, or noise.",
        "* total variation, sum |p - q| / 2, and fidelity, (sum sqrt(p q))^2: of the engine's distribution p at the "
        "final angles from the exact one q.",
        "* ms/step: mean over the runs of a run's median step.",
    ]  # fmt: skip
    lines += _noise_lines(comparison)
    if has_plots:
        lines += [
            "", "![training loss against step; the band runs from the lowest to the highest seed](loss.png)", "",
            "![final bits per byte](final.png)",
        ]  # fmt: skip
    if comparison.failed:
        lines += ["", "## Failed", ""]
        lines += [f"* {o.combination.assignments}, seed {o.seed}: {o.failure}" for o in comparison.failed]
    lines += ["", "The raw runs are in `runs/`, a row each in `runs.csv`; `table.csv` has the table's numbers in full."]
    return "\n".join(lines) + "\n"


def _noise_lines(comparison: Comparison) -> list[str]:
    generators = [o.metrics["generator"] for o in comparison.outcomes if o.metrics is not None]
    found = {pair for facts in generators if facts is not None for pair in calibrations(facts["engine"]).items()}
    lines = []
    for noise, calibrated in sorted(found, key=lambda pair: (pair[0], pair[1] or "")):
        warning = stale(calibrated)
        lines.append(f"* {noise}, calibrated {calibrated or 'never'}" + (f": {warning}." if warning else "."))
    return ["", "## Noise", "", *lines] if lines else []
