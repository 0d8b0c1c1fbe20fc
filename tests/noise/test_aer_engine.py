import copy
import math
import pickle
from functools import cache

import numpy as np
import pytest
import torch
from qiskit import QuantumCircuit
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel as AerNoiseModel

from qpeft.errors import EngineError, NoiseError
from qpeft.noise import aer_engine
from qpeft.noise.aer_engine import NoisyAerEngine
from qpeft.noise.device import Device
from qpeft.noise.devices import snapshot
from qpeft.noise.model import NoiseModel
from qpeft.noise.native import native
from qpeft.noise.pauli_transfer import PauliTransferEngine
from qpeft.qcircuits import CircuitBuilder, ansatz

TORINO = Device(snapshot("ibm_torino"))
CIRCUIT = ansatz("ry_cnot", 3, 2)
RING = CircuitBuilder(3).h(0).rx(1, angle=0.4).cx(0, 1).cx(1, 2).cx(0, 2).ry(2, angle=0.9).cx(2, 0).cx(1, 0).build()


def some_angles(*batch, seed=0):
    values = np.random.default_rng(seed).uniform(-np.pi, np.pi, (*batch, CIRCUIT.num_parameters))
    return torch.from_numpy(values)


def exact():
    return PauliTransferEngine(TORINO)


@cache
def whole_device():
    return AerSimulator(method="density_matrix", noise_model=AerNoiseModel.from_backend(snapshot("ibm_torino")))


def physically(circuit, angles):
    """Aer's own model of the whole device, with the native gates put on its qubits by hand."""
    backend, there = snapshot("ibm_torino"), native(circuit, TORINO.noise(circuit.num_qubits))
    line = TORINO.line(circuit.num_qubits)
    assert there.circuit.num_qubits == len(line)  # so that native qubit i is line[i]
    whole = QuantumCircuit(backend.num_qubits)
    for operation in there.circuit.operations:
        given = []
        if operation.angle is not None:
            angle = operation.angle
            turned = 0.0 if angle.index is None else angle.scale * float(angles[angle.index])
            given = [turned + angle.offset]
        getattr(whole, operation.gate)(*given, *(line[qubit] for qubit in operation.qubits))
    measured = [line[qubit] for qubit in there.outputs]
    whole.save_probabilities(measured[::-1])  # Qiskit's first qubit is the least significant
    p = whole_device().run(whole).result().data()["probabilities"].reshape([2] * len(measured))
    for axis, qubit in enumerate(measured):
        error = backend.target["measure"][qubit,].error
        p = (1 - error) * p + error * np.flip(p, axis)
    return torch.from_numpy(p.reshape(-1))


class TestAgainstTheWholeDevice:
    @pytest.mark.parametrize("circuit", [CIRCUIT, RING], ids=["ry_cnot", "ring"])
    def test_native_gates_by_hand_on_the_physical_qubits(self, circuit):
        angles = some_angles()[: circuit.num_parameters]
        expected = physically(circuit, angles)
        for engine in (exact(), NoisyAerEngine(TORINO)):
            assert (engine.probabilities(circuit, angles) - expected).abs().max() < 1e-8


class TestAgainstThePauliEngine:
    def test_probabilities(self):
        angles = some_angles(4)
        difference = NoisyAerEngine(TORINO).probabilities(CIRCUIT, angles) - exact().probabilities(CIRCUIT, angles)
        assert difference.abs().max() < 1e-12

    def test_outputs_are_put_back_in_order(self):
        assert native(RING, TORINO.noise(3)).outputs != (0, 1, 2)
        none = torch.zeros(0, dtype=torch.float64)
        p = NoisyAerEngine(TORINO).probabilities(RING, none)
        assert (p - exact().probabilities(RING, none)).abs().max() < 1e-12
        assert p.max() - p.min() > 0.05  # no permutation would go unseen in a uniform one

    def test_gradient(self):
        upstream = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 8)))
        gradients = []
        for engine in (NoisyAerEngine(TORINO), exact()):
            angles = some_angles(2).requires_grad_()
            gradients += torch.autograd.grad(engine.probabilities(CIRCUIT, angles), angles, upstream)
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("method", ["density_matrix", "statevector"])
    def test_shots(self, method):
        """Hoeffding's bound with a union over all outcomes: a right engine fails with a chance of at most 1e-6."""
        shots, angles = 20_000, some_angles(2)
        f = NoisyAerEngine(TORINO, shots, method).probabilities(CIRCUIT, angles)
        bound = math.sqrt(math.log(2 * f.numel() / 1e-6) / (2 * shots))
        assert 0 < (f - exact().probabilities(CIRCUIT, angles)).abs().max() < bound < 0.025
        torch.testing.assert_close(f * shots, (f * shots).round(), rtol=0, atol=1e-6)


class TestLimits:
    def test_too_many_qubits(self):
        with pytest.raises(NoiseError, match="the circuit has 3 qubits; the noise model small has 2"):
            NoisyAerEngine(NoiseModel("small", ("rz", "sx", "cz"), num_qubits=2)).check(CIRCUIT)
        engine = NoisyAerEngine(NoiseModel.depolarizing(0.01, 0.01))
        with pytest.raises(EngineError, match=r"25 qubits in Aer \(density_matrix.* GiB"):
            engine.check(ansatz("ry_cnot", 25, 1))

    def test_exact_probabilities_of_random_trajectories(self):
        with pytest.raises(EngineError, match="'statevector' averages noise over random runs"):
            NoisyAerEngine(TORINO, method="statevector").check(CIRCUIT)

    def test_a_check_simulates_nothing_and_old_simulators_go(self, monkeypatch):
        monkeypatch.setattr(aer_engine, "PROGRAMS_KEPT", 2)
        engine = NoisyAerEngine(NoiseModel.depolarizing(0.01, 0.01))
        circuits = [ansatz("ry_cnot", 1, reps) for reps in range(1, 5)]
        for circuit in circuits:
            engine.check(circuit)
        assert not engine._simulators
        for circuit in circuits:
            engine.probabilities(circuit, torch.zeros(circuit.num_parameters))
        assert [*engine._simulators] == circuits[-2:]


def test_what_it_ran_on_is_named_once_and_after_a_run_alone():
    engine = NoisyAerEngine(TORINO)
    engine.check(CIRCUIT)
    assert engine.describe()["ran_on"] == []
    twin = copy.deepcopy(engine)
    twin.probabilities(CIRCUIT, some_angles())
    twin.probabilities(CIRCUIT, some_angles())
    (name,) = twin.describe()["ran_on"]
    assert name.startswith(f"fake_torino{list(TORINO.line(3))}")
    assert engine.describe()["ran_on"] == []


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda engine: pickle.loads(pickle.dumps(engine))])
def test_a_copy_answers_alike(copied):
    engine = NoisyAerEngine(NoiseModel.depolarizing(0.01, 0.02, 0.03), 100, seed=3)
    angles = some_angles(2)
    engine.probabilities(CIRCUIT, angles)
    twin = copied(engine)
    ours = engine.probabilities(CIRCUIT, angles)
    assert torch.equal(twin.probabilities(CIRCUIT, angles), ours)
    assert not torch.equal(twin.probabilities(CIRCUIT, angles), ours)  # the next sample
