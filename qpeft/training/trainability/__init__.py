"""How large a circuit's gradients are at random angles, against qubits, layers, cost and engine."""

from qpeft.training.trainability.variance import gradient_variance

__all__ = ["gradient_variance"]
