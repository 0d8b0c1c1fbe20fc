"""Builds a circuit gate by gate."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from qpeft.errors import unknown_name
from qpeft.qcircuits.circuit import Angle, Circuit, Operation
from qpeft.qcircuits.gates import GATES, gate


class CircuitBuilder:
    """Collects operations, then `build()`s a `Circuit`. Every gate of the table is a method.

    A gate with an angle takes a new parameter unless one is given: an `Angle`, or a number for a constant.

    Example:
        >>> builder = CircuitBuilder(2)
        >>> _ = builder.ry(0).ry(1).cx(0, 1)
        >>> builder.build().num_parameters
        2
    """

    def __init__(self, num_qubits: int) -> None:
        self.num_qubits = num_qubits
        self._operations: list[Operation] = []
        self._num_parameters = 0

    def append(self, name: str, qubits: Iterable[int], angle: Angle | float | None = None) -> CircuitBuilder:
        """Adds gate `name` on `qubits`; returns the builder, so that calls chain."""
        if angle is None and gate(name).has_angle:
            angle = Angle(self._num_parameters)
        elif angle is not None and not isinstance(angle, Angle):
            angle = Angle(None, offset=float(angle))
        if angle is not None and angle.index is not None:
            self._num_parameters = max(self._num_parameters, angle.index + 1)
        self._operations.append(Operation(name, tuple(map(operator.index, qubits)), angle))
        return self

    def build(self) -> Circuit:
        return Circuit(self.num_qubits, tuple(self._operations), self._num_parameters)

    def __getattr__(self, name: str) -> Any:
        if name not in GATES:
            raise AttributeError(unknown_name("gate", name, GATES))

        def add(*qubits: int, angle: Angle | float | None = None) -> CircuitBuilder:
            return self.append(name, qubits, angle)

        return add
