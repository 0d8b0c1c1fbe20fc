"""What the circuit adds over its classical controls, in sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qpeft.training.compare_summary import Spread, Summary, summaries
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
    added: Spread

    @property
    def source(self) -> str:
        return str(self.control.combination.values["source"])

    @property
    def is_fitted(self) -> bool:
        """Whether the control's sizes were chosen for an equal budget."""
        return self.control.combination.fitted is not None

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
            return f"{head}failed runs): {UNKNOWN}."
        form = f"+.{metric.digits + 1}f"
        head += f"{self.control.trained:,} numbers against {self.circuit.trained:,}): {self.added.mean:{form}}"
        if self.added.half_width is None:
            return f"{head} {metric.name} with one seed; {UNKNOWN}."
        low, high = self.added.mean - self.added.half_width, self.added.mean + self.added.half_width
        meaning = {
            SHOWN: "shown: the circuit does better",
            OPEN: "not shown: the interval contains 0",
            REVERSED: f"the reverse is shown: {self.source} does better",
        }[self.verdict]
        return f"{head} {metric.name} [{low:{form}}, {high:{form}}]; {meaning}."


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


def _added(control: Summary) -> Spread:
    sign = -1 if control.primary.higher_is_better else 1  # the table's differences are control less circuit
    return Spread.of([sign * difference for difference in control.differences])


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
    """The verdicts at equal budget; a control that has no run of its own there counts with the circuit's sizes."""
    fair = {finding.source: finding for finding in group if not finding.is_fitted}
    fair |= {finding.source: finding for finding in group if finding.is_fitted}
    by_verdict = {
        verdict: [source for source, finding in fair.items() if finding.verdict == verdict]
        for verdict in (SHOWN, OPEN, REVERSED, UNKNOWN)
    }
    if by_verdict[UNKNOWN] == list(fair):
        return f"In all: {UNKNOWN}, since a confidence interval needs two seeds or more."
    if by_verdict[SHOWN] == list(fair):
        return (
            "In all: at equal budget the circuit does better than every control here. Circuit and controls alike ran "
            "on a classical computer: this is no quantum advantage."
        )
    parts = {
        SHOWN: "is shown to do better than", OPEN: "is not shown to do better than", REVERSED: "does worse than",
        UNKNOWN: "cannot be compared with",
    }  # fmt: skip
    said = [f"{words} {_listed(by_verdict[verdict])}" for verdict, words in parts.items() if by_verdict[verdict]]
    return f"In all: at equal budget the circuit {', and '.join(said)}."


def _listed(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
