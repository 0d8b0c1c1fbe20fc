import json
from dataclasses import replace
from pathlib import Path

import pytest

from qpeft.errors import RunError
from qpeft.options import build
from qpeft.training.config import RunOptions, TrainConfig, TrainingOptions
from qpeft.training.runs import MANIFEST, RunFolder, read_settings


def start(config, **run):
    config = replace(config, run=replace(config.run, **run))
    folder = RunFolder(Path(config.run.output), config)
    folder.begin()
    return folder


def test_a_new_folder_holds_the_settings_and_versions(make_config):
    config = make_config()
    folder = start(config)
    manifest = json.loads((folder.path / MANIFEST).read_text(encoding="utf8"))
    assert manifest["status"] == "running"
    assert manifest["versions"].keys() >= {"python", "torch", "transformers", "peft", "numpy", "qpeft"}
    assert manifest["settings"]["training"]["seed"] == 0
    assert build(TrainConfig, read_settings(folder.path / "config.toml"), {}) == config


def test_nothing_changes_before_the_run_begins(make_config, tmp_path):
    config = make_config()
    RunFolder(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    start(config).save(mark="first")
    RunFolder(tmp_path / "run", replace(config, run=replace(config.run, overwrite=True)))
    assert start(config, resume=True).manifest["mark"] == "first"


def test_another_run_is_refused_unless_resumed_or_overwritten(make_config):
    config = make_config()
    start(config).save(mark="first")
    with pytest.raises(RunError, match=r"holds an unfinished run.*--resume.*--overwrite"):
        start(config)
    assert start(config, resume=True).manifest["mark"] == "first"
    assert "mark" not in start(config, overwrite=True).manifest


def test_resuming_with_other_settings_names_the_difference(make_config):
    config = make_config()
    start(config)
    changed = replace(config, training=TrainingOptions(steps=7, batch_size=2, warmup_steps=1))
    with pytest.raises(RunError, match="other settings: steps was 6, now 7"):
        start(changed, resume=True)
    start(replace(config, run=replace(config.run, log_every=5)), resume=True)  # does not change the numbers


def test_folders_that_cannot_be_used(make_config, tmp_path):
    config = make_config()
    with pytest.raises(RunError, match="no run to resume"):
        start(config, resume=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "diary.txt").write_text("mine", encoding="utf8")
    for run in ({}, {"overwrite": True}):
        with pytest.raises(RunError, match="not empty and holds no run of this command"):
            start(config, **run)
    assert (tmp_path / "run" / "diary.txt").read_text(encoding="utf8") == "mine"
    with pytest.raises(RunError, match="is a file"):
        start(config, output=str(tmp_path / "run" / "diary.txt"))


def test_a_damaged_manifest_is_named(make_config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / MANIFEST).write_text("{", encoding="utf8")
    with pytest.raises(RunError, match=r"run.json is damaged"):
        start(make_config(), resume=True)


def test_an_unfinished_checkpoint_is_passed_over(make_config):
    folder = start(make_config())
    for step, complete in ((3, True), (12, True), (6, True), (15, False)):
        (folder.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
        if complete:
            (folder.checkpoints / f"checkpoint-{step}" / "trainer_state.json").write_text("{}", encoding="utf8")
    assert folder.last_checkpoint().name == "checkpoint-12"


def test_finishing_removes_the_checkpoints(make_config):
    folder = start(make_config())
    folder.checkpoints.mkdir()
    folder.finish()
    assert not folder.checkpoints.exists()
    assert start(make_config(), resume=True).finished


def test_resume_and_overwrite_exclude_each_other():
    with pytest.raises(ValueError, match="not both"):
        RunOptions(resume=True, overwrite=True)


def test_overwriting_removes_the_run_and_nothing_beside_it(make_config):
    folder = start(make_config())
    (folder.path / "notes.txt").write_text("mine", encoding="utf8")
    (folder.path / "adapter").mkdir()
    start(make_config(), overwrite=True)
    assert {path.name for path in folder.path.iterdir()} == {MANIFEST, "config.toml", "notes.txt"}


def test_a_folder_that_cannot_be_written(make_config):
    with pytest.raises(RunError, match="cannot be written"):
        start(make_config(), output="/proc/no-such/run")
