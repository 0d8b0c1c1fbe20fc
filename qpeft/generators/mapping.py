"""The mapping network: a small MLP from (basis label, feature) rows to chunks of the target vector."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from qpeft.registry import Registry

ACTIVATIONS: Registry[type[nn.Module]] = Registry(
    "activation", {"none": nn.Identity, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
)


def mapping_parameters(widths: Sequence[int]) -> int:
    """Weights and biases of linear layers `widths[0]` -> `widths[1]` -> ..."""
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths))


class MappingNetwork(nn.Module):
    """Linear layers with biases and an activation between them.

    With activation "none" (the papers' own) the network is one affine map, so a matrix of chunks made from N + 1
    features has rank at most N + 2.

    Args:
        widths: Input, hidden and output widths.
        activation: A name in `ACTIVATIONS`.
    """

    def __init__(self, widths: Sequence[int], activation: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(widths))
        self.activation = ACTIVATIONS[activation]()

    @property
    def last(self) -> nn.Linear:
        layer = self.layers[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, rows: Tensor) -> Tensor:
        """(n, widths[0]) -> (n, widths[-1])."""
        for layer in self.layers[:-1]:
            rows = self.activation(layer(rows))
        chunks: Tensor = self.last(rows)
        return chunks
