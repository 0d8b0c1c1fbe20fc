import numpy as np
import pennylane as qml
import pytest
from qiskit import QuantumCircuit
from qiskit.quantum_info import Operator
from qiskit_reference import rbs_matrix

from qpeft.errors import CircuitError
from qpeft.qcircuits import GATES, Kind, gate
from qpeft.qcircuits.gates import Foreign

ANGLES = [0.0, 0.7, -2.9, np.pi, 5.1]  # a period and its signs
LIBRARIES = ["qiskit", "pennylane", "torchquantum", "openqasm3"]
KINDS = {
    "h": Kind.DENSE, "x": Kind.PERMUTATION, "y": Kind.PERMUTATION, "z": Kind.DIAGONAL, "s": Kind.DIAGONAL,
    "sdg": Kind.DIAGONAL, "t": Kind.DIAGONAL, "tdg": Kind.DIAGONAL, "sx": Kind.DENSE, "sxdg": Kind.DENSE,
    "rx": Kind.ROTATION, "ry": Kind.ROTATION, "rz": Kind.DIAGONAL, "p": Kind.DIAGONAL, "cx": Kind.PERMUTATION,
    "cz": Kind.DIAGONAL, "swap": Kind.PERMUTATION, "ecr": Kind.DENSE, "rzz": Kind.DIAGONAL, "rbs": Kind.ROTATION,
}  # fmt: skip
# The gates of OpenQASM 3's standard include file, https://openqasm.com/language/standard_library.html
STDGATES = {
    "p", "x", "y", "z", "h", "s", "sdg", "t", "tdg", "sx", "rx", "ry", "rz", "cx", "cy", "cz", "cp", "crx", "cry",
    "crz", "ch", "swap", "ccx", "cswap", "cu",
}  # fmt: skip

# The operations of TorchQuantum 0.1.8, each of which was seen to run; its singleexcitation raises a NameError
TORCHQUANTUM = {
    "h": "hadamard", "x": "paulix", "y": "pauliy", "z": "pauliz", "s": "s", "sdg": "sdg", "t": "t", "tdg": "tdg",
    "sx": "sx", "sxdg": "sxdg", "rx": "rx", "ry": "ry", "rz": "rz", "p": "phaseshift", "cx": "cnot", "cz": "cz",
    "swap": "swap", "ecr": "ecr", "rzz": "rzz",
}  # fmt: skip

every_gate = pytest.mark.parametrize("row", GATES.values(), ids=GATES)
every_decomposition = pytest.mark.parametrize(
    ("row", "library"),
    [
        pytest.param(row, library, id=f"{row.name}-{library}")
        for row in GATES.values()
        for library in LIBRARIES
        if not isinstance(getattr(row, library), Foreign)
    ],
)


def angles_of(row):
    return ANGLES if row.has_angle else [0.0]


def close(a, b, tolerance=1e-12):
    return np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def on_qubits(matrix, qubits, num_qubits):
    """A gate's matrix on `num_qubits` qubits: qubit 0 is the most significant bit of an index."""
    columns = np.moveaxis(np.eye(2**num_qubits).reshape([2] * num_qubits + [-1]), qubits, range(len(qubits)))
    moved = (matrix @ columns.reshape(len(matrix), -1)).reshape(columns.shape)
    return np.moveaxis(moved, range(len(qubits)), qubits).reshape(2**num_qubits, -1)


def multiplied_out(row, terms, angle):
    product = np.eye(2**row.num_qubits)
    for term in terms:
        product = on_qubits(gate(term.gate).at(term.scale * angle + term.offset), term.qubits, row.num_qubits) @ product
    return product


def without_phase(matrix, reference):
    overlap = np.trace(reference.conj().T @ matrix)
    return matrix * abs(overlap) / overlap


@every_gate
def test_matrix_is_qiskits(row):
    for angle in angles_of(row):
        if row.name == "rbs":  # not in Qiskit
            expected = rbs_matrix(angle)
        else:
            there = QuantumCircuit(row.num_qubits)
            getattr(there, row.qiskit.name)(*[angle] * row.has_angle, *reversed(range(row.num_qubits)))
            expected = Operator(there).data
        close(row.at(angle), expected)


@every_gate
def test_matrix_is_pennylanes(row):
    for angle in angles_of(row):
        if isinstance(row.pennylane, Foreign):
            values = [row.pennylane.scale * angle] * row.has_angle
            close(row.at(angle), qml.matrix(getattr(qml, row.pennylane.name)(*values, wires=range(row.num_qubits))))
        else:
            there = qml.prod(
                *[
                    getattr(qml, gate(t.gate).pennylane.name)(
                        *[t.scale * angle + t.offset] * gate(t.gate).has_angle, wires=t.qubits
                    )
                    for t in reversed(row.pennylane)
                ]
            )
            close(without_phase(qml.matrix(there, wire_order=range(row.num_qubits)), row.at(angle)), row.at(angle))


@every_decomposition
def test_decomposition_multiplies_out_to_the_gate(row, library):
    for angle in angles_of(row):
        close(without_phase(multiplied_out(row, getattr(row, library), angle), row.at(angle)), row.at(angle))


@every_decomposition
def test_decomposition_uses_gates_that_the_library_has(row, library):
    entry = getattr(row, library)
    assert entry, "a decomposition has at least one gate"
    assert all(isinstance(getattr(gate(term.gate), library), Foreign) for term in entry)


@every_gate
def test_torchquantum_names_are_published(row):
    name = row.torchquantum.name if isinstance(row.torchquantum, Foreign) else None
    assert name == TORCHQUANTUM.get(row.name)


@every_gate
def test_openqasm3_names_are_standard(row):
    assert not isinstance(row.openqasm3, Foreign) or row.openqasm3.name in STDGATES


@every_gate
def test_gate_is_unitary(row):
    for angle in angles_of(row):
        close(row.at(angle).conj().T @ row.at(angle), np.eye(2**row.num_qubits))


@every_gate
def test_inverse_undoes_the_gate(row):
    for angle in angles_of(row):
        close(gate(row.inverse).at(-angle) @ row.at(angle), np.eye(2**row.num_qubits))


@every_gate
def test_kind(row):
    assert row.kind is KINDS[row.name]


@every_gate
def test_is_real_says_whether_the_matrix_is(row):
    assert row.is_real == all(np.allclose(row.at(angle).imag, 0, atol=1e-12) for angle in [0.3, 1.1, 2.7])


@pytest.mark.parametrize("angle", ANGLES)
def test_rbs_turns_within_one_excitation(angle):
    c, s = np.cos(angle), np.sin(angle)
    close(gate("rbs").at(angle), [[1, 0, 0, 0], [0, c, s, 0], [0, -s, c, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(("given", "nearest"), [("sxx", "sx"), ("swp", "swap"), ("rzzz", "rzz")])
def test_unknown_gate_names_the_nearest(given, nearest):
    with pytest.raises(CircuitError, match=rf"unknown gate '{given}'\. Did you mean .*'{nearest}'"):
        gate(given)


@pytest.mark.parametrize("name", [3, None, ["x"]])
def test_a_name_that_is_no_string_is_unknown(name):
    with pytest.raises(CircuitError, match="unknown gate"):
        gate(name)
