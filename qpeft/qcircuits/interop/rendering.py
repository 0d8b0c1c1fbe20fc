"""A circuit in any of our formats, by name: what `qpeft circuit show --to` writes."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qpeft.errors import CircuitError
from qpeft.extras import require
from qpeft.qcircuits.circuit import Circuit
from qpeft.qcircuits.drawing import draw_text
from qpeft.qcircuits.interop.openqasm import to_openqasm2, to_openqasm3
from qpeft.qcircuits.interop.pennylane import to_pennylane
from qpeft.qcircuits.interop.qiskit import to_qiskit
from qpeft.qcircuits.interop.torchquantum import to_torchquantum
from qpeft.registry import Registry

Angles = Sequence[float] | None


@dataclass(frozen=True)
class Format:
    """A row of the registry.

    Attributes:
        write: (circuit, angles or None, characters of a line or None) -> text, or bytes of a picture.
        summary: One line.
        needs_angles: Whether the format holds values and no parameters.
    """

    write: Callable[[Circuit, Angles, int | None], str | bytes]
    summary: str
    needs_angles: bool = False


def render(name: str, circuit: Circuit, angles: Angles = None, width: int | None = None) -> str | bytes:
    """The circuit in the format `name`.

    Args:
        name: A row of `FORMATS`.
        circuit: What to show.
        angles: (P,) in radians, for which its parameters stand; symbols if None.
        width: Characters of a line, beyond which a drawing goes on below; None for lines of any length.

    Returns:
        Text without a line break at its end, or the bytes of a picture.

    Raises:
        ConfigError: There is no such format.
        CircuitError: The format needs angles, or they are not one a parameter.
        MissingExtraError: A package that the format needs is not installed.

    Example:
        >>> from qpeft.qcircuits import ansatz
        >>> print(render("text", ansatz("ry_cnot", 2, 1), [0.5, 1.0]))
        q0: ─ry(0.5)──●──
                      │
        q1: ─ry(1)────x──
        <BLANKLINE>
        qubits: 2, parameters: 0, depth: 2, gates: 3 (2 ry, 1 cx)
    """
    form = FORMATS[name]
    if form.needs_angles and angles is None and circuit.num_parameters:
        raise CircuitError(
            f"{name!r} holds values and no parameters; give the circuit's {circuit.num_parameters} angles (--angles on "
            "the command line)"
        )
    return form.write(circuit, angles, width)


def _bound(circuit: Circuit, angles: Angles) -> Circuit:
    return circuit if angles is None else circuit.bind(angles)


def _text(circuit: Circuit, angles: Angles, width: int | None) -> str:
    circuit = _bound(circuit, angles)
    counts = Counter(operation.gate for operation in circuit.operations)
    gates = ", ".join(f"{number} {name}" for name, number in counts.most_common())
    return (
        f"{draw_text(circuit, width)}\n\nqubits: {circuit.num_qubits}, parameters: {circuit.num_parameters}, "
        f"depth: {circuit.depth}, gates: {len(circuit.operations)}" + (f" ({gates})" if gates else "")
    )


def draw_png(circuit: Circuit) -> bytes:
    """The drawing as a PNG picture, made by Qiskit's drawer for matplotlib.

    Raises:
        MissingExtraError: Qiskit or pylatexenc is not installed.
    """
    require("pylatexenc", "qiskit", "a picture of a circuit")
    picture = io.BytesIO()
    to_qiskit(circuit).draw("mpl").savefig(picture, format="png", dpi=200, bbox_inches="tight")
    return picture.getvalue()


def _qiskit(circuit: Circuit, angles: Angles, width: int | None) -> str:
    return str(to_qiskit(_bound(circuit, angles)).draw("text", fold=width or -1))


def _pennylane(circuit: Circuit, angles: Angles, width: int | None) -> str:
    draw = require("pennylane", "pennylane", "a PennyLane drawing").draw
    decimals, values = (None, [0.0] * circuit.num_parameters) if angles is None else (2, angles)
    wires = list(range(circuit.num_qubits))
    options = {"decimals": decimals, "max_length": width or 10**6, "wire_order": wires, "show_all_wires": True}
    return str(draw(to_pennylane(circuit), **options)(list(values))).rstrip("\n")


def _torchquantum(circuit: Circuit, angles: Angles, width: int | None) -> str:
    return "\n".join(["[", *(f"    {op}," for op in to_torchquantum(circuit, angles)), "]"])


FORMATS: Registry[Format] = Registry(
    "format",
    {
        "text": Format(_text, "a drawing and what the circuit holds"),
        "qiskit": Format(_qiskit, "Qiskit's drawing"),
        "qasm2": Format(lambda circuit, angles, _: to_openqasm2(circuit, angles).rstrip(), "OpenQASM 2", True),
        "qasm3": Format(lambda circuit, angles, _: to_openqasm3(_bound(circuit, angles)).rstrip(), "OpenQASM 3"),
        "pennylane": Format(_pennylane, "PennyLane's drawing"),
        "torchquantum": Format(_torchquantum, "TorchQuantum's op list", True),
        "json": Format(lambda circuit, angles, _: _bound(circuit, angles).to_json(), "our own format"),
        "png": Format(lambda circuit, angles, _: draw_png(_bound(circuit, angles)), "a picture"),
    },
)
