"""Callbacks for transformers' `Trainer` that show where a run stands, and how long its steps take."""

from __future__ import annotations

import statistics
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback


def new_display(console: Console) -> Progress:
    """A live display of bars; shows nothing where there is no terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"), TimeRemainingColumn(), console=console, disable=not console.is_terminal,
    )  # fmt: skip


class ProgressBar(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Shows step, loss and remaining time as one bar of a display.

    Args:
        label: What stands before the bar.
        display: Where the bar appears. A display with other bars is started and stopped by its owner and loses this bar
            at the end; any other is started and stopped here.
    """

    def __init__(self, label: str, display: Progress) -> None:
        self._label, self._display = label, display
        self._is_guest = bool(display.tasks)
        self._task: TaskID | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._task = self._display.add_task(self._label, loss="", total=state.max_steps, completed=state.global_step)
        if not self._is_guest:
            self._display.start()
        self._display.refresh()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self._task is not None
        self._display.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            assert self._task is not None
            self._display.update(self._task, loss=f"loss {float(logs['loss']):.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the bar; safe to call twice, and before training began."""
        if not self._is_guest:
            self._display.stop()
        elif self._task in self._display.task_ids:
            self._display.remove_task(self._task)


class StepTimer(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Seconds of every optimiser step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)

    @property
    def median(self) -> float | None:
        """None if no step was taken."""
        return statistics.median(self.seconds) if self.seconds else None
