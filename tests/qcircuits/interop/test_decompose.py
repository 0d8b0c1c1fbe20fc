import pytest
from hypothesis import given
from hypothesis import strategies as st
from qiskit_reference import circuits
from up_to_phase import assert_same_circuit

from qpeft.errors import CircuitError
from qpeft.qcircuits import GATES, Angle, CircuitBuilder
from qpeft.qcircuits.gates import Foreign
from qpeft.qcircuits.interop import decompose
from qpeft.qcircuits.interop.decompose import LIBRARIES, foreign_gate


@given(circuits(), st.sampled_from(LIBRARIES))
def test_same_unitary_in_gates_that_the_library_has(circuit, library):
    found = decompose(circuit, library)
    assert all(isinstance(getattr(GATES[operation.gate], library), Foreign) for operation in found.operations)
    assert_same_circuit(found, circuit)


@pytest.mark.parametrize("library", LIBRARIES)
@given(circuit=circuits(names=["h", "x", "rx", "ry", "rz", "p", "cx", "cz", "swap"]))
def test_gates_that_every_library_has_stay(circuit, library):
    assert decompose(circuit, library) == circuit


def test_the_angle_of_a_part_is_affine_in_the_gates_own():
    circuit = CircuitBuilder(2).rbs(1, 0, angle=Angle(0, -0.5, 0.25)).build()
    assert [(o.gate, o.qubits, o.angle) for o in decompose(circuit, "qiskit").operations if o.angle] == [
        ("ry", (1,), Angle(0, -0.5, 0.25)),
        ("ry", (0,), Angle(0, 0.5, -0.25)),
    ]


def test_unknown_library_names_the_nearest():
    with pytest.raises(CircuitError, match=r"unknown library 'qiskt'. Did you mean 'qiskit'\?"):
        decompose(CircuitBuilder(1).h(0).build(), "qiskt")


def test_foreign_gate():
    assert foreign_gate("rbs", "pennylane") == Foreign("SingleExcitation", -2.0)
