import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from qpeft.files import staged, staged_folder, write_json, write_text
from qpeft.training.plots import canvas
from qpeft.training.trainability.raw import RawGradients


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_write_text_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "note.txt"
    for text in ("eins\n", "zwei ä\n"):
        write_text(path, text)
        assert path.read_bytes() == text.encode("utf8")
    assert listing(tmp_path) == ["a/b/note.txt"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "note.txt"
    write_text(path, "old")

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_text(path, "new")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["note.txt"]


def test_staged_publishes_at_the_end_under_a_name_of_its_own(tmp_path):
    path = tmp_path / "new" / "plot.v2.png"
    with staged(path) as one, staged(path) as other:
        assert one != other and {one.parent, other.parent} == {path.parent}
        assert {one.suffix, other.suffix} == {".png"}
        one.write_bytes(b"one")
        other.write_bytes(b"other")
        assert not path.exists()
    assert path.read_bytes() == b"one"  # the block that ended last
    assert listing(tmp_path) == ["new/plot.v2.png"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_while_staged_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "data.parquet"
    path.write_bytes(b"old")
    with pytest.raises(error), staged(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert listing(tmp_path) == ["data.parquet"]


def test_an_interrupted_plot_leaves_the_old_one_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "plot.png"
    with canvas(path):
        pass
    before = path.read_bytes()

    def interrupted(figure, file, **settings):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", interrupted)
    with pytest.raises(KeyboardInterrupt), canvas(path):
        pass
    assert before.startswith(b"\x89PNG") and path.read_bytes() == before
    assert listing(tmp_path) == ["plot.png"]


def test_interrupted_derivatives_leave_the_old_ones_and_no_others(tmp_path, monkeypatch):
    raw = RawGradients(tmp_path)
    raw.write("point", {"seed": 1}, np.ones((3, 2)))
    before = (tmp_path / "point.parquet").read_bytes()

    def interrupted(table, file):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("pyarrow.parquet.write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        raw.write("point", {"seed": 1}, np.zeros((3, 2)))
    assert before.startswith(b"PAR1") and (tmp_path / "point.parquet").read_bytes() == before
    assert listing(tmp_path) == ["point.parquet"]


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    path = tmp_path / "note.txt"
    write_text(path, "old")
    seen = []
    replace = type(path).replace

    def watching(self, target):
        seen.append((path.read_text(), self.read_text()))
        return replace(self, target)

    monkeypatch.setattr(type(path), "replace", watching)
    write_text(path, "new")
    assert seen == [("old", "new")]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_published_files_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "note.txt", "x")
        with staged_folder(tmp_path / "folder") as staging:
            (staging / "file").write_text("x")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "note.txt").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "folder" / "file").stat().st_mode) == mode


def test_write_json_is_sorted_and_refuses_nan(tmp_path):
    path = tmp_path / "data.json"
    write_json(path, {"b": [1, 2.5], "a": None})
    assert path.read_text() == '{\n  "a": null,\n  "b": [\n    1,\n    2.5\n  ]\n}\n'
    assert json.loads(path.read_text()) == {"a": None, "b": [1, 2.5]}
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON compliant"):
            write_json(path, {"a": bad})
    assert json.loads(path.read_text())["b"] == [1, 2.5]
    assert listing(tmp_path) == ["data.json"]


def test_staged_folder_publishes_at_the_end(tmp_path):
    target = tmp_path / "out"
    with staged_folder(target) as staging:
        assert staging.parent == tmp_path  # the same file system, so that a rename is enough
        (staging / "sub").mkdir()
        (staging / "sub" / "one").write_text("1")
        (staging / "two").write_text("2")
        assert not target.exists()
    assert listing(target) == ["sub/one", "two"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_staged_folder_leaves_other_files_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    (tmp_path / "out" / "two").write_text("old")
    with staged_folder(tmp_path / "out") as staging:
        (staging / "two").write_text("new")
    assert (tmp_path / "out" / "mine").read_text() == "mine"
    assert (tmp_path / "out" / "two").read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_block_publishes_nothing(tmp_path, error):
    def block(target):
        with staged_folder(target) as staging:
            (staging / "file").write_text("new")
            raise error

    with pytest.raises(error):
        block(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("old")
    with pytest.raises(error):
        block(tmp_path / "out")
    assert (tmp_path / "out" / "file").read_text() == "old"
