"""The notebooks run as they stand, and are committed with what they show."""

import copy
import sys

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from scripts.run_notebooks import FOLDER, HUB_TAG, LARGEST, cleaned, execute, faults, main, read, texts, written

NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def kinds(notebook):
    """What kinds of output each cell has."""
    return [[sorted(texts(output)) for output in cell.get("outputs", [])] for cell in notebook.cells]


def code(source, outputs=(), count=1, **metadata):
    return nbformat.v4.new_code_cell(source, outputs=list(outputs), execution_count=count, metadata=metadata)


@pytest.fixture
def sound():
    picture = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="})
    return cleaned(nbformat.v4.new_notebook(cells=[code("MODEL = 1  # or of the hub", [picture], tags=[HUB_TAG])]))


def test_there_are_three_notebooks():
    assert [name[:3] for name in NOTEBOOKS] == ["01_", "02_", "03_"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_run_has_no_fault_and_gives_outputs_of_the_committed_kinds(name):
    committed = read(FOLDER / name)
    assert faults(committed) == []
    fresh = execute(committed)
    assert faults(fresh) == []
    assert kinds(fresh) == kinds(committed)


@pytest.fixture
def other_model(model_folder, tmp_path):
    """A tiny model with as many positions as one of the hub has."""
    GPT2LMHeadModel(GPT2Config.from_pretrained(model_folder, n_positions=1024)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_marked_cell_switches_the_model(name, other_model, text_file):
    notebook = read(FOLDER / name)
    (cell,) = (cell for cell in notebook.cells if HUB_TAG in cell.metadata.get("tags", []))
    for setting, path in (("MODEL", other_model), ("DATA", text_file)):
        assert cell.source.count(f'{setting} = "embedded"') == 1
        cell.source = cell.source.replace(f'{setting} = "embedded"', f"{setting} = {str(path)!r}")
    assert [fault for fault in faults(execute(notebook)) if "path of this machine" not in fault] == []


def test_a_sound_notebook_has_no_faults(sound):
    assert faults(sound) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda cell: cell.update(source="MODEL = 2  # or of the hub"), "changed since it ran"),
        (lambda cell: cell.update(execution_count=2), "from top to bottom"),
        (lambda cell: cell.metadata.update(tags=[]), "0 cells are tagged"),
        (lambda cell: cell.update(outputs=[]), "no picture"),
        (lambda cell: cell.outputs.append(stream("stderr", "UserWarning")), "cell 1 printed to stderr: 'UserWarning'"),
        (lambda cell: cell.outputs.append(stream("stdout", "/home/me/runs")), "cell 1 shows a path"),
        (lambda cell: cell.outputs.append(stream("stdout", str(FOLDER))), "cell 1 shows a path"),
        (lambda cell: cell.outputs.append(stream("stdout", "x" * LARGEST)), "bytes long"),
    ],
)
def test_faults_are_named(sound, change, fault):
    change(sound.cells[0])
    (found,) = faults(sound)
    assert fault in found


def stream(name, text):
    return nbformat.v4.new_output("stream", name=name, text=text)


def test_a_notebook_runs_in_this_interpreter_and_leaves_no_trace_of_the_machine(sound, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", "/nowhere")
    monkeypatch.setenv("MPLBACKEND", "svg")
    monkeypatch.setenv("PREFIX", sys.prefix)
    sound.cells[0].source += "\nimport os, sys\nprint(sys.prefix == os.environ['PREFIX'], os.listdir())"
    figure = "drawing = Figure(figsize=(1, 1))\ndrawing.add_subplot()\ndrawing"
    sound.cells.append(code(f"%matplotlib inline\nfrom matplotlib.figure import Figure\n{figure}"))
    fresh = execute(sound)
    assert fresh.cells[0].outputs[0].text == "True []\n"
    assert kinds(fresh) == [[["stream/stdout"]], [["image/png", "text/plain"]]]
    assert faults(fresh) == [] and written(execute(fresh)) == written(fresh)


def test_prints_of_a_cell_are_one_output_however_they_arrive(sound):
    sound.cells.append(code("import time\nfor line in 'abc':\n    print(line, flush=True)\n    time.sleep(0.2)"))
    (output,) = execute(sound).cells[1].outputs
    assert output.text == "a\nb\nc\n"


def test_a_notebook_that_fails_is_left_as_it_was(sound, tmp_path, monkeypatch, capsys):
    sound.cells.append(code("1 / 0"))
    path = tmp_path / "wrong.ipynb"
    path.write_text(written(sound), encoding="utf8")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(copy.deepcopy(sound))
    monkeypatch.setattr("sys.argv", ["run_notebooks.py", str(path)])
    assert main() == 1
    assert path.read_text(encoding="utf8") == written(sound)
    assert "ZeroDivisionError" in capsys.readouterr().err
