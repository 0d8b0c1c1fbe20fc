"""The folder of a study of gradients: what was asked, how far it has come, tables, plots and raw derivatives."""

from __future__ import annotations

import shutil
from typing import Any

from qpeft.errors import RunError
from qpeft.files import write_text
from qpeft.training.runs import MANIFEST, RunFolder
from qpeft.training.trainability.table import VarianceTable

RAW, PLOTS = "raw", "plots"
TABLES = {"table.csv": "points", "layers.csv": "layers", "parameters.csv": "parameters", "decay.csv": "decays"}
CONTENTS = (MANIFEST, "config.toml", *TABLES, "report.md", RAW, PLOTS)


class StudyFolder(RunFolder):
    """A study's folder; like that of a run, `run.json` says what it holds.

    Raises:
        RunError: As `RunFolder` does; and if the folder holds a run of another command.
    """

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

    def write_tables(self, table: VarianceTable) -> None:
        """Writes the variances (over all angles, of layers, of single angles) and their decays as CSV."""
        for name, what in TABLES.items():
            write_text(self.path / name, table.to_pandas(what).to_csv(index=False))
