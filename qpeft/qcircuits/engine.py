"""What every engine answers, with one signature."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from qpeft.qcircuits.circuit import Circuit


@runtime_checkable
class Engine(Protocol):
    """Runs a circuit.

    Exact, sampled and noisy engines differ in how they get the numbers, never in how they are asked. A basis index has
    qubit 0 as its most significant bit.
    """

    def probabilities(self, circuit: Circuit, angles: Tensor) -> Tensor:
        """Basis probabilities of the circuit applied to |0...0>.

        Args:
            circuit: What to run.
            angles: The parameters theta in radians, (..., circuit.num_parameters), float32 or float64.

        Returns:
            (..., 2**circuit.num_qubits) in the dtype of `angles`, differentiable in `angles`.
        """
        ...
