import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit_reference import circuits, unitary
from up_to_phase import same_up_to_phase

from qpeft.errors import CircuitError
from qpeft.qcircuits import Angle, Circuit, CircuitBuilder, Operation, ansatz
from qpeft.qcircuits.interop.pennylane import from_pennylane, to_pennylane

seeds = st.integers(0, 2**32 - 1)


def angles_of(circuit, seed=0):
    return np.random.default_rng(seed).uniform(-3, 3, circuit.num_parameters)


def tape_of(circuit, angles):
    """A tape of a circuit, of whose parameters those that depend on the angles are trainable."""
    values = torch.tensor(angles, dtype=torch.float64, requires_grad=True)
    with qml.queuing.AnnotatedQueue() as queue:
        to_pennylane(circuit)(values)
        qml.probs(wires=range(circuit.num_qubits))
    tape = qml.tape.QuantumScript.from_queue(queue)
    parameters = tape.get_parameters(trainable_only=False)
    tape.trainable_params = [i for i, value in enumerate(parameters) if qml.math.requires_grad(value)]
    return tape


def matrix(tape, num_qubits):
    return qml.math.detach(qml.matrix(tape, wire_order=range(num_qubits)))


@settings(max_examples=40)
@given(circuits(), seeds)
def test_there_it_is_the_same_unitary(circuit, seed):
    angles = angles_of(circuit, seed)
    if circuit.operations:
        there = np.asarray(matrix(tape_of(circuit, angles), circuit.num_qubits))
        assert same_up_to_phase(there, unitary(circuit, angles))


@settings(max_examples=40)
@given(circuits(), seeds)
def test_round_trip(circuit, seed):
    angles = angles_of(circuit, seed)
    back, values = from_pennylane(tape_of(circuit, angles))
    turning = [o for o in circuit.operations if o.angle is not None and o.angle.index is not None]
    assert (back.num_qubits, back.num_parameters, len(values)) == (circuit.num_qubits, len(turning), len(turning))
    assert values.dtype == torch.float64
    assert same_up_to_phase(unitary(back, values.tolist()), unitary(circuit, angles))


def test_a_circuit_of_plain_angles_comes_back_as_it_was():
    circuit = ansatz("ryrz_cnot", 4, 2)
    back, values = from_pennylane(tape_of(circuit, angles_of(circuit)))
    assert back == circuit
    np.testing.assert_array_equal(values, angles_of(circuit))


def test_rbs_is_single_excitation_at_minus_twice_the_angle():
    circuit = CircuitBuilder(2).rbs(0, 1).build()
    (operation,) = tape_of(circuit, [0.7]).operations
    assert (operation.name, float(operation.data[0])) == ("SingleExcitation", -1.4)
    back, values = from_pennylane(qml.tape.QuantumScript([qml.SingleExcitation(-1.4, [0, 1])]))
    assert back.operations == (Operation("rbs", (0, 1), Angle(0, -0.5)),)
    assert values.tolist() == [-1.4]


INTERFACES = {
    "torch": torch.tensor, "numpy": np.array, "list": list,
    "autograd": lambda values: qml.numpy.array(values, requires_grad=True),
}  # fmt: skip


@pytest.mark.parametrize("interface", INTERFACES)
def test_any_interface_inside_a_qnode(interface):
    circuit = CircuitBuilder(3).ry(0).cx(0, 1).sdg(1).rbs(1, 2).rx(2, angle=Angle(0, 0.5, 1.0)).build()
    apply = to_pennylane(circuit)

    @qml.qnode(qml.device("default.qubit"))
    def probabilities(angles):
        apply(angles)
        return qml.probs(wires=range(3))

    values = angles_of(circuit)
    expected = np.abs(unitary(circuit, values)[:, 0]) ** 2
    np.testing.assert_allclose(np.asarray(probabilities(INTERFACES[interface](values))), expected, atol=1e-12)


def test_broadcasting():
    circuit = CircuitBuilder(2).ry(0).rbs(0, 1).rx(1).build()
    batch = np.random.default_rng(0).uniform(-3, 3, (4, 3))
    probabilities = qml.qnode(qml.device("default.qubit"))(lambda x: (to_pennylane(circuit)(x), qml.probs([0, 1]))[1])
    expected = [np.abs(unitary(circuit, row)[:, 0]) ** 2 for row in batch]
    np.testing.assert_allclose(probabilities(batch), expected, atol=1e-12)


def test_wires_are_named_at_conversion_or_at_the_call():
    circuit = CircuitBuilder(2).x(0).cx(0, 1).build()
    for apply, wires in ((to_pennylane(circuit, ["a", "b"]), None), (to_pennylane(circuit), ["a", "b"])):
        tape = qml.tape.make_qscript(apply)([], wires=wires)
        assert [operation.wires.tolist() for operation in tape.operations] == [["a"], ["a", "b"]]
    with pytest.raises(CircuitError, match="2 qubits need as many different labels"):
        to_pennylane(circuit, ["a", "a"])
    with pytest.raises(CircuitError, match="2 qubits need as many different labels"):
        to_pennylane(circuit)([], wires=[0, 1, 2])


@pytest.mark.parametrize("angles", [[0.1], np.zeros((2, 3)), 0.5])
def test_a_wrong_number_of_angles(angles):
    with pytest.raises(CircuitError, match=r"the circuit has 2 angles; given shape .*, expected \(\.\.\., 2\)"):
        to_pennylane(ansatz("ry_cnot", 2, 1))(angles)


def weights(template, *sizes):
    shape = template.shape(*sizes)
    return [np.random.default_rng(0).uniform(-3, 3, s) for s in (shape if isinstance(shape[0], tuple) else [shape])]


TEMPLATES = {
    "StronglyEntanglingLayers": qml.StronglyEntanglingLayers(*weights(qml.StronglyEntanglingLayers, 2, 3), range(3)),
    "SimplifiedTwoDesign": qml.SimplifiedTwoDesign(*weights(qml.SimplifiedTwoDesign, 2, 3), range(3)),
    "BasicEntanglerLayers": qml.BasicEntanglerLayers(*weights(qml.BasicEntanglerLayers, 2, 3), range(3)),
    "Rot": qml.Rot(0.1, 0.2, 0.3, 1),
    "adjoint": qml.adjoint(qml.StronglyEntanglingLayers(*weights(qml.StronglyEntanglingLayers, 1, 3), range(3))),
    "adjoint SX": qml.adjoint(qml.SX(0)),
    "ctrl": qml.ctrl(qml.RX(0.4, 2), 0),
    "ctrl ctrl": qml.ctrl(qml.PhaseShift(0.4, 2), [0, 1]),
    "ctrl zero": qml.ctrl(qml.RY(0.4, 2), [0, 1], control_values=[0, 1]),
    "Toffoli": qml.Toffoli([0, 1, 2]),
    "power": qml.pow(qml.RX(0.3, 1), 3),
    "MultiRZ": qml.MultiRZ(0.3, [0, 1, 2]),
    "PauliRot": qml.PauliRot(0.3, "XYZ", [2, 0, 1]),
    "QFT": qml.QFT([0, 1, 2]),
    "product": qml.prod(qml.RX(0.2, 0), qml.CNOT([0, 1])),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_other_operations_are_expanded(name):
    start = [qml.RY(0.1 + 0.3 * wire, wire) for wire in range(3)]
    tape = qml.tape.QuantumScript([*start, TEMPLATES[name]], [qml.probs(wires=range(3))])
    circuit, angles = from_pennylane(tape)
    entries = np.concatenate([np.ravel(x) for x in tape.get_parameters()])
    np.testing.assert_array_equal(angles, entries)
    assert same_up_to_phase(unitary(circuit, angles.tolist()), matrix(tape, 3))
    moved = tape.bind_new_parameters([x + 0.7 for x in tape.get_parameters()], tape.trainable_params)
    assert same_up_to_phase(unitary(circuit, (angles + 0.7).tolist()), matrix(moved, 3))


class RX(qml.operation.Operation):
    """A gate of a user's own that is called as one of ours, and is another."""

    num_params, num_wires, ndim_params = 1, 1, (0,)

    @staticmethod
    def compute_decomposition(angle, wires):
        return [qml.RZ(2 * angle, wires=wires)]


class Hadamard(qml.operation.Operation):
    num_wires = 1

    @staticmethod
    def compute_decomposition(wires):
        return [RX(0.25, wires=wires), qml.SX(wires=wires)]


def test_a_gate_of_the_users_own_is_expanded_whatever_its_name():
    circuit, angles = from_pennylane(qml.tape.QuantumScript([RX(0.3, 0), Hadamard(0), qml.RX(0.5, 0)]))
    assert circuit.operations == (
        Operation("rz", (0,), Angle(0, 2.0)), Operation("rz", (0,), Angle(None, offset=0.5)), Operation("sx", (0,)),
        Operation("rx", (0,), Angle(1)),
    )  # fmt: skip
    assert angles.tolist() == [0.3, 0.5]


def test_constants_stay_constants():
    tape = qml.tape.QuantumScript(
        [qml.RX(0.1, 0), qml.QubitUnitary(np.diag([1, 1j]), 0), qml.Rot(0.2, 0.3, 0.4, 0)], trainable_params=[0, 3]
    )
    circuit, angles = from_pennylane(tape)
    assert angles.tolist() == [0.1, 0.3]
    assert same_up_to_phase(unitary(circuit, angles.tolist()), matrix(tape, 1))


def test_the_order_of_wires():
    swapped = from_pennylane(qml.tape.QuantumScript([qml.CNOT([1, 0])]))[0]
    assert swapped.operations == (Operation("cx", (1, 0)),)
    tape = qml.tape.QuantumScript([qml.CNOT(["b", "a"]), qml.X("c")])
    assert [o.qubits for o in from_pennylane(tape)[0].operations] == [(0, 1), (2,)]
    circuit = from_pennylane(tape, wires=["c", "a", "d", "b"])[0]
    assert circuit == Circuit(4, (Operation("cx", (3, 1)), Operation("x", (0,))), 0)
    for wires in (["a", "b"], ["a", "b", "c", "c"]):
        with pytest.raises(CircuitError, match="must be different and name those of the tape"):
            from_pennylane(tape, wires=wires)


def conditional():
    outcome = qml.measure(0)
    qml.cond(outcome, qml.X)(1)


class Broken(qml.operation.Operation):
    num_wires = 1

    @staticmethod
    def compute_decomposition(wires):
        return 1 / 0


def with_trainable(operation, *places):
    return qml.tape.QuantumScript([qml.X(0), operation], trainable_params=places)


REFUSED = {
    "measurement in the middle": qml.tape.make_qscript(lambda: (qml.X(0), qml.measure(0))),
    "state preparation": lambda: with_trainable(qml.StatePrep(np.array([0, 1]), 1)),
    "channel": lambda: with_trainable(qml.BitFlip(0.1, 0)),
    "complex": lambda: with_trainable(qml.QubitUnitary(np.diag([1, 1j]), 0), 0),
    "not affine in one trainable parameter": lambda: with_trainable(
        qml.CRot(0.1, 0.2, 0.3, [0, 1]), 0, 1, 2
    ),
    "no decomposition": lambda: with_trainable(qml.Projector([0], 0)),
    "its expansion fails with ImportError": lambda: with_trainable(qml.evolve(qml.X(0) @ qml.Z(1), 0.5), 0),
    "its expansion fails with ZeroDivisionError": lambda: with_trainable(Broken(0)),
    "a batch": lambda: with_trainable(qml.RX(np.zeros(3), 0), 0),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_no_circuit_is_named_with_its_position(reason):
    with pytest.raises(CircuitError, match=rf"^operation 1 \(.* on wires \[.*\]\): .*{reason}"):
        from_pennylane(REFUSED[reason]())


def test_classical_control_is_named_with_its_position():
    with pytest.raises(CircuitError, match=r"operation 0 .*measurement in the middle"):
        from_pennylane(qml.tape.make_qscript(conditional)())
    alone = qml.tape.QuantumScript(qml.tape.make_qscript(conditional)().operations[1:])
    with pytest.raises(CircuitError, match=r"operation 0 .*classical control"):
        from_pennylane(alone)


@pytest.mark.parametrize("tape", [None, [qml.X(0)], qml.X(0)], ids=str)
def test_what_is_no_tape_is_refused(tape):
    with pytest.raises(CircuitError, match=r"expected a qml\.tape\.QuantumScript; given "):
        from_pennylane(tape)
