"""The interface between a run and what it is for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from qpeft.errors import ConfigError
from qpeft.training.config import TrainConfig
from qpeft.training.models import num_positions


@dataclass(frozen=True)
class Metric:
    """A number that a task reports.

    Attributes:
        key: Its name in `metrics.json`.
        name: For the head of a column.
        title: In full, for a report's row or an axis.
        digits: Decimals in a report of one run; comparisons show one more.
        higher_is_better: Its direction.
    """

    key: str
    name: str
    title: str
    digits: int = 3
    higher_is_better: bool = False

    def text(self, measured: dict[str, Any], more: int = 0) -> str:
        """The value in what `Task.measure` gave, with `more` decimals than usual."""
        return f"{measured[self.key]:.{self.digits + more}f}"

    def change(self, before: dict[str, Any], after: dict[str, Any]) -> str:
        """E.g. `2.031 → 1.950`."""
        return f"{self.text(before)} → {self.text(after)}"

    def is_worse(self, after: dict[str, Any], before: dict[str, Any]) -> bool:
        """Whether the value is worse after than before."""
        return bool(after[self.key] < before[self.key] if self.higher_is_better else after[self.key] > before[self.key])

    @property
    def direction(self) -> str:
        return "more is better" if self.higher_is_better else "less is better"


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs, checked before it starts.

    Attributes:
        model: The base model, frozen.
        tokenizer: Its tokeniser.
        train: Examples to train on.
        test: Examples to measure on.
        primary: Key of the metric that counts most.
        collate: Makes a batch of examples; None where they are of equal length.
        fresh: Modules whose weights the checkpoint lacks: drawn from the run's seed and trained in full.
        resolved: What was found in the data, for the run's settings.
        notes: The same, as sentences for the reader.
    """

    model: nn.Module
    tokenizer: Any
    train: Any
    test: Any
    primary: str
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]] | None = None
    fresh: Sequence[str] = ()
    resolved: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Task(ABC):
    """What a model is adapted for.

    Args:
        config: The settings of a run.

    Attributes:
        peft_task: peft's name of the task.
        learning_rate_scale: What a method's own learning rate is multiplied by if none is given.
    """

    peft_task: ClassVar[str]
    learning_rate_scale: ClassVar[float] = 1.0

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    @abstractmethod
    def prepare(self) -> Prepared:
        """Loads model, tokeniser and data; raises `ConfigError` for what cannot be loaded or does not fit together."""

    @abstractmethod
    def training_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss of a batch: a mean, over `num_items_in_batch` items where batches are accumulated."""

    @abstractmethod
    def measure(self, model: nn.Module, prepared: Prepared) -> dict[str, Any]:
        """The metrics on the test data, as plain data."""

    @abstractmethod
    def metrics(self, measured: dict[str, Any]) -> list[Metric]:
        """The metrics in what `measure` gave, the primary one first; of nothing ({}), the primary one alone."""

    @abstractmethod
    def loss(self, measured: dict[str, Any]) -> Metric:
        """The loss of the test data, which is also the training loss's kind."""

    @abstractmethod
    def facts(self, measured: dict[str, Any]) -> dict[str, str]:
        """What to read the metrics with, for columns beside them."""

    @abstractmethod
    def description(self, measured: dict[str, Any]) -> str:
        """The test data in a few words."""

    @abstractmethod
    def warnings(self, metrics: dict[str, Any]) -> list[str]:
        """What a reader of a run's metrics must know first."""

    def loading(self, resolved: dict[str, Any]) -> list[str]:
        """Lines of Python that load `base_model` as the adapter needs it; none where nothing is special."""
        return []

    def check_context(self, model: Any) -> None:
        """Raises `ConfigError` if an example may be longer than the model's positions."""
        positions, context = num_positions(model.config), self.config.data.context
        if positions is not None and context > positions:
            raise ConfigError(f"context {context} is more than the model's {positions} positions; lower it")


def check_vocabulary(largest: int, model: Any) -> None:
    """Raises `ConfigError` if the tokeniser gives tokens that the model lacks."""
    if largest >= model.config.vocab_size:
        raise ConfigError(
            f"the tokeniser gives token {largest}, the model knows {model.config.vocab_size} tokens; they do not "
            "belong together"
        )
