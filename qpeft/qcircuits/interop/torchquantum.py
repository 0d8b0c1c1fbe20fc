"""Circuits to and from TorchQuantum's op list: plain data, so neither direction needs TorchQuantum.

An op list is what `torchquantum.QuantumDevice(record_op=True)` records as `op_history` and what
`torchquantum.QuantumModule.from_op_history` makes a module of. It holds the value of an angle, never its name.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qpeft.errors import CircuitError, unknown_name
from qpeft.qcircuits.circuit import Angle, Circuit, Operation
from qpeft.qcircuits.gates import GATES, Foreign, gate
from qpeft.qcircuits.interop.decompose import decompose, foreign_gate

OpList = list[dict[str, Any]]

_ALIASES = {  # TorchQuantum's second names, which `qiskit2tq_op_history` writes
    "h": "hadamard", "x": "paulix", "y": "pauliy", "z": "pauliz", "cx": "cnot", "p": "phaseshift", "zz": "rzz",
    "echoedcrossresonance": "ecr",
}  # fmt: skip


def to_torchquantum(circuit: Circuit, angles: Tensor | Sequence[float] | None = None) -> OpList:
    """The circuit as TorchQuantum's op list.

    `torchquantum.QuantumModule.from_op_history` makes it a module whose initial angles are `angles`. Angles that
    depend on a parameter are trainable there, constants are not. TorchQuantum trains the angle of each gate by itself:
    gates that share a parameter here start alike and then part.

    Args:
        circuit: Any circuit; gates that do not run in TorchQuantum 0.1.8 are decomposed.
        angles: (P,) in radians; may be left out for a circuit without parameters.

    Returns:
        A dict for each gate: its "name", "wires" (a list), "params" (a number, or None), "inverse" and "trainable".

    Raises:
        CircuitError: Angles are missing, or are not (P,).

    Example:
        >>> from qpeft.qcircuits import CircuitBuilder
        >>> ops = to_torchquantum(CircuitBuilder(2).ry(0).cx(0, 1).build(), [0.5])
        >>> ops[0]
        {'name': 'ry', 'wires': [0], 'params': 0.5, 'inverse': False, 'trainable': True}
        >>> ops[1].get("name")
        'cnot'
    """
    if angles is None and circuit.num_parameters:
        raise CircuitError(
            f"TorchQuantum's op list has no parameters, and the circuit has {circuit.num_parameters}; give their "
            "values as `angles`"
        )
    values = torch.as_tensor(() if angles is None else angles, dtype=torch.float64)
    if values.shape != (circuit.num_parameters,):
        raise CircuitError(f"angles are of shape {tuple(values.shape)}; expected ({circuit.num_parameters},)")
    theta = values.tolist()
    ops: OpList = []
    for operation in decompose(circuit, "torchquantum").operations:
        foreign, angle = foreign_gate(operation.gate, "torchquantum"), operation.angle
        ops.append({
            "name": foreign.name,
            "wires": list(operation.qubits),
            "params": None if angle is None else foreign.scale * _value(angle, theta),
            "inverse": False,
            "trainable": angle is not None and angle.index is not None,
        })  # fmt: skip
    return ops


def from_torchquantum(op_list: Iterable[Mapping[str, Any]], num_qubits: int | None = None) -> tuple[Circuit, Tensor]:
    """The circuit of an op list, and its angles.

    An angle that is "trainable" becomes a parameter of its own; any other is a constant.

    Args:
        op_list: Dicts with "name" and "wires", and where they apply "params", "inverse" and "trainable".
        num_qubits: N, which an op list does not hold; the largest wire + 1 if None.

    Returns:
        The circuit and its angles, (P,) float64 radians.

    Raises:
        CircuitError: An operation that the gate table lacks, that holds no single angle (a recorded batch), or that
            cannot be; the message names its position.

    Example:
        >>> circuit, angles = from_torchquantum([{"name": "rx", "wires": 0, "params": 0.5, "trainable": True}])
        >>> circuit.operations[0].describe(), angles.tolist()
        ('rx(theta[0]) on (0,)', [0.5])
    """
    operations: list[Operation] = []
    theta: list[float] = []
    for position, op in enumerate(op_list):
        if not isinstance(op, Mapping):
            raise CircuitError(f"operation {position} of the op list is {op!r}; expected a dict")
        try:
            operations.append(_operation(op, theta))
        except CircuitError as error:
            raise CircuitError(
                f"operation {position} of the op list ({op.get('name')!r} on {op.get('wires')!r}): {error}"
            ) from None
    widest = 1 + max((qubit for operation in operations for qubit in operation.qubits), default=0)
    circuit = Circuit(widest if num_qubits is None else num_qubits, tuple(operations), len(theta))
    return circuit, torch.tensor(theta, dtype=torch.float64)


def _operation(op: Mapping[str, Any], theta: list[float]) -> Operation:
    """One operation; the value of a trainable angle is appended to `theta`."""
    names = {row.torchquantum.name: row.name for row in GATES.values() if isinstance(row.torchquantum, Foreign)}
    given = str(op.get("name"))
    name = _ALIASES.get(given, given)
    if name not in names:
        raise CircuitError(unknown_name("operation", given, {*names, *_ALIASES}))
    row, params = gate(names[name]), op.get("params")
    if row.has_angle and params is None:
        raise CircuitError(f"'params' is missing; {name} takes one angle in radians")
    if not row.has_angle and params is not None:
        raise CircuitError(f"'params' is {params!r}, but {name} takes none")
    angle = None
    if row.has_angle:
        value = _number(params) / foreign_gate(row.name, "torchquantum").scale
        angle = Angle(None, offset=value)
        if op.get("trainable"):
            angle = Angle(len(theta))
            theta.append(value)
    operation = Operation(row.name, _wires(op.get("wires")), angle)
    return operation.inverse() if op.get("inverse") else operation


def _value(angle: Angle, theta: Sequence[float]) -> float:
    return angle.offset if angle.index is None else angle.scale * theta[angle.index] + angle.offset


def _number(params: Any) -> float:
    try:
        values = torch.as_tensor(params, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise CircuitError(f"'params' is {params!r}; expected a number") from None
    if values.numel() != 1:
        raise CircuitError(
            f"'params' holds {values.numel()} numbers; one angle is expected (of a recorded batch, take one state's)"
        )
    if not values.isfinite():
        raise CircuitError(f"'params' is {params!r}; expected a finite number")
    return values.item()


def _wires(wires: Any) -> tuple[int, ...]:
    try:
        return tuple(operator.index(wire) for wire in np.atleast_1d(wires))
    except TypeError:
        raise CircuitError("'wires' must be an integer or a list of integers") from None
