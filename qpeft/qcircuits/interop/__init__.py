"""Circuits in the formats of other libraries: one file a format, each importing its library only when it is called."""

from qpeft.qcircuits.interop.decompose import decompose
from qpeft.qcircuits.interop.openqasm import from_openqasm2, from_openqasm3, to_openqasm2, to_openqasm3
from qpeft.qcircuits.interop.qiskit import from_qiskit, to_qiskit

__all__ = ["decompose", "from_openqasm2", "from_openqasm3", "from_qiskit", "to_openqasm2", "to_openqasm3", "to_qiskit"]
