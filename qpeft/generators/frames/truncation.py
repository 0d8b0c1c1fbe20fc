"""Which part of an orthogonal matrix Q a frame keeps."""

from __future__ import annotations

from typing import Literal, get_args

from qpeft.errors import ConfigError
from qpeft.generators.frames.triangle import Triangle, TriangularFrame

Truncation = Literal["columns", "rows"]


def checked_truncation(truncate: Truncation) -> Truncation:
    """`truncate` itself; raises `ConfigError` if it is neither "columns" nor "rows"."""
    if truncate not in get_args(Truncation):
        raise ConfigError(f"truncate must be 'columns' or 'rows', got {truncate!r}")
    return truncate


class TruncatedFrame(TriangularFrame):
    """A map whose first K columns and whose first K rows, transposed, are frames of different kinds.

    Args:
        size: Rows N of a frame, at least 2.
        columns: Columns K of a frame, from 1 to N.
        count: How many frames are generated in one call.
        intrinsic_rank: Columns K' of B that train, from 1 to K; K if not given.
        triangle: "strict" or "diagonal", as in `TriangularFrame`.
        init_scale: Scale of B at the start, as in `TriangularFrame` where the map does not say otherwise.
        truncate: "columns" keeps Q[:, :K]; "rows" keeps Q[:K] and transposes it.

    Raises:
        ConfigError: If a number, `triangle` or `truncate` is outside what is allowed.
    """

    def __init__(
        self,
        size: int,
        columns: int,
        count: int = 1,
        intrinsic_rank: int | None = None,
        *,
        triangle: Triangle = "strict",
        init_scale: float | None = None,
        truncate: Truncation = "columns",
    ) -> None:
        super().__init__(size, columns, count, intrinsic_rank, triangle=triangle, init_scale=init_scale)
        self.truncate = checked_truncation(truncate)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, truncate={self.truncate!r}"
