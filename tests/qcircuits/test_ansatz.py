import numpy as np
import pennylane as qml
import pytest
import torch
from qiskit import QuantumCircuit
from qiskit.quantum_info import Operator, Statevector

from qpeft.errors import CircuitError, ConfigError
from qpeft.qcircuits import ANSATZE, Angle, Circuit, CircuitBuilder, StatevectorEngine, ansatz, n_local, register_ansatz

# Written here a second time: the rotations of a layer, each followed by a CNOT chain.
ROTATIONS = {"ry_cnot": ["ry"], "rx_cnot": ["rx"], "rxrz_cnot": ["rx", "rz"], "ryrz_cnot": ["ry", "rz"]}
SIZES = [(n, reps) for n in range(2, 7) for reps in range(1, 4)]
sizes = pytest.mark.parametrize(("num_qubits", "reps"), SIZES)
chains = pytest.mark.parametrize("name", ROTATIONS)


def some_angles(count):
    return torch.tensor(np.random.default_rng(count).uniform(-np.pi, np.pi, count))


def columns(circuit, angles):
    return StatevectorEngine().columns(circuit, angles, 2**circuit.num_qubits).numpy()


def chain_in_qiskit(name, num_qubits, reps, angles):
    there, values = QuantumCircuit(num_qubits), iter(angles.tolist())
    wires = range(num_qubits - 1, -1, -1)  # Qiskit's qubit 0 is the least significant bit, ours the most
    for _ in range(reps):
        for rotation in ROTATIONS[name]:
            for wire in wires:
                getattr(there, rotation)(next(values), wire)
            for wire in wires[:-1]:
                there.cx(wire, wire - 1)
    return there


def chain_in_pennylane(name, num_qubits, reps, angles):
    values = iter(angles.tolist())
    for _ in range(reps):
        for rotation in ROTATIONS[name]:
            for wire in range(num_qubits):
                getattr(qml, rotation.upper())(next(values), wires=wire)
            for wire in range(num_qubits - 1):
                qml.CNOT(wires=[wire, wire + 1])


def in_pennylane(quantum_function, num_qubits):
    return qml.matrix(quantum_function, wire_order=range(num_qubits))()


@sizes
@chains
def test_chain_is_qiskits(name, num_qubits, reps):
    circuit = ansatz(name, num_qubits, reps)
    angles = some_angles(circuit.num_parameters)
    there = chain_in_qiskit(name, num_qubits, reps, angles)
    np.testing.assert_allclose(columns(circuit, angles), Operator(there).data, atol=1e-12)
    state = StatevectorEngine().state(circuit, angles)
    np.testing.assert_allclose(state, Statevector(there).data, atol=1e-12)


@sizes
@chains
def test_chain_is_pennylanes(name, num_qubits, reps):
    circuit = ansatz(name, num_qubits, reps)
    angles = some_angles(circuit.num_parameters)
    expected = in_pennylane(lambda: chain_in_pennylane(name, num_qubits, reps, angles), num_qubits)
    np.testing.assert_allclose(columns(circuit, angles), expected, atol=1e-12)


@sizes
def test_simplified_two_design_is_pennylanes(num_qubits, reps):
    circuit = ansatz("simplified_two_design", num_qubits, reps)
    angles = some_angles(circuit.num_parameters)
    shape = qml.SimplifiedTwoDesign.shape(reps, num_qubits)
    initial, layers = angles[:num_qubits].numpy(), angles[num_qubits:].numpy().reshape(shape[1])
    expected = in_pennylane(lambda: qml.SimplifiedTwoDesign(initial, layers, wires=range(num_qubits)), num_qubits)
    np.testing.assert_allclose(columns(circuit, angles), expected, atol=1e-12)


@sizes
def test_simplified_two_design_is_qiskits(num_qubits, reps):
    circuit = ansatz("simplified_two_design", num_qubits, reps)
    angles = some_angles(circuit.num_parameters)
    there, values = QuantumCircuit(num_qubits), iter(angles.tolist())
    wires = range(num_qubits - 1, -1, -1)
    for wire in wires:
        there.ry(next(values), wire)
    for _ in range(reps):
        for start in (0, 1):
            pairs = [(wires[q], wires[q + 1]) for q in range(start, num_qubits - 1, 2)]
            for pair in pairs:
                there.cz(*pair)
            for pair in pairs:
                there.ry(next(values), pair[0])
                there.ry(next(values), pair[1])
    np.testing.assert_allclose(columns(circuit, angles), Operator(there).data, atol=1e-12)


@pytest.mark.parametrize("reps", [0, 1, 3])
@pytest.mark.parametrize("num_qubits", [2, 3, 5, 8])
def test_number_of_parameters(num_qubits, reps):
    n, length = num_qubits, reps
    expected = {
        "ry_cnot": n * length,
        "rx_cnot": n * length,
        "rxrz_cnot": 2 * n * length,
        "ryrz_cnot": 2 * n * length,
        "simplified_two_design": (2 * length + 1) * n - 2 * length,
    }
    assert {name: ansatz(name, n, length).num_parameters for name in expected} == expected


@pytest.mark.parametrize("name", ANSATZE)
def test_every_angle_is_used_once_in_order(name):
    circuit = ansatz(name, 5, 2)
    used = [operation.angle for operation in circuit.operations if operation.angle is not None]
    assert used == [Angle(index) for index in range(circuit.num_parameters)]


@pytest.mark.parametrize("num_qubits", range(2, 7))
def test_ladder_maps_basis_state_to_its_prefix_parities(num_qubits):
    """The chain sends |j> to |i> with j = i ^ (i >> 1): bit k of i is the parity of j's bits from the top to k."""
    ladder = n_local(num_qubits, 1, [("cx", "chain")])
    moved = columns(ladder, torch.zeros(0))
    for i in range(2**num_qubits):
        np.testing.assert_array_equal(moved[i], np.eye(2**num_qubits)[i ^ (i >> 1)])


@pytest.mark.parametrize("num_qubits", [2, 3, 4])
def test_the_chain_ascends(num_qubits):
    descending = CircuitBuilder(num_qubits)
    for qubit in reversed(range(num_qubits - 1)):
        descending.cx(qubit, qubit + 1)
    ascending = n_local(num_qubits, 1, [("cx", "chain")])
    assert [o.qubits for o in ascending.operations] == [(q, q + 1) for q in range(num_qubits - 1)]
    difference = columns(ascending, torch.zeros(0)) - columns(descending.build(), torch.zeros(0))
    assert (np.abs(difference).max() > 0.5) == (num_qubits >= 3)


@pytest.mark.parametrize("rotation", ["rx", "ry"])
def test_two_chains_differ_from_one(rotation):
    two = ansatz(f"{rotation}rz_cnot", 3, 1)
    one = n_local(3, 1, [(rotation, "all"), ("rz", "all"), ("cx", "chain")])
    angles = some_angles(6)
    assert np.abs(columns(two, angles) - columns(one, angles)).max() > 0.1


@pytest.mark.parametrize("name", ANSATZE)
class TestEdges:
    def test_one_qubit(self, name):
        circuit = ansatz(name, 1, 2)
        assert all(operation.qubits == (0,) for operation in circuit.operations)
        assert circuit.num_parameters == len(circuit.operations) > 0

    def test_no_layers(self, name):
        circuit = ansatz(name, 3, 0)
        initial = [("ry", (q,)) for q in range(3)] if name == "simplified_two_design" else []
        assert [(o.gate, o.qubits) for o in circuit.operations] == initial

    def test_negative_reps(self, name):
        with pytest.raises(CircuitError, match="reps must be 0 or more; given -1"):
            ansatz(name, 3, -1)

    def test_no_qubits(self, name):
        with pytest.raises(CircuitError, match="at least 1 qubit"):
            ansatz(name, 0, 1)


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "num_qubits", "pairs"),
        [
            ("chain", 4, [(0, 1), (1, 2), (2, 3)]),
            ("ring", 4, [(0, 1), (1, 2), (2, 3), (3, 0)]),
            ("ring", 2, [(0, 1)]),
            ("ring", 1, []),
            ("even_pairs", 5, [(0, 1), (2, 3)]),
            ("odd_pairs", 5, [(1, 2), (3, 4)]),
            ("odd_pairs", 2, []),
        ],
    )
    def test_pairs(self, pattern, num_qubits, pairs):
        assert [o.qubits for o in n_local(num_qubits, 1, [("cz", pattern)]).operations] == pairs

    def test_unknown_pattern(self):
        with pytest.raises(CircuitError, match=r"unknown pattern 'chian'\. Did you mean 'chain'"):
            n_local(3, 1, [("cx", "chian")])

    def test_unknown_gate(self):
        with pytest.raises(CircuitError, match=r"unknown gate 'cxx'\. Did you mean .*'cx'"):
            n_local(3, 1, [("cxx", "chain")])

    def test_pair_gate_on_single_qubits(self):
        with pytest.raises(CircuitError, match="cx acts on pairs"):
            n_local(3, 1, [("cx", "all")])


class TestRegistry:
    @pytest.fixture(autouse=True)
    def _own_entries(self, monkeypatch):
        monkeypatch.setattr(ANSATZE, "_entries", dict(ANSATZE))

    def test_names(self):
        assert set(ANSATZE) >= {*ROTATIONS, "simplified_two_design"}
        assert all(entry.summary and entry.source for entry in ANSATZE.values())

    def test_unknown_name(self):
        with pytest.raises(ConfigError, match=r"unknown ansatz 'ry_cnott'\. Did you mean 'ry_cnot'"):
            ansatz("ry_cnott", 3, 1)

    def test_own_ansatz(self):
        register_ansatz("bell", lambda n, reps: CircuitBuilder(n).h(0).cx(0, 1).build().repeat(reps))
        assert "bell" in ANSATZE
        assert isinstance(ansatz("bell", 2, 1), Circuit)
        state = StatevectorEngine().state(ansatz("bell", 2, 1), torch.zeros(0, dtype=torch.float64))
        np.testing.assert_allclose(state, [0.5**0.5, 0, 0, 0.5**0.5], atol=1e-15)

    def test_taken_name(self):
        with pytest.raises(ConfigError, match="'ry_cnot' is already registered"):
            register_ansatz("ry_cnot", lambda n, reps: Circuit(n, (), 0))
