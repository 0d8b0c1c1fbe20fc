"""The raw derivatives of a study: a Parquet file a point, which also says what is done already."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qpeft.errors import RunError
from qpeft.files import staged
from qpeft.training.trainability.statistics import Array

SETTINGS = b"qpeft"  # key of the settings in a file's metadata


class RawGradients:
    """A folder of derivatives; a row of a file is an initialisation, a column an angle (theta_0, theta_1, ...)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check(self, label: str, identity: dict[str, Any]) -> None:
        """Looks at what a point's file says of itself, if there is one.

        Raises:
            RunError: The file is damaged, or another experiment's.
        """
        import pyarrow.parquet as pq

        path = self._path(label)
        if not path.is_file():
            return
        with _undamaged(path):
            then = json.loads((pq.read_schema(path).metadata or {})[SETTINGS])
        if then != identity:
            changed = [name for name in sorted({*then, *identity}) if then.get(name) != identity.get(name)]
            listed = "; ".join(f"{name} was {then.get(name)!r}, now {identity.get(name)!r}" for name in changed)
            raise RunError(f"{path} is another experiment's: {listed}. Give another folder")

    def read(self, label: str) -> Array | None:
        """The derivatives (n, P) of a point; None if there are none yet.

        Raises:
            RunError: The file is damaged.
        """
        import pyarrow.parquet as pq

        path = self._path(label)
        if not path.is_file():
            return None
        with _undamaged(path):
            return np.column_stack([column.to_numpy() for column in pq.read_table(path).columns])

    def write(self, label: str, identity: dict[str, Any], gradients: Array) -> None:
        """Writes the derivatives (n, P) of a point, all or nothing."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._path(label)
        columns = {f"theta_{index}": column for index, column in enumerate(gradients.T)}
        table = pa.table(columns).replace_schema_metadata({SETTINGS: json.dumps(identity)})
        with staged(path) as temporary:
            pq.write_table(table, temporary)

    def _path(self, label: str) -> Path:
        return self.folder / f"{label}.parquet"


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); remove it and go on, or give another folder") from error
