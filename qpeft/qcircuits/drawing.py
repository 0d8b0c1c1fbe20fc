"""A circuit as text: one line a qubit, operations as far left as they fit."""

from __future__ import annotations

from qpeft.qcircuits.circuit import Circuit, Operation, format_angle

_TWO_QUBIT_SYMBOLS = {"cx": ("●", "x"), "cz": ("●", "●"), "swap": ("x", "x")}


def draw_text(circuit: Circuit) -> str:
    """The drawing. Angles show as θ0, θ1, ...; ``cx`` has ● on its control and x on its target."""
    columns: list[list[Operation]] = []
    ready = [0] * circuit.num_qubits
    for operation in circuit.operations:
        low, high = min(operation.qubits), max(operation.qubits)
        column = max(ready[low : high + 1])
        ready[low : high + 1] = [column + 1] * (high - low + 1)
        if column == len(columns):
            columns.append([])
        columns[column].append(operation)

    label_width = len(f"q{circuit.num_qubits - 1}: ")
    wires = [f"q{q}: ".ljust(label_width) + "─" for q in range(circuit.num_qubits)]
    gaps = [" " * (label_width + 1) for _ in range(circuit.num_qubits)]
    for operations in columns:
        cells, links = _column_cells(circuit.num_qubits, operations)
        width = max(len(cell) for cell in cells) + 2
        for q in range(circuit.num_qubits):
            crossing = "┼" if q in links else ""
            wires[q] += (cells[q] or crossing).ljust(width, "─")
            gaps[q] += ("│" if q in links and q + 1 in links[q] else "").ljust(width)
    lines = []
    for q in range(circuit.num_qubits):
        lines.append(wires[q])
        if gaps[q].strip():
            lines.append(gaps[q].rstrip())
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
