"""The runs of one combination of a comparison, averaged over their seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qpeft.adapters.regenerate import LAST_SAMPLE
from qpeft.training.tasks import Metric
from qpeft.training.vary import Combination

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
    def values(self) -> list[float]:
        """The primary metric with the weights the model trained with; one a seed."""
        return [metrics["after"][self.primary.key] for metrics in self.metrics]

    @property
    def differences(self) -> list[float]:
        """The values less those of the first combination with the same seed: what seeds share cancels."""
        pairs = zip(self.outcomes, self.baseline, strict=False)
        return [
            ours.metrics["after"][self.primary.key] - theirs.metrics["after"][self.primary.key]
            for ours, theirs in pairs if ours.metrics is not None and theirs.metrics is not None
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
    def spreads(self) -> dict[str, Spread]:
        """What is averaged over seeds, by its name in `table.csv`."""
        return {
            self.primary.key: Spread.of(self.values),
            "difference": Spread.of(self.differences),
            f"exact_{self.primary.key}": Spread.of(self.exact_values),
            "total_variation": Spread.of([found["total_variation"] for found in self.circuits]),
            "fidelity": Spread.of([found["fidelity"] for found in self.circuits]),
            "seconds_per_step": Spread.of(
                [metrics["seconds_per_step"] for metrics in self.metrics if metrics["seconds_per_step"] is not None]
            ),
        }


def summaries(comparison: Comparison) -> list[Summary]:
    """One a combination, in order."""
    count = len(comparison.plan.seeds)
    found, primary = comparison.outcomes, comparison.primary
    return [Summary(found[start : start + count], found[:count], primary) for start in range(0, len(found), count)]
