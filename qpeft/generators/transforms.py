"""What is done to a basis probability before the mapping network sees it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qpeft.registry import Registry

Transform = Callable[[Tensor, int], Tensor]  # (probabilities (2**N,), N) -> features (2**N,)

SMALLEST_PROBABILITY = 1e-12  # the power 0.15 has infinite slope at 0


def identity(probabilities: Tensor, num_qubits: int) -> Tensor:
    """The probability p itself (Quantum Parameter Adaptation, arXiv 2410.09846, eqs. 2 and 6)."""
    return probabilities


def scaled(probabilities: Tensor, num_qubits: int) -> Tensor:
    """Scaled to p * 2**N - 1: zero mean and about unit size whatever N, which keeps the angles' gradient alive."""
    return probabilities * (1 << num_qubits) - 1


def tanh_power(probabilities: Tensor, num_qubits: int) -> Tensor:
    """(0.6 tanh(0.1 * 2**(N-1) * p))**0.15 less its mean: what the authors' published code does."""
    clamped = probabilities.clamp_min(SMALLEST_PROBABILITY)
    feature = (0.6 * torch.tanh(0.1 * 2 ** (num_qubits - 1) * clamped)).pow(0.15)
    return feature - feature.mean()


TRANSFORMS: Registry[Transform] = Registry(
    "probability transform", {"identity": identity, "scaled": scaled, "tanh_power": tanh_power}
)
