"""Runs only in the environment of requirements/torchquantum.txt: `make test-torchquantum`."""

import numpy as np
import pytest
import torch

from qpeft.qcircuits import GATES, CircuitBuilder, StatevectorEngine
from qpeft.qcircuits.conformance_cases import cases
from qpeft.qcircuits.gates import Foreign
from qpeft.qcircuits.interop.torchquantum import _ALIASES, from_torchquantum, to_torchquantum

torchquantum = pytest.importorskip("torchquantum", reason="needs an environment of its own: make test-torchquantum")

EVERY = [case for num_qubits in (1, 2, 3) for case in cases(num_qubits)]
every_case = pytest.mark.parametrize("case", EVERY, ids=lambda case: case.name)


def exact(circuit, angles):
    return StatevectorEngine().probabilities(circuit, torch.as_tensor(angles)).numpy()


def probabilities_of(device):
    return (device.get_states_1d().abs() ** 2).detach().numpy()


@every_case
def test_torchquantum_runs_our_list(case):
    device = torchquantum.QuantumDevice(n_wires=case.circuit.num_qubits, bsz=2)
    ops = to_torchquantum(case.circuit, case.points[0])
    module = torchquantum.QuantumModule.from_op_history(ops)
    module(device)
    expected = np.tile(exact(case.circuit, case.points[0]), (2, 1))
    np.testing.assert_allclose(probabilities_of(device), expected, rtol=0, atol=1e-5)
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    assert len(trainable) == sum(op["trainable"] for op in ops)


@every_case
def test_we_read_what_torchquantum_records(case):
    device = torchquantum.QuantumDevice(n_wires=case.circuit.num_qubits, record_op=True)
    torchquantum.QuantumModule.from_op_history(to_torchquantum(case.circuit, case.points[0]))(device)
    circuit, angles = from_torchquantum(device.op_history, case.circuit.num_qubits)
    np.testing.assert_allclose(exact(circuit, angles), exact(case.circuit, case.points[0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, row in GATES.items() if isinstance(row.torchquantum, Foreign)])
def test_an_inverse_is_read_as_torchquantum_runs_it(name):
    row = GATES[name]
    op = {"name": row.torchquantum.name, "wires": list(range(row.num_qubits)), "params": 0.7 if row.has_angle else None,
          "inverse": True, "trainable": row.has_angle}  # fmt: skip
    before = to_torchquantum(
        CircuitBuilder(2).ry(0, angle=0.3).rx(0, angle=0.8).ry(1, angle=1.1).rx(1, angle=2).build()
    )
    after = to_torchquantum(CircuitBuilder(2).rx(0, angle=0.6).rx(1, angle=1.9).build())
    device = torchquantum.QuantumDevice(n_wires=2)
    torchquantum.QuantumModule.from_op_history([*before, op, *after])(device)
    there = probabilities_of(device)[0]
    np.testing.assert_allclose(exact(*from_torchquantum([*before, op, *after])), there, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("alias", "name"), _ALIASES.items())
def test_second_names_are_torchquantums(alias, name):
    functions = torchquantum.functional.func_name_dict
    assert functions[alias] is functions[name]
