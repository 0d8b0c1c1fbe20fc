import numpy as np
import openqasm3
import pytest
from hypothesis import given
from qiskit import QuantumCircuit, qasm2, qasm3
from qiskit_reference import circuits, unitary
from up_to_phase import assert_same_circuit, qiskit_unitary, same_up_to_phase

from qpeft.errors import CircuitError
from qpeft.qcircuits import Angle, Circuit, CircuitBuilder, Operation, ansatz
from qpeft.qcircuits.interop import from_openqasm2, from_openqasm3, to_openqasm2, to_openqasm3

PROGRAM = 'OPENQASM 3.0;\ninclude "stdgates.inc";\ninput float w;\ninput angle b;\ninput float[64] a;\nqubit[2] q;\n'


@given(circuits())
def test_round_trip_3(circuit):
    assert_same_circuit(from_openqasm3(to_openqasm3(circuit)), circuit)


@given(circuits())
def test_round_trip_2(circuit):
    angles = np.random.default_rng(1).uniform(-np.pi, np.pi, circuit.num_parameters)
    assert_same_circuit(from_openqasm2(to_openqasm2(circuit, angles)), circuit.bind(angles))


@given(circuits())
def test_qiskit_reads_what_is_written(circuit):
    angles = np.random.default_rng(2).uniform(-np.pi, np.pi, circuit.num_parameters)
    expected = unitary(circuit, angles)
    assert same_up_to_phase(qiskit_unitary(qasm3.loads(to_openqasm3(circuit)), angles), expected)
    there = qasm2.loads(to_openqasm2(circuit, angles), custom_instructions=qasm2.LEGACY_CUSTOM_INSTRUCTIONS)
    assert same_up_to_phase(qiskit_unitary(there, ()), expected)


@given(circuits())
def test_the_reference_parser_finds_every_input(circuit):
    program = openqasm3.parse(to_openqasm3(circuit))
    inputs = [statement for statement in program.statements if isinstance(statement, openqasm3.ast.IODeclaration)]
    assert len(inputs) == circuit.num_parameters


def test_twelve_parameters_keep_their_order_though_names_sort():
    circuit = ansatz("ry_cnot", 4, 3)
    assert from_openqasm3(to_openqasm3(circuit)) == circuit
    names = [parameter.name for parameter in qasm3.loads(to_openqasm3(circuit)).parameters]
    assert names == [f"theta_{i:02}" for i in range(12)]


def test_parameters_that_act_nowhere_are_kept():
    circuit = Circuit(1, (Operation("rx", (0,), Angle(2)),), 4)
    assert from_openqasm3(to_openqasm3(circuit)) == circuit


def test_inputs_come_in_the_order_of_the_text():
    circuit = from_openqasm3(PROGRAM + "rx(a) q[0]; ry(b/2) q[1]; rz(-w + pi) q[0];")
    assert [operation.angle for operation in circuit.operations] == [
        Angle(2), Angle(1, 0.5), Angle(0, -1.0, np.pi)
    ]  # fmt: skip


def test_angles_are_written_in_full():
    circuit = CircuitBuilder(1).rx(0, angle=Angle(0, -1 / 3, -2 / 3)).rx(0, angle=1e-7).rx(0, angle=Angle(0)).build()
    lines = to_openqasm3(circuit).splitlines()[-3:]
    assert lines == [
        "rx(-0.3333333333333333*theta_0 - 0.6666666666666666) q[0];", "rx(1e-07) q[0];", "rx(theta_0) q[0];"
    ]  # fmt: skip
    assert from_openqasm3(to_openqasm3(circuit)) == circuit


def test_modifiers_and_gates_of_the_programs_own_are_expanded():
    text = (
        PROGRAM
        + "gate mine(c) u, v { rx(2*c) u; cx u, v; }\nmine(a) q[1], q[0]; inv @ s q[0]; ctrl @ ry(w) q[0], q[1];"
    )
    operations = from_openqasm3(text).operations
    assert operations[:3] == (Operation("rx", (1,), Angle(2, 2.0)), Operation("cx", (1, 0)), Operation("sdg", (0,)))
    assert {operation.gate for operation in operations[3:]} == {"ry", "cx"}


def test_angles_are_numbers_whatever_type_they_had():
    angle = Angle(None, offset=np.float64(0.3))
    circuit = (
        CircuitBuilder(1).append("rx", [0], angle).append("rx", [0], Angle(0, np.float64(2), np.float32(1))).build()
    )
    assert to_openqasm3(circuit).splitlines()[-2:] == ["rx(0.3) q[0];", "rx(2.0*theta_0 + 1.0) q[0];"]
    assert to_openqasm2(circuit, np.array([0.5])).splitlines()[-2:] == ["rx(0.3) q[0];", "rx(2.0) q[0];"]


OWN_GATES = {  # by what the program says, not by what the name makes one think
    "identity": ("gate h a { U(0,0,0) a; } qreg q[1]; h q[0];", []),
    "x": ('include "qelib1.inc"; gate sx a { x a; } qreg q[1]; sx q[0];', [("x", [])]),
    "rx": ('include "qelib1.inc"; gate p(t) a { rx(t) a; } qreg q[1]; p(0.3) q[0];', [("rx", [0.3])]),
    "two lines": ('include "qelib1.inc"; gate // the\n sx // one\n a { x a; } qreg q[1]; sx q[0];', [("x", [])]),
    "comment": ('include "qelib1.inc"; // gate sx a { x a; }\n qreg q[1]; sx q[0];', [("sx", [])]),
}


@pytest.mark.parametrize(("text", "expected"), OWN_GATES.values(), ids=OWN_GATES)
def test_a_gate_the_program_defines_is_what_it_defines(text, expected):
    circuit = from_openqasm2("OPENQASM 2.0; " + text)
    there = QuantumCircuit(1)
    for name, angles in expected:
        getattr(there, name)(*angles, 0)
    assert same_up_to_phase(unitary(circuit, ()), qiskit_unitary(there, ()))


def test_no_other_file_is_included(tmp_path, monkeypatch):
    """It may define gates too, and the text would mean something else in another folder."""
    (tmp_path / "mine.inc").write_text("gate h a { U(0,0,0) a; }")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CircuitError, match=r"unable to find 'mine\.inc'"):
        from_openqasm2('OPENQASM 2.0; include "mine.inc"; qreg q[1]; h q[0];')


def test_openqasm2_needs_the_angles():
    circuit = ansatz("ry_cnot", 2, 1)
    with pytest.raises(CircuitError, match="OpenQASM 2 has no parameters, and the circuit has 2; give their values"):
        to_openqasm2(circuit)
    with pytest.raises(CircuitError, match="the circuit has 2 parameters; given 3 angles"):
        to_openqasm2(circuit, [1, 2, 3])
    assert "ry" not in to_openqasm2(CircuitBuilder(1).h(0).build())


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (from_openqasm3, "", "cannot read this as OpenQASM 3: it is empty"),
        (from_openqasm3, None, "cannot read this as OpenQASM 3: expected a string, given NoneType"),
        (from_openqasm3, PROGRAM + "x q[5];", "cannot read this as OpenQASM 3: .*IndexError: index out of range"),
        (from_openqasm3, PROGRAM + "for int i in [0:1] { x q[i]; }", "cannot read this as OpenQASM 3: .*TypeError"),
        (from_openqasm3, "xx yy", "cannot read this as OpenQASM 3: it does not parse"),
        (from_openqasm3, PROGRAM + "nothing q[0];", "cannot read this as OpenQASM 3: .*gate 'nothing' is not defined"),
        (from_openqasm3, PROGRAM + "rx(a) q[0]; reset q[1];", r"operation 1 \(reset on \(1,\)\)"),
        (from_openqasm3, PROGRAM + "bit c; c = measure q[0]; x q[0];", r"operation 0 \(measure on \(0,\)\)"),
        (from_openqasm3, PROGRAM + "bit c; if (c == true) x q[0];", r"operation 0 \(if_else on \(0,\)\): classical"),
        (
            from_openqasm3,
            PROGRAM + "h q[0]; rx(a*w) q[0];",
            r"operation 1 \(rx on \(0,\)\): the angle .* not affine",
        ),
        (from_openqasm2, None, "cannot read this as OpenQASM 2: expected a string, given NoneType"),
        (from_openqasm2, " ", "cannot read this as OpenQASM 2: it is empty"),
        (from_openqasm2, 'OPENQASM 2.0; include "qelib1.inc"; gate h a { } qreg q[1]; h q[0];', "already defined"),
        (from_openqasm2, "xx yy", "cannot read this as OpenQASM 2: .*'xx' is not defined"),
        (from_openqasm2, "OPENQASM 2.0; opaque magic a; qreg q[1]; magic q[0];", r"operation 0 \(magic on \(0,\)\)"),
    ],
)
def test_what_cannot_be_read(read, text, message):
    with pytest.raises(CircuitError, match=message):
        read(text)
