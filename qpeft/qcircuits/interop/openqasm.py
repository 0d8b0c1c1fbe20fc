"""Circuits to and from OpenQASM 2 and 3, in the gates of its standard libraries.

The text is written here, since Qiskit's writer leaves out parameters that act nowhere; it is read by Qiskit's parsers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from qpeft.errors import CircuitError
from qpeft.extras import require
from qpeft.qcircuits.circuit import Angle, Circuit
from qpeft.qcircuits.interop.decompose import decompose, foreign_gate
from qpeft.qcircuits.interop.qiskit import from_qiskit

_PURPOSE = "reading OpenQASM"
_STRING_OR_COMMENT = re.compile(r'"[^"\n]*"|//[^\n]*')
_DEFINITION = re.compile(r"\bgate\s+(\w+)")


def to_openqasm3(circuit: Circuit) -> str:
    """The circuit as OpenQASM 3, its parameters as `input` declarations in their order.

    Example:
        >>> from qpeft.qcircuits import ansatz
        >>> print(to_openqasm3(ansatz("ry_cnot", 2, 1)), end="")
        OPENQASM 3.0;
        include "stdgates.inc";
        input float[64] theta_0;
        input float[64] theta_1;
        qubit[2] q;
        ry(theta_0) q[0];
        ry(theta_1) q[1];
        cx q[0], q[1];
    """
    # Zeros in front: readers that sort the inputs by name keep their order.
    width = len(str(max(circuit.num_parameters - 1, 0)))
    names = [f"theta_{i:0{width}}" for i in range(circuit.num_parameters)]
    lines = ["OPENQASM 3.0;", 'include "stdgates.inc";', *(f"input float[64] {name};" for name in names)]
    return "\n".join([*lines, f"qubit[{circuit.num_qubits}] q;", *_statements(circuit, names)]) + "\n"


def to_openqasm2(circuit: Circuit, angles: Sequence[float] | None = None) -> str:
    """The circuit as OpenQASM 2, in the gates of `qelib1.inc` as Qiskit ships it.

    Args:
        circuit: Any circuit.
        angles: (P,) in radians. OpenQASM 2 has no parameters, so a circuit that has some needs their values.

    Raises:
        CircuitError: Angles are missing, or there are more or fewer than the circuit has parameters.

    Example:
        >>> from qpeft.qcircuits import ansatz
        >>> print(to_openqasm2(ansatz("ry_cnot", 2, 1), [0.5, -1.0]), end="")
        OPENQASM 2.0;
        include "qelib1.inc";
        qreg q[2];
        ry(0.5) q[0];
        ry(-1.0) q[1];
        cx q[0], q[1];
    """
    if angles is None and circuit.num_parameters:
        raise CircuitError(
            f"OpenQASM 2 has no parameters, and the circuit has {circuit.num_parameters}; give their values as "
            "`angles`, or write OpenQASM 3"
        )
    bound = circuit.bind(() if angles is None else angles)
    return "\n".join(
        ["OPENQASM 2.0;", 'include "qelib1.inc";', f"qreg q[{circuit.num_qubits}];", *_statements(bound, ())]
    ) + "\n"  # fmt: skip


def from_openqasm3(text: str) -> Circuit:
    """The circuit of an OpenQASM 3 program; theta[i] is its i-th `input`.

    Raises:
        CircuitError: The text does not parse, Qiskit's reader does not support it, or `from_qiskit` refuses it.
        MissingExtraError: Qiskit or qiskit-qasm3-import is not installed.

    Example:
        >>> from qpeft.qcircuits import ansatz
        >>> circuit = ansatz("ry_cnot", 3, 2)
        >>> from_openqasm3(to_openqasm3(circuit)) == circuit
        True
    """
    loads = require("qiskit.qasm3", "qiskit", _PURPOSE).loads
    require("qiskit_qasm3_import", "qiskit", _PURPOSE)
    parser = require("openqasm3.parser", "qiskit", _PURPOSE)
    _check_text(text, "OpenQASM 3")
    try:
        program = parser.parse(text)
        there = loads(text)
    except (parser.QASM3ParsingError, require("qiskit.exceptions", "qiskit", _PURPOSE).QiskitError) as error:
        raise CircuitError(f"cannot read this as OpenQASM 3: {str(error) or 'it does not parse'}") from error
    except Exception as error:  # the reader checks no indices and not every statement
        what = f"{type(error).__name__}: {error}"
        raise CircuitError(f"cannot read this as OpenQASM 3: Qiskit's reader fails with {what}") from error
    named = {parameter.name: parameter for parameter in there.parameters}  # in the order of their names, not the text's
    inputs = [statement.identifier.name for statement in program.statements if hasattr(statement, "io_identifier")]
    return from_qiskit(there, [named[name] for name in inputs])


def from_openqasm2(text: str) -> Circuit:
    """The circuit of an OpenQASM 2 program, which may use any gate of `qelib1.inc` as Qiskit ships it.

    Gates that the program defines are what it defines, whatever their names. No other file is included.

    Raises:
        CircuitError: The text does not parse, or `from_qiskit` refuses what it says.
        MissingExtraError: Qiskit is not installed.

    Example:
        >>> from_openqasm2('OPENQASM 2.0; include "qelib1.inc"; qreg q[1]; rx(pi/2) q[0];').operations[0].describe()
        'rx(1.571) on (0,)'
    """
    qasm2 = require("qiskit.qasm2", "qiskit", _PURPOSE)
    _check_text(text, "OpenQASM 2")
    # Custom instructions take the place of the program's definitions.
    defined = set(_DEFINITION.findall(_STRING_OR_COMMENT.sub(" ", text)))
    instructions = [known for known in qasm2.LEGACY_CUSTOM_INSTRUCTIONS if known.name not in defined]
    try:
        there = qasm2.loads(text, include_path=(), custom_instructions=instructions)
    except qasm2.QASM2ParseError as error:
        raise CircuitError(f"cannot read this as OpenQASM 2: {error}") from error
    return from_qiskit(there)


def _check_text(text: object, language: str) -> None:
    if not isinstance(text, str):
        raise CircuitError(f"cannot read this as {language}: expected a string, given {type(text).__name__}")
    if not text.strip():
        raise CircuitError(f"cannot read this as {language}: it is empty")


def _statements(circuit: Circuit, names: Sequence[str]) -> Iterator[str]:
    for operation in decompose(circuit, "openqasm3").operations:
        foreign = foreign_gate(operation.gate, "openqasm3")
        angle = "" if operation.angle is None else f"({_format(operation.angle, foreign.scale, names)})"
        yield f"{foreign.name}{angle} {', '.join(f'q[{qubit}]' for qubit in operation.qubits)};"


def _format(angle: Angle, scale: float, names: Sequence[str]) -> str:
    offset = scale * angle.offset
    if angle.index is None:
        return repr(offset)
    factor = {1.0: "", -1.0: "-"}.get(scale * angle.scale, f"{scale * angle.scale!r}*")
    constant = f" {'-' if offset < 0 else '+'} {abs(offset)!r}" if offset else ""
    return f"{factor}{names[angle.index]}{constant}"
