"""Diagonal nodes: the numbers Lambda between two frames, and the nonlinearity of a generalised measurement.

Quantum-PEFT (arXiv 2503.05431) writes an update as U diag(Lambda) V^T. A node makes the diagonals of `count` layers of
equal size in one call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from qpeft.errors import ConfigError
from qpeft.options import check_whole
from qpeft.registry import Registry

Measurement = Callable[[Tensor, int], Tensor]  # (values, the axis that holds the state) -> as many values


def identity(values: Tensor, dim: int) -> Tensor:
    """The values themselves: no measurement."""
    return values


def square(values: Tensor, dim: int) -> Tensor:
    """The squares: the probabilities of a state whose amplitudes these are."""
    return values.square()


def log_softmax_square(values: Tensor, dim: int) -> Tensor:
    """The log-softmax of the squares along `dim`: the log-probabilities of arXiv 2503.05431, appendix A.2."""
    return values.square().log_softmax(dim)


MEASUREMENTS: Registry[Measurement] = Registry(
    "measurement", {"identity": identity, "square": square, "log_softmax_square": log_softmax_square}
)


def reinmax(logits: Tensor, tau: float = 1.0) -> Tensor:
    """Draws one-hot samples of softmax(logits) whose gradient is second-order accurate (ReinMax, arXiv 2304.08612).

    With the sample D, pi0 = softmax(logits), pi1 = (softmax(logits / tau) + D) / 2 and the gradient g at D, the
    gradient at the logits is J(pi1) 2g - J(pi0) g/2, where J(pi) v = pi * (v - <pi, v>). Its mean over the last
    axis is 0, since the columns of J add up to 0.

    Args:
        logits: (..., C).
        tau: Temperature, at least 1.

    Returns:
        (..., C), exactly one-hot.
    """
    constant = logits.detach()
    probabilities = constant.softmax(-1)
    drawn = torch.multinomial(probabilities.reshape(-1, logits.shape[-1]), 1).reshape(*logits.shape[:-1], 1)
    sample = torch.zeros_like(probabilities).scatter_(-1, drawn, 1.0)
    shifted = ((constant / tau).softmax(-1) + sample) / 2
    # J is symmetric, so J(pi) logits with pi held constant is a function whose gradient is J(pi) g.
    surrogate = 2 * _softmax_slope(shifted, logits) - _softmax_slope(probabilities, logits) / 2
    return sample + (surrogate - surrogate.detach())


def _softmax_slope(probabilities: Tensor, vector: Tensor) -> Tensor:
    """J(pi) v = pi * (v - <pi, v>), the Jacobian of softmax at probabilities pi, times v."""
    return probabilities * (vector - (probabilities * vector).sum(-1, keepdim=True))


class DiagonalNode(nn.Module, ABC):
    """`count` diagonals of `size` numbers, (count, size), from as many trained ones.

    The numbers start equal in all places. Where `starts_at_zero` is false, whoever builds an update from the node
    subtracts the update at the start, U0 diag(initial()) V0^T with the frames as they were, to start from 0.

    Raises:
        ConfigError: A size or count below 1.
    """

    draws: ClassVar[bool] = False  # at random in training mode

    def __init__(self, size: int, count: int = 1, start: float = 0.0) -> None:
        super().__init__()
        check_whole("the size of a diagonal", size)
        check_whole("count", count)
        self.size, self.count = size, count
        self.weight = nn.Parameter(torch.full((count, size), start))

    @abstractmethod
    def forward(self) -> Tensor:
        """The diagonals, (count, size)."""

    @abstractmethod
    def initial(self) -> Tensor:
        """The diagonals as they were before training, in evaluation mode, (count, size); no gradient."""

    @property
    @abstractmethod
    def starts_at_zero(self) -> bool:
        """Whether `initial()` is 0, so that nothing need be subtracted."""

    @property
    def num_parameters(self) -> int:
        """The trained numbers of all `count` diagonals."""
        return self.weight.numel()

    def extra_repr(self) -> str:
        return f"size={self.size}, count={self.count}"


class RealDiagonal(DiagonalNode):
    """Real numbers, followed by a measurement; starts at 0 where there is none.

    A measurement squares, and a square has no slope at 0: with one, the numbers start at 1 (arXiv 2503.05431,
    sections 4.1 and A.2).

    Raises:
        ConfigError: An unknown measurement, or log-probabilities of one state, which never change.

    Example:
        >>> RealDiagonal(size=3, count=2)().tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """

    def __init__(self, size: int, count: int = 1, measurement: str = "identity") -> None:
        self._measure = MEASUREMENTS[measurement]
        if measurement == "log_softmax_square" and size == 1:
            raise ConfigError("log_softmax_square of one number is always 0: use a size of at least 2, or 'square'")
        self._start = 0.0 if measurement == "identity" else 1.0
        super().__init__(size, count, self._start)
        self.measurement = measurement

    def forward(self) -> Tensor:
        return self._measure(self.weight, -1)

    def initial(self) -> Tensor:
        return self._measure(torch.full_like(self.weight.detach(), self._start), -1)

    @property
    def starts_at_zero(self) -> bool:
        return self.measurement == "identity"

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, measurement={self.measurement!r}"


class RademacherDiagonal(DiagonalNode):
    """Signs: ReinMax([Lambda, -Lambda]) . [1, -1] (arXiv 2503.05431, section 4.1).

    In training mode each sign is drawn, +1 with probability sigmoid(2 Lambda); in evaluation mode it is the likelier
    one. All of them start as +1 with Lambda = 1: the update less its start is exactly 0 in evaluation mode, while
    in training mode about an eighth of the signs are drawn as -1, which is how the node explores.

    Args:
        size: Signs of one diagonal.
        count: Diagonals.
        tau: Temperature of ReinMax.

    Raises:
        ConfigError: tau below 1.

    Example:
        >>> RademacherDiagonal(size=2).eval()()
        tensor([[1., 1.]])
    """

    START = 1.0
    draws = True

    def __init__(self, size: int, count: int = 1, tau: float = 1.0) -> None:
        if not 1 <= tau < float("inf"):
            raise ConfigError(f"tau is {tau}; ReinMax needs a finite temperature of at least 1")
        super().__init__(size, count, self.START)
        self.tau = tau

    def forward(self) -> Tensor:
        if not self.training:
            return torch.where(self.weight >= 0, 1.0, -1.0).to(self.weight.dtype)
        sample = reinmax(torch.stack([self.weight, -self.weight], dim=-1), self.tau)
        return sample[..., 0] - sample[..., 1]

    def initial(self) -> Tensor:
        return torch.ones_like(self.weight.detach())

    @property
    def starts_at_zero(self) -> bool:
        return False

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, tau={self.tau}"


DIAGONALS: Registry[type[DiagonalNode]] = Registry(
    "diagonal node", {"real": RealDiagonal, "rademacher": RademacherDiagonal}
)
