"""What the circuit adds over its classical controls, in sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qpeft.training.compare_summary import SeedMean, Summary, summaries
from qpeft.training.vary import assignments

if TYPE_CHECKING:
    from qpeft.training.compare import Comparison
SHOWN, OPEN, REVERSED, UNKNOWN = "shown", "not shown", "the reverse is shown", "nothing can be concluded"


@dataclass(frozen=True)
class Finding:
    """The circuit against one run of a control.

    Attributes:
        control: The runs of the control.
        circuit: Those of the circuit, in the same other settings.
        added: What the circuit adds: the differences of runs with the same seed, positive where the circuit is better.
    """

    control: Summary
    circuit: Summary
    added: SeedMean

    @property
    def source(self) -> str:
        return str(self.control.combination.values["source"])

    @property
    def is_fitted(self) -> bool:
        """Whether the control's sizes were chosen for an equal budget."""
        return self.control.combination.fitted is not None

    @property
    def is_fair(self) -> bool:
        """Whether the control trains no more numbers than the circuit, as far as is known."""
        if self.control.trained is None or self.circuit.trained is None:
            return True  # one never finished: there is no verdict that could be unfair
        return self.is_fitted or self.control.trained <= self.circuit.trained

    @property
    def verdict(self) -> str:
        """Whether the 95% interval lies above 0, contains it, or lies below."""
        if self.added.mean is None or self.added.half_width is None:
            return UNKNOWN
        if abs(self.added.mean) <= self.added.half_width:
            return OPEN
        return SHOWN if self.added.mean > 0 else REVERSED

    def sentence(self) -> str:
        """The finding in words."""
        metric, fitted = self.control.primary, self.control.combination.fitted
        sizes = "the circuit's sizes (" if fitted is None else f"equal budget ({fitted}; "
        head = f"Over {self.source} at {sizes}"
        if self.added.mean is None:
            return f"{head}no pair of runs finished): {UNKNOWN}."
        form = f"+.{metric.digits + 1}f"
        head += f"{self.control.trained:,} numbers against {self.circuit.trained:,}): {self.added.mean:{form}}"
        if self.added.half_width is None:
            return f"{head} {metric.name}; one pair of runs finished: {UNKNOWN}."
        low, high = self.added.mean - self.added.half_width, self.added.mean + self.added.half_width
        meaning = {
            SHOWN: "shown: the circuit does better",
            OPEN: "not shown: the interval contains 0",
            REVERSED: f"the reverse is shown: {self.source} does better",
        }[self.verdict]
        return f"{head} {metric.name} [{low:{form}}, {high:{form}}]; {meaning}."


def baseline(comparison: Comparison) -> list[str]:
    """What the models give before training, and a warning where no training improved them.

    Returns:
        Sentences; none if no run succeeded.
    """
    metric, done = comparison.primary, [summary for summary in summaries(comparison) if summary.metrics]
    if not done:
        return []
    sign = 1 if metric.higher_is_better else -1
    starts = sorted({metric.text(metrics["before"], 1) for summary in done for metrics in summary.metrics})
    lines = [f"Before training: {' or '.join(starts)} {metric.name}."]
    if not any(
        sign * (metrics["after"][metric.key] - metrics["before"][metric.key]) > 0
        for summary in done
        for metrics in summary.metrics
    ):
        lines.append(
            "No run improved its model, so that differences say little about what training would give: train for more "
            "steps, or with another learning rate."
        )
    return lines


def findings(comparison: Comparison) -> list[Finding]:
    """One a control and size, in order; none without controls, or before the circuit has run."""
    plan, found = comparison.plan, summaries(comparison)
    if not plan.has_controls:
        return []
    by_label = {summary.combination.label: summary for summary in found}
    pairs = [(summary, by_label.get(plan.reference(summary.combination).label)) for summary in found]
    return [
        Finding(control, circuit, _added(control))
        for control, circuit in pairs if circuit is not None and circuit is not control
    ]  # fmt: skip


def _added(control: Summary) -> SeedMean:
    sign = -1 if control.primary.higher_is_better else 1  # the table's differences are control less circuit
    return SeedMean.of([sign * difference for difference in control.differences])


def conclusions(comparison: Comparison) -> list[str]:
    """What the circuit adds over each control, and in all, for each choice of the other varied settings.

    Returns:
        Sentences; none if the comparison has no controls.
    """
    groups: dict[str, list[Finding]] = {}
    for finding in findings(comparison):
        groups.setdefault(finding.circuit.combination.label, []).append(finding)
    lines = []
    for group in groups.values():
        others = {name: v for name, v in group[0].circuit.combination.values.items() if name != "source"}
        prefix = f"{assignments(others)}: " if others else ""
        lines += [prefix + text for text in (*(finding.sentence() for finding in group), _in_all(group))]
    return lines


def _in_all(group: list[Finding]) -> str:
    """The verdicts at equal budget; a control without a run of its own there counts if it trains no more numbers."""
    decisive = {finding.source: finding for finding in group if not finding.is_fitted}
    decisive |= {finding.source: finding for finding in group if finding.is_fitted}
    fair = {source: finding for source, finding in decisive.items() if finding.is_fair}
    unfair = [finding for finding in decisive.values() if not finding.is_fair]
    aside = f" ({'; '.join(map(_no_equal_budget, unfair))})" if unfair else ""
    by_verdict = {
        verdict: [source for source, finding in fair.items() if finding.verdict == verdict]
        for verdict in (SHOWN, OPEN, REVERSED, UNKNOWN)
    }
    if not fair:
        return f"In all: at equal budget {UNKNOWN}{aside}."
    if by_verdict[UNKNOWN] == list(fair):
        return f"In all: {UNKNOWN}, since a confidence interval needs two pairs of finished runs or more{aside}."
    if by_verdict[SHOWN] == list(decisive):
        return (
            "In all: at equal budget the circuit does better than every control here. That is no quantum advantage: "
            "another classical control may do as well."
        )
    parts = {
        SHOWN: "is shown to do better than", OPEN: "is not shown to do better than", REVERSED: "does worse than",
        UNKNOWN: "cannot be compared with",
    }  # fmt: skip
    said = [f"{words} {_listed(by_verdict[verdict])}" for verdict, words in parts.items() if by_verdict[verdict]]
    return f"In all: at equal budget the circuit {', and '.join(said)}{aside}."


def _no_equal_budget(finding: Finding) -> str:
    return (
        f"{finding.source} has no run at equal budget; at the circuit's sizes it trains {finding.control.trained:,} "
        f"numbers against {finding.circuit.trained:,}"
    )


def _listed(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
