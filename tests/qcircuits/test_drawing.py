from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qiskit_reference import circuits

from qpeft.qcircuits import Angle, Circuit, CircuitBuilder
from qpeft.qcircuits.interop.rendering import draw_png

# Drawn by hand.
DRAWINGS = {
    "no gates": (Circuit(2, (), 0), "q0: ─\nq1: ─"),
    "one qubit": (CircuitBuilder(1).h(0).rx(0), "q0: ─h──rx(θ0)──"),
    "chain": (
        CircuitBuilder(3).ry(0).cx(0, 1).cx(1, 2),
        """
        q0: ─ry(θ0)──●─────
                     │
        q1: ─────────x──●──
                        │
        q2: ────────────x──
        """,
    ),
    "control below target": (
        CircuitBuilder(2).cx(1, 0),
        """
        q0: ─x──
             │
        q1: ─●──
        """,
    ),
    "line across a wire": (
        CircuitBuilder(3).cz(2, 0).x(1),
        """
        q0: ─●─────
             │
        q1: ─┼──x──
             │
        q2: ─●─────
        """,
    ),
    "side by side": (
        CircuitBuilder(4).swap(0, 1).cx(2, 3),
        """
        q0: ─x──
             │
        q1: ─x──
        q2: ─●──
             │
        q3: ─x──
        """,
    ),
    "other pairs number their qubits": (
        CircuitBuilder(2).rbs(1, 0),
        """
        q0: ─rbs(θ0):1──
             │
        q1: ─rbs(θ0):0──
        """,
    ),
    "angles": (
        CircuitBuilder(1).rx(0, angle=Angle(0, -0.5, 1.5)).ry(0, angle=0.25).rz(0, angle=Angle(0, -1.0)),
        "q0: ─rx(-0.5*θ0+1.5)──ry(0.25)──rz(-θ0)──",
    ),
}


@pytest.mark.parametrize(("circuit", "drawing"), DRAWINGS.values(), ids=DRAWINGS)
def test_drawing(circuit, drawing):
    circuit = circuit if isinstance(circuit, Circuit) else circuit.build()
    assert circuit.draw() == dedent(drawing).strip()
    assert str(circuit) == circuit.draw()


def test_labels_of_ten_and_more_qubits_line_up():
    lines = Circuit(11, (), 0).draw().splitlines()
    assert (lines[0], lines[10]) == ("q0:  ─", "q10: ─")


@given(circuits(max_qubits=5, max_operations=20))
def test_one_line_a_qubit_and_all_as_long(circuit):
    wires = [line for line in circuit.draw().splitlines() if line.startswith("q")]
    assert len(wires) == circuit.num_qubits
    assert len({len(wire) for wire in wires}) == 1


@given(circuits(max_operations=20), st.integers(40, 100))
def test_beyond_the_width_the_drawing_goes_on_below(circuit, width):
    whole, blocks = circuit.draw(), circuit.draw(width).split("\n\n")
    assert all(len(line) <= width for block in blocks for line in block.splitlines())
    for qubit in range(circuit.num_qubits):
        label = f"q{qubit}: ─"
        wires = [line.removeprefix(label) for b in blocks for line in b.splitlines() if line.startswith(label)]
        assert len(wires) == len(blocks)
        assert label + "".join(wires) in whole.splitlines()


def test_a_column_wider_than_the_width_stands_alone():
    circuit = CircuitBuilder(1).h(0).rx(0, angle=Angle(0, 0.123, 0.456)).h(0).build()
    assert circuit.draw(10).split("\n\n") == ["q0: ─h──", "q0: ─rx(0.123*θ0+0.456)──", "q0: ─h──"]


def test_png():
    assert draw_png(CircuitBuilder(2).rbs(0, 1).ry(1, angle=Angle(0, 2.0, 0.5)).build()).startswith(b"\x89PNG")


def test_notebooks_show_the_drawing():
    pretty = pytest.importorskip("IPython.lib.pretty")
    circuit = CircuitBuilder(2).ry(0).cx(0, 1).build()
    assert pretty.pretty(circuit) == circuit.draw()
