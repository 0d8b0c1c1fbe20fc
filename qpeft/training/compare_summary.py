"""The runs of one combination of a comparison, averaged over their seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.special import stdtrit

from qpeft.adapters.regenerate import LAST_SAMPLE
from qpeft.training.tasks import Metric
from qpeft.training.vary import Combination

if TYPE_CHECKING:
    from qpeft.training.compare import Comparison, Outcome

EMPTY = "–"  # where a table has nothing to show


@dataclass(frozen=True)
class SeedMean:
    """Mean, sample standard deviation (over n - 1) and 95% confidence interval of the seeds.

    Attributes:
        mean: None where there is nothing to average; infinite or NaN if a value is.
        std: None for fewer than two values, or a mean that is not finite.
        half_width: Half the width of the interval around the mean, by Student's t: t(0.975, n - 1) std / sqrt(n). None
            where `std` is.
    """

    mean: float | None
    std: float | None
    half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> SeedMean:
        """The mean of a few values, one a seed.

        Example:
            >>> SeedMean.of([1.0, 2.0, 3.0]).text(".3f")
            '2.000 ± 2.484'
        """
        if not values:
            return cls(None, None, None)
        mean = sum(values) / len(values)
        if len(values) < 2 or not math.isfinite(mean):  # statistics' functions fail on what is not finite
            return cls(mean, None, None)
        std = statistics.stdev(values)
        return cls(mean, std, float(stdtrit(len(values) - 1, 0.975)) * std / len(values) ** 0.5)

    def text(self, form: str) -> str:
        """Mean and interval, e.g. `2.031 ± 0.004` for the form `.3f`; a dash if there is no value."""
        if self.half_width is None:
            return self.mean_text(form)
        return f"{self.mean:{form}} ± {self.half_width:{form.removeprefix('+')}}"

    def mean_text(self, form: str) -> str:
        """The mean alone."""
        return EMPTY if self.mean is None else f"{self.mean:{form}}"


class Summary:
    """The runs of one combination.

    Args:
        outcomes: They, one a seed.
        baseline: Those of the combination it is compared with, so far.
        primary: The metric that they are compared by.
    """

    def __init__(self, outcomes: Sequence[Outcome], baseline: Sequence[Outcome], primary: Metric) -> None:
        self.outcomes, self.baseline, self.primary = outcomes, baseline, primary
        self.metrics = [outcome.metrics for outcome in outcomes if outcome.metrics is not None]
        self.failures = [outcome for outcome in outcomes if outcome.failure is not None]
        self.circuits = [metrics["against_exact"] for metrics in self.metrics if metrics["against_exact"] is not None]

    @property
    def combination(self) -> Combination:
        return self.outcomes[0].combination

    @property
    def is_reference(self) -> bool:
        """Whether this is what the others are compared with."""
        return any(outcome.combination == self.combination for outcome in self.baseline)

    @property
    def trained(self) -> int | None:
        """How many numbers train; None if every run failed."""
        return self.metrics[0]["parameters"]["trained"] if self.metrics else None

    @property
    def values(self) -> list[float]:
        """The primary metric with the weights the model trained with; one a seed."""
        return [metrics["after"][self.primary.key] for metrics in self.metrics]

    @property
    def differences(self) -> list[float]:
        """The values less those of the reference with the same seed: what seeds share cancels."""
        theirs = {outcome.seed: outcome.metrics for outcome in self.baseline if outcome.metrics is not None}
        return [
            ours.metrics["after"][self.primary.key] - theirs[ours.seed]["after"][self.primary.key]
            for ours in self.outcomes if ours.metrics is not None and ours.seed in theirs
        ]  # fmt: skip

    @property
    def exact_values(self) -> list[float]:
        """The same with weights regenerated exactly."""
        return [found["after"][self.primary.key] for found in self.circuits]

    @property
    def samples(self) -> bool:
        """Whether any weights are those of a last sample."""
        return any(metrics["export"]["weights"] == LAST_SAMPLE for metrics in self.metrics)

    @property
    def means(self) -> dict[str, SeedMean]:
        """What is averaged over seeds, by its name in `table.csv`."""
        return {
            self.primary.key: SeedMean.of(self.values),
            "difference": SeedMean.of(self.differences),
            f"exact_{self.primary.key}": SeedMean.of(self.exact_values),
            "total_variation": SeedMean.of([found["total_variation"] for found in self.circuits]),
            "fidelity": SeedMean.of([found["fidelity"] for found in self.circuits]),
            "seconds_per_step": SeedMean.of(
                [metrics["seconds_per_step"] for metrics in self.metrics if metrics["seconds_per_step"] is not None]
            ),
        }


def summaries(comparison: Comparison) -> list[Summary]:
    """One a combination that has run, in order."""
    plan, found, primary = comparison.plan, comparison.outcomes, comparison.primary
    starts = range(0, len(found), len(plan.seeds))
    own = [found[start : start + len(plan.seeds)] for start in starts]
    by_label = {outcomes[0].combination.label: outcomes for outcomes in own}
    return [
        Summary(outcomes, by_label.get(plan.reference(outcomes[0].combination).label, []), primary) for outcomes in own
    ]
