"""A circuit rewritten into the gates that another library has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from qpeft.errors import CircuitError, unknown_name
from qpeft.qcircuits.circuit import Angle, Circuit, Operation
from qpeft.qcircuits.gates import Foreign, Term, gate

Library = Literal["qiskit", "pennylane", "torchquantum", "openqasm3"]
LIBRARIES: tuple[Library, ...] = ("qiskit", "pennylane", "torchquantum", "openqasm3")


def decompose(circuit: Circuit, library: Library) -> Circuit:
    """The same circuit in gates that `library` has under a name of its own.

    The result has the same qubits and parameters, and the same unitary up to a global phase. Gates that the library
    has stay as they are.

    Args:
        circuit: Any circuit.
        library: One of `LIBRARIES`; the gate table says what each of them has.

    Raises:
        CircuitError: There is no such library.

    Example:
        >>> from qpeft.qcircuits import CircuitBuilder
        >>> circuit = CircuitBuilder(2).rzz(0, 1).build()
        >>> [operation.describe() for operation in decompose(circuit, "openqasm3").operations]
        ['cx on (0, 1)', 'rz(theta[0]) on (1,)', 'cx on (0, 1)']
    """
    if library not in LIBRARIES:
        raise CircuitError(unknown_name("library", str(library), LIBRARIES))
    operations = tuple(part for operation in circuit.operations for part in _parts(operation, library))
    return Circuit(circuit.num_qubits, operations, circuit.num_parameters)


def foreign_gate(name: str, library: Library) -> Foreign:
    """What `library` calls the gate `name` of a circuit that went through `decompose`."""
    entry = getattr(gate(name), library)
    assert isinstance(entry, Foreign), f"{name} must be decomposed for {library}"
    return entry


def _parts(operation: Operation, library: Library) -> Iterator[Operation]:
    entry = getattr(gate(operation.gate), library)
    if isinstance(entry, Foreign):
        yield operation
        return
    for term in entry:
        qubits = tuple(operation.qubits[place] for place in term.qubits)
        yield from _parts(Operation(term.gate, qubits, _angle(term, operation.angle)), library)


def _angle(term: Term, angle: Angle | None) -> Angle | None:
    if not gate(term.gate).has_angle:
        return None
    if angle is None:
        return Angle(None, offset=term.offset)
    return Angle(angle.index, term.scale * angle.scale, term.scale * angle.offset + term.offset)
