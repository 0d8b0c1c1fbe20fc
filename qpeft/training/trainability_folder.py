"""The folder of a study of gradients: what was asked, how far it has come, tables, plots and raw derivatives."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qpeft.errors import RunError
from qpeft.files import write_text
from qpeft.training.runs import MANIFEST, RunFolder
from qpeft.training.trainability import VarianceRow, decays
from qpeft.training.trainability_config import StudyConfig

RAW, PLOTS = "raw", "plots"
TABLES = ("table.csv", "layers.csv", "parameters.csv", "decay.csv")
CONTENTS = (MANIFEST, "config.toml", *TABLES, "report.md", RAW, PLOTS)


class StudyFolder(RunFolder):
    """A study's folder; like that of a run, `run.json` says what it holds.

    Args:
        path: The folder.
        config: What is asked for now.

    Raises:
        RunError: As `RunFolder` does; and if the folder holds a run of another command.
    """

    def __init__(self, path: Path, config: StudyConfig) -> None:
        super().__init__(path, config)  # type: ignore[arg-type]  # of the settings it only needs a [run] section

    def _read(self) -> dict[str, Any] | None:
        found = super()._read()
        if found is not None and "study" not in found["settings"]:
            raise RunError(f"{self.path} holds a run of another command, no gradient variances; give another --output")
        return found

    def _remove(self) -> None:
        for name in CONTENTS:
            entry = self.path / name
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    def write_tables(self, rows: Sequence[VarianceRow]) -> None:
        """Writes the variances (over all angles, of layers, of single angles) and their decays as CSV."""
        layers, parameters = [], []
        for row in rows:
            key = _key(row)
            for number, band in enumerate(row.spread.layers):
                layers.append({**key, "layer": number, **_band(band)})
            for number, variance in enumerate(row.spread.parameters):
                parameters.append({**key, "parameter": number, "variance": variance})
        tables = ([_table_row(row) for row in rows], layers, parameters, _decay_rows(rows))
        for name, table in zip(TABLES, tables, strict=True):
            write_text(self.path / name, _csv(table))


def _key(row: VarianceRow) -> dict[str, Any]:
    return {
        "ansatz": row.ansatz, "observable": row.observable, "engine": row.engine, "qubits": row.num_qubits,
        "layers": row.reps,
    }  # fmt: skip


def _band(band: Any) -> dict[str, float]:
    return {"variance": band.variance, "low": band.low, "high": band.high}


def _table_row(row: VarianceRow) -> dict[str, Any]:
    return {
        **_key(row), "angles": len(row.spread.parameters), "initialisations": row.initialisations,
        **_band(row.spread.all), "two_design": row.two_design, "one_layer": row.one_layer,
    }  # fmt: skip


def _decay_rows(rows: Iterable[VarianceRow]) -> list[dict[str, Any]]:
    return [
        {
            "ansatz": found.ansatz, "observable": found.observable, "engine": found.engine, "layers": found.reps,
            "rate": None if found.decay is None else found.decay.rate,
            "error": None if found.decay is None else found.decay.error,
            "points": 0 if found.decay is None else found.decay.points,
        }
        for found in decays(rows)
    ]  # fmt: skip


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
