"""What Qiskit says a circuit does, in our order of qubits, and the circuits the tests try."""

import numpy as np
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit.library import UnitaryGate
from qiskit.quantum_info import Operator

from qpeft.qcircuits import GATES, Angle, Circuit, Operation

ONE_QUBIT = [name for name, row in GATES.items() if row.num_qubits == 1]
REAL = ["h", "x", "z", "ry", "cx", "cz", "swap", "rbs"]  # written out by hand: matrices without an imaginary part


def rbs_matrix(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0, 0], [0, c, s, 0], [0, -s, c, 0], [0, 0, 0, 1]])


def to_qiskit(circuit, angles):
    """The circuit in Qiskit, on which our qubit j is qubit N-1-j: basis indices are then the same."""
    there = QuantumCircuit(circuit.num_qubits)
    for operation in circuit.operations:
        qubits = [circuit.num_qubits - 1 - q for q in operation.qubits]
        values = [] if operation.angle is None else [value_of(operation.angle, angles)]
        if operation.gate == "rbs":  # a Qiskit matrix has its first qubit as the least significant bit
            there.append(UnitaryGate(rbs_matrix(*values)), qubits[::-1])
        else:
            getattr(there, operation.gate)(*values, *qubits)
    return there


def value_of(angle, angles):
    return angle.offset if angle.index is None else angle.scale * float(angles[angle.index]) + angle.offset


def unitary(circuit, angles):
    return Operator(to_qiskit(circuit, angles)).data


def final_state(circuit, angles):
    return unitary(circuit, angles)[:, 0]


def bit_reversed(state):
    num_qubits = len(state).bit_length() - 1
    return state.reshape([2] * num_qubits).transpose().reshape(-1)


def random_circuit(num_qubits, num_operations, seed, names=tuple(GATES)):
    """Any gates anywhere, half of them with angles: affine, shared between gates, now and then constant."""
    rng = np.random.default_rng(seed)
    fitting = [name for name in names if GATES[name].num_qubits <= num_qubits]
    turning = [name for name in fitting if GATES[name].has_angle]
    num_parameters = max(1, num_operations // 4)
    operations = []
    for position in range(num_operations):
        name = rng.choice(fitting if position % 2 else turning)
        qubits = tuple(rng.permutation(num_qubits)[: GATES[name].num_qubits].tolist())
        index = int(rng.integers(num_parameters)) if rng.random() < 0.8 else None
        angle = Angle(index, *rng.uniform(-2, 2, 2).tolist()) if GATES[name].has_angle else None
        operations.append(Operation(str(name), qubits, angle))
    return Circuit(num_qubits, tuple(operations), num_parameters)


_plain = st.floats(-4, 4)
_numbers = st.one_of(  # NumPy's too, which print otherwise
    _plain, _plain.map(np.float64), st.floats(-4, 4, width=32).map(np.float32), st.integers(-4, 4).map(np.int64)
)  # fmt: skip


@st.composite
def circuits(draw, max_qubits=4, max_operations=12, names=tuple(GATES)):
    """The same as a hypothesis strategy, for failures that shrink."""
    num_qubits = draw(st.integers(1, max_qubits))
    num_parameters = draw(st.integers(0, 4))
    fitting = [name for name in names if GATES[name].num_qubits <= num_qubits]
    index = st.none() | st.integers(0, num_parameters - 1) if num_parameters else st.none()
    operations = []
    for name in draw(st.lists(st.sampled_from(fitting), max_size=max_operations)):
        qubits = draw(st.permutations(range(num_qubits)))[: GATES[name].num_qubits]
        angle = Angle(draw(index), draw(_numbers), draw(_numbers)) if GATES[name].has_angle else None
        operations.append(Operation(name, tuple(qubits), angle))
    return Circuit(num_qubits, tuple(operations), num_parameters)
