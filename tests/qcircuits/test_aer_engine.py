"""Aer against Qiskit's own states and density matrices, and against Aer run the usual way on a whole device."""

import copy
import json
import pickle
import weakref
from functools import cache

import numpy as np
import pytest
import qiskit
import qiskit.transpiler
import torch
from hypothesis import given, settings
from qiskit import QuantumCircuit
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import DensityMatrix, Statevector, SuperOp
from qiskit_aer import AerSimulator
from qiskit_aer.noise import (
    NoiseModel,
    ReadoutError,
    amplitude_damping_error,
    depolarizing_error,
    pauli_error,
    phase_damping_error,
)
from scipy.special import rel_entr

from qpeft.engines import get_engine
from qpeft.errors import ConfigError, EngineError
from qpeft.noise.devices import snapshot
from qpeft.qcircuits import CircuitBuilder, StatevectorEngine, Surrogate, aer_engine, ansatz
from qpeft.qcircuits.aer_engine import AerEngine
from qpeft.qcircuits.transpilation import transpile
from tests.qcircuits.qiskit_reference import circuits, final_state, random_circuit, to_qiskit

FALSE_ALARMS = 1e-6  # the chance that a right sample fails a test, each seed being fixed


def assert_sampled(counts, probabilities):
    """Each outcome's frequency f of p: shots * KL(f || p) <= ln(2 K / alpha) (Chernoff, and a union over K)."""
    shots = counts.sum()
    f, p = counts / shots, np.clip(probabilities, 1e-15, 1 - 1e-15)
    surprise = shots * (rel_entr(f, p) + rel_entr(1 - f, 1 - p))
    assert surprise.max() <= np.log(2 * len(p) / FALSE_ALARMS)


def angles_of(circuit, rows=1, seed=0):
    values = np.random.default_rng(seed).uniform(-3, 3, (rows, circuit.num_parameters))
    return torch.from_numpy(values)


def lopsided(num_qubits=3):
    """Not symmetric under reversal of the qubits, in rx and cx alone."""
    builder = CircuitBuilder(num_qubits).rx(0).cx(0, 1).rx(1).cx(0, 1).rx(0)
    return builder.cx(1, 2).rx(2, angle=0.4).build() if num_qubits == 3 else builder.build()


@cache
def hand_made():
    """Another error on every gate and every qubit, none of them symmetric."""
    model = NoiseModel(basis_gates=["rx", "cx"])
    for qubit in range(3):
        model.add_quantum_error(amplitude_damping_error(0.03 * (qubit + 1)), "rx", [qubit])
        model.add_readout_error(ReadoutError([[0.95 - 0.05 * qubit, 0.05 + 0.05 * qubit], [0.2, 0.8]]), [qubit])
    for qubits, p in (((0, 1), 0.05), ((1, 2), 0.1)):
        error = pauli_error([("IX", p), ("ZI", p / 2), ("II", 1 - 1.5 * p)]).compose(
            phase_damping_error(p).tensor(amplitude_damping_error(2 * p))
        )
        model.add_quantum_error(error, "cx", qubits)
    return model


def noisy_reference(circuit, angles):
    """`hand_made`, channel by channel with Qiskit's `quantum_info`."""
    state = DensityMatrix.from_label("0" * circuit.num_qubits)
    errors = {}
    for qubit in range(3):
        errors["rx", (qubit,)] = SuperOp(amplitude_damping_error(0.03 * (qubit + 1)))
    for qubits, p in (((0, 1), 0.05), ((1, 2), 0.1)):
        pauli = SuperOp(pauli_error([("IX", p), ("ZI", p / 2), ("II", 1 - 1.5 * p)]))
        errors["cx", qubits] = pauli.compose(SuperOp(phase_damping_error(p).tensor(amplitude_damping_error(2 * p))))
    for operation in circuit.operations:
        gate = QuantumCircuit(circuit.num_qubits)
        values = []
        if operation.angle is not None:
            index, offset = operation.angle.index, operation.angle.offset
            values = [offset if index is None else operation.angle.scale * angles[index] + offset]
        getattr(gate, operation.gate)(*values, *operation.qubits)
        state = state.evolve(gate).evolve(errors[operation.gate, operation.qubits], list(operation.qubits))
    exact = state.probabilities(range(circuit.num_qubits)[::-1])
    reading = np.eye(1)
    for qubit in range(circuit.num_qubits):
        reading = np.kron(reading, [[0.95 - 0.05 * qubit, 0.05 + 0.05 * qubit], [0.2, 0.8]])
    return exact @ reading


# ---- without noise


@settings(max_examples=25)
@given(circuits())
def test_exact_probabilities_are_qiskits(circuit):
    angles = angles_of(circuit, 3)
    ours = AerEngine().probabilities(circuit, angles).numpy()
    right = [abs(final_state(circuit, row)) ** 2 for row in angles.numpy()]
    np.testing.assert_allclose(ours, right, atol=1e-12)


@pytest.mark.parametrize("num_qubits", [1, 2, 4])
def test_the_gradient_is_exact(num_qubits):
    circuit = random_circuit(num_qubits, 14, seed=num_qubits)
    upstream = torch.randn(2, 2**num_qubits, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = []
    for engine in (AerEngine(), StatevectorEngine()):
        angles = angles_of(circuit, 2).requires_grad_()
        gradients.append(torch.autograd.grad(engine.probabilities(circuit, angles), angles, upstream)[0])
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", ["matrix_product_state", "density_matrix"])
def test_another_method(method):
    circuit = random_circuit(4, 12, seed=3)
    angles = angles_of(circuit)
    right = Statevector(to_qiskit(circuit, angles[0].numpy())).probabilities()
    np.testing.assert_allclose(AerEngine(method=method).probabilities(circuit, angles)[0], right, atol=1e-8)


def test_counts_follow_the_probabilities():
    circuit = random_circuit(3, 12, seed=7)
    angles = angles_of(circuit, 2)
    frequencies = AerEngine(shots=20_000, seed=1).probabilities(circuit, angles).numpy()
    for row, values in zip(frequencies, angles.numpy(), strict=True):
        assert_sampled(row * 20_000, abs(final_state(circuit, values)) ** 2)


def test_counts_repeat_and_rows_differ():
    circuit = ansatz("ry_cnot", 3, 1)
    angles = angles_of(circuit).expand(3, -1)
    first, second = (AerEngine(100, seed=5).probabilities(circuit, angles) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    engine = AerEngine(100, seed=5)
    engine.probabilities(circuit, angles)
    assert not torch.equal(engine.probabilities(circuit, angles), first)  # another call, another sample
    assert not torch.equal(AerEngine(100, seed=6).probabilities(circuit, angles), first)


def test_a_circuit_without_parameters_is_sampled_for_each_row():
    circuit = CircuitBuilder(2).h(0).x(1).build()
    frequencies = AerEngine(1000).probabilities(circuit, torch.zeros(3, 0)).numpy()
    assert frequencies.shape == (3, 4)
    assert not np.array_equal(frequencies[0], frequencies[1])
    for row in frequencies:
        assert_sampled(row.astype(float) * 1000, np.array([0, 0.5, 0, 0.5]))


# ---- jobs


@pytest.fixture
def jobs(monkeypatch):
    """How many circuits each job has, and how often Qiskit's transpiler was built."""
    seen = {"jobs": [], "transpilations": 0}
    run, manager = AerSimulator.run, qiskit.transpiler.generate_preset_pass_manager

    def counting(self, circuits, parameter_binds=None, **options):
        rows = len(circuits) if parameter_binds is None else len(next(iter(parameter_binds[0].values())))
        seen["jobs"].append(rows)
        return run(self, circuits, parameter_binds=parameter_binds, **options)

    def building(*arguments, **options):
        seen["transpilations"] += 1
        return manager(*arguments, **options)

    monkeypatch.setattr(AerSimulator, "run", counting)
    monkeypatch.setattr("qiskit.transpiler.generate_preset_pass_manager", building)
    transpile.cache_clear()
    return seen


@pytest.mark.parametrize("shots", [None, 50])
def test_a_step_is_one_job_forward_and_one_backward(jobs, shots):
    circuit = ansatz("ry_cnot", 3, 2)
    engine = AerEngine(shots)
    for _ in range(2):
        angles = angles_of(circuit, 4).requires_grad_()
        engine.probabilities(circuit, angles).square().sum().backward()
    assert jobs["jobs"] == [4, 4 * 2 * circuit.num_parameters] * 2
    assert jobs["transpilations"] == 1


def test_results_come_in_blocks(monkeypatch):
    monkeypatch.setattr(aer_engine, "BLOCK_NUMBERS", 16)
    engine, circuit = AerEngine(), ansatz("ry_cnot", 3, 1)
    angles = angles_of(circuit, 5)
    stream = engine.draws.stream(0, 0)
    blocks = list(engine.evaluate(circuit, angles, None, stream))
    assert [len(block) for block in blocks] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(blocks), StatevectorEngine().probabilities(circuit, angles))


def test_a_copy_shares_what_never_changes_and_counts_its_own_calls(jobs):
    engine, circuit = AerEngine(50, backend=snapshot("ibm_torino")), lopsided(2)
    angles = angles_of(circuit)
    engine.probabilities(circuit, angles)
    twin = copy.deepcopy(engine)
    assert twin.backend is engine.backend
    assert torch.equal(twin.probabilities(circuit, angles), engine.probabilities(circuit, angles))
    twin.probabilities(circuit, angles)
    assert (twin.draws.call, engine.draws.call) == (3, 2)
    assert jobs["transpilations"] == 1


@pytest.mark.parametrize("device", ["backend", "noise_model"])
def test_an_engine_can_be_pickled(device):
    options = {"backend": snapshot("ibm_manila")} if device == "backend" else {"noise_model": one_qubit_errors("ry")}
    engine, circuit = AerEngine(50, seed=4, **options), ansatz("ry_cnot", 2, 1)
    angles = angles_of(circuit)
    engine.probabilities(circuit, angles)
    twin = pickle.loads(pickle.dumps(engine))
    assert twin.describe() == engine.describe()
    assert torch.equal(twin.probabilities(circuit, angles), engine.probabilities(circuit, angles))


def test_an_engine_and_its_copy_are_freed_with_their_last_reference():
    engine, circuit = AerEngine(), ansatz("ry_cnot", 2, 1)
    engine.probabilities(circuit, angles_of(circuit))
    seen = [weakref.ref(engine), weakref.ref(copy.deepcopy(engine))]
    del engine
    assert [each() for each in seen] == [None, None]


def test_a_copy_compiles_with_its_own_settings():
    engine, circuit = AerEngine(), ansatz("ry_cnot", 2, 1)
    twin = copy.deepcopy(engine)
    twin.optimization_level = 0
    for each in (engine, twin):
        each.probabilities(circuit, angles_of(circuit))
    (ours,), (theirs,) = engine._programs.values(), twin._programs.values()
    assert theirs.transpiled is transpile(circuit, None, None, 0, 0)
    assert ours.transpiled is transpile(circuit, None, None, 3, 0)


def test_a_bounded_number_of_programs_is_kept(monkeypatch):
    monkeypatch.setattr(aer_engine, "_PROGRAMS_KEPT", 2)
    engine, angles = AerEngine(), torch.tensor([0.3], dtype=torch.float64)
    for place in (0, 1, 2, 0, 1, 2):
        circuit = CircuitBuilder(3).ry(place).build()
        torch.testing.assert_close(
            engine.probabilities(circuit, angles), StatevectorEngine().probabilities(circuit, angles)
        )
        assert len(engine._programs) <= 2


# ---- noise models


@pytest.mark.parametrize("num_qubits", [2, 3])
def test_a_noise_model_acts_channel_by_channel(num_qubits):
    circuit = lopsided(num_qubits)
    angles = angles_of(circuit, 2)
    right = [noisy_reference(circuit, row) for row in angles.numpy()]
    ours = AerEngine(noise_model=hand_made(), optimization_level=0).probabilities(circuit, angles).numpy()
    np.testing.assert_allclose(ours, right, atol=1e-12)
    ideal = StatevectorEngine().probabilities(circuit, angles).numpy()
    assert abs(ours - ideal).max() > 0.02
    sampled = AerEngine(20_000, noise_model=hand_made(), optimization_level=0).probabilities(circuit, angles).numpy()
    for row, probabilities in zip(sampled, right, strict=True):
        assert_sampled(row * 20_000, probabilities)


def test_optimization_takes_errors_away_with_the_gates():
    circuit = CircuitBuilder(2).rx(0).swap(0, 1).build()
    model = NoiseModel(basis_gates=["rx", "cx"])
    model.add_all_qubit_quantum_error(pauli_error([("Z", 0.5), ("I", 0.5)]), "rx")
    model.add_all_qubit_quantum_error(depolarizing_error(0.3, 2), "cx")
    angles = angles_of(circuit)
    gate_by_gate, elided = (
        AerEngine(noise_model=model, optimization_level=level).probabilities(circuit, angles) for level in (0, 3)
    )
    ideal = StatevectorEngine().probabilities(circuit, angles)
    torch.testing.assert_close(gate_by_gate, 0.7**3 * ideal + (1 - 0.7**3) / 4, atol=1e-12, rtol=0)
    torch.testing.assert_close(elided, ideal, atol=1e-12, rtol=0)


def test_the_gradient_with_noise_is_that_of_finite_differences():
    circuit = lopsided()
    engine, step = AerEngine(noise_model=hand_made(), optimization_level=0), 1e-5
    angles = angles_of(circuit)[0].requires_grad_()
    upstream = torch.randn(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(engine.probabilities(circuit, angles), angles, upstream)
    moves = step * torch.cat([torch.eye(len(angles)), -torch.eye(len(angles))]).double()
    values = (engine.probabilities(circuit, angles.detach() + moves) * upstream).sum(-1).view(2, -1)
    torch.testing.assert_close(gradient, (values[0] - values[1]) / (2 * step), atol=1e-8, rtol=0)


def test_readout_alone():
    model = NoiseModel()
    model.add_all_qubit_readout_error(ReadoutError([[0.9, 0.1], [0.3, 0.7]]))
    model.add_readout_error(ReadoutError([[0.5, 0.5], [0.0, 1.0]]), [1])
    circuit = CircuitBuilder(3).x(2).build()
    exact = AerEngine(noise_model=model).probabilities(circuit, torch.zeros(0, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(exact, np.kron(np.kron([0.9, 0.1], [0.5, 0.5]), [0.3, 0.7]))


def test_a_readout_error_of_two_qubits_at_once_is_refused():
    model = NoiseModel()
    model.add_readout_error(ReadoutError(np.eye(4)[::-1]), [0, 1])
    for shots in (None, 10):
        with pytest.raises(EngineError, match=r"correlated readout error on qubits \(0, 1\)"):
            AerEngine(shots, noise_model=model).probabilities(lopsided(), angles_of(lopsided()))


def one_qubit_errors(*names, basis_gates=None):
    model = NoiseModel(basis_gates=basis_gates)
    model.add_all_qubit_quantum_error(depolarizing_error(0.1, 1), list(names))
    model.add_all_qubit_quantum_error(depolarizing_error(0.1, 2), ["cx"])
    return model


def test_readout_alone_needs_no_density_matrix():
    model = NoiseModel()
    model.add_all_qubit_readout_error(ReadoutError([[0.9, 0.1], [0.3, 0.7]]))
    circuit = CircuitBuilder(2).x(1).build()
    for noise, right in ((NoiseModel(), [0, 1, 0, 0]), (model, np.kron([0.9, 0.1], [0.3, 0.7]))):
        for method in ("statevector", "automatic"):
            engine = AerEngine(noise_model=noise, method=method)
            exact = engine.probabilities(circuit, torch.zeros(0, dtype=torch.float64))
            np.testing.assert_allclose(exact, right, atol=1e-12)
    with pytest.raises(EngineError, match=r"statevector: 2\*\*40"):
        AerEngine(noise_model=model).check(ansatz("ry_cnot", 40, 1))


def flipped_before_reading(as_readout):
    """`hand_made`'s gates on three qubits, and outcomes flipped: by a quantum error or by one of readout."""
    model = NoiseModel(basis_gates=["rx", "cx"])
    model.add_all_qubit_quantum_error(amplitude_damping_error(0.1), "rx")
    model.add_all_qubit_quantum_error(depolarizing_error(0.05, 2), "cx")
    for qubit, p in enumerate((0.1, 0.2, 0.3)):
        if as_readout:
            model.add_readout_error(ReadoutError([[1 - p, p], [p, 1 - p]]), [qubit])
        else:
            model.add_quantum_error(pauli_error([("X", p), ("I", 1 - p)]), "measure", [qubit])
    return model


def test_a_quantum_error_on_measurements_is_in_counts_and_has_no_exact_probabilities():
    circuit, model = lopsided(), flipped_before_reading(as_readout=False)
    angles = angles_of(circuit)
    exact = AerEngine(noise_model=flipped_before_reading(as_readout=True)).probabilities(circuit, angles)[0].numpy()
    counted = AerEngine(50_000, noise_model=model).probabilities(circuit, angles)[0].numpy() * 50_000
    assert_sampled(counted, exact)
    with pytest.raises(EngineError, match=r"quantum error on 'measure'.*give shots, or .*ReadoutError"):
        AerEngine(noise_model=model)


def test_a_quantum_error_on_measurements_alone_asks_for_none_on_gates():
    model = NoiseModel(basis_gates=["rx", "cx"])
    model.add_all_qubit_quantum_error(pauli_error([("X", 1.0)]), "measure")
    counted = AerEngine(100, noise_model=model).probabilities(CircuitBuilder(2).x(1).build(), torch.zeros(0))
    assert counted.tolist() == [0, 0, 1, 0]


def test_a_noise_model_changed_later_is_another():
    model, circuit = one_qubit_errors("ry"), ansatz("ry_cnot", 2, 1)
    engine, angles = AerEngine(noise_model=model), angles_of(circuit)
    before = engine.probabilities(circuit, angles)
    model.add_all_qubit_readout_error(ReadoutError([[0.5, 0.5], [0.5, 0.5]]))
    assert torch.equal(engine.probabilities(circuit, angles), before)
    other = ansatz("ry_cnot", 2, 2)  # not compiled before the change
    values = angles_of(other)
    fresh = AerEngine(noise_model=one_qubit_errors("ry")).probabilities(other, values)
    assert torch.equal(engine.probabilities(other, values), fresh)
    assert "measure" not in engine.describe()["noise"]


def test_a_gate_without_its_error_is_refused():
    circuit = CircuitBuilder(2).sx(0).ry(1).cx(0, 1).build()
    angles = torch.zeros(1)
    with pytest.raises(EngineError, match=r"without an error: sx on \(0,\)\. The noise model has errors for: cx, u3\."):
        AerEngine(noise_model=one_qubit_errors("u3")).probabilities(circuit, angles)
    with pytest.raises(EngineError, match=r"without an error: .*ry on \(1,\).*ideal_gates=.*'ry'"):
        AerEngine(noise_model=one_qubit_errors("rx", basis_gates=["ry", "sx"])).probabilities(circuit, angles)
    with pytest.raises(EngineError, match=r"without an error: sx on \(0,\)"):
        AerEngine(100, noise_model=one_qubit_errors("ry", basis_gates=["ry", "sx"])).probabilities(circuit, angles)


def test_an_error_on_other_qubits_or_the_other_way_round_is_not_the_gates_error():
    model = NoiseModel(basis_gates=["rx", "cx"])
    model.add_all_qubit_quantum_error(depolarizing_error(0.1, 1), "rx")
    model.add_quantum_error(depolarizing_error(0.1, 2), "cx", [1, 0])
    with pytest.raises(EngineError, match=r"cx on \(0, 1\)\. .* cx on \[\(1, 0\)\], rx"):
        AerEngine(noise_model=model, optimization_level=0).probabilities(lopsided(2), torch.zeros(3))


def test_gates_that_are_ideal_by_design():
    circuit = CircuitBuilder(2).rz(0).ry(1).cx(0, 1).sx(0).build()  # rz is virtual, sx is not
    model, angles = one_qubit_errors("ry"), torch.zeros(2)
    with pytest.raises(EngineError, match=r"without an error: sx on \(0,\)\."):
        AerEngine(noise_model=model).probabilities(circuit, angles)
    engine = AerEngine(noise_model=model, ideal_gates=("sx",))
    assert engine.probabilities(circuit, angles).sum().item() == pytest.approx(1)
    assert {"rz", "sx"} <= set(engine.describe()["ideal_gates"])


def test_a_virtual_gate_with_an_error_on_other_qubits_is_not_ideal():
    model = one_qubit_errors("sx")
    model.add_quantum_error(depolarizing_error(0.1, 1), "rz", [0])
    noisy, bare = (CircuitBuilder(2).sx(q).rz(q).sx(q).build() for q in (0, 1))
    angles = torch.tensor([0.7], dtype=torch.float64)
    assert AerEngine(noise_model=model).probabilities(noisy, angles).sum().item() == pytest.approx(1)
    for shots in (None, 100):
        with pytest.raises(EngineError, match=r"without an error: rz on \(1,\)\. .* rz on \[\(0,\)\]"):
            AerEngine(shots, noise_model=model).probabilities(bare, angles)
    assert AerEngine(noise_model=model, ideal_gates=("rz",)).probabilities(bare, angles).sum().item() > 0.99
    assert "rz" not in AerEngine(noise_model=model).describe()["ideal_gates"]


def test_a_virtual_gate_with_an_error_speaks_for_its_kin():
    model = one_qubit_errors("ry", "rz", basis_gates=["rz", "z", "ry", "cx"])
    with pytest.raises(EngineError, match=r"without an error: z on \(0,\)\."):
        AerEngine(noise_model=model, optimization_level=0).probabilities(CircuitBuilder(1).z(0).build(), torch.zeros(0))


def test_a_basis_without_a_phase_of_any_angle_has_no_virtual_gates():
    model = NoiseModel(basis_gates=["ry", "z", "t", "cx"])
    model.add_all_qubit_quantum_error(depolarizing_error(0.1, 1), "ry")
    circuit, angles = CircuitBuilder(1).ry(0).z(0).t(0).ry(0).build(), torch.zeros(2)
    with pytest.raises(EngineError, match=r"without an error: t on \(0,\), z on \(0,\)\. .*ideal_gates=\('t', 'z'\)"):
        AerEngine(noise_model=model, optimization_level=0).probabilities(circuit, angles)
    named = AerEngine(noise_model=model, optimization_level=0, ideal_gates=("z", "t"))
    assert named.probabilities(circuit, angles).sum().item() == pytest.approx(1)


def test_the_noise_model_of_a_device_is_accepted():
    model = NoiseModel.from_backend(snapshot("ibm_manila"))  # errors on sx, x and cx, none on rz
    circuit = ansatz("ry_cnot", 2, 1)
    probabilities = AerEngine(noise_model=model).probabilities(circuit, angles_of(circuit))
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-7)


# ---- devices


def on_whole_device(circuit, angles, backend, layout, shots):
    """Counts by Qiskit alone: our qubit i on the device's qubit layout[i], the noise of all its qubits."""
    there = to_qiskit(circuit, angles)  # our qubit i is its qubit N-1-i, and basis indices are the same
    there.measure_all()
    done = qiskit.transpile(there, backend, optimization_level=0, initial_layout=list(layout[::-1]))
    counts = AerSimulator.from_backend(backend).run(done, shots=shots, seed_simulator=2).result().get_counts()
    dim = 2**circuit.num_qubits
    return np.array([counts.get(f"{index:0{circuit.num_qubits}b}", 0) for index in range(dim)])


@pytest.mark.parametrize("level", [0, 3])
def test_gates_have_the_noise_of_the_qubits_they_are_laid_on(level):
    backend, circuit = snapshot("ibm_manila"), CircuitBuilder(3).ry(0).cx(0, 1).ry(1).cx(1, 2).ry(2).build()
    angles = angles_of(circuit)[0]
    layout = {0: (0, 1, 2), 3: transpile(circuit, backend).qubits}[level]  # Qiskit lays them in order at level 0
    exact = AerEngine(backend=backend, optimization_level=level).probabilities(circuit, angles).numpy()
    assert_sampled(on_whole_device(circuit, angles.numpy(), backend, layout, 200_000), exact)
    with pytest.raises(AssertionError):  # the test would see another layout
        assert_sampled(on_whole_device(circuit, angles.numpy(), backend, layout[::-1], 200_000), exact)


@pytest.mark.parametrize("name", ["ibm_manila", "ibm_guadalupe"])
def test_a_devices_noise_is_that_of_the_whole_device(name):
    """As Aer counts the transpiled circuit with the noise model of all of the device's qubits."""
    circuit = CircuitBuilder(3).ry(0).cx(0, 1).rzz(1, 2).ry(1).cx(0, 2).sx(2).ry(2).build()
    backend, angles = snapshot(name), torch.tensor([1.0, 2.0, -0.7, 0.4], dtype=torch.float64)
    transpiled = transpile(circuit, backend)
    whole = transpiled.circuit.assign_parameters(list(transpiled.values(angles[None])[0]))
    counts = AerSimulator.from_backend(backend).run(whole, shots=50_000, seed_simulator=1).result().get_counts()
    measured = np.array([counts.get(f"{index:03b}", 0) for index in range(8)])
    exact = AerEngine(backend=backend).probabilities(circuit, angles).numpy()
    assert_sampled(measured, exact)
    assert_sampled(AerEngine(50_000, backend=backend).probabilities(circuit, angles).numpy() * 50_000, exact)
    with pytest.raises(AssertionError):  # the test would see the noise missing
        assert_sampled(measured, abs(final_state(circuit, angles.numpy())) ** 2)


def test_only_the_qubits_in_use_are_simulated():
    circuit = ansatz("ry_cnot", 4, 2)
    engine = AerEngine(backend=snapshot("ibm_torino"))
    probabilities = engine.probabilities(circuit, angles_of(circuit))  # 133 qubits would need 4**133 numbers
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-7)  # Aer's channels keep the trace to about 1e-9


def test_a_device_that_states_no_errors_is_refused():
    with pytest.raises(
        EngineError, match=r"without an error: .*sx on \(0,\).*generic_backend_3q .* has errors for: no"
    ):
        AerEngine(backend=GenericBackendV2(3, noise_info=False)).probabilities(lopsided(), torch.zeros(3))


def test_errors_stated_as_zero_are_no_errors():
    backend = GenericBackendV2(2, ["rz", "sx", "cx"], seed=1)
    for name in ("sx", "cx"):
        for qubits in list(backend.target[name]):
            backend.target.update_instruction_properties(name, qubits, type(backend.target[name][qubits])(error=0.0))
    for qubits in list(backend.target["measure"]):
        backend.target.update_instruction_properties("measure", qubits, type(backend.target["cx"][0, 1])(error=0.0))
    circuit = lopsided(2)
    angles = angles_of(circuit)
    ours = AerEngine(backend=backend).probabilities(circuit, angles)
    torch.testing.assert_close(ours, StatevectorEngine().probabilities(circuit, angles), atol=1e-9, rtol=0)


# ---- errors


def test_a_failed_experiment_says_aers_reason():
    engine = AerEngine(method="stabilizer")
    with pytest.raises(EngineError, match=r'Aer failed: circuit 0: .*ry.* for "stabilizer" method'):
        engine.probabilities(ansatz("ry_cnot", 2, 1), torch.zeros(3, 2) + 0.1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "statevectr"}, EngineError, r"unknown method of Aer 'statevectr'. Did you mean 'statevector'"),
        ({"device": "TPU"}, EngineError, r"unknown device of Aer 'TPU'"),
        ({"method": "statevector", "noise_model": hand_made()}, EngineError, "no exact probabilities"),
        ({"method": "statevector", "backend": snapshot("ibm_manila")}, EngineError, "no exact probabilities"),
        ({"backend": "ibm_torino"}, ConfigError, r"backend is str; expected .*BackendV2, .*snapshot\('ibm_torino'\)"),
        ({"noise_model": "x"}, ConfigError, r"noise_model is builtins.str; expected a qiskit_aer.noise.NoiseModel"),
        ({"backend": AerSimulator()}, ConfigError, "a simulator; give the device it imitates"),
        ({"backend": 1, "noise_model": NoiseModel()}, ConfigError, "both noise_model and backend"),
        ({"diff_method": "adjoint"}, ConfigError, "unknown diff_method of AerEngine 'adjoint'"),
        ({"shots": 0}, ConfigError, r"shots .*\b0\b"),
    ],
)
def test_settings_that_cannot_be(options, error, message):
    with pytest.raises(error, match=message):
        AerEngine(**options)


def test_a_gpu_that_is_not_there():
    if "GPU" in AerSimulator().available_devices():
        pytest.skip("Aer has a GPU here")
    with pytest.raises(EngineError, match=r"unknown device of Aer 'GPU'.*Aer must be built for it"):
        AerEngine(device="GPU")


def test_check_comes_before_any_work(jobs):
    backend = snapshot("ibm_torino")
    for engine, num_qubits, message in (
        (AerEngine(backend=snapshot("ibm_manila")), 6, "has 6 qubits; fake_manila has 5"),
        (AerEngine(backend=backend), 30, r"density_matrix: 4\*\*30 complex numbers"),
        (AerEngine(shots=10, gradient_shots=10, backend=backend, method="density_matrix"), 30, "density_matrix"),
        (AerEngine(), 40, r"statevector: 2\*\*40 complex numbers\) need about 16,384.0 GiB"),
    ):
        circuit = ansatz("ry_cnot", num_qubits, 1)
        with pytest.raises(EngineError, match=message):
            engine.check(circuit)
        with pytest.raises(EngineError, match=message):
            engine.probabilities(circuit, torch.zeros(num_qubits))
    AerEngine(method="matrix_product_state").check(ansatz("ry_cnot", 20, 1))
    with pytest.raises(EngineError, match=r"2\*\*50 probabilities need about"):
        AerEngine(shots=10).check(ansatz("ry_cnot", 50, 1))
    assert jobs == {"jobs": [], "transpilations": 0}


# ---- names


def test_the_names_of_the_registry():
    engine = get_engine("aer@ibm_torino:20x", gradient_shots=100, seed=3)
    described = engine.describe()
    assert json.loads(json.dumps(described)) == described
    assert (described["noise"], described["shots"], described["gradient_shots"]) == ("fake_torino", "20x", "100")
    assert (described["seed"], described["diff_method"]) == (3, "parameter-shift")
    assert get_engine("aer", seed=3).describe()["seed_transpiler"] == 0  # the seed is of samples, not of circuits
    assert get_engine("aer").describe()["shots"] is None
    assert get_engine("aer:4096", diff_method="spsa").describe()["diff_method"] == "spsa"
    assert AerEngine(noise_model=hand_made()).describe()["noise"] == ["cx", "measure", "rx"]


@pytest.mark.parametrize("name", ["aer", "aer:4096"])
def test_straight_through_has_the_exact_gradient(name):
    engine, circuit = get_engine(name, diff_method="straight-through"), ansatz("ry_cnot", 3, 2)
    assert isinstance(engine, Surrogate)
    gradients = []
    for each in (engine, StatevectorEngine()):
        angles = angles_of(circuit).requires_grad_()
        gradients.append(torch.autograd.grad(each.probabilities(circuit, angles)[0, 3], angles)[0])
    torch.testing.assert_close(*gradients)
