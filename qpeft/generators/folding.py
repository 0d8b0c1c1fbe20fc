"""Folds a matrix into a tensor of D modes, and says which folds there are where one does not divide."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence

from qpeft.errors import ConfigError

MOST_MODES = 8  # the longest fold an error offers


def fold(rows: int, columns: int, modes: int | Sequence[int]) -> tuple[int, ...]:
    """The sizes of the modes of a (rows, columns) matrix read in its own order.

    Two modes are rows and columns. An even number D splits each of the two into D / 2 equal modes, an odd one all
    entries into D equal modes (arXiv 2503.05431, Fig 5: N**(2/D) each).

    Args:
        rows: Rows of the matrix.
        columns: Its columns.
        modes: How many, at least 2, or the size of each.

    Raises:
        ConfigError: The fold does not divide the matrix; the message gives some that do.

    Example:
        >>> fold(64, 16, 4), fold(64, 64, 3), fold(768, 768, (24, 32, 24, 32))
        ((8, 8, 4, 4), (16, 16, 16), (24, 32, 24, 32))
    """
    if min(rows, columns) < 2:
        raise ConfigError(f"a {rows} x {columns} matrix cannot be folded: rows and columns must be at least 2")
    if not isinstance(modes, int):
        sizes = tuple(modes)
        if len(sizes) < 2 or min(sizes) < 2 or math.prod(sizes) != rows * columns:
            raise ConfigError(
                f"modes {sizes} do not fold a {rows} x {columns} matrix: give at least two sizes of at least 2 whose "
                f"product is {rows * columns}, {_offer(rows, columns)}"
            )
        return sizes
    equal = _equal_modes(rows, columns, modes)
    if equal is None:
        raise ConfigError(f"a {rows} x {columns} matrix does not fold into {modes} modes: {_offer(rows, columns)}")
    return equal


def border(rows: int, modes: Sequence[int]) -> int | None:
    """How many of the first modes fold the rows; None if a mode holds parts of both rows and columns.

    Example:
        >>> border(64, (8, 8, 4, 4)), border(64, (16, 16, 16))
        (2, None)
    """
    products = list(itertools.accumulate(modes, operator.mul))
    return products.index(rows) + 1 if rows in products else None


def check_border(rows: int, columns: int, modes: Sequence[int]) -> None:
    """Raises `ConfigError` if a mode holds parts of both rows and columns; the message gives folds that do not."""
    if border(rows, modes) is None:
        raise ConfigError(
            f"modes {tuple(modes)} do not keep the {rows} rows and {columns} columns of a matrix apart: the first of "
            f"them must fold the rows alone, {_offer(rows, columns, apart=True)}"
        )


def _equal_modes(rows: int, columns: int, modes: int) -> tuple[int, ...] | None:
    if modes < 2:
        return None
    halves = [(rows, modes // 2), (columns, modes // 2)] if modes % 2 == 0 else [(rows * columns, modes)]
    roots = [round(size ** (1 / parts)) for size, parts in halves]
    if any(root < 2 or root**parts != size for root, (size, parts) in zip(roots, halves, strict=True)):
        return None
    return tuple(root for root, (_, parts) in zip(roots, halves, strict=True) for _ in range(parts))


def _offer(rows: int, columns: int, apart: bool = False) -> str:
    """The end of an error message: the folds that do divide, or those of them that keep rows and columns `apart`."""
    folds = {modes: _equal_modes(rows, columns, modes) for modes in range(2, MOST_MODES + 1)}
    allowed = [modes for modes, sizes in folds.items() if sizes and not (apart and border(rows, sizes) is None)]
    pairs = [size for whole in (rows, columns) for size in _nearest_pair(whole)]
    return f"for example modes={' or '.join(map(str, allowed))} or modes={tuple(size for size in pairs if size > 1)}"


def _nearest_pair(size: int) -> tuple[int, int]:
    """The two factors of a number that are nearest to each other, smaller first."""
    small = next(factor for factor in range(math.isqrt(size), 0, -1) if size % factor == 0)
    return small, size // small
