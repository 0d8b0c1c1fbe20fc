import ast
import csv
import sys

import pytest

from qpeft.cli import main
from qpeft.engines import ENGINES, EngineEntry
from qpeft.qcircuits import ANSATZE, Circuit, ansatz
from qpeft.qcircuits.expressivity import entangling_capability, expressibility
from qpeft.qcircuits.interop import from_openqasm2, from_openqasm3, from_torchquantum
from qpeft.quantum_commands import usage


@pytest.fixture
def qpeft(capsys, monkeypatch):
    """Runs the command line; gives its exit code, what it prints, and what it prints as errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["qpeft", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def words(text):
    return " ".join(text.replace("│", " ").split())


def entry(diff=("adjoint",), sampled=(), device=None, needs_device=False, **other):
    return EngineEntry(lambda name, options: None, "a new one", diff, sampled, device, needs_device, **other)


def test_engines_lists_the_registry_in_80_columns(qpeft):
    code, out, _ = qpeft("engines")
    assert code == 0
    assert max(map(len, out.split("not installed")[0].splitlines())) <= 80
    for name, row in ENGINES.items():
        assert usage(name, row) in out
        assert all(method in out for method in (*row.diff_methods, *row.sampled_diff_methods))
    assert "NAME[@DEVICE][:SHOTS], where SHOTS is a number (4096)" in words(out)


def test_engines_says_how_to_install_what_is_missing(qpeft, monkeypatch):
    missing = entry(packages=("no_such_package",), install='pip install "qpeft[new]"')
    monkeypatch.setitem(ENGINES._entries, "new", missing)
    _, out, _ = qpeft("engines")
    assert 'new is not installed: pip install "qpeft[new]"' in out


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        (entry(), "new"),
        (entry(sampled=("spsa",)), "new[:SHOTS]"),
        (entry((), ("spsa",)), "new:SHOTS"),
        (entry(device="a device"), "new[@DEVICE]"),
        (entry((), ("spsa",), "a device", True), "new@DEVICE:SHOTS"),
    ],
)
def test_usage_of_an_engine(row, shown):
    assert usage("new", row) == shown


def test_list(qpeft):
    code, out, _ = qpeft("circuit", "list")
    assert code == 0
    assert all(name in out for name in ANSATZE)


def test_show_draws_and_counts(qpeft):
    code, out, _ = qpeft("circuit", "show", "--ansatz", "rx_cnot", "--qubits", 3, "--reps", 1)
    assert code == 0
    assert out == f"{ansatz('rx_cnot', 3, 1)}\n\nqubits: 3, parameters: 3, depth: 3, gates: 5 (3 rx, 2 cx)\n"


@pytest.mark.parametrize("to", ["text", "qiskit", "pennylane"])
def test_drawings_go_on_below_what_the_terminal_is_wide(qpeft, to):
    code, out, _ = qpeft("circuit", "show", "--to", to, "--qubits", 6, "--reps", 6)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80


def test_drawings_in_a_file_do_not(qpeft, tmp_path):
    assert qpeft("circuit", "show", "--qubits", 6, "--reps", 6, "--output", tmp_path / "drawing")[0] == 0
    assert str(ansatz("ry_cnot", 6, 6)) in (tmp_path / "drawing").read_text(encoding="utf8")


@pytest.mark.parametrize(("to", "read"), [("json", Circuit.from_json), ("qasm3", from_openqasm3)])
def test_what_is_printed_reads_back(qpeft, to, read):
    assert read(qpeft("circuit", "show", "--to", to, "--qubits", 4, "--reps", 3)[1]) == ansatz("ry_cnot", 4, 3)


def test_formats_without_parameters_take_angles(qpeft):
    circuit = ansatz("ry_cnot", 2, 1)
    show = ("circuit", "show", "--qubits", 2, "--reps", 1, "--to")
    assert from_openqasm2(qpeft(*show, "qasm2", "--angles", "-0.5,1e-3")[1]) == circuit.bind([-0.5, 1e-3])
    found, angles = from_torchquantum(ast.literal_eval(qpeft(*show, "torchquantum", "--angles", "0.25")[1]))
    assert (found, angles.tolist()) == (circuit, [0.25, 0.25])


def test_png(qpeft, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, told = qpeft("circuit", "show", "--to", "png", "--qubits", 2)
    assert code == 2 and "name a file, e.g. --output circuit.png" in told
    code, out, _ = qpeft("circuit", "show", "--to", "png", "--qubits", 2, "--output", "circuit.png")
    assert (code, out) == (0, "Written: circuit.png\n")
    assert (tmp_path / "circuit.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ansatz", "ry_cnott"), "unknown ansatz 'ry_cnott'. Did you mean 'ry_cnot'"),
        (("--qubits", "0"), "a circuit needs at least 1 qubit"),
        (("--qubits", "two"), "Invalid value for '--qubits'"),
        (("--reps", "-1"), "reps must be 0 or more; given -1"),
        (("--to", "qasm"), "unknown format 'qasm'. Did you mean 'qasm3' or 'qasm2'?"),
        (("--to", "qasm2"), "'qasm2' holds values and no parameters; give the circuit's 10 angles (--angles on"),
        (("--to", "torchquantum"), "'torchquantum' holds values and no parameters"),
        (("--angles", "half"), "--angles is 'half'; give numbers with commas between"),
        (("--angles", "1,2"), "the circuit has 10 parameters; given 2 angles"),
        (("--to", "json", "--output", "no/such/folder/circuit.json"), "No such file or directory"),
    ],
)
def test_errors_are_one_message_and_exit_code_2(qpeft, options, message):
    code, out, err = qpeft("circuit", "show", *options)
    assert (code, out) == (2, "")
    assert message in words(err)


def test_help_teaches(qpeft):
    out = words(qpeft("circuit", "show", "--help")[1])
    assert "--to qasm3 --output circuit.qasm" in out
    assert all(name in out for name in ("simplified_two_design", "torchquantum: TorchQuantum's op list"))
    out = qpeft("--help")[1]
    assert "engines" in out
    assert "circuit" in out


def test_devices(qpeft, monkeypatch):
    for module in ("qpeft.noise.survey", "qpeft.quantum_commands"):
        monkeypatch.setattr(f"{module}.snapshot_names", lambda: ["ibm_manila", "ibm_torino"])
    code, out, _ = qpeft("devices", "--qubits", 3)
    assert code == 0
    assert out.index("ibm_torino") < out.index("ibm_manila")  # the better line first
    assert "2025-02-26" in out and "ibm_fez" not in out
    code, _, told = qpeft("devices", "--qubits", 0)
    assert code == 2 and "--qubits is 0; it must be at least 1" in told


ANALYSE = ("circuit", "analyse", "--samples", 200, "--bins", 10)


def test_analyse_every_ansatz_in_80_columns(qpeft):
    code, out, _ = qpeft(*ANALYSE, "--reps", "1,2")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    rows = [line.split() for line in out.splitlines() if line.split()[:1] and line.split()[0] in ANSATZE]
    assert [tuple(row[:4]) for row in rows] == [
        (name, str(reps), str(ansatz(name, 4, reps).num_parameters), str(ansatz(name, 4, reps).depth))
        for name in ANSATZE for reps in (1, 2)
    ]  # fmt: skip
    assert "0.824" in out and "0.778" in out  # (D - 2) / (D + 1), and + 2, of random states


def test_analyse_writes_what_the_functions_find(qpeft, tmp_path):
    code, out, _ = qpeft(
        *ANALYSE, "rxrz_cnot", "ry_cnot", "--qubits", "2-3", "--reps", "3,1,1", "--seed", 5,
        "--output", tmp_path / "new",
    )  # fmt: skip
    assert code == 0 and "Table and plots:" in out
    with (tmp_path / "new" / "expressivity.csv").open(encoding="utf8") as file:
        rows = list(csv.DictReader(file))
    expected = [(name, qubits, reps) for name in ("rxrz_cnot", "ry_cnot") for qubits in (2, 3) for reps in (1, 3)]
    assert [(row["ansatz"], int(row["qubits"]), int(row["reps"])) for row in rows] == expected
    for row, point in zip(rows, expected, strict=True):
        circuit = ansatz(*point)
        found, entangling = expressibility(circuit, 200, 10, 5), entangling_capability(circuit, 200, 5)
        assert float(row["expressibility"]) == pytest.approx(found.divergence)
        assert float(row["expressibility_error"]) == pytest.approx(found.error)
        assert float(row["expressibility_bias"]) == pytest.approx(found.bias)
        assert float(row["entangling_capability"]) == pytest.approx(entangling.mean)
        assert float(row["entangling_capability_error"]) == pytest.approx(entangling.error)
        if circuit.is_real:
            real = expressibility(circuit, 200, 10, 5, "real")
            assert float(row["real_expressibility"]) == pytest.approx(real.divergence)
            assert float(row["real_expressibility_error"]) == pytest.approx(real.error)
        else:
            assert row["real_expressibility"] == row["real_expressibility_error"] == ""
        assert (row["parameters"], row["depth"]) == (str(circuit.num_parameters), str(circuit.depth))
        assert (row["samples"], row["bins"], row["seed"]) == ("200", "10", "5")
    for name in ("expressibility", "entangling_capability"):
        assert (tmp_path / "new" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "new" / f"{name}.svg").read_text(encoding="utf8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("ry_cnott",), "unknown ansatz 'ry_cnott'. Did you mean 'ry_cnot'"),
        (("ry_cnot", "--reps", "1,0"), "ry_cnot on 4 qubit(s) with reps=0: the circuit has no angles to draw"),
        (("--reps", "4-1"), "--reps is '4-1'; give numbers from 0 to 999,999, or ranges: 2-8 or 2,4,6"),
        (("--qubits", ","), "--qubits is ','; give at least one number"),
        (("--qubits", "0-2"), "--qubits is '0-2'; give numbers from 1"),
        (("--samples", "1"), "samples is 1; it must be at least 2"),
        (("--bins", "1"), "bins is 1; it must be at least 2"),
        (("--seed", "-1"), "seed is -1; it must be a whole number of at least 0"),
        (
            ("ry_cnot", "--qubits", "4,60"),
            "ry_cnot on 60 qubit(s) with reps=1: a pair of states of 60 qubits does not fit",
        ),
        (("ry_cnot", "--qubits", "2000"), "a pair of states of 2000 qubits does not fit"),
        (("ry_cnot", "--bins", "1000000000000"), "bins is 1000000000000; it can be at most 1,000,000"),
    ],
)
def test_analyse_refuses_before_any_work(qpeft, tmp_path, options, message):
    code, out, err = qpeft(*ANALYSE, *options, "--output", tmp_path / "new")
    assert (code, out) == (2, "")
    assert message in words(err)
    assert not (tmp_path / "new").exists()


def test_analyse_into_a_file(qpeft, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf8")
    code, out, err = qpeft(*ANALYSE, "--output", tmp_path / "file")
    assert (code, out) == (2, "")
    assert "file is a file; give a folder" in words(err)


def test_analyse_overwrites_only_what_is_its_own_and_when_told(qpeft, tmp_path):
    given = (*ANALYSE, "ry_cnot", "--qubits", 2, "--reps", 1, "--output", tmp_path)
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf8")
    assert "holds no analysis" in words(qpeft(*given, "--overwrite")[2])
    (tmp_path / "thesis.txt").unlink()
    assert qpeft(*given)[0] == 0
    table = (tmp_path / "expressivity.csv").read_text(encoding="utf8")
    code, _, err = qpeft(*given, "--seed", 7)
    assert code == 2 and "holds an analysis. Replace it by --overwrite" in words(err)
    assert (tmp_path / "expressivity.csv").read_text(encoding="utf8") == table
    assert qpeft(*given, "--seed", 7, "--overwrite")[0] == 0
    assert (tmp_path / "expressivity.csv").read_text(encoding="utf8") != table


def test_analyse_says_when_the_bins_tell_nothing(qpeft):
    """With 10 bins 1 - 0.9^255 of the fidelities of random states on 8 qubits lie in the first."""
    few = ("circuit", "analyse", "ry_cnot", "--qubits", 8, "--reps", 1, "--samples", 20, "--bins")
    assert "100.0% of the fidelities of random states on 8 qubits lie in the first of 10 bins" in words(
        qpeft(*few, 10)[1]
    )
    assert "--bins 256" in words(qpeft(*few, 10)[1])
    assert "Mind" not in qpeft(*few, 256)[1]


def test_analyse_teaches(qpeft):
    out = words(qpeft("circuit", "analyse", "--help")[1])
    assert all(text in out for text in ("Kullback-Leibler", "Meyer-Wallach", "--reps 1,2,4,8,16 --output", *ANSATZE))
