"""Circuits to and from Qiskit's `QuantumCircuit`, with symbolic parameters.

Our qubit i is Qiskit's qubit i. Qiskit counts basis indices from the other end: its qubit 0 is the least significant
bit, ours the most significant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from qpeft.errors import CircuitError
from qpeft.extras import require
from qpeft.qcircuits.circuit import Angle, Circuit, Operation
from qpeft.qcircuits.gates import GATES, Foreign
from qpeft.qcircuits.interop.decompose import decompose, foreign_gate

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.circuit import Parameter, ParameterExpression, ParameterVector

_PURPOSE = "a Qiskit circuit"
_ADVICE = "qiskit.transpile(circuit, basis_gates=['rx', 'ry', 'rz', 'cx']) may rewrite it into gates that can be read"


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
    there: QuantumCircuit = require("qiskit", "qiskit", _PURPOSE).QuantumCircuit(circuit.num_qubits)
    theta = require("qiskit.circuit", "qiskit", _PURPOSE).ParameterVector("theta", circuit.num_parameters)
    for operation in decompose(circuit, "qiskit").operations:
        foreign = foreign_gate(operation.gate, "qiskit")
        angles = [] if operation.angle is None else [_expression(operation.angle, foreign.scale, theta)]
        getattr(there, foreign.name)(*angles, *operation.qubits)
    return there


def from_qiskit(circuit: QuantumCircuit, parameters: Sequence[Parameter] | None = None) -> Circuit:
    """A Qiskit circuit as ours, with the same unitary up to a global phase.

    Gates that our table lacks, gates of the user's own and boxes are expanded. Barriers and delays are skipped, and so
    are measurements after which nothing acts on the qubit: every engine measures all qubits, in their order. A
    transpiled circuit keeps its physical qubits.

    Args:
        circuit: Gates only; every angle is affine in one parameter.
        parameters: What theta[0], theta[1], ... are; the circuit's own `parameters`, in Qiskit's order, if None. Give
            the whole `ParameterVector` to keep those of its elements that act nowhere.

    Raises:
        CircuitError: A gate without a definition, an angle of two parameters or not affine, a measurement before the
            end, a reset, classical control, a parameter that is not in `parameters` or is there twice. The message
            names the operation and its position in `circuit.data`.
        MissingExtraError: Qiskit is not installed.

    Example:
        >>> from qiskit import QuantumCircuit
        >>> from qiskit.circuit import Parameter
        >>> bell = QuantumCircuit(2)
        >>> _ = bell.ry(2 * Parameter("a") + 0.5, 0)
        >>> _ = bell.cx(0, 1)
        >>> print(from_qiskit(bell))
        q0: ─ry(2*θ0+0.5)──●──
                           │
        q1: ───────────────x──
    """
    classes = require("qiskit.circuit", "qiskit", _PURPOSE)
    if not isinstance(circuit, classes.QuantumCircuit):
        raise CircuitError(f"expected a qiskit.QuantumCircuit; given {type(circuit).__name__}")
    theta = list(circuit.parameters if parameters is None else parameters)
    index = {parameter: place for place, parameter in enumerate(theta)}
    if len(index) != len(theta):
        twice = sorted({parameter.name for parameter in theta if theta.count(parameter) > 1})
        raise CircuitError(f"`parameters` must be different; given more than once: {', '.join(twice)}")
    instructions = [
        (instruction.operation, tuple(circuit.find_bit(qubit).index for qubit in instruction.qubits))
        for instruction in circuit.data
    ]
    last = {
        qubit: position
        for position, (operation, qubits) in enumerate(instructions)
        for qubit in qubits
        if not isinstance(operation, classes.Barrier | classes.Delay)
    }
    operations: list[Operation] = []
    for position, (operation, qubits) in enumerate(instructions):
        if isinstance(operation, classes.Measure) and last[qubits[0]] == position:
            continue
        try:
            operations += _read(operation, qubits, index)
        except CircuitError as error:
            raise CircuitError(f"operation {position} ({operation.name} on {qubits}): {error}") from error
    return Circuit(circuit.num_qubits, tuple(operations), len(theta))


def _expression(angle: Angle, scale: float, theta: ParameterVector) -> ParameterExpression | float:
    if angle.index is None:
        return scale * angle.offset
    return scale * angle.scale * theta[angle.index] + scale * angle.offset


@cache
def _standard_classes() -> dict[str, type]:
    """Qiskit's own gates by name. A name alone says nothing: anyone may call a gate "h"."""
    names = require("qiskit.circuit.library", "qiskit", _PURPOSE).get_standard_gate_name_mapping()
    return {name: gate.base_class for name, gate in names.items()}


_TABLE = {row.qiskit.name: (row.name, row.qiskit.scale) for row in GATES.values() if isinstance(row.qiskit, Foreign)}


def _read(operation: Any, qubits: tuple[int, ...], index: Mapping[Parameter, int]) -> Iterator[Operation]:
    """One Qiskit operation as operations of ours; errors say what is wrong, but not where."""
    name = operation.name
    if name in _standard_classes() and getattr(operation, "base_class", None) is _standard_classes()[name]:
        if name in _TABLE:
            ours, scale = _TABLE[name]
            angles = [_affine(value, index, 1 / scale) for value in operation.params]
            yield Operation(ours, qubits, *angles)
            return
        if name == "u":  # what Qiskit's definitions end in: U(theta, phi, lambda) = RZ(phi) RY(theta) RZ(lambda)
            theta, phi, lam = (_affine(value, index) for value in operation.params)
            yield from (Operation("rz", qubits, lam), Operation("ry", qubits, theta), Operation("rz", qubits, phi))
            return
        if name == "id":
            return
    classes = require("qiskit.circuit", "qiskit", _PURPOSE)
    if isinstance(operation, classes.Barrier | classes.Delay):
        return
    if isinstance(operation, classes.Measure):
        raise CircuitError("a measurement before the end of its qubit; a circuit here has gates only")
    boxed = isinstance(operation, classes.BoxOp)  # of the class of control flow, but without control
    if isinstance(operation, classes.Reset | classes.ControlFlowOp) and not boxed:
        kind = "a reset" if isinstance(operation, classes.Reset) else "classical control"
        raise CircuitError(f"{kind}; a circuit here has gates only")
    definition = operation.body if boxed else getattr(operation, "definition", None)
    if definition is None:
        raise CircuitError(f"{name} is not in our table of gates and has no definition to expand; {_ADVICE}")
    for part in definition.data:
        places = tuple(qubits[definition.find_bit(qubit).index] for qubit in part.qubits)
        try:
            yield from _read(part.operation, places, index)
        except CircuitError as error:
            raise CircuitError(f"inside it, {part.operation.name} on {places}: {error}") from error


def _affine(value: Any, index: Mapping[Parameter, int], factor: float = 1.0) -> Angle:
    """`factor` times a Qiskit angle: a number or a `ParameterExpression`."""
    slopes = {parameter: _slope(value, parameter) for parameter in getattr(value, "parameters", ())}
    acting = [parameter for parameter, slope in slopes.items() if slope != 0]
    if len(acting) > 1:
        names = " and ".join(sorted(parameter.name for parameter in acting))
        raise CircuitError(f"the angle {value} has {len(acting)} parameters ({names}); give it one, or bind the others")
    offset = factor * _at_zero(value)
    if not acting:
        return Angle(None, offset=offset)
    if acting[0] not in index:
        raise CircuitError(f"the angle {value}: {acting[0].name} is not among the given parameters")
    return Angle(index[acting[0]], factor * slopes[acting[0]], offset)


def _slope(value: ParameterExpression, parameter: Parameter) -> float:
    try:
        slope = value.gradient(parameter)
        if not getattr(slope, "parameters", ()):
            return _real(getattr(slope, "numeric", lambda: slope)())
    except (RuntimeError, TypeError):  # Qiskit has no derivative of this expression, or the slope is complex
        pass
    raise CircuitError(
        f"the angle {value} is not affine in {parameter.name}; an angle must be scale*parameter + offset"
    )


def _at_zero(value: Any) -> float:
    if not hasattr(value, "parameters"):
        return _real(value)
    qiskit_error = require("qiskit.exceptions", "qiskit", _PURPOSE).QiskitError
    try:
        return _real(value.bind(dict.fromkeys(value.parameters, 0.0)).numeric())
    except (qiskit_error, ZeroDivisionError, TypeError):
        raise CircuitError(f"the angle {value} is no real number where its parameters are 0") from None


def _real(value: Any) -> float:
    return float(value.real) if isinstance(value, complex) and value.imag == 0 else float(value)
