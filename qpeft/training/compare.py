"""`qpeft compare`: the same adapter from the same start, trained in every combination of varied settings."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.console import Console
from rich.progress import Progress

from qpeft.adapters.regenerate import share_weights
from qpeft.errors import ConfigError, JobError, QpeftError
from qpeft.extras import MissingExtraError
from qpeft.terminal import wrapped
from qpeft.training.compare_folder import ComparisonFolder
from qpeft.training.compare_report import write_results
from qpeft.training.compare_tables import write_tables
from qpeft.training.config import TrainConfig
from qpeft.training.controls import check_sources, with_controls
from qpeft.training.finetune import add_adapter, prepare, train
from qpeft.training.progress import ProgressBar, new_display
from qpeft.training.runs import MANIFEST, RunFolder
from qpeft.training.tasks import Metric, Prepared, Task, task_for
from qpeft.training.vary import Combination, Plan


@dataclass(frozen=True)
class Outcome:
    """What one run gave.

    Attributes:
        combination: What was varied.
        seed: Its seed.
        folder: The run's folder.
        metrics: As in `qpeft.training.finetune.Result`; None if the run failed.
        curve: (step, training loss).
        failure: Why the run failed, or None.
    """

    combination: Combination
    seed: int
    folder: Path
    metrics: dict[str, Any] | None
    curve: list[tuple[int, float]]
    failure: str | None


@dataclass(frozen=True)
class Comparison:
    """A comparison, as far as it has come.

    Attributes:
        folder: Where its results are.
        plan: What it runs.
        outcomes: The runs so far, in order: combinations outside, seeds inside.
        notes: As in `qpeft.training.controls.Planned`.
    """

    folder: Path
    plan: Plan
    outcomes: list[Outcome]
    notes: Sequence[str] = ()

    @property
    def task(self) -> Task:
        return task_for(self.plan.combinations[0].config)

    @property
    def measured(self) -> dict[str, Any]:
        """The metrics after training of any run that succeeded; {} before there is one."""
        return next((outcome.metrics["after"] for outcome in self.outcomes if outcome.metrics is not None), {})

    @property
    def primary(self) -> Metric:
        """The metric that the runs are compared by."""
        return self.task.metrics(self.measured)[0]

    @property
    def failed(self) -> list[Outcome]:
        """The runs that failed."""
        return [outcome for outcome in self.outcomes if outcome.failure is not None]


def compare(plan: Plan, console: Console | None = None) -> Comparison:
    """Trains every combination with every seed, and writes the comparison into the output folder.

    Runs of one seed start from the same numbers and see the same examples in the same order, as far as their sizes
    agree. A run that fails costs the others nothing.

    Args:
        plan: What `qpeft.training.vary.plan` gave.
        console: Where progress shows; nothing shows if None.

    Raises:
        QpeftError: Input that cannot be worked with, before any run starts.
    """
    console = console or Console(quiet=True)
    check_sources(plan)
    folder = ComparisonFolder(_output(plan), plan)
    preparation = Preparation()
    planned = with_controls(plan, lambda combination: _build(combination, preparation))
    plan = planned.plan
    for note in [*([] if folder.resumes else _check(plan, preparation)), *planned.notes]:
        console.print(wrapped(note, console.width), highlight=False, markup=False, soft_wrap=True)
    folder.begin()
    outcomes: list[Outcome] = []
    comparison = Comparison(folder.path, plan, outcomes, planned.notes)
    with new_display(console) as display:
        overall = display.add_task("runs", loss="", total=len(plan.combinations) * len(plan.seeds))
        for number, combination in enumerate(plan.combinations, 1):
            for seed in plan.seeds:
                outcome = _run(combination, seed, folder.run(number, combination, seed), preparation, display)
                folder.record(outcome.folder, outcome.failure)
                outcomes.append(outcome)
                write_tables(comparison)
                display.advance(overall)
                display.console.print(_line(comparison, outcome), highlight=False, markup=False)
    write_results(comparison)
    return comparison


class Preparation:
    """Models and texts, loaded once: the latest is kept, and every run gets modules of its own on shared weights."""

    def __init__(self) -> None:
        self._key: object = None
        self._prepared: Prepared | None = None

    def __call__(self, config: TrainConfig) -> Prepared:
        key = (config.model, config.data, config.run.paper_metric)
        if self._prepared is None or key != self._key:
            self._prepared = None  # frees the last model before the next is loaded
            self._prepared, self._key = prepare(config), key
        # Training never changes base weights, so that only the modules, which an adapter replaces, must be fresh.
        return replace(self._prepared, model=share_weights(self._prepared.model))


def _check(plan: Plan, preparation: Preparation) -> list[str]:
    """Builds every combination's adapter once: what is wrong with its settings is said before any run starts.

    Returns:
        What was found in the data, as sentences.
    """
    primary: set[str] = set()
    notes: dict[str, None] = {}
    for combination in plan.combinations:
        prepared = preparation(combination.config)
        primary.add(prepared.primary)
        notes |= dict.fromkeys(prepared.notes)
        if len(primary) > 1:
            raise ConfigError(f"the combinations are measured by {' and '.join(sorted(primary))}; compare them apart")
        try:
            _build(combination, preparation)
        except (MissingExtraError, JobError):
            continue  # not wrong, but not possible here and now: that run will fail
    return list(notes)


def _build(combination: Combination, preparation: Preparation) -> PeftModel:
    """The model with a combination's adapter; says which combination is refused, if its settings are wrong."""
    try:
        return add_adapter(preparation(combination.config), combination.config)
    except (MissingExtraError, JobError):
        raise
    except QpeftError as error:
        raise ConfigError(f"the combination {combination.assignments} is refused: {error}") from error


def _run(
    combination: Combination, seed: int, path: Path, preparation: Preparation, display: Progress
) -> Outcome:  # fmt: skip
    config = combination.seeded(seed)
    exists = (path / MANIFEST).is_file()
    config = replace(config, run=replace(config.run, output=str(path), resume=exists, overwrite=False))
    label = f"{combination.label}, seed {seed}"
    try:
        prepared = None if RunFolder(path, config).finished else preparation(config)
        result = train(config, prepared=prepared, progress=ProgressBar(label, display))
    except QpeftError as error:
        return Outcome(combination, seed, path, None, [], " ".join(str(error).split()))
    except Exception as error:  # whatever a foreign engine raises must not cost the runs that come after it
        traceback.print_exc()
        return Outcome(combination, seed, path, None, [], f"{type(error).__name__}: {error}")
    return Outcome(combination, seed, path, result.metrics, result.curve, None)


def _output(plan: Plan) -> Path:
    config = plan.combinations[0].config
    return Path(config.run.output or f"runs/compare-{Path(config.model.model).name}")


def _line(comparison: Comparison, outcome: Outcome) -> str:
    total = len(comparison.plan.combinations) * len(comparison.plan.seeds)
    head = f"{len(comparison.outcomes)}/{total}  {outcome.combination.label}, seed {outcome.seed}: "
    if outcome.metrics is None:
        return f"{head}failed: {outcome.failure}"
    metric, seconds = comparison.primary, outcome.metrics["seconds_per_step"]
    return f"{head}{metric.text(outcome.metrics['after'], 1)} {metric.name}" + (
        "" if seconds is None else f", {1000 * seconds:.0f} ms/step"
    )
