"""A circuit as plain immutable data: the one definition that every engine runs.

Qubit 0 is the most significant bit of a basis index. The angle of an operation is affine in one parameter:
`scale * theta[index] + offset`, or a constant. That single rule lets parameters be shared, angles be negated for the
inverse, and a transpiled circuit be an ordinary `Circuit`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Complex, Real
from typing import Any, SupportsFloat

from qpeft.errors import CircuitError
from qpeft.qcircuits.gates import gate

FORMAT, FORMAT_VERSION = "qpeft-circuit", 1


@dataclass(frozen=True, slots=True)
class Angle:
    """`scale * theta[index] + offset` radians; with `index=None` the constant `offset`.

    Raises:
        CircuitError: Scale or offset is no real number. One of NumPy or torch becomes a plain float.
    """

    index: int | None
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        # Asked first, since angles are made often: nearly all are floats already.
        if type(self.scale) is not float:
            object.__setattr__(self, "scale", _plain("scale", self.scale))
        if type(self.offset) is not float:
            object.__setattr__(self, "offset", _plain("offset", self.offset))

    def __neg__(self) -> Angle:
        return Angle(self.index, -self.scale, -self.offset)

    def at(self, values: Sequence[float]) -> float:
        """The angle where the parameters have these values."""
        return self.offset if self.index is None else self.scale * values[self.index] + self.offset

    def shifted(self, by: int) -> Angle:
        """The same angle of the parameter `by` places later."""
        return self if self.index is None else Angle(self.index + by, self.scale, self.offset)


def _plain(name: str, value: object) -> float:
    """A plain float: other numbers print otherwise, and torch's do not compare."""
    problem = ""
    if isinstance(value, SupportsFloat) and (isinstance(value, Real) or not isinstance(value, Complex)):
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            problem = f": {error}"
    raise CircuitError(f"an angle's {name} must be a real number; given {value!r}{problem}")


@dataclass(frozen=True, slots=True)
class Operation:
    """A gate of the table on qubits, with an angle if the gate takes one."""

    gate: str
    qubits: tuple[int, ...]
    angle: Angle | None = None

    def inverse(self) -> Operation:
        return Operation(gate(self.gate).inverse, self.qubits, None if self.angle is None else -self.angle)

    def describe(self) -> str:
        """A short name for messages, e.g. ``ry(2*theta[3]+0.5) on (1,)``."""
        if self.angle is None:
            return f"{self.gate} on {self.qubits}"
        return f"{self.gate}({format_angle(self.angle)}) on {self.qubits}"


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def format_angle(angle: Angle, symbol: str = "theta") -> str:
    """An angle as text: ``theta[3]``, ``-0.5*theta[3]+1.571``, ``3.142``."""
    if angle.index is None:
        return f"{angle.offset:.4g}"
    scale = {1.0: "", -1.0: "-"}.get(angle.scale, f"{angle.scale:.4g}*")
    offset = f"{angle.offset:+.4g}" if angle.offset else ""
    return f"{scale}{symbol}[{angle.index}]{offset}"


@dataclass(frozen=True)
class Circuit:
    """An immutable, hashable, JSON-serialisable circuit on `num_qubits` qubits with `num_parameters` angles.

    Build one with `CircuitBuilder`, or take a registered ansatz from `qpeft.qcircuits.ansatz`.

    Raises:
        CircuitError: An operation that cannot be; the message names it with its position.
    """

    num_qubits: int
    operations: tuple[Operation, ...]
    num_parameters: int

    def __post_init__(self) -> None:
        if not _is_index(self.num_qubits) or self.num_qubits < 1:
            raise CircuitError(f"a circuit needs at least 1 qubit; given num_qubits={self.num_qubits!r}")
        if not _is_index(self.num_parameters) or self.num_parameters < 0:
            raise CircuitError(f"num_parameters must be 0 or more; given {self.num_parameters!r}")
        object.__setattr__(self, "operations", tuple(self.operations))
        for position, operation in enumerate(self.operations):
            problem = self._problem(operation)
            if problem:
                raise CircuitError(f"operation {position} ({operation.describe()}): {problem}")

    def _problem(self, operation: Operation) -> str | None:
        qubits, angle = operation.qubits, operation.angle
        try:
            row = gate(operation.gate)
        except CircuitError as error:
            return str(error)
        if not isinstance(qubits, tuple) or not all(_is_index(q) for q in qubits):
            return "qubits must be a tuple of integers"
        if len(qubits) != row.num_qubits:
            return f"{row.name} acts on {row.num_qubits} qubit(s); given {len(qubits)}"
        if len(set(qubits)) != len(qubits):
            return "a qubit is named twice"
        if not all(0 <= q < self.num_qubits for q in qubits):
            return f"the circuit's qubits are 0 to {self.num_qubits - 1}"
        if (angle is not None) != row.has_angle:
            return f"{row.name} takes {'one angle' if row.has_angle else 'no angle'}"
        if angle is not None:
            if not (math.isfinite(angle.scale) and math.isfinite(angle.offset)):
                return "the angle's scale and offset must be finite"
            if angle.index is None:
                return None
            if not _is_index(angle.index):
                return "the index of a parameter must be an integer"
            if self.num_parameters == 0:
                return "the circuit has no parameters"
            if not 0 <= angle.index < self.num_parameters:
                return f"the circuit's parameters are theta[0] to theta[{self.num_parameters - 1}]"
        return None

    @cached_property
    def _hash(self) -> int:
        return hash((self.num_qubits, self.operations, self.num_parameters))

    def __hash__(self) -> int:  # engines look compiled programs up by circuit at every call
        return self._hash

    def __reduce__(self) -> tuple[type[Circuit], tuple[int, tuple[Operation, ...], int]]:
        # Pickled without the remembered hash: hashes of strings differ from process to process.
        return Circuit, (self.num_qubits, self.operations, self.num_parameters)

    @cached_property
    def is_real(self) -> bool:
        """Whether every gate's matrix is real, so that the circuit runs in real arithmetic."""
        return all(gate(operation.gate).is_real for operation in self.operations)

    @cached_property
    def depth(self) -> int:
        """The number of time steps when every operation starts as early as its qubits allow."""
        ready = [0] * self.num_qubits
        for operation in self.operations:
            step = 1 + max(ready[q] for q in operation.qubits)
            for q in operation.qubits:
                ready[q] = step
        return max(ready)

    def compose(self, other: Circuit, share_parameters: bool = False) -> Circuit:
        """This circuit followed by `other`.

        Args:
            other: A circuit on as many qubits.
            share_parameters: Whether theta[i] of both is the same angle; otherwise `other` gets angles of its own.

        Raises:
            CircuitError: The circuits have different numbers of qubits.
        """
        if other.num_qubits != self.num_qubits:
            raise CircuitError(f"cannot compose {self.num_qubits} qubits with {other.num_qubits}; they must be equal")
        if share_parameters:
            parameters = max(self.num_parameters, other.num_parameters)
            return Circuit(self.num_qubits, self.operations + other.operations, parameters)
        moved = tuple(
            Operation(o.gate, o.qubits, None if o.angle is None else o.angle.shifted(self.num_parameters))
            for o in other.operations
        )
        return Circuit(self.num_qubits, self.operations + moved, self.num_parameters + other.num_parameters)

    def repeat(self, reps: int, share_parameters: bool = False) -> Circuit:
        """This circuit `reps` times in a row, each time with angles of its own unless `share_parameters`."""
        if reps < 0:
            raise CircuitError(f"reps must be 0 or more; given {reps}")
        circuit = Circuit(self.num_qubits, (), self.num_parameters if share_parameters else 0)
        for _ in range(reps):
            circuit = circuit.compose(self, share_parameters)
        return circuit

    def inverse(self) -> Circuit:
        """The circuit that undoes this one at the same angles."""
        return Circuit(self.num_qubits, tuple(o.inverse() for o in reversed(self.operations)), self.num_parameters)

    def bind(self, angles: Iterable[float]) -> Circuit:
        """The circuit without parameters that this one is at `angles`, (P,) in radians.

        Raises:
            CircuitError: Not one finite angle a parameter.

        Example:
            >>> from qpeft.qcircuits import CircuitBuilder
            >>> print(CircuitBuilder(1).rx(0).rz(0, angle=Angle(0, 2.0, 1.0)).build().bind([0.25]))
            q0: ─rx(0.25)──rz(1.5)──
        """
        try:
            values = [float(angle) for angle in angles]
        except (TypeError, ValueError) as error:
            raise CircuitError(f"angles must be {self.num_parameters} numbers, one a parameter: {error}") from error
        if len(values) != self.num_parameters:
            raise CircuitError(f"the circuit has {self.num_parameters} parameters; given {len(values)} angles")
        operations = tuple(
            Operation(o.gate, o.qubits, None if o.angle is None else Angle(None, offset=o.angle.at(values)))
            for o in self.operations
        )
        return Circuit(self.num_qubits, operations, 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`: an operation is [gate, qubits] or [gate, qubits, angle]."""
        operations: list[list[Any]] = []
        for operation in self.operations:
            row: list[Any] = [operation.gate, list(operation.qubits)]
            if operation.angle is not None:
                row.append([operation.angle.index, operation.angle.scale, operation.angle.offset])
            operations.append(row)
        return {
            "format": FORMAT, "version": FORMAT_VERSION, "num_qubits": self.num_qubits,
            "num_parameters": self.num_parameters, "operations": operations,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Circuit:
        """The circuit that `to_dict` wrote; raises `CircuitError` for anything else."""
        if data.get("format") != FORMAT:
            raise CircuitError(f"not a circuit: 'format' is {data.get('format')!r}, expected {FORMAT!r}")
        if data.get("version") != FORMAT_VERSION:
            raise CircuitError(f"circuit version {data.get('version')!r}; this qpeft reads version {FORMAT_VERSION}")
        try:
            operations = tuple(
                Operation(name, tuple(qubits), *(Angle(*values) for values in angle))
                for name, qubits, *angle in data["operations"]
            )
            return cls(data["num_qubits"], operations, data["num_parameters"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, CircuitError):
                raise
            raise CircuitError(f"damaged circuit data: {type(error).__name__}: {error}") from error

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Circuit:
        """The circuit that `to_json` wrote; raises `CircuitError` for anything else."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise CircuitError(f"not JSON: {error}") from error
        if not isinstance(data, dict):
            raise CircuitError(f"not a circuit: a JSON {type(data).__name__}, expected an object")
        return cls.from_dict(data)

    def draw(self, width: int | None = None) -> str:
        """The circuit as text, one line a qubit; beyond `width` characters the drawing goes on below."""
        from qpeft.qcircuits.drawing import draw_text

        return draw_text(self, width)

    def __str__(self) -> str:
        return self.draw()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """A notebook shows the drawing."""
        printer.text(self.draw())
