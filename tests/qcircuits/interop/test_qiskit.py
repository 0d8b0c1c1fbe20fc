import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister, transpile
from qiskit.circuit import Gate, Instruction, Parameter, ParameterVector
from qiskit.circuit.library import CXGate, HGate, UnitaryGate, efficient_su2, get_standard_gate_name_mapping
from qiskit.quantum_info import Clifford
from qiskit_reference import circuits, random_circuit, rbs_matrix, unitary
from up_to_phase import assert_same_circuit, qiskit_unitary, same_up_to_phase

from qpeft.errors import CircuitError
from qpeft.qcircuits import Angle, Circuit, CircuitBuilder, Operation, ansatz
from qpeft.qcircuits.interop import from_qiskit, to_qiskit

A, B = Parameter("a"), Parameter("b")


def angles_of(number, seed=0):
    return np.random.default_rng(seed).uniform(-np.pi, np.pi, number)


def by_element(there, angles):
    """Values for the parameters of a circuit that `to_qiskit` made; those that act nowhere have none."""
    return {element: angles[element.index] for element in there.parameters}


@given(circuits())
def test_to_qiskit_has_the_unitary_of_the_reference(circuit):
    there, angles = to_qiskit(circuit), angles_of(circuit.num_parameters)
    assert same_up_to_phase(qiskit_unitary(there, by_element(there, angles)), unitary(circuit, angles))


@given(circuits())
def test_round_trip(circuit):
    there = to_qiskit(circuit)
    whole = there.parameters[0].vector if there.parameters else ParameterVector("theta", circuit.num_parameters)
    assert_same_circuit(from_qiskit(there, whole), circuit)


@given(circuits(names=["h", "sx", "sxdg", "rx", "p", "cx", "ecr", "swap", "rzz"]))
def test_gates_that_both_have_keep_their_angles(circuit):
    there = to_qiskit(circuit)
    found = from_qiskit(there, there.parameters[0].vector) if there.parameters else from_qiskit(there)
    assert len(found.operations) == len(circuit.operations)
    for ours, theirs in zip(circuit.operations, found.operations, strict=True):
        assert (ours.gate, ours.qubits) == (theirs.gate, theirs.qubits)
        if ours.angle is not None and ours.angle.index is not None and abs(ours.angle.scale) > 1e-12:
            assert theirs.angle.index == ours.angle.index
            assert (theirs.angle.scale, theirs.angle.offset) == pytest.approx((ours.angle.scale, ours.angle.offset))


def test_without_a_vector_parameters_that_act_nowhere_are_dropped():
    circuit = Circuit(1, (Operation("rx", (0,), Angle(2)), Operation("rz", (0,), Angle(4))), 6)
    there = to_qiskit(circuit)
    assert from_qiskit(there).operations[1].angle == Angle(1)
    assert from_qiskit(there).num_parameters == 2
    assert from_qiskit(there, there.parameters[0].vector) == circuit


def test_twelve_parameters_keep_their_order():
    circuit = ansatz("ry_cnot", 4, 3)
    assert from_qiskit(to_qiskit(circuit)) == circuit


def test_parameters_come_in_qiskits_order():
    there = QuantumCircuit(1)
    there.rx(B, 0)
    there.ry(A, 0)
    assert [operation.angle.index for operation in from_qiskit(there).operations] == [1, 0]
    assert [operation.angle.index for operation in from_qiskit(there, [B, A]).operations] == [0, 1]


@given(st.integers(0, 10_000))
def test_transpiled_circuit_is_an_ordinary_circuit(seed):
    circuit = random_circuit(3, 8, seed)
    there = to_qiskit(circuit)
    native = transpile(there, basis_gates=["rz", "sx", "x", "ecr"], optimization_level=1, seed_transpiler=seed)
    found = from_qiskit(native, there.parameters[0].vector if there.parameters else ())
    angles = angles_of(circuit.num_parameters, seed)
    assert {operation.gate for operation in found.operations} <= {"rz", "sx", "x", "ecr"}
    assert same_up_to_phase(unitary(found, angles), unitary(circuit, angles))


UNITARY = {
    name: gate
    for name, gate in get_standard_gate_name_mapping().items()
    if isinstance(gate, Gate) and name != "global_phase"
}


@pytest.mark.parametrize("gate", UNITARY.values(), ids=UNITARY)
def test_every_standard_gate_of_qiskit_is_read(gate):
    angles = angles_of(len(gate.params))
    there = QuantumCircuit(gate.num_qubits)
    there.append(gate.base_class(*angles), range(gate.num_qubits))
    assert same_up_to_phase(unitary(from_qiskit(there), ()), qiskit_unitary(there, ()))


@pytest.mark.parametrize("name", ["cp", "crx", "cry", "crz", "rxx", "ryy", "rzx", "u1", "cu1", "rzz", "p"])
def test_expanding_keeps_affine_angles(name):
    there = QuantumCircuit(2)
    gate = UNITARY[name].base_class(-1.5 * A + 0.25)
    there.append(gate, range(gate.num_qubits))
    found = from_qiskit(there)
    assert found.num_parameters == 1
    for angle in (0.0, 0.7, -2.0):
        assert same_up_to_phase(unitary(found, [angle]), qiskit_unitary(there, [angle]))


def test_library_circuit():
    there = efficient_su2(4, reps=3)
    angles = angles_of(there.num_parameters)
    assert same_up_to_phase(unitary(from_qiskit(there), angles), qiskit_unitary(there, angles))


def test_a_gate_of_the_users_own_is_expanded_whatever_its_name():
    false_hadamard = QuantumCircuit(1, name="h")
    false_hadamard.ry(2 * A, 0)

    there = QuantumCircuit(2)
    there.append(false_hadamard.to_gate(), [1])
    there.append(CXGate(ctrl_state=0), [1, 0])
    there.append(UnitaryGate(rbs_matrix(0.3)), [0, 1])
    found = from_qiskit(there)
    assert found.operations[0] == Operation("ry", (1,), Angle(0, 2.0))
    assert same_up_to_phase(unitary(found, [0.9]), qiskit_unitary(there, [0.9]))


def test_registers_are_joined_in_their_order():
    first, second, bits = QuantumRegister(1, "first"), QuantumRegister(2, "second"), ClassicalRegister(2)
    there = QuantumCircuit(first, second, bits)
    there.cx(second[1], first[0])
    assert from_qiskit(there) == CircuitBuilder(3).cx(2, 0).build()


def test_barriers_identities_and_final_measurements_are_skipped():
    there = QuantumCircuit(2, 2, global_phase=0.5)
    there.h(0)
    there.barrier()
    there.id(1)
    there.measure(0, 1)
    there.x(1)
    there.measure_all()
    there_without = QuantumCircuit(2, 1)
    there_without.h(0)
    there_without.x(1)
    there_without.barrier()
    there_without.measure(0, 0)
    expected = CircuitBuilder(2).h(0).x(1).build()
    assert from_qiskit(there_without) == expected
    with pytest.raises(CircuitError, match=r"operation 3 \(measure on \(0,\)\): a measurement before the end"):
        from_qiskit(there)  # qubit 0 is measured twice


def test_delays_are_skipped():
    there = QuantumCircuit(2, 1)
    there.delay(100, 0)
    there.h(0)
    there.measure(0, 0)
    there.delay(100, 0)  # the measurement stays the last to act
    assert from_qiskit(there) == CircuitBuilder(2).h(0).build()


def test_a_box_is_what_it_holds():
    there = QuantumCircuit(3)
    with there.box():
        there.cx(2, 0)
        with there.box():
            there.ry(2 * A, 1)
            there.delay(100, 1)
    there.h(0)
    found = from_qiskit(there)
    expected = CircuitBuilder(3).cx(2, 0).ry(1, angle=Angle(0, 2.0)).h(0).build()
    assert same_up_to_phase(unitary(found, [0.4]), unitary(expected, [0.4]))
    assert found == expected


def measured_early():
    there = QuantumCircuit(2, 1)
    there.h(0)
    there.measure(0, 0)
    there.cx(0, 1)
    return there


def reset():
    there = QuantumCircuit(1)
    there.reset(0)
    return there


def controlled():
    there = QuantumCircuit(1, 1)
    there.x(0)
    with there.if_test((there.clbits[0], 1)):
        there.x(0)
    return there


def hidden_reset():
    inner = QuantumCircuit(2, name="mine")
    inner.h(0)
    inner.reset(1)
    there = QuantumCircuit(3)
    there.append(inner.to_instruction(), [2, 1])
    return there


def appended(operation, *qubits):
    there = QuantumCircuit(2, 1)
    there.x(0)
    there.append(operation, qubits)
    return there


def turned(angle):
    there = QuantumCircuit(1)
    there.h(0)
    there.rx(angle, 0)
    return there


def boxed_reset():
    there = QuantumCircuit(2)
    with there.box():
        there.reset(1)
    return there


ADVICE = r"has no definition to expand; qiskit\.transpile\(circuit, basis_gates=\['rx', 'ry', 'rz', 'cx'\]\)"
REFUSED = {
    "measurement before the end": (
        measured_early(),
        r"operation 1 \(measure on \(0,\)\): a measurement before the end",
    ),
    "reset": (reset(), r"operation 0 \(reset on \(0,\)\): a reset; a circuit here has gates only"),
    "classical control": (controlled(), r"operation 1 \(if_else on \(0,\)\): classical control; a circuit here has"),
    "reset inside": (hidden_reset(), r"operation 0 \(mine on \(2, 1\)\): inside it, reset on \(1,\): a reset"),
    "reset in a box": (boxed_reset(), r"operation 0 \(box on \(1,\)\): inside it, reset on \(1,\): a reset"),
    "opaque gate": (
        appended(Gate("magic", 2, []), 1, 0),
        rf"operation 1 \(magic on \(1, 0\)\): magic .*{ADVICE}",
    ),
    "opaque h": (appended(Gate("h", 1, []), 1), rf"operation 1 \(h on \(1,\)\): h is not .*{ADVICE}"),
    "opaque instruction": (
        appended(Instruction("noise", 1, 0, []), 0),
        rf"operation 1 \(noise on \(0,\)\): .*{ADVICE}",
    ),
    "no instruction": (appended(Clifford(HGate()), 0), rf"operation 1 \(clifford on \(0,\)\): .*{ADVICE}"),
    "two parameters": (turned(A + 2 * B), r"operation 1 \(rx on \(0,\)\): the angle .* has 2 parameters \(a and b\)"),
    "square": (turned(A * A), r"operation 1 \(rx on \(0,\)\): the angle a\*a is not affine in a; an angle must"),
    "product": (turned(A * B), r"operation 1 \(rx on \(0,\)\): the angle a\*b is not affine in [ab]"),
    "sine": (turned(A.sin()), r"operation 1 .*the angle sin\(a\) is not affine in a"),
    "absolute value": (turned(A.abs()), r"operation 1 .*the angle abs\(a\) is not affine in a"),
    "sign": (turned(A.sign()), r"operation 1 .*the angle sign\(a\) is not affine in a"),
    "undefined at 0": (turned(A * A / A), r"operation 1 .*is no real number where its parameters are 0"),
    "complex": (turned(A * 1j), r"operation 1 .*is not affine in a"),
    "no circuit": ("h q[0];", r"expected a qiskit\.QuantumCircuit; given str"),
}


@pytest.mark.parametrize(("there", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_named_with_its_position(there, message):
    with pytest.raises(CircuitError, match=message):
        from_qiskit(there)


def test_the_advice_helps():
    there = appended(Clifford(HGate()), 0)
    assert_same_circuit(from_qiskit(transpile(there, basis_gates=["rx", "ry", "rz", "cx"])),
                        CircuitBuilder(2).x(0).h(0).build())  # fmt: skip


def test_parameters_that_cancel_do_not_count():
    there = turned(2 * (A + B) - 2 * B + 0.5)
    assert from_qiskit(there).operations[1].angle == Angle(0, 2.0, 0.5)
    there = turned(A - A + 0.5)
    assert from_qiskit(there).operations[1].angle == Angle(None, offset=0.5)


def test_a_parameter_that_is_not_given():
    with pytest.raises(CircuitError, match=r"operation 1 .*the angle 2\*a: a is not among the given parameters"):
        from_qiskit(turned(2 * A), [B])


def test_a_parameter_that_is_given_twice():
    with pytest.raises(CircuitError, match="`parameters` must be different; given more than once: a"):
        from_qiskit(turned(2 * A), [A, B, A])


def test_the_package_is_imported_without_qiskit():
    program = "import sys, qpeft.qcircuits.interop; assert not {'qiskit', 'pennylane', 'openqasm3'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
