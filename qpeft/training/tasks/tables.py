"""Tables of labelled texts: TSV files as GLUE ships them, CSV files, datasets of the hub."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from qpeft.errors import ConfigError
from qpeft.training.config import DataOptions
from qpeft.training.data import load_splits

Table = dict[str, list[Any]]  # column name to its values
COLA_COLUMNS = ["source", "label", "star", "sentence"]  # of CoLA's files, which have no header
# Held-out splits by preference: GLUE's own test splits have no labels.
TEST_SPLITS = ("dev", "validation", "valid", "val", "dev_matched", "validation_matched", "test")
SUFFIXES = (".tsv", ".csv")


def load_tables(options: DataOptions) -> tuple[Table, Table]:
    """The rows to train on and the rows to measure on.

    A single table is split: the first nine tenths of its rows train, the rest tests.

    Raises:
        ConfigError: Nothing there, or a file that is no table.
    """
    path = Path(options.data)
    test: Table | None = None
    if path.is_file():
        train = read_table(path)
    elif path.is_dir() and any(_split_file(path, name) for name in ("train", *TEST_SPLITS)):
        train = read_table(_required(path, ("train",), "training"))
        if options.test_data is None:
            test = read_table(_required(path, TEST_SPLITS, "test"))
    else:
        splits = load_splits(options)
        if "train" not in splits:
            raise ConfigError(f"dataset {options.data} has no train split; it has {', '.join(splits)}")
        train = _columns(splits["train"])
        held_out = next((splits[name] for name in TEST_SPLITS if name in splits), None)
        test = None if held_out is None else _columns(held_out)
    if options.test_data is not None:
        test = read_table(Path(options.test_data))
    if test is None:
        cut = len(next(iter(train.values()))) * 9 // 10
        test = {name: values[cut:] for name, values in train.items()}
        train = {name: values[:cut] for name, values in train.items()}
    for name, table in (("training", train), ("test", test)):
        if not any(table.values()):
            raise ConfigError(f"the {name} table of {options.data} has no rows; give one with at least one")
    return train, test


def read_table(path: Path) -> Table:
    """A TSV file, where quotes are literal as in GLUE's, or a CSV file; the first line names the columns.

    A TSV file of four fields a line, the second of which is 0 or 1 in the first line, is taken as CoLA's, which has no
    such line.

    Raises:
        ConfigError: No such file, no table, or a line with another number of fields than the first.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path} is no {' or '.join(SUFFIXES)} file; classification reads those, and datasets")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            tab = path.suffix == ".tsv"
            reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if tab else csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is no UTF-8 table: {error}") from error
    if not rows:
        raise ConfigError(f"{path} is empty")
    first = rows[0][1]
    is_cola = tab and len(first) == len(COLA_COLUMNS) and first[1] in ("0", "1")
    header = COLA_COLUMNS if is_cola else first
    if len(set(header)) < len(header):
        raise ConfigError(f"{path} has a column twice ({', '.join(header)}); its first line must name the columns")
    body = rows if is_cola else rows[1:]
    for line, row in body:
        if len(row) != len(header):
            raise ConfigError(f"line {line} of {path} has {len(row)} fields, not {len(header)}; correct or remove it")
    return {name: [row[place] for _, row in body] for place, name in enumerate(header)}


def _split_file(folder: Path, split: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").is_file()), None)


def _required(folder: Path, names: tuple[str, ...], kind: str) -> Path:
    for name in names:
        if (path := _split_file(folder, name)) is not None:
            return path
    raise ConfigError(f"{folder} has no {kind} table ({', '.join(f'{name}.tsv' for name in names)}, or .csv)")


def _columns(split: Any) -> Table:
    """A split of a dataset; classes are given by their names, and by None where they are hidden (-1)."""
    found: Table = {}
    for name, kind in split.features.items():
        values = list(split[name])
        names = getattr(kind, "names", None)
        found[name] = values if names is None else [None if v is None or v < 0 else names[v] for v in values]
    return found
