"""Circuits to and from Qiskit's `QuantumCircuit`, with symbolic parameters.

Our qubit i is Qiskit's qubit i. Qiskit counts basis indices from the other end: its qubit 0 is the least significant
bit, ours the most significant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qpeft.extras import require
from qpeft.qcircuits.circuit import Angle, Circuit
from qpeft.qcircuits.interop.decompose import decompose, foreign_gate

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.circuit import ParameterExpression, ParameterVector


def to_qiskit(circuit: Circuit) -> QuantumCircuit:
    """The circuit in Qiskit; its parameter i is element i of a `ParameterVector` named "theta".

    Gates that Qiskit lacks are decomposed, so the unitary is the same up to a global phase. Qiskit knows no parameter
    that acts nowhere: such a one is in the vector, but not in `parameters` of the result.

    Raises:
        MissingExtraError: Qiskit is not installed.

    Example:
        >>> from qpeft.qcircuits import ansatz
        >>> to_qiskit(ansatz("ry_cnot", 3, 2)).num_parameters
        6
    """
    there: QuantumCircuit = require("qiskit", "qiskit", "a Qiskit circuit").QuantumCircuit(circuit.num_qubits)
    theta = require("qiskit.circuit", "qiskit", "a Qiskit circuit").ParameterVector("theta", circuit.num_parameters)
    for operation in decompose(circuit, "qiskit").operations:
        foreign = foreign_gate(operation.gate, "qiskit")
        angles = [] if operation.angle is None else [_expression(operation.angle, foreign.scale, theta)]
        getattr(there, foreign.name)(*angles, *operation.qubits)
    return there


def _expression(angle: Angle, scale: float, theta: ParameterVector) -> ParameterExpression | float:
    if angle.index is None:
        return scale * angle.offset
    return scale * angle.scale * theta[angle.index] + scale * angle.offset
