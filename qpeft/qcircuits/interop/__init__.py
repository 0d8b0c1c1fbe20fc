"""Circuits in the formats of other libraries: one file a format, each importing its library only when it is called."""

from qpeft.qcircuits.interop.decompose import decompose
from qpeft.qcircuits.interop.qiskit import to_qiskit

__all__ = ["decompose", "to_qiskit"]
