"""Writing that is all or nothing: a reader never sees half a file, and an interrupted run loses nothing."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which it replaces when the block ends without an error, and else is removed.

    It is empty, its name is its own, so that two programs can write at once, and it ends as `path` does, since some
    writers choose a format by that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    temporary = Path(name)
    try:
        os.close(handle)
        yield temporary
        _publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path`, as UTF-8."""
    with staged(path) as temporary:
        temporary.write_text(text, encoding="utf8")


def write_json(path: Path, data: Any) -> None:
    """`write_text` of indented JSON with sorted keys; NaN and infinity are refused."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n")


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A temporary folder whose files move to `target` when the block ends without an error.

    Files already in `target` that the block did not write stay as they are.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as name:
        staging = Path(name)
        yield staging
        target.mkdir(exist_ok=True)
        for file in sorted(path for path in staging.rglob("*") if path.is_file()):
            destination = target / file.relative_to(staging)
            destination.parent.mkdir(parents=True, exist_ok=True)
            _publish(file, destination)


def _publish(temporary: Path, path: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)  # mkstemp's files are private; published ones follow the user's umask
    temporary.replace(path)
