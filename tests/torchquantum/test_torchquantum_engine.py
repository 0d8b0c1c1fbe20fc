"""Runs only in the environment of requirements/torchquantum.txt: `make test-torchquantum`."""

from functools import reduce

import numpy as np
import pytest
import torch

from qpeft.engines import get_engine
from qpeft.errors import EngineError
from qpeft.qcircuits import GATES, CircuitBuilder, StatevectorEngine, ansatz
from qpeft.qcircuits.conformance import assert_engine_conforms
from qpeft.qcircuits.memory import available_bytes
from qpeft.qcircuits.torchquantum_engine import TorchQuantumEngine

pytest.importorskip("torchquantum", reason="needs an environment of its own: make test-torchquantum")

TOLERANCE = 1e-5  # of complex64
ENGINE = TorchQuantumEngine()
ANGLES = [0.0, 0.7, -2.9, 5.1]


def test_conforms():
    assert 0 < assert_engine_conforms(ENGINE, tolerance=TOLERANCE) <= TOLERANCE


@pytest.mark.parametrize(
    ("diff_method", "gradient"), [("straight-through", "exact"), ("parameter-shift", "sampled"), ("spsa", "stochastic")]
)
def test_its_measured_frequencies_conform(diff_method, gradient):
    engine = get_engine("torchquantum:20x", diff_method)
    assert_engine_conforms(engine, tolerance=TOLERANCE, shots="20x", gradient=gradient, max_qubits=2)


def turned(builder, turns):
    for qubit, (a, b) in enumerate(turns):
        builder.append("ry", (qubit,), a).append("rz", (qubit,), b)


def turned_matrix(turns):
    return reduce(np.kron, [GATES["rz"].at(b) @ GATES["ry"].at(a) for a, b in turns])


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", GATES)
def test_every_gate_is_its_matrix(name, batch):
    """Between random rotations, so that the gate sees every basis state and its phases are measured."""
    row, rng = GATES[name], np.random.default_rng(5)
    for _ in range(6):
        before, after = rng.uniform(-3, 3, (2, row.num_qubits, 2))
        builder = CircuitBuilder(row.num_qubits)
        turned(builder, before)
        builder.append(name, range(row.num_qubits))
        turned(builder, after)
        angles = torch.tensor(ANGLES[-batch:], dtype=torch.float64)[:, None][:, : row.has_angle]
        given = ENGINE.probabilities(builder.build(), angles)
        for angle, probabilities in zip(ANGLES[-batch:], given, strict=True):
            state = (turned_matrix(after) @ row.at(angle) @ turned_matrix(before))[:, 0]
            np.testing.assert_allclose(probabilities, np.abs(state) ** 2, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", [name for name, row in GATES.items() if row.has_angle])
def test_every_gradient_is_the_exact_engines(name):
    count, rng = GATES[name].num_qubits, np.random.default_rng(6)
    builder = CircuitBuilder(count)
    turned(builder, rng.uniform(-3, 3, (count, 2)))
    builder.append(name, range(count))
    turned(builder, rng.uniform(-3, 3, (count, 2)))
    angles = torch.tensor(ANGLES, dtype=torch.float64)[:, None].requires_grad_()
    weights = torch.from_numpy(rng.uniform(-1, 1, (len(ANGLES), 2**count)))
    given, expected = (
        torch.autograd.grad((engine.probabilities(builder.build(), angles) * weights).sum(), angles)[0]
        for engine in (ENGINE, StatevectorEngine())
    )
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(given, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("num_qubits", [4, 8, 11])
def test_eight_layers_stay_within_the_tolerance(num_qubits):
    circuit = ansatz("ry_cnot", num_qubits, 8)
    angles = torch.from_numpy(np.random.default_rng(num_qubits).uniform(-3, 3, circuit.num_parameters)).requires_grad_()
    weights = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, 2**num_qubits))
    given, expected = (engine.probabilities(circuit, angles) for engine in (ENGINE, StatevectorEngine()))
    torch.testing.assert_close(given, expected, rtol=0, atol=TOLERANCE)
    slopes = [torch.autograd.grad(values @ weights, angles)[0] for values in (given, expected)]
    torch.testing.assert_close(*slopes, rtol=0, atol=TOLERANCE)


def test_qubit_0_is_the_most_significant_bit():
    probabilities = ENGINE.probabilities(CircuitBuilder(3).x(0).build(), torch.zeros(0))
    assert probabilities.tolist() == [0, 0, 0, 0, 1, 0, 0, 0]


def test_the_registry_makes_it():
    assert get_engine("torchquantum") == ENGINE


def test_what_does_not_fit_into_memory_is_refused():
    num_qubits = available_bytes(torch.device("cpu")).bit_length()
    circuit = ansatz("ry_cnot", num_qubits, 1)
    with pytest.raises(EngineError, match=rf"{num_qubits} qubits .* GiB are free"):
        ENGINE.check(circuit)
    with pytest.raises(EngineError, match="GiB are free"):
        ENGINE.probabilities(circuit, torch.zeros(circuit.num_parameters))
