"""The order of the numbers in a row of states."""

from __future__ import annotations

from torch import Tensor


class Layout:
    """Where the C states of a circuit stand among the qubits: last, or first after an odd number of layers."""

    def __init__(self, num_qubits: int, columns: int, layers: int = 0) -> None:
        self.num_qubits = num_qubits
        self.columns = columns
        self.first = columns > 1 and layers % 2 == 1

    def turn(self) -> None:
        """A layer has been applied, or undone."""
        self.first = self.columns > 1 and not self.first

    def amplitudes(self, states: Tensor) -> Tensor:
        """(..., D * C) as (..., C, D) or (..., D, C), whichever it is; (..., D) for C = 1."""
        if self.columns == 1:
            return states
        many, dim = states.shape[:-1], 2**self.num_qubits
        return states.view(*many, self.columns, dim) if self.first else states.view(*many, dim, self.columns)

    def around(self, qubits: tuple[int, int]) -> tuple[int, int, int]:
        """Sizes of what stands before, between and after two qubits."""
        low, high = sorted(qubits)
        before, between, after = 2**low, 2 ** (high - low - 1), 2 ** (self.num_qubits - high - 1)
        if self.first:
            return before * self.columns, between, after
        return before, between, after * self.columns
