"""The Python examples of the README and of the documentation run as they stand."""

import re
from pathlib import Path

import pytest

from qpeft.adapters.export import FORMS
from qpeft.adapters.method_table import METHODS
from qpeft.engines import ENGINES
from qpeft.quantum_commands import usage

README = Path(__file__).resolve().parents[1] / "README.md"
ENGINES_PAGE = README.parent / "docs" / "engines.md"
METHODS_PAGE = README.parent / "docs" / "methods.md"


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf8"), flags=re.DOTALL)


@pytest.fixture
def names(tmp_path, monkeypatch):
    """The examples write into the current folder, and build on one another's names alone."""
    monkeypatch.chdir(tmp_path)
    return {}


def test_the_examples_run_in_order(names, capsys):
    assert len(blocks(README)) == 4
    for block in blocks(README):
        exec(compile(block, str(README), "exec"), names)
    printed = capsys.readouterr().out
    assert "trainable params: 1," in printed
    assert "max_difference=" in printed
    assert "q3: ─ry(θ3)" in printed


def test_the_engine_of_ones_own(names, monkeypatch, capsys):
    monkeypatch.setattr(ENGINES, "_entries", dict(ENGINES))
    noise, hardware, named, own = blocks(ENGINES_PAGE)
    assert "QiskitRuntimeService()" in hardware  # needs an account
    for block in (noise, named, own):
        exec(compile(block, str(ENGINES_PAGE), "exec"), names)
    date, *name, deviation = capsys.readouterr().out.split()
    assert date == "2025-02-26" and " ".join(name) == "0.5 x fake_torino[0, 1, 2, 3]"
    assert float(deviation) < 1e-6
    assert names["engine"].diff_method == "spsa"


def test_the_methods(names, capsys):
    (block,) = blocks(METHODS_PAGE)
    exec(compile(block, str(METHODS_PAGE), "exec"), names)
    assert capsys.readouterr().out.count("trainable params: ") == 4


def test_the_table_of_methods_is_the_registry():
    rows = re.findall(r"^\| `(.*) \|$", METHODS_PAGE.read_text(encoding="utf8"), re.MULTILINE)
    shown = {}
    for row in rows:
        name, config, _, _, merges, exported = row.split(" | ")
        shown[name.strip("`")] = (config.strip("`").split("(")[0], merges, exported)
    assert shown == {
        name: (method.config.__name__, "yes" if method.merges else "no", FORMS[method.export].title)
        for name, method in METHODS.items()
        if method.generates
    }


def test_the_table_of_engines_is_the_registry():
    rows = re.findall(
        r"^\| `(\S+)` \|[^|]*\|([^|]*)\|([^|]*)\|$", ENGINES_PAGE.read_text(encoding="utf8"), re.MULTILINE
    )
    assert [name for name, _, _ in rows] == [usage(name, entry) for name, entry in ENGINES.items()]
    for (_, exact, sampled), entry in zip(rows, ENGINES.values(), strict=True):
        assert exact.strip() == ", ".join(entry.diff_methods)
        assert sampled.strip() == ", ".join(entry.sampled_diff_methods)


def test_every_file_the_readme_names_is_there():
    root = README.parent
    for name in ("docs/images/data_flow.svg", "scripts/make_embedded_model.py", "Makefile", "LICENSE"):
        assert (root / name).is_file(), name
