"""The folder of a comparison: what was asked, which runs there are, how they ended."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from re import sub
from typing import Any

from qpeft.errors import RunError
from qpeft.files import write_json
from qpeft.options import to_sections
from qpeft.training.runs import GIVE, versions, writing
from qpeft.training.vary import Combination, Plan, value_text

MANIFEST = "compare.json"
RESULTS = ("table.csv", "runs.csv", "report.md", "loss.png", "loss.svg", "final.png", "final.svg")
NAME_LENGTH = 60  # characters of a run folder's name that tell its combination


class ComparisonFolder:
    """The folder of a comparison; `compare.json` says what it holds. Nothing is written before `begin()`.

    Args:
        path: The folder.
        plan: What is asked for now.

    Raises:
        RunError: The folder holds another comparison (or something else), and neither resume nor overwrite was asked
            for; or the comparison to resume was started with other settings.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        options, settings = plan.combinations[0].config.run, _settings(plan)
        if path.exists() and not path.is_dir():
            raise RunError(f"the output {path} is a file; give a folder")
        self._found = self._read()
        self.resumes = self._found is not None and options.resume
        if self._found is None:
            if path.exists() and any(path.iterdir()):
                raise RunError(f"the output folder {path} is not empty and holds no comparison; give another --output")
            if options.resume:
                raise RunError(f"there is no comparison to resume in {path}; leave out --resume")
        elif self.resumes and self._found["settings"] != settings:
            changed = _differences(self._found["settings"], settings)
            raise RunError(f"the comparison in {path} was started with other settings: {changed}. {GIVE}")
        elif not (options.resume or options.overwrite):
            raise RunError(
                f"{path} holds a comparison. Go on with it by --resume (finished runs are not repeated), replace it by "
                "--overwrite, or give another --output"
            )
        self._manifest = {"settings": settings, "versions": versions(), "runs": {}}

    def _read(self) -> dict[str, Any] | None:
        file = self.path / MANIFEST
        if not file.is_file():
            return None
        try:
            manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf8"))
            {**manifest["settings"], **manifest["runs"]}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise RunError(f"{file} is damaged ({error}); remove the folder or give another --output") from error
        return manifest

    def begin(self) -> None:
        """Removes a comparison that is to be replaced and writes the manifest."""
        with writing(self.path):
            if self._found is not None and not self.resumes:
                for name in self._found["runs"]:
                    shutil.rmtree(self.path / "runs" / Path(name).name, ignore_errors=True)
                for name in RESULTS:
                    (self.path / name).unlink(missing_ok=True)
            elif self._found is not None:
                self._manifest = self._found
            write_json(self.path / MANIFEST, self._manifest)

    def run(self, number: int, combination: Combination, seed: int) -> Path:
        """A run's folder; it is in the manifest before anything is in it."""
        text = sub(r"[^A-Za-z0-9_.+@-]+", "-", combination.assignments)
        name = f"{number:02d}-{text[:NAME_LENGTH]}-seed{seed}"
        if name not in self._manifest["runs"]:
            values = {key: value_text(value) for key, value in combination.values.items()}
            fitted = {} if combination.fitted is None else {"equal_budget": combination.fitted}
            self._manifest["runs"][name] = {"values": values, **fitted, "seed": seed, "status": "started"}
            write_json(self.path / MANIFEST, self._manifest)
        return self.path / "runs" / name

    def record(self, run: Path, failure: str | None) -> None:
        """Writes how a run ended: why it failed, or None."""
        entry = self._manifest["runs"][run.name]
        entry.pop("reason", None)
        entry |= {"status": "finished"} if failure is None else {"status": "failed", "reason": failure}
        write_json(self.path / MANIFEST, self._manifest)


def _settings(plan: Plan) -> dict[str, Any]:
    """What decides the numbers of a comparison, as plain data: setting to value."""
    config = plan.combinations[0].config
    sections = to_sections(config)
    del sections["run"], sections["training"]["seed"]
    common = {name: value for section in sections.values() for name, value in section.items()}
    varied = {name: [value_text(value) for value in values] for name, values in plan.varied.items()}
    measured = {"paper_metric": config.run.paper_metric, "log_every": config.run.log_every}  # curves need equal steps
    return {**common, **measured, **varied, "seeds": plan.seeds}


def _differences(then: dict[str, Any], now: dict[str, Any]) -> str:
    changed = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]
    return "; ".join(f"{name} was {then.get(name)!r}, now {now.get(name)!r}" for name in changed)
