import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qiskit_reference import circuits, unitary
from up_to_phase import same_up_to_phase

from qpeft.engines import get_engine
from qpeft.errors import CircuitError
from qpeft.extras import MissingExtraError
from qpeft.qcircuits import GATES, Angle, Circuit, CircuitBuilder, Operation, ansatz
from qpeft.qcircuits.gates import Foreign
from qpeft.qcircuits.interop.decompose import decompose
from qpeft.qcircuits.interop.torchquantum import from_torchquantum, to_torchquantum
from qpeft.qcircuits.torchquantum_engine import TorchQuantumEngine

RY = {"name": "ry", "wires": [0], "params": 0.5, "inverse": False, "trainable": True}
absent = pytest.mark.skipif(
    importlib.util.find_spec("torchquantum") is not None, reason="says what happens without TorchQuantum"
)


def angles_of(circuit, seed=0):
    return np.random.default_rng(seed).uniform(-3, 3, circuit.num_parameters)


@given(circuits())
def test_round_trip(circuit):
    theta = angles_of(circuit)
    back, angles = from_torchquantum(to_torchquantum(circuit, theta), circuit.num_qubits)
    assert back.num_qubits == circuit.num_qubits
    assert same_up_to_phase(unitary(back, angles), unitary(circuit, theta))


@given(circuits())
def test_what_depends_on_a_parameter_is_trainable(circuit):
    ops = to_torchquantum(circuit, angles_of(circuit))
    there = decompose(circuit, "torchquantum").operations
    assert [op["trainable"] for op in ops] == [o.angle is not None and o.angle.index is not None for o in there]
    assert [tuple(op["wires"]) for op in ops] == [o.qubits for o in there]
    back, angles = from_torchquantum(ops)
    assert back.num_parameters == len(angles) == sum(op["trainable"] for op in ops)


@pytest.mark.parametrize("row", [row for row in GATES.values() if isinstance(row.torchquantum, Foreign)])
def test_inverse_undoes_the_gate(row):
    op = {"name": row.torchquantum.name, "wires": list(range(row.num_qubits)), "trainable": True}
    if row.has_angle:
        op["params"] = 0.7
    circuit, angles = from_torchquantum([op, op | {"inverse": True}])
    assert angles.tolist() == [0.7] * (2 * row.has_angle)
    np.testing.assert_allclose(unitary(circuit, angles), np.eye(2**row.num_qubits), atol=1e-12)


@pytest.mark.parametrize("params", [0.5, [0.5], [[0.5]], np.float32(0.5), torch.tensor([[0.5]], requires_grad=True)])
@pytest.mark.parametrize("wires", [1, [1], (1,), np.array([1]), np.int64(1)])
def test_numbers_are_read_in_every_form(params, wires):
    circuit, angles = from_torchquantum([RY | {"params": params, "wires": wires}])
    assert circuit == CircuitBuilder(2).ry(1).build()
    assert angles.tolist() == [0.5]
    assert angles.dtype == torch.float64


def test_missing_keys_have_torchquantums_defaults():
    circuit, angles = from_torchquantum([{"name": "rx", "wires": 0, "params": 0.5}, {"name": "h", "wires": 0}])
    assert circuit == Circuit(1, (Operation("rx", (0,), Angle(None, offset=0.5)), Operation("h", (0,))), 0)
    assert angles.shape == (0,)


def test_an_empty_list_is_a_circuit():
    assert from_torchquantum([])[0] == Circuit(1, (), 0)
    assert from_torchquantum([], 3)[0] == Circuit(3, (), 0)
    assert to_torchquantum(Circuit(3, (), 0)) == []


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ({"name": "toffoli", "wires": [0, 1, 2]}, "'toffoli' on .*unknown operation 'toffoli'"),
        ({"name": "cnoot", "wires": [0, 1]}, "Did you mean 'cnot'"),
        ({"wires": [0]}, "unknown operation 'None'"),
        ({"name": "singleexcitation", "wires": [0, 1], "params": 0.5}, "unknown operation 'singleexcitation'"),
        (RY | {"params": None}, "'params' is missing; ry takes one angle"),
        (RY | {"params": [0.1, 0.2, 0.3]}, "holds 3 numbers; one angle is expected"),
        (RY | {"params": "much"}, "expected a number"),
        (RY | {"params": {}}, "expected a number"),
        (RY | {"params": float("nan"), "trainable": False}, "finite"),
        (RY | {"params": float("inf")}, "finite"),
        ({"name": "paulix", "wires": [0], "params": 0.5}, "paulix takes none"),
        (RY | {"wires": None}, "'wires' must be"),
        (RY | {"wires": [0.5]}, "'wires' must be"),
        (RY | {"wires": "q"}, "'wires' must be"),
        (RY | {"wires": [0, 1]}, "acts on 1 qubit"),
        ({"name": "cnot", "wires": [1, 1]}, "named twice"),
        ("ry", "expected a dict"),
    ],
)
def test_an_operation_that_cannot_be_is_named_with_its_position(op, message):
    with pytest.raises(CircuitError, match=f"operation 1 .*{message}"):
        from_torchquantum([RY, op])


def test_wires_outside_the_circuit_are_refused():
    with pytest.raises(CircuitError, match=r"operation 1 .*qubits are 0 to 1"):
        from_torchquantum([RY, RY | {"wires": [2]}], num_qubits=2)


def test_angles_are_needed_in_their_number():
    circuit = ansatz("ry_cnot", 2, 1)
    with pytest.raises(CircuitError, match="has 2; give their values"):
        to_torchquantum(circuit)
    with pytest.raises(CircuitError, match=r"shape \(3,\); expected \(2,\)"):
        to_torchquantum(circuit, [0.1, 0.2, 0.3])
    with pytest.raises(CircuitError, match=r"shape \(1, 2\)"):
        to_torchquantum(circuit, torch.zeros(1, 2))


@given(st.floats(-10, 10))
def test_an_affine_angle_arrives_as_its_value(theta):
    circuit = CircuitBuilder(1).ry(0, angle=Angle(0, -2.0, 0.5)).build()
    assert to_torchquantum(circuit, torch.tensor([theta], requires_grad=True))[0]["params"] == pytest.approx(
        0.5 - 2 * torch.tensor(theta).item()
    )


@absent
def test_without_torchquantum_the_error_names_the_file_and_the_command():
    circuit = ansatz("ry_cnot", 2, 1)
    for call in (
        lambda: TorchQuantumEngine().probabilities(circuit, torch.zeros(2)),
        lambda: TorchQuantumEngine().check(circuit),
        lambda: get_engine("torchquantum:10x"),
    ):
        with pytest.raises(MissingExtraError, match=r"make test-torchquantum.*requirements/torchquantum\.txt"):
            call()
