"""Labelled texts: which columns of a table hold them, and what the labels are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qpeft.errors import ConfigError
from qpeft.training.config import DataOptions
from qpeft.training.tasks.tables import Table, load_tables

# Of GLUE's tables, as files and on the hub; the first of these that a table has is taken.
TEXT_COLUMNS: tuple[tuple[str, ...], ...] = (
    ("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence"), ("premise", "hypothesis"),
    ("#1 String", "#2 String"), ("sentence",), ("text",),
)  # fmt: skip
LABEL_COLUMNS = ("gold_label", "label", "is_duplicate", "Quality", "score")


@dataclass(frozen=True)
class Rows:
    """Texts and their labels.

    Attributes:
        texts: (columns, n): the text column, and the second one where there are pairs.
        labels: (n,) ids of classes, or real numbers.
    """

    texts: list[list[str]]
    labels: list[int] | list[float]

    def subset(self, most: int | None) -> Rows:
        """At most `most` rows: a random choice that depends on nothing but their number, in their order."""
        if most is None or most >= len(self.labels):
            return self
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(0))
        chosen = sorted(order[:most].tolist())
        return Rows([[texts[i] for i in chosen] for texts in self.texts], [self.labels[i] for i in chosen])


@dataclass(frozen=True)
class Labelled:
    """Rows to train and to measure on.

    Attributes:
        train: The former.
        test: The latter.
        text_columns: One name, or two for pairs.
        label_column: Its name.
        names: The classes by id, in sorted order; None if the labels are real numbers.
    """

    train: Rows
    test: Rows
    text_columns: tuple[str, ...]
    label_column: str
    names: list[str] | None


def load_labelled(options: DataOptions) -> Labelled:
    """The labelled texts that `--data` names, cut as asked.

    Labels are real numbers if all are numbers and any is written with a decimal point, else names of classes.

    Raises:
        ConfigError: No table, columns that are not there or not known, labels that are missing or of one class only.
    """
    tables = load_tables(options)
    text_columns, label_column = find_columns(tables[0], options)
    missing = [name for name in (*text_columns, label_column) if name not in tables[1]]
    if missing:
        raise ConfigError(f"the test table has no column {missing[0]!r}; it has {', '.join(tables[1])}")
    for kind, table in zip(("training", "test"), tables, strict=True):
        for name in (*text_columns, label_column):
            _check_values(table[name], name, kind, is_text=name != label_column)
    raw = [[_label_text(value) for value in table[label_column]] for table in tables]
    names = None if _are_real(raw[0]) else _in_order(set(raw[0]))
    if names is not None and len(names) < 2:
        raise ConfigError(f"column {label_column!r} has one label only ({names[0]}); choose another by --label-column")
    train, test = (
        Rows([list(table[name]) for name in text_columns], _encode(labels, names))
        for table, labels in zip(tables, raw, strict=True)
    )
    train, test = train.subset(options.max_train_examples), test.subset(options.max_test_examples)
    return Labelled(train, test, text_columns, label_column, names)


def find_columns(table: Table, options: DataOptions) -> tuple[tuple[str, ...], str]:
    """The text columns and the label column: those asked for, else the first known ones.

    Raises:
        ConfigError: A column that the table lacks, or none that is known.
    """
    if options.second_text_column is not None and options.text_column is None:
        raise ConfigError("--second-text-column goes with --text-column; give both")
    asked = tuple(name for name in (options.text_column, options.second_text_column) if name is not None)
    held = f"the table has the columns {', '.join(map(repr, table))}"
    for name in (*asked, options.label_column):
        if name is not None and name not in table:
            raise ConfigError(f"there is no column {name!r}; {held}")
    texts = asked or next((names for names in TEXT_COLUMNS if all(name in table for name in names)), ())
    if not texts:
        raise ConfigError(f"no known text column; {held}. Choose by --text-column (and --second-text-column)")
    label = options.label_column or next((name for name in LABEL_COLUMNS if name in table), None)
    if label is None:
        raise ConfigError(f"no known label column; {held}. Choose by --label-column")
    return texts, label


def _check_values(values: Sequence[Any], name: str, kind: str, is_text: bool) -> None:
    for place, value in enumerate(values):
        if value is None or (isinstance(value, str) and not value.strip()):
            raise ConfigError(
                f"row {place + 1} of the {kind} table has nothing in column {name!r}; remove such rows, or choose "
                "another column"
            )
        if is_text and not isinstance(value, str):
            raise ConfigError(f"column {name!r} holds {type(value).__name__}, not text; choose by --text-column")


def _label_text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value).strip()


def _are_real(labels: Sequence[str]) -> bool:
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return False
    return all(map(math.isfinite, numbers)) and any("." in label for label in labels)


def _in_order(names: set[str]) -> list[str]:
    """Sorted, whole numbers by their size."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _encode(labels: Sequence[str], names: list[str] | None) -> list[int] | list[float]:
    if names is None:
        try:
            numbers = [float(label) for label in labels]
        except ValueError as error:
            raise ConfigError(f"a test label is no number, as those to train on are: {error}") from None
        if not all(map(math.isfinite, numbers)):
            raise ConfigError("a test label is not finite")
        return numbers
    ids = {name: i for i, name in enumerate(names)}
    unknown = sorted(set(labels) - ids.keys())
    if unknown:
        raise ConfigError(f"the test label {unknown[0]!r} is none of those to train on: {', '.join(names)}")
    return [ids[label] for label in labels]
