import copy
import pickle
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from qiskit_aer import noise as aer
from torch.autograd.graph import saved_tensors_hooks

from qpeft.errors import EngineError, NoiseError
from qpeft.noise import channels, pauli_transfer
from qpeft.noise.device import Device
from qpeft.noise.devices import snapshot
from qpeft.noise.model import NoiseModel
from qpeft.noise.pauli_transfer import PauliTransferEngine
from qpeft.qcircuits import ANSATZE, CircuitBuilder, Engine, StatevectorEngine, ansatz, memory
from qpeft.qcircuits.aer_engine import AerEngine
from qpeft.qcircuits.conformance import assert_engine_conforms
from qpeft.qcircuits.gradients import in_blocks, parameter_shift_vjp
from tests.qcircuits.qiskit_reference import circuits, random_circuit

DEVICES = {name: PauliTransferEngine(Device(snapshot(name))) for name in ("ibm_torino", "ibm_fez")}
devices = pytest.mark.parametrize("engine", DEVICES.values(), ids=DEVICES)


def some_angles(circuit, *batch, seed=0, dtype=torch.float64):
    values = np.random.default_rng(seed).uniform(-np.pi, np.pi, (*batch, circuit.num_parameters))
    return torch.tensor(values, dtype=dtype)


@cache
def _aer_for(engine, circuit):
    native = engine.native(circuit)
    return native, AerEngine(noise_model=native.noise.to_aer(), optimization_level=0, method="density_matrix")


def aers(engine, circuit, angles):
    """Aer's density matrix for the same native gates under the same errors, in our order of qubits."""
    native, simulator = _aer_for(engine, circuit)
    p = simulator.probabilities(native.circuit, angles)
    n, ours = native.circuit.num_qubits, list(native.outputs)
    rest = [qubit for qubit in range(n) if qubit not in ours]
    p = p.view(*[2] * n).permute(*ours, *rest)
    return p.reshape(2 ** len(ours), -1).sum(-1)


class TestAgainstAer:
    @devices
    @pytest.mark.parametrize("name", ANSATZE)
    @pytest.mark.parametrize("num_qubits", range(2, 9))
    def test_device_noise(self, engine, name, num_qubits):
        circuit = ansatz(name, num_qubits, 2)
        angles = some_angles(circuit)
        exact = engine.probabilities(circuit, angles)
        assert (exact - aers(engine, circuit, angles)).abs().max() < 1e-8
        assert (engine.probabilities(circuit, angles.float()) - exact).abs().max() < 1e-6
        assert (exact - StatevectorEngine().probabilities(circuit, angles)).abs().sum() > 1e-3  # there is noise

    @devices
    def test_conformance(self, engine):
        def reference(circuit, angles):
            return aers(engine, circuit, torch.from_numpy(angles)).numpy()

        assert 0 < assert_engine_conforms(engine, reference, max_qubits=2) < 1e-6

    @pytest.mark.parametrize("seed", range(6))
    def test_random_circuits_under_all_kinds_of_errors(self, seed):
        model = aer.NoiseModel(basis_gates=["rz", "sx", "x", "cz"])
        model.add_all_qubit_quantum_error(aer.thermal_relaxation_error(50, 70, 3, 0.1), "sx")
        model.add_all_qubit_quantum_error(aer.reset_error(0.1, 0.05), "x")
        model.add_all_qubit_quantum_error(aer.coherent_unitary_error(np.diag([1, 1, 1, np.exp(0.3j)])), "cz")
        model.add_all_qubit_quantum_error(aer.amplitude_damping_error(0.05), "rz")
        model.add_all_qubit_readout_error([[0.95, 0.05], [0.2, 0.8]])
        engine = PauliTransferEngine(NoiseModel.from_aer(model))
        circuit = random_circuit(3, 14, seed)
        angles = some_angles(circuit, seed=seed)
        assert (engine.probabilities(circuit, angles) - aers(engine, circuit, angles)).abs().max() < 1e-8


class TestLimits:
    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(circuits(max_qubits=4, max_operations=12))
    def test_zero_noise_is_the_statevector(self, circuit):
        engine = PauliTransferEngine(NoiseModel.depolarizing(0, 0))
        angles = some_angles(circuit)
        expected = StatevectorEngine().probabilities(circuit, angles)
        assert (engine.probabilities(circuit, angles) - expected).abs().max() < 1e-9

    def test_full_depolarisation_is_uniform_and_has_no_gradient(self):
        engine = PauliTransferEngine(NoiseModel.depolarizing(1, 1))
        circuit = ansatz("ry_cnot", 3, 2)
        angles = some_angles(circuit).requires_grad_()
        p = engine.probabilities(circuit, angles)
        torch.testing.assert_close(p, torch.full_like(p, 1 / 8), rtol=0, atol=1e-12)
        p[0].backward()
        assert angles.grad.abs().max() < 1e-12

    def test_reset_after_every_gate_leaves_zero(self):
        reset = channels.reset(1.0)
        model = NoiseModel(
            "reset", ("rz", "sx", "cz"), default_errors={"sx": reset, "cz": channels.tensor(reset, reset)}
        )
        p = PauliTransferEngine(model).probabilities(ansatz("ry_cnot", 2, 2), torch.full((4,), 0.7))
        torch.testing.assert_close(p, torch.tensor([1.0, 0, 0, 0]))

    def test_readout_alone(self):
        model = NoiseModel("readout", ("rz", "sx", "cz"), readout={1: channels.readout(0.25, 0.0)})
        p = PauliTransferEngine(model).probabilities(CircuitBuilder(2).x(0).build(), torch.zeros(0))
        torch.testing.assert_close(p, torch.tensor([0, 0, 0.75, 0.25]))


class TestGradients:
    @devices
    @pytest.mark.parametrize("name", ANSATZE)
    def test_are_those_of_the_parameter_shift_rule(self, engine, name):
        circuit = ansatz(name, 3, 2)
        angles = some_angles(circuit, 2).requires_grad_()
        upstream = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 8)))
        (gradient,) = torch.autograd.grad(engine.probabilities(circuit, angles), angles, upstream)
        expected = parameter_shift_vjp(in_blocks(engine), circuit, angles.detach(), upstream)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("seed", range(3))
    def test_are_finite_differences(self, seed):
        engine = PauliTransferEngine(NoiseModel.depolarizing(0.01, 0.05, 0.02))
        circuit = random_circuit(3, 12, seed)
        angles = some_angles(circuit, seed=seed).requires_grad_()
        assert torch.autograd.gradcheck(lambda theta: engine.probabilities(circuit, theta), angles)

    @pytest.mark.parametrize("num_qubits", [1, 3])
    def test_training_after_a_call_under_inference_mode(self, num_qubits):
        engine, circuit = (
            PauliTransferEngine(NoiseModel.depolarizing(0.01, 0.01, 0.02)),
            ansatz("ry_cnot", num_qubits, 2),
        )
        with torch.inference_mode():
            inferred = engine.probabilities(circuit, some_angles(circuit, 2))
        angles = some_angles(circuit, 2).requires_grad_()
        p = engine.probabilities(circuit, angles)
        p[:, 0].sum().backward()
        assert torch.equal(inferred.clone(), p.detach())
        assert angles.grad.abs().max() > 1e-3

    def test_a_second_derivative_is_refused(self):
        engine, circuit = PauliTransferEngine(NoiseModel.depolarizing(0.01, 0.01)), ansatz("ry_cnot", 2, 1)
        angles = some_angles(circuit).requires_grad_()
        (gradient,) = torch.autograd.grad(engine.probabilities(circuit, angles)[1], angles, create_graph=True)
        with pytest.raises(EngineError, match="PauliTransferEngine is differentiable once"):
            gradient.sum().backward()


class TestMemory:
    @pytest.mark.parametrize("reps", [4, 16, 64])
    def test_the_backward_pass_keeps_the_root_of_the_steps(self, reps):
        circuit = ansatz("ry_cnot", 4, reps)
        engine = PauliTransferEngine(NoiseModel.depolarizing(0.001, 0.01))
        kept = []
        with saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor):
            engine.probabilities(circuit, some_angles(circuit).requires_grad_())
        states = sum(shape == (1, 4**4) for shape in kept)
        steps = 3 * reps  # one for each CNOT; neighbours on one pair are merged
        assert 0.5 * np.sqrt(steps) <= states <= 2 * np.sqrt(steps) + 2

    def test_a_circuit_is_compiled_once(self, monkeypatch):
        compiled = []
        original = pauli_transfer.compile_noisy
        monkeypatch.setattr(
            pauli_transfer, "compile_noisy", lambda *given: compiled.append(given[0]) or original(*given)
        )
        engine, circuit = PauliTransferEngine(NoiseModel.depolarizing(0.01, 0.01)), ansatz("ry_cnot", 2, 1)
        for _ in range(3):
            engine.probabilities(circuit, torch.zeros(2))
        copy.deepcopy(engine).probabilities(circuit, torch.zeros(2))
        assert len(compiled) == 1

    def test_too_many_qubits_say_what_they_need_and_what_to_do(self):
        engine = PauliTransferEngine(NoiseModel.depolarizing(0.01, 0.01))
        with pytest.raises(EngineError, match=r"20 qubits under noise \(1 state\(s\) of 4\*\*20 .* GiB.*trajectories"):
            engine.check(ansatz("ry_cnot", 20, 8))

    def test_old_circuits_go(self, monkeypatch):
        monkeypatch.setattr(pauli_transfer, "PROGRAMS_KEPT", 2)
        engine = PauliTransferEngine(NoiseModel.depolarizing(0.01, 0.01))
        circuits = [ansatz("ry_cnot", 1, reps) for reps in range(1, 5)]
        for circuit in circuits:
            engine.probabilities(circuit, torch.zeros(circuit.num_parameters))
        assert [circuit for circuit, _, _ in engine._programs] == circuits[-2:]

    def test_the_matrices_of_a_batch_are_counted(self, monkeypatch):
        """The 16 x 16 matrices of a small circuit outweigh its states: 256 numbers each, and 256 a state."""
        needed = []
        monkeypatch.setattr(pauli_transfer, "require_bytes", lambda count, *_: needed.append(count))
        engine, circuit = PauliTransferEngine(NoiseModel.depolarizing(0.01, 0.01)), ansatz("ry_cnot", 4, 10)
        engine.check(circuit)
        engine.probabilities(circuit, torch.zeros(10, circuit.num_parameters))
        early, _, full = needed
        assert early == 4 * 4 * 256
        with saved_tensors_hooks(lambda kept: sizes.append(kept.nbytes) or kept, lambda kept: kept):
            sizes = []
            engine.probabilities(circuit, torch.zeros(10, circuit.num_parameters, requires_grad=True))
        assert 0.5 * sum(sizes) < full < 4 * sum(sizes)

    def test_too_large_a_batch_is_refused_by_its_matrices(self, monkeypatch):
        monkeypatch.setattr(memory, "available_bytes", lambda device: 2**28)
        engine, circuit = PauliTransferEngine(NoiseModel.depolarizing(0.01, 0.01)), ansatz("ry_cnot", 4, 10)
        with pytest.raises(EngineError, match=r"4 qubits under noise \(4000 state.*matrices of 16 x 16.*smaller batch"):
            engine.probabilities(circuit, torch.zeros(4000, circuit.num_parameters))

    def test_idle_qubits_count(self, monkeypatch):
        """One qubit evolves as two: 4**2 numbers a state, not 4."""
        needed = []
        monkeypatch.setattr(pauli_transfer, "require_bytes", lambda count, *_: needed.append(count))
        engine = PauliTransferEngine(NoiseModel.depolarizing(0.01, 0.01))
        engine.probabilities(CircuitBuilder(1).x(0).build(), torch.zeros(0))
        assert needed[-1] == 4 * ((4 + 2) * 4**2 + 4 * (1 + 1) * 16**2)  # one step, of one layer

    def test_angles_stay_affine(self):
        native = DEVICES["ibm_torino"].native(ansatz("ry_cnot", 3, 2))
        indices = [o.angle.index for o in native.circuit.operations if o.angle and o.angle.index is not None]
        assert sorted(set(indices)) == list(range(6))
        assert {o.gate for o in native.circuit.operations} <= {"rz", "sx", "x", "cz"}


def test_it_is_an_engine():
    engine = PauliTransferEngine(Device(snapshot("ibm_torino")))
    assert isinstance(engine, Engine)
    engine.check(ansatz("ry_cnot", 2, 1))
    assert engine.describe()["ran_on"] == []
    engine.probabilities(ansatz("ry_cnot", 2, 1), torch.zeros(2))
    described = engine.describe()
    assert (described["noise"], described["calibrated"]) == ("fake_torino", "2025-02-26")
    (name,) = described["ran_on"]
    assert name.startswith("fake_torino[92, 99]")
    model = PauliTransferEngine(NoiseModel.depolarizing(0.01, 0.01))
    back = pickle.loads(pickle.dumps(model))
    circuit = ansatz("ry_cnot", 2, 1)
    assert torch.equal(back.probabilities(circuit, torch.ones(2)), model.probabilities(circuit, torch.ones(2)))


def test_a_gate_without_its_error_is_refused():
    model = NoiseModel("half", ("rz", "sx", "cz"), default_errors={"sx": channels.depolarizing(0.1)})
    with pytest.raises(EngineError, match=r"gates would run without an error: cz on \(0, 1\).* noise model half"):
        PauliTransferEngine(model).probabilities(ansatz("ry_cnot", 2, 1), torch.zeros(2))


def test_too_small_a_device():
    with pytest.raises(NoiseError, match="fake_manila has no line of 6"):
        PauliTransferEngine(Device(snapshot("ibm_manila"))).check(ansatz("ry_cnot", 6, 1))
