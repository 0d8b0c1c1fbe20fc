"""The table of a comparison for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from qpeft.training.compare_tables import SIZES, Shown, shown_table

if TYPE_CHECKING:
    from qpeft.training.compare import Comparison

# Left out where the terminal is too narrow, the first one first; report.md has all.
LESS_IMPORTANT = ("ms/step", "fidelity", "total variation", "trained", "exact weights")


def terminal_table(comparison: Comparison, width: int) -> Table:
    """The table with headers on several lines, in as many columns as fit into `width` characters."""
    header, rows = _fitting(*shown_table(comparison), width, bool(comparison.failed))
    is_spacious = _width(header, rows) + len(header) <= width
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1 if is_spacious else 0, 0, 0))
    for name in header:
        is_left = name in comparison.plan.varied or name == SIZES
        table.add_column(Text(name.replace(" ", "\n")), justify="left" if is_left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _fitting(header: tuple[str, ...], rows: list[tuple[str, ...]], width: int, has_failures: bool) -> Shown:
    dropped = [] if has_failures else ["runs"]
    for more in range(len(LESS_IMPORTANT) + 1):
        left_out = {*dropped, *LESS_IMPORTANT[:more]}
        kept = [place for place, column in enumerate(header) if column not in left_out]
        found = tuple(header[place] for place in kept), [tuple(row[place] for place in kept) for row in rows]
        if _width(*found) <= width:
            break
    return found


def _width(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> int:
    """Characters of the table, one before, between and behind its columns."""
    columns = zip(*rows, strict=True)
    words = [max(map(len, name.split())) for name in header]
    return 1 + sum(1 + max(word, *map(len, column)) for word, column in zip(words, columns, strict=True))
