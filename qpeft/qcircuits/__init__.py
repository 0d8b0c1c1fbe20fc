"""Circuits, defined once, and the engines that run them."""

from qpeft.qcircuits.ansatz import ANSATZE, Ansatz, ansatz, n_local, register_ansatz
from qpeft.qcircuits.blackbox import BlackBoxEngine
from qpeft.qcircuits.builder import CircuitBuilder
from qpeft.qcircuits.circuit import Angle, Circuit, Operation
from qpeft.qcircuits.engine import Engine
from qpeft.qcircuits.gates import GATES, Gate, Kind, gate
from qpeft.qcircuits.sampling import SampledEngine
from qpeft.qcircuits.shots import Shots
from qpeft.qcircuits.statevector import StatevectorEngine
from qpeft.qcircuits.surrogate import Surrogate

__all__ = [
    "ANSATZE", "GATES", "Angle", "Ansatz", "BlackBoxEngine", "Circuit", "CircuitBuilder", "Engine", "Gate", "Kind",
    "Operation", "SampledEngine", "Shots", "StatevectorEngine", "Surrogate", "ansatz", "gate", "n_local",
    "register_ansatz",
]  # fmt: skip
