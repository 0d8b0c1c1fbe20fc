import csv
import json
import subprocess
import sys

import pytest

from qpeft.cli import main
from qpeft.training.trainability import gradients as gradients_module
from qpeft.training.trainability.config import StudyConfig
from qpeft.training.trainability.folder import CONTENTS

TINY = ("--ansatz", "ry_cnot", "--qubits", "1-3", "--reps", "1,2", "--observables", "local", "--initialisations", 5)
SMALL = ("--ansatz", "ry_cnot,rx_cnot", "--qubits", "1-3", "--reps", "1,2", "--initialisations", 5)


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs the command with an output folder; gives its exit code, what it prints, and what it prints as errors."""

    def command(*arguments):
        given = ["qpeft", "gradient-variance", "--output", tmp_path / "study", *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, given)))
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return command


def read(file):
    return list(csv.DictReader(file.open(encoding="utf8")))


def test_a_study_leaves_tables_plots_a_page_and_every_derivative(run, tmp_path):
    code, out, _ = run(*SMALL)
    assert code == 0 and "log2/qubit" in out and "engine" not in out
    folder = tmp_path / "study"
    assert {path.name for path in folder.iterdir()} == set(CONTENTS)
    rows = read(folder / "table.csv")
    assert len(rows) == 2 * 3 * 2 * 2  # ansätze, qubits, layers, observables
    found = next(row for row in rows if row["qubits"] == "2" and row["reps"] == "1" and row["observable"] == "global")
    assert float(found["one_layer"]) == pytest.approx(1 / 8 * 3 / 8)
    assert float(found["two_design"]) == pytest.approx(1 / (4 * 6))
    assert float(found["low"]) <= float(found["variance"]) <= float(found["high"])
    angles = sum(int(row["angles"]) for row in rows)
    assert len(read(folder / "parameters.csv")) == angles == 2 * 2 * (1 + 2) * (1 + 2 + 3)
    assert len(read(folder / "layers.csv")) == 2 * 2 * 3 * (1 + 2)
    assert len(list((folder / "raw").iterdir())) == len(rows)
    assert len(read(folder / "decay.csv")) == 2 * 2 * 2
    page = (folder / "report.md").read_text(encoding="utf8")
    for picture in (folder / "plots").glob("*.png"):
        assert f"(plots/{picture.name})" in page and picture.with_suffix(".svg").is_file()
    assert json.loads((folder / "run.json").read_text(encoding="utf8"))["status"] == "finished"


def test_an_interrupted_study_goes_on_where_it_was(run, tmp_path, monkeypatch):
    real, ran = gradients_module.cost_gradients, []

    def cut(engine, circuit, *rest):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(circuit)
        return real(engine, circuit, *rest)

    monkeypatch.setattr(gradients_module, "cost_gradients", cut)
    code, out, _ = run(*TINY)
    assert code == 130 and "--resume" in out
    assert len(list((tmp_path / "study" / "raw").glob("*.parquet"))) == 3
    monkeypatch.setattr(gradients_module, "cost_gradients", lambda *given: ran.append(given) or real(*given))
    assert run(*TINY, "--resume")[0] == 0
    assert len(ran) == 6  # each point once
    resumed = (tmp_path / "study" / "table.csv").read_text(encoding="utf8")
    assert run(*TINY, "--overwrite")[0] == 0
    assert (tmp_path / "study" / "table.csv").read_text(encoding="utf8") == resumed
    assert len(ran) == 12


def test_the_folder_of_another_experiment_is_refused(run, tmp_path):
    assert run(*TINY)[0] == 0
    code, _, err = run(*TINY, "--seed", 1, "--resume")
    assert code == 2 and "seed was 0, now 1" in err
    code, _, err = run(*TINY)
    assert code == 2 and "--resume" in err and "--overwrite" in err
    manifest = tmp_path / "study" / "run.json"
    manifest.write_text(json.dumps({"status": "finished", "settings": {"model": {}, "training": {}}}), encoding="utf8")
    code, _, err = run(*TINY, "--overwrite")
    assert code == 2 and "holds a run of another command" in err
    assert (tmp_path / "study" / "raw").is_dir()


def test_the_loss_on_a_text_is_studied_beside_observables(run, tmp_path, model_folder, text_file):
    given = ("--model", model_folder, "--data", text_file, "--context", 16, "--rank", 1, "--steps", "0,1")
    assert run(*TINY, "--observables", "loss", "--qubits", "2,3", "--reps", 1, *given)[0] == 0
    rows = read(tmp_path / "study" / "table.csv")
    assert [(row["qubits"], row["observable"], row["two_design"]) for row in rows] == [
        (n, name, "") for n in ("2", "3") for name in ("loss-0", "loss-1")
    ]  # fmt: skip
    assert (tmp_path / "study" / "plots" / "loss-1-exact-qubits.svg").is_file()
    page = (tmp_path / "study" / "report.md").read_text(encoding="utf8")
    assert f"output head of {model_folder}" in page and "after so many training steps: r=1, preset default" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--initialisations", 1), "initialisations is 1"),
        (("--observables", "z"), "unknown observable 'z'. Available: global, local, loss"),
        (("--observables", "loss", "--model", "nowhere/"), "nowhere/"),
        (("--ansatz", "none"), "unknown ansatz 'none'"),
        (("--qubits", "8-2"), "qubits is '8-2'"),
        (("--qubits", "70", "--reps", "1"), "70 qubits do not fit"),
        (("--confidence", 1.0), "confidence is 1.0"),
        (("--ansatz", "all,ry_cnot"), "give it alone"),
        (("--reps", "10000000"), "give numbers from 1 to 999,999"),
        (("--resamples", 10**12), "resampled 1000000000000 times"),
        (("--resume",), "there is no run to resume"),
        (("--resume", "--overwrite"), "not both"),
    ],
)
def test_bad_input_leaves_no_folder(run, tmp_path, arguments, message):
    code, _, err = run(*arguments)
    assert code == 2 and message in " ".join(err.split())
    assert not (tmp_path / "study").exists()


def test_settings_come_from_toml_too(run, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('[study]\nansatz = "ry_cnot"\nqubits = "2"\nreps = "1"\ninitialisations = 3\n', encoding="utf8")
    assert run("--config", file, "--observables", "local")[0] == 0
    (row,) = read(tmp_path / "study" / "table.csv")
    assert (row["ansatz"], row["initialisations"], row["observable"]) == ("ry_cnot", "3", "local")
    assert run("--config", tmp_path / "study" / "config.toml", "--resume")[0] == 0


def test_toml_takes_numbers_and_lists(run, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('[study]\nansatz = ["ry_cnot"]\nqubits = [2, 3]\nreps = 1\ninitialisations = 3\n', encoding="utf8")
    assert run("--config", file, "--observables", "local")[0] == 0
    assert [row["qubits"] for row in read(tmp_path / "study" / "table.csv")] == ["2", "3"]


def test_variances_show_where_there_is_nothing_to_fit(run, tmp_path):
    code, out, _ = run(
        "--ansatz", "ry_cnot", "--qubits", 2, "--reps", 1, "--observables", "local", "--initialisations", 50
    )
    (row,) = read(tmp_path / "study" / "table.csv")
    assert code == 0 and "N=2" in out and f"{float(row['variance']):.2g}" in out and "log2/qubit" not in out
    assert "## Variances" in (tmp_path / "study" / "report.md").read_text(encoding="utf8")


def test_help_loads_neither_transformers_nor_matplotlib():
    program = (
        "import sys; sys.argv = ['qpeft', 'gradient-variance', '--help']\n"
        "from qpeft.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "loaded = {'transformers', 'peft', 'accelerate', 'matplotlib', 'pyarrow'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "--initialisations" in printed and "qpeft gradient-variance --ansatz ry_cnot,rx_cnot" in printed


def test_the_defaults_are_the_whole_registry():
    assert "simplified_two_design" in StudyConfig().study.ansatz_names
