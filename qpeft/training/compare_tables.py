"""The tables of a comparison: for a reader, for a notebook, and in full as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from qpeft.files import write_text
from qpeft.training.compare_summary import EMPTY, Summary, summaries
from qpeft.training.vary import Combination, value_text

if TYPE_CHECKING:
    from pandas import DataFrame

    from qpeft.training.compare import Comparison, Outcome

SIZES = "sizes"  # the column that tells a control's run at equal budget from the one with the circuit's sizes
Shown = tuple[tuple[str, ...], list[tuple[str, ...]]]


def shown_table(comparison: Comparison) -> Shown:
    """Header and rows for a reader; a column that holds nothing in any row is left out."""
    found, metric = summaries(comparison), comparison.primary
    samples = any(summary.samples for summary in found)
    form = f".{metric.digits + 1}f"
    header = (
        *comparison.plan.varied, SIZES, "trained", metric.name, "difference", "exact weights", "total variation",
        "fidelity", "ms/step", "runs",
    )  # fmt: skip
    rows = []
    for summary in found:
        means = summary.means
        sampled = (means[f"exact_{metric.key}"], means["total_variation"], means["fidelity"])
        seconds = means["seconds_per_step"].mean
        failed = f" ({len(summary.failures)} failed)" if summary.failures else ""
        rows.append((
            *map(value_text, summary.combination.values.values()), _sizes(comparison, summary.combination) or EMPTY,
            EMPTY if summary.trained is None else f"{summary.trained:,}",
            means[metric.key].text(form) if summary.metrics else "failed",
            EMPTY if summary.is_reference else means["difference"].text(f"+{form}"),
            *(m.mean_text(f) if samples else EMPTY for m, f in zip(sampled, (form, ".3f", ".3f"), strict=True)),
            EMPTY if seconds is None else f"{1000 * seconds:.0f}", f"{len(summary.metrics)}{failed}",
        ))  # fmt: skip
    return _without_empty(header, rows)


def _sizes(comparison: Comparison, combination: Combination) -> str | None:
    return (combination.fitted or "circuit's") if comparison.plan.has_controls else None


def _without_empty(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Shown:
    kept = [place for place in range(len(header)) if any(row[place] != EMPTY for row in rows)]
    return tuple(header[place] for place in kept), [tuple(row[place] for place in kept) for row in rows]


def table_frame(comparison: Comparison) -> DataFrame:
    """The table for a reader as a pandas data frame of text, which a notebook shows; the settings are its index."""
    import pandas as pd

    header, rows = shown_table(comparison)
    return pd.DataFrame(rows, columns=list(header)).set_index(list(comparison.plan.varied))


def runs_frame(comparison: Comparison) -> DataFrame:
    """A row a run, numbers as numbers: what `runs.csv` holds, as a pandas data frame."""
    import pandas as pd

    return pd.DataFrame(_run_rows(comparison))


def write_tables(comparison: Comparison) -> None:
    """Writes `table.csv` and `runs.csv` into the comparison's folder, of the runs so far (at least one)."""
    write_text(comparison.folder / "table.csv", _csv(_table_row(comparison, one) for one in summaries(comparison)))
    write_text(comparison.folder / "runs.csv", _csv(_run_rows(comparison)))


def _table_row(comparison: Comparison, summary: Summary) -> dict[str, Any]:
    row = _varied(comparison, summary.combination)
    row |= {"runs": len(summary.metrics), "failed": len(summary.failures), "trained": summary.trained}
    for name, mean in summary.means.items():
        row |= {f"{name}_mean": mean.mean, f"{name}_std": mean.std, f"{name}_ci95": mean.half_width}
    row["failure"] = "; ".join(dict.fromkeys(str(outcome.failure) for outcome in summary.failures))
    return row


def _run_rows(comparison: Comparison) -> list[dict[str, Any]]:
    return [_run_row(comparison, outcome) for outcome in comparison.outcomes]


def _run_row(comparison: Comparison, outcome: Outcome) -> dict[str, Any]:
    primary, row = comparison.primary.key, _varied(comparison, outcome.combination)
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


def _varied(comparison: Comparison, combination: Combination) -> dict[str, Any]:
    """What was varied, and where there are controls whose sizes a run has."""
    row: dict[str, Any] = {name: value_text(value) for name, value in combination.values.items()}
    return row | ({SIZES: _sizes(comparison, combination)} if comparison.plan.has_controls else {})


def _csv(rows: Iterable[dict[str, Any]]) -> str:
    rows = list(rows)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
