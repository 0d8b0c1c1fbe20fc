"""The results of a comparison: tables, plots and a page."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qpeft.adapters.regenerate import LAST_SAMPLE
from qpeft.files import write_text
from qpeft.noise.survey import stale
from qpeft.training.plots import FinalValues, SeedCurves, curves_plot, final_plot
from qpeft.training.report import calibrations, markdown_table
from qpeft.training.vary import Combination, value_text

if TYPE_CHECKING:
    from qpeft.training.compare import Comparison, Outcome


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (over n - 1) of the seeds; None where there is nothing to average."""

    mean: float | None
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of a few values.

        Example:
            >>> Spread.of([1.0, 2.0, 3.0])
            Spread(mean=2.0, std=1.0)
        """
        return cls(
            statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None
        )  # fmt: skip

    def text(self, form: str) -> str:
        """E.g. `2.031 ± 0.004` for the form `.3f`; a dash if there is no value."""
        if self.mean is None:
            return "–"
        return f"{self.mean:{form}}" + ("" if self.std is None else f" ± {self.std:{form.removeprefix('+')}}")

    def mean_text(self, form: str) -> str:
        """The mean alone."""
        return "–" if self.mean is None else f"{self.mean:{form}}"


class Summary:
    """The runs of one combination.

    Args:
        outcomes: They, one a seed.
        baseline: Those of the first combination, with the same seeds and perhaps more, which are still to come.
    """

    def __init__(self, outcomes: Sequence[Outcome], baseline: Sequence[Outcome]) -> None:
        self.outcomes, self.baseline = outcomes, baseline
        self.metrics = [outcome.metrics for outcome in outcomes if outcome.metrics is not None]
        self.failures = [outcome for outcome in outcomes if outcome.failure is not None]
        self.circuits = [metrics["against_exact"] for metrics in self.metrics if metrics["against_exact"] is not None]

    @property
    def combination(self) -> Combination:
        return self.outcomes[0].combination

    @property
    def bits_per_byte(self) -> list[float]:
        """Of the test text, with the weights the model trained with; one a seed."""
        return [metrics["after"]["bits_per_byte"] for metrics in self.metrics]

    @property
    def differences(self) -> list[float]:
        """Bits per byte less those of the first combination with the same seed: what seeds share cancels."""
        pairs = zip(self.outcomes, self.baseline, strict=False)
        return [
            ours.metrics["after"]["bits_per_byte"] - theirs.metrics["after"]["bits_per_byte"]
            for ours, theirs in pairs if ours.metrics is not None and theirs.metrics is not None
        ]  # fmt: skip

    @property
    def exact_bits_per_byte(self) -> list[float]:
        """The same with weights regenerated exactly."""
        return [found["after"]["bits_per_byte"] for found in self.circuits]

    @property
    def samples(self) -> bool:
        """Whether any weights are those of a last sample."""
        return any(metrics["export"]["weights"] == LAST_SAMPLE for metrics in self.metrics)

    @property
    def spreads(self) -> dict[str, Spread]:
        """What is averaged over seeds, by its name in `table.csv`."""
        return {
            "bits_per_byte": Spread.of(self.bits_per_byte),
            "difference": Spread.of(self.differences),
            "exact_bits_per_byte": Spread.of(self.exact_bits_per_byte),
            "total_variation": Spread.of([found["total_variation"] for found in self.circuits]),
            "fidelity": Spread.of([found["fidelity"] for found in self.circuits]),
            "seconds_per_step": Spread.of(
                [metrics["seconds_per_step"] for metrics in self.metrics if metrics["seconds_per_step"] is not None]
            ),
        }


def summaries(comparison: Comparison) -> list[Summary]:
    """One a combination, in order."""
    count = len(comparison.plan.seeds)
    found = comparison.outcomes
    return [Summary(found[start : start + count], found[:count]) for start in range(0, len(found), count)]


def shown_table(comparison: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows for a reader."""
    first = comparison.plan.combinations[0].label
    header = (
        *comparison.plan.varied, "bits/byte", f"less {first}", "exact weights", "total variation", "fidelity",
        "trained", "ms/step", "runs",
    )  # fmt: skip
    rows = []
    for summary in summaries(comparison):
        spreads = summary.spreads
        seconds = spreads["seconds_per_step"].mean
        failed = f" ({len(summary.failures)} failed)" if summary.failures else ""
        rows.append((
            *map(value_text, summary.combination.values.values()),
            spreads["bits_per_byte"].text(".4f") if summary.metrics else "failed",
            "–" if summary.combination.label == first else spreads["difference"].text("+.4f"),
            spreads["exact_bits_per_byte"].mean_text(".4f"), spreads["total_variation"].mean_text(".3f"),
            spreads["fidelity"].mean_text(".3f"),
            f"{summary.metrics[0]['parameters']['trained']:,}" if summary.metrics else "–",
            "–" if seconds is None else f"{1000 * seconds:.0f}", f"{len(summary.metrics)}{failed}",
        ))  # fmt: skip
    return header, rows


def write_tables(comparison: Comparison) -> None:
    """Writes `table.csv` and `runs.csv` into the comparison's folder, of the runs so far (at least one)."""
    folder = comparison.folder
    write_text(folder / "table.csv", _csv(_table_row(summary) for summary in summaries(comparison)))
    write_text(folder / "runs.csv", _csv(_run_row(outcome) for outcome in comparison.outcomes))


def write_results(comparison: Comparison) -> None:
    """Writes `report.md`, and the plots as PNG and SVG, into the comparison's folder."""
    folder = comparison.folder
    succeeded = [summary for summary in summaries(comparison) if summary.metrics]
    write_text(folder / "report.md", _page(comparison, bool(succeeded)))
    if succeeded:
        title = ", ".join(comparison.plan.varied)
        curves_plot([folder / f"loss.{kind}" for kind in ("png", "svg")], title, [_curves(s) for s in succeeded])
        final_plot([folder / f"final.{kind}" for kind in ("png", "svg")], title, [_final(s) for s in succeeded])


def _curves(summary: Summary) -> SeedCurves:
    curves = [outcome.curve for outcome in summary.outcomes if outcome.metrics is not None]
    return SeedCurves(
        summary.combination.label, [step for step, _ in curves[0]], [[loss for _, loss in curve] for curve in curves]
    )


def _final(summary: Summary) -> FinalValues:
    exact = summary.exact_bits_per_byte if summary.samples else []
    return FinalValues(summary.combination.label, summary.bits_per_byte, exact)


def _table_row(summary: Summary) -> dict[str, Any]:
    row: dict[str, Any] = {name: value_text(value) for name, value in summary.combination.values.items()}
    row |= {"runs": len(summary.metrics), "failed": len(summary.failures)}
    row["trained"] = summary.metrics[0]["parameters"]["trained"] if summary.metrics else None
    for name, spread in summary.spreads.items():
        row |= {f"{name}_mean": spread.mean, f"{name}_std": spread.std}
    row["failure"] = "; ".join(dict.fromkeys(str(outcome.failure) for outcome in summary.failures))
    return row


def _run_row(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {name: value_text(value) for name, value in outcome.combination.values.items()}
    row |= {"seed": outcome.seed, "folder": f"runs/{outcome.folder.name}"}
    metrics = outcome.metrics or {}
    after, before = metrics.get("after", {}), metrics.get("before", {})
    exact = metrics.get("against_exact") or {}
    return row | {
        "bits_per_byte_before": before.get("bits_per_byte"), "bits_per_byte": after.get("bits_per_byte"),
        "exact_bits_per_byte": exact.get("after", {}).get("bits_per_byte"),
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
    before = sorted({
        f"{outcome.metrics['before']['bits_per_byte']:.4f}" for outcome in comparison.outcomes if outcome.metrics
    })  # fmt: skip
    fixed = {"model": config.model.model, "text": config.data.data, "steps": config.training.steps}
    told = "; ".join(f"{name}: {value}" for name, value in fixed.items() if name not in plan.varied)
    lines = [
        f"# {config.adapter.method} compared over {', '.join(plan.varied)}", "",
        f"{told}; seeds {seeds}. Runs of one seed start from the same numbers and see the same examples in the same "
        "order, as far as their sizes agree.", "",
        *markdown_table(*shown_table(comparison)), "",
        "* bits/byte: of the test text, mean ± standard deviation (over n - 1) of the seeds; before training "
        f"{' or '.join(before) or 'not known'}.",
        "* less ...: the same less the first row's run with the same seed, so that what seeds share cancels.",
        "* exact weights: bits/byte with the weights generated by exact simulation at the same trained numbers, not "
        "those of the engine's last sample, or noise.",
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
