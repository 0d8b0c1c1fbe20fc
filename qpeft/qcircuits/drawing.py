"""A circuit as text, one line a qubit, operations as far left as they fit."""

from __future__ import annotations

from dataclasses import dataclass

from qpeft.qcircuits.circuit import Circuit, Operation, format_angle

_TWO_QUBIT_SYMBOLS = {"cx": ("●", "x"), "cz": ("●", "●"), "swap": ("x", "x")}


def draw_text(circuit: Circuit, width: int | None = None) -> str:
    """The drawing. Angles show as θ0, θ1, ...; ``cx`` has ● on its control and x on its target.

    Args:
        circuit: What to draw.
        width: Characters of a line, beyond which the drawing goes on below; None for lines of any length.
    """
    label_width = len(f"q{circuit.num_qubits - 1}: ") + 1
    drawn = [_column(circuit.num_qubits, operations) for operations in _columns(circuit)]
    blocks: list[list[_Column]] = [[]]
    used = label_width
    for column in drawn:
        if width is not None and blocks[-1] and used + column.width > width:
            blocks.append([])
            used = label_width
        blocks[-1].append(column)
        used += column.width
    return "\n\n".join(_block(circuit.num_qubits, block, label_width) for block in blocks)


@dataclass(frozen=True)
class _Column:
    """One time step: the text on each wire and below it, all of one width."""

    wires: list[str]
    gaps: list[str]
    width: int


def _columns(circuit: Circuit) -> list[list[Operation]]:
    """The operations that stand above each other."""
    columns: list[list[Operation]] = []
    ready = [0] * circuit.num_qubits
    for operation in circuit.operations:
        low, high = min(operation.qubits), max(operation.qubits)
        column = max(ready[low : high + 1])
        ready[low : high + 1] = [column + 1] * (high - low + 1)
        if column == len(columns):
            columns.append([])
        columns[column].append(operation)
    return columns


def _column(num_qubits: int, operations: list[Operation]) -> _Column:
    cells, links = _column_cells(num_qubits, operations)
    width = max(len(cell) for cell in cells) + 2
    crossings = ["┼" if q in links else "" for q in range(num_qubits)]
    return _Column(
        [(cell or crossing).ljust(width, "─") for cell, crossing in zip(cells, crossings, strict=True)],
        [("│" if q + 1 in links.get(q, ()) else "").ljust(width) for q in range(num_qubits)],
        width,
    )


def _block(num_qubits: int, columns: list[_Column], label_width: int) -> str:
    lines = []
    for q in range(num_qubits):
        lines.append(f"q{q}: ".ljust(label_width - 1) + "─" + "".join(column.wires[q] for column in columns))
        gap = " " * label_width + "".join(column.gaps[q] for column in columns)
        if gap.strip():
            lines.append(gap.rstrip())
    return "\n".join(lines)


def _column_cells(num_qubits: int, operations: list[Operation]) -> tuple[list[str], dict[int, set[int]]]:
    """The text on each wire of one column, and which neighbouring wires a vertical line joins."""
    cells = [""] * num_qubits
    links: dict[int, set[int]] = {}
    for operation in operations:
        angle = f"({format_angle(operation.angle, 'θ').replace('[', '').replace(']', '')})" if operation.angle else ""
        symbols = _TWO_QUBIT_SYMBOLS.get(operation.gate, ("", ""))
        for place, qubit in enumerate(operation.qubits):
            if len(operation.qubits) == 1:
                cells[qubit] = operation.gate + angle
            else:
                cells[qubit] = symbols[place] or f"{operation.gate}{angle}:{place}"
        for qubit in range(min(operation.qubits), max(operation.qubits)):
            links.setdefault(qubit, set()).add(qubit + 1)
            links.setdefault(qubit + 1, set())
    return cells, links
