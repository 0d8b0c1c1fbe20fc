"""The README's Python examples run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf8"), flags=re.DOTALL)


@pytest.fixture
def names(tmp_path, monkeypatch):
    """The examples write into the current folder, and build on one another's names alone."""
    monkeypatch.chdir(tmp_path)
    return {}


def test_the_examples_run_in_order(names, capsys):
    assert len(BLOCKS) == 3
    for block in BLOCKS:
        exec(compile(block, str(README), "exec"), names)
    printed = capsys.readouterr().out
    assert "trainable params: 1," in printed
    assert "max_difference=" in printed
    assert "q3: ─ry(θ3)" in printed


def test_every_file_the_readme_names_is_there():
    root = README.parent
    for name in ("docs/images/data_flow.svg", "scripts/make_embedded_model.py", "Makefile", "LICENSE"):
        assert (root / name).is_file(), name
