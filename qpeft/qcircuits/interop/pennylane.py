"""Circuits to and from PennyLane. Wire i is our qubit i, and PennyLane's basis indices have our order."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qpeft.errors import CircuitError
from qpeft.extras import require
from qpeft.qcircuits.circuit import Angle, Circuit, Operation
from qpeft.qcircuits.gates import GATES, Foreign
from qpeft.qcircuits.interop.decompose import decompose, foreign_gate

_OURS = {row.pennylane.name: name for name, row in GATES.items() if isinstance(row.pennylane, Foreign)}
_MEASUREMENTS = ("MidMeasure", "MidMeasureMP", "PauliMeasure")


def to_pennylane(circuit: Circuit, wires: Sequence[Hashable] | None = None) -> Callable[..., None]:
    """A quantum function that applies the circuit's gates, for use inside any QNode or quantum tape.

    Gates that PennyLane lacks are decomposed, so the unitary is the same up to a global phase.

    Args:
        circuit: Any circuit.
        wires: Label of the wire of each qubit; 0 to N-1 if None.

    Returns:
        `function(angles, wires=None)`. The angles are (P,) radians, or (B, P) for parameter broadcasting, as a tensor
        of any interface of PennyLane, a numpy array or a list; `wires` take the place of those given here.

    Raises:
        MissingExtraError: PennyLane is not installed.
        CircuitError: Not one different wire for each qubit, or (in the function) not P angles.

    Example:
        >>> import pennylane as qml
        >>> from qpeft.qcircuits import CircuitBuilder
        >>> circuit = to_pennylane(CircuitBuilder(2).ry(0).cx(0, 1).build())
        >>> @qml.qnode(qml.device("default.qubit"))
        ... def energy(angles):
        ...     circuit(angles)
        ...     return qml.expval(qml.Z(1))
        >>> round(float(energy([0.5])), 4)  # cos(0.5)
        0.8776
    """
    qml: Any = require("pennylane", "pennylane", "a PennyLane circuit")
    default = _checked(range(circuit.num_qubits) if wires is None else wires, circuit)
    steps = []
    for operation in decompose(circuit, "pennylane").operations:
        foreign, angle = foreign_gate(operation.gate, "pennylane"), operation.angle
        there = angle and Angle(angle.index, foreign.scale * angle.scale, foreign.scale * angle.offset)
        steps.append((getattr(qml, foreign.name), operation.qubits, there))

    def apply(angles: Any, wires: Sequence[Hashable] | None = None) -> None:
        labels = default if wires is None else _checked(wires, circuit)
        if isinstance(angles, list | tuple):
            angles = np.asarray(angles)
        shape = qml.math.shape(angles)
        if shape[-1:] != (circuit.num_parameters,):
            raise CircuitError(
                f"the circuit has {circuit.num_parameters} angles; given shape {shape}, "
                f"expected (..., {circuit.num_parameters})"
            )
        for gate, qubits, angle in steps:
            gate(*([] if angle is None else [_value(angle, angles)]), wires=[labels[q] for q in qubits])

    return apply


def _value(angle: Angle, angles: Any) -> Any:
    if angle.index is None:
        return angle.offset
    value = angles[..., angle.index]
    value = value if angle.scale == 1 else angle.scale * value
    return value if angle.offset == 0 else value + angle.offset


def _checked(wires: Sequence[Hashable], circuit: Circuit) -> list[Hashable]:
    labels = list(wires)
    if len(labels) != circuit.num_qubits or len(set(labels)) != len(labels):
        raise CircuitError(f"wires are {labels}; {circuit.num_qubits} qubits need as many different labels")
    return labels


def from_pennylane(tape: Any, wires: Sequence[Hashable] | None = None) -> tuple[Circuit, Tensor]:
    """The circuit of a PennyLane tape, and the values of its parameters.

    Each entry of each trainable parameter (`tape.trainable_params`, by default all of them) becomes a parameter; all
    other numbers are constants. Operations without a row in the gate table, templates and `adjoint` and `ctrl` of
    anything among them, are expanded by PennyLane's own decompositions, up to a global phase. The final measurements
    are not part of a circuit.

    Args:
        tape: A `qml.tape.QuantumScript`. `qml.tape.make_qscript(function)(*arguments)` makes one of a quantum
            function, `qml.workflow.construct_tape(qnode)(*arguments)` of a QNode.
        wires: The label of each qubit's wire. If None, wires that are the integers 0 to N-1 keep their numbers, and
            any others become qubits in the order of `tape.wires`, as in PennyLane itself.

    Returns:
        The circuit, and its parameters' values in radians, (P,) float64.

    Raises:
        MissingExtraError: PennyLane is not installed.
        CircuitError: No tape is given, or it holds an operation that is not a gate (a measurement in the middle, a
            conditional, a state preparation, a channel), has no decomposition into the gate table, or whose angles are
            not each affine in one trainable parameter; the message names it with its position.

    Example:
        >>> import pennylane as qml
        >>> tape = qml.tape.QuantumScript([qml.Rot(0.1, 0.2, 0.3, wires=0), qml.CNOT([0, 1])])
        >>> circuit, angles = from_pennylane(tape)
        >>> print(circuit)
        q0: ─rz(θ0)──ry(θ1)──rz(θ2)──●──
                                     │
        q1: ─────────────────────────x──
    """
    qml: Any = require("pennylane", "pennylane", "a PennyLane circuit")
    if not isinstance(tape, qml.tape.QuantumScript):
        raise CircuitError(
            f"expected a qml.tape.QuantumScript; given {type(tape).__name__} "
            "(qml.workflow.construct_tape(qnode)(*arguments) makes one of a QNode)"
        )
    qubits = _numbered(tape, wires)
    trainable: dict[int, list[int]] = {}
    for number in tape.trainable_params:
        place = tape.par_info[number]
        trainable.setdefault(place["op_idx"], []).append(place["p_idx"])
    operations: list[Operation] = []
    angles: list[Tensor] = []
    with qml.QueuingManager.stop_recording():
        for position, operation in enumerate(tape.operations):
            try:
                reader = _Reader(qml, operation, trainable.get(position, []))
                start = sum(map(len, angles))
                operations += reader.read(qubits, start)
            except Exception as error:  # whatever PennyLane or a gate of the user's own raises
                where = f"operation {position} ({operation.name} on wires {operation.wires.tolist()})"
                kind = "" if isinstance(error, CircuitError) else f"its expansion fails with {type(error).__name__}: "
                raise CircuitError(f"{where}: {kind}{error}") from error
            angles.append(reader.values.detach())
    theta = torch.cat([torch.zeros(0, dtype=torch.float64), *angles])
    return Circuit(len(qubits), tuple(operations), len(theta)), theta


def _numbered(tape: Any, wires: Sequence[Hashable] | None) -> dict[Hashable, int]:
    """The qubit of each wire."""
    labels = tape.wires.tolist()
    if wires is None:
        wires = range(len(labels)) if set(labels) == set(range(len(labels))) else labels
    missing = [label for label in labels if label not in wires]
    if missing or len(set(wires)) != len(wires):
        raise CircuitError(f"wires are {list(wires)}; they must be different and name those of the tape, {labels}")
    return {label: qubit for qubit, label in enumerate(wires)}


@dataclass
class _Reader:
    """One operation of a tape as operations of ours.

    Attributes:
        qml: PennyLane.
        operation: The operation.
        trainable: Which of its parameters are trainable.
    """

    qml: Any
    operation: Any
    trainable: list[int]

    def __post_init__(self) -> None:
        if getattr(self.operation, "batch_size", None) is not None:
            raise CircuitError("its parameters are a batch; qml.transforms.broadcast_expand makes a tape of each row")
        self._data = [np.asarray(self.qml.math.toarray(self.qml.math.detach(x))) for x in self.operation.data]
        if any(np.iscomplexobj(self._data[place]) for place in self.trainable):
            raise CircuitError("a trainable parameter is complex; take it out of tape.trainable_params")
        entries = [torch.from_numpy(self._data[place].astype(np.float64).reshape(-1)) for place in self.trainable]
        self.values = torch.cat([torch.zeros(0, dtype=torch.float64), *entries]).requires_grad_()

    def read(self, qubits: dict[Hashable, int], start: int) -> Iterator[Operation]:
        """The operations, whose parameters are numbered from `start`.

        What each angle is in the trainable parameters follows from its value and derivative here and its value at
        another point, which tell every function that is not affine (but for an accident) from those that are.
        """
        away = torch.linspace(0.3, 0.7, len(self.values), dtype=torch.float64)
        gates = list(self._expand(self._at(self.values)))
        others = list(self._expand(self._at(self.values.detach() + away))) if self.trainable else gates
        if [(gate.name, gate.wires) for gate in gates] != [(gate.name, gate.wires) for gate in others]:
            raise CircuitError("its decomposition depends on the value of a trainable parameter")
        for gate, other in zip(gates, others, strict=True):
            try:
                on = tuple(qubits[label] for label in gate.wires)
            except KeyError as error:
                raise CircuitError(f"its decomposition acts on wire {error}, which the tape does not have") from None
            ours = _OURS[gate.name]
            yield Operation(ours, on, self._angle(gate, other, start) if GATES[ours].has_angle else None)

    def _at(self, values: Tensor) -> Any:
        """The operation at other values of its trainable parameters."""
        if not self.trainable:
            return self.operation
        data: list[Any] = list(self._data)
        parts = values.split([self._data[place].size for place in self.trainable])
        for place, part in zip(self.trainable, parts, strict=True):
            data[place] = part.reshape(self._data[place].shape)
        return self.qml.ops.functions.bind_new_parameters(self.operation, data)

    def _expand(self, operation: Any) -> Iterator[Any]:
        self._refuse(operation)
        # The class too: anyone may call a gate "RX".
        if operation.name in _OURS and type(operation) is getattr(self.qml, operation.name):
            yield operation
            return
        if not operation.has_decomposition:
            raise CircuitError(f"{operation.name} has no decomposition in PennyLane into the gates {', '.join(_OURS)}")
        for part in operation.decomposition():
            yield from self._expand(part)

    def _refuse(self, operation: Any) -> None:
        qml = self.qml
        kinds = {
            "measurement in the middle of a circuit": type(operation).__name__ in _MEASUREMENTS,
            "classical control (qml.cond)": isinstance(operation, qml.ops.Conditional),
            "state preparation": isinstance(operation, qml.operation.StatePrepBase),
            "channel": isinstance(operation, qml.operation.Channel),
        }
        for kind, found in kinds.items():
            if found:
                raise CircuitError(
                    f"{kind}: {operation.name} is not a gate; a circuit starts in |0...0> and is unitary"
                )

    def _angle(self, gate: Any, other: Any, start: int) -> Angle:
        scale = _scale(gate.name)
        here, there = (torch.as_tensor(g.data[0], dtype=torch.float64) for g in (gate, other))
        slope = torch.zeros_like(self.values)
        if here.requires_grad:
            slope = torch.autograd.grad(here, self.values, retain_graph=True)[0]
        away = torch.linspace(0.3, 0.7, len(slope), dtype=torch.float64)
        depends = slope.abs() > 1e-12
        affine = (here + slope @ away - there).abs().item() < 1e-9
        if not affine or depends.sum() > 1:
            raise CircuitError(
                f"the angle of {gate.name} on wires {gate.wires.tolist()} is not affine in one trainable parameter"
            )
        if not depends.any():
            return Angle(None, offset=float(here.detach()) / scale)
        place = int(depends.nonzero())
        offset = here.detach() - slope[place] * self.values[place].detach()
        return Angle(start + place, float(slope[place]) / scale, float(offset) / scale)


def _scale(name: str) -> float:
    return foreign_gate(_OURS[name], "pennylane").scale
