import importlib.util

import pytest
from qiskit_reference import random_circuit

from qpeft.errors import CircuitError
from qpeft.extras import MissingExtraError
from qpeft.qcircuits import Circuit, CircuitBuilder
from qpeft.qcircuits.interop import to_openqasm2
from qpeft.qcircuits.interop.rendering import FORMATS, render

CIRCUIT = random_circuit(3, 30, seed=3)
ANGLES = [0.1 * i for i in range(CIRCUIT.num_parameters)]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("circuit", [CIRCUIT, Circuit(2, (), 0)], ids=["every gate", "no gates"])
def test_any_circuit_in_any_format(name, circuit):
    shown = render(name, circuit, ANGLES[: circuit.num_parameters])
    assert isinstance(shown, bytes if name == "png" else str)
    assert len(shown) > 0


@pytest.mark.parametrize("name", [name for name, entry in FORMATS.items() if not entry.needs_angles])
def test_parameters_stay_symbols(name):
    assert render(name, CIRCUIT) != render(name, CIRCUIT, ANGLES)


@pytest.mark.parametrize("name", FORMATS)
def test_too_many_angles(name):
    with pytest.raises(CircuitError, match=r"angles"):
        render(name, CircuitBuilder(1).rx(0).build(), [0.1, 0.2])


def test_every_wire_is_drawn():
    assert render("pennylane", CircuitBuilder(3).h(1).build()).splitlines()[2].startswith("2: ─")


def test_openqasm2_of_a_circuit_without_parameters_needs_no_angles():
    circuit = CircuitBuilder(1).h(0).build()
    assert render("qasm2", circuit) == to_openqasm2(circuit).rstrip()


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("qiskit", "qiskit", "qiskit"), ("pennylane", "pennylane", "pennylane"), ("png", "pylatexenc", "qiskit")],
)
def test_a_missing_package_says_the_command(monkeypatch, name, package, extra):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module == package else find(module))
    with pytest.raises(MissingExtraError, match=rf'needs {package}, which .*: pip install "qpeft\[{extra}\]"'):
        render(name, CIRCUIT, ANGLES)


@pytest.mark.parametrize("name", ["text", "qasm2", "qasm3", "torchquantum", "json"])
def test_text_needs_no_other_library(monkeypatch, name):
    find = importlib.util.find_spec
    foreign = ("qiskit", "pennylane", "torchquantum")
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module in foreign else find(module))
    assert render(name, CIRCUIT, ANGLES)
