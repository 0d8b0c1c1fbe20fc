"""The folder of a run: what was asked, where it stands, what came out. Shared by every command that trains."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from qpeft.errors import RunError
from qpeft.files import write_json, write_text
from qpeft.options import read_toml, to_sections
from qpeft.training.ranks import is_main, wait_for_all

MANIFEST = "run.json"
GIVE = "Give those again, or another --output"
CONTENTS = (MANIFEST, "config.toml", "metrics.json", "report.md", "loss.png", "adapter", "checkpoints")
PACKAGES = ("qpeft", "torch", "transformers", "peft", "accelerate", "datasets", "numpy", "scikit-learn")


class OutputSettings(Protocol):
    """What a folder needs to know of a [run] section."""

    @property
    def resume(self) -> bool:
        """Whether to go on with the run that the folder holds."""

    @property
    def overwrite(self) -> bool:
        """Whether to replace it."""


class RunSettings(Protocol):
    """The settings of a command that leaves a run's folder; as TOML they are its `config.toml`."""

    @property
    def run(self) -> OutputSettings:
        """Where results go."""


class RunFolder:
    """A run's folder; `run.json` says what it holds. Nothing is written or removed before `begin()`.

    Args:
        path: The folder.
        config: What is asked for now.

    Raises:
        RunError: The folder holds another run (or something else), and neither resume nor overwrite was asked for; or
            the run to resume was started with other settings.
    """

    def __init__(self, path: Path, config: RunSettings) -> None:
        self.path, self.config = path, config
        settings = _settings(config)
        if path.exists() and not path.is_dir():
            raise RunError(f"the output {path} is a file; give a folder")
        found = self._read()
        self._replaces = found is not None and config.run.overwrite
        if found is None or self._replaces:
            if found is None and path.exists() and any(path.iterdir()):
                raise RunError(
                    f"the output folder {path} is not empty and holds no run of this command; give another --output"
                )
            if config.run.resume:
                raise RunError(f"there is no run to resume in {path}; leave out --resume")
            found = {"status": "running", "settings": settings, "versions": versions()}
        elif not config.run.resume:
            raise RunError(
                f"{path} holds {'a finished' if found['status'] == 'finished' else 'an unfinished'} run. Go on with it "
                "by --resume, replace it by --overwrite, or give another --output"
            )
        elif found["settings"] != settings:
            changed = _differences(found, settings)
            raise RunError(f"the run in {path} was started with other settings: {changed}. {GIVE}")
        self.manifest: dict[str, Any] = found

    def begin(self) -> None:
        """Removes a run that is to be replaced and writes the manifest: from here on the folder holds this run."""
        wait_for_all()  # until every rank has read the folder as it was
        if not is_main():
            return
        with writing(self.path):
            if self._replaces:
                self._remove()
            self.path.mkdir(parents=True, exist_ok=True)
            self.save()

    def _remove(self) -> None:
        """Removes what a run writes, and nothing else that may lie beside it."""
        from qpeft.adapters.export import FORMS  # here, since the command line reads settings without peft

        exports = (name for name, form in FORMS.items() if not form.whole_model)
        for name in (*CONTENTS, *exports):
            entry = self.path / name
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        file = self.path / MANIFEST
        if not file.is_file():
            return None
        try:
            manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf8"))
            manifest["settings"], manifest["status"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise RunError(f"{file} is damaged ({error}); remove the folder or give another --output") from error
        return manifest

    def await_results(self) -> None:
        """Called by the ranks that write nothing: reads the manifest when rank 0 has finished it.

        Raises:
            RunError: Rank 0 failed.
        """
        wait_for_all()
        self.manifest = self._read() or self.manifest
        if not self.finished:
            raise RunError(f"rank 0 failed before {self.path} was finished; its message says why. Go on by --resume")

    @property
    def finished(self) -> bool:
        return bool(self.manifest["status"] == "finished")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def last_checkpoint(self) -> Path | None:
        """The latest checkpoint that was written to the end (the trainer's state is its last file)."""
        complete = [path.parent for path in self.checkpoints.glob("checkpoint-*/trainer_state.json")]
        return max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)

    def save(self, **entries: Any) -> None:
        """Adds entries to the manifest and writes it, and the resolved settings as TOML."""
        import tomli_w

        self.manifest.update(entries)
        if not is_main():
            return
        write_json(self.path / MANIFEST, self.manifest)
        extra = {"versions": self.manifest["versions"], "resolved": self.manifest.get("resolved", {})}
        write_text(self.path / "config.toml", tomli_w.dumps({**to_sections(self.config), **extra}))

    def finish(self) -> None:
        """Marks the run finished and removes its checkpoints."""
        self.save(status="finished")
        shutil.rmtree(self.checkpoints, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says against writing an output folder into a `RunError`."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"the output folder {path} cannot be written: {error.strerror}; give another --output"
        ) from error


def read_settings(path: Path) -> dict[str, dict[str, Any]]:
    """The settings in a TOML file, which may be a run's own `config.toml` with what it adds."""
    return {name: section for name, section in read_toml(path).items() if name not in ("versions", "resolved")}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _settings(config: RunSettings) -> dict[str, Any]:
    """What decides a run's numbers: everything but where they go."""
    sections = to_sections(config)
    del sections["run"]
    return sections


def _differences(found: dict[str, Any], settings: dict[str, Any]) -> str:
    changed = []
    for section, now in settings.items():
        then = found["settings"].get(section, {})
        for name in sorted(now.keys() | then.keys()):
            if now.get(name) != then.get(name):
                changed.append(f"{name} was {then.get(name)!r}, now {now.get(name)!r}")
    return "; ".join(changed)
