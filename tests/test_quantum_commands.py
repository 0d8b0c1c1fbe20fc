import ast
import sys

import pytest

from qpeft.cli import main
from qpeft.engines import ENGINES, EngineEntry
from qpeft.qcircuits import ANSATZE, Circuit, ansatz
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
