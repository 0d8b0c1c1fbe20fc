"""Circuits in the formats of other libraries: one file a format, each importing its library only when it is called."""

from qpeft.qcircuits.interop.decompose import decompose
from qpeft.qcircuits.interop.openqasm import from_openqasm2, from_openqasm3, to_openqasm2, to_openqasm3
from qpeft.qcircuits.interop.pennylane import from_pennylane, to_pennylane
from qpeft.qcircuits.interop.qiskit import from_qiskit, to_qiskit
from qpeft.qcircuits.interop.torchquantum import from_torchquantum, to_torchquantum

__all__ = [
    "decompose", "from_openqasm2", "from_openqasm3", "from_pennylane", "from_qiskit", "from_torchquantum",
    "to_openqasm2", "to_openqasm3", "to_pennylane", "to_qiskit", "to_torchquantum",
]  # fmt: skip
