"""Which part of an orthogonal matrix a frame keeps."""

from __future__ import annotations

from typing import Literal, get_args

from qpeft.errors import ConfigError

Truncation = Literal["columns", "rows"]


def checked_truncation(truncate: Truncation) -> Truncation:
    """`truncate` itself; raises `ConfigError` if it is neither "columns" nor "rows"."""
    if truncate not in get_args(Truncation):
        raise ConfigError(f"truncate must be 'columns' or 'rows', got {truncate!r}")
    return truncate
