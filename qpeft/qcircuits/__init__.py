"""Circuits, defined once, and the engines that run them."""

from qpeft.qcircuits.ansatz import ANSATZE, Ansatz, ansatz, n_local, register_ansatz
from qpeft.qcircuits.circuit import Angle, Circuit, CircuitBuilder, Operation
from qpeft.qcircuits.engine import Engine
from qpeft.qcircuits.gates import GATES, Gate, Kind, gate
from qpeft.qcircuits.statevector import StatevectorEngine

__all__ = [
    "ANSATZE", "GATES", "Angle", "Ansatz", "Circuit", "CircuitBuilder", "Engine", "Gate", "Kind", "Operation",
    "StatevectorEngine", "ansatz", "gate", "n_local", "register_ansatz",
]  # fmt: skip
