"""Signs that are drawn once for each state of the numbers that train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import functional_call

from qpeft.generators.diagonal import DiagonalNode
from qpeft.generators.philox import fingerprint
from qpeft.generators.traced import register, traced_call


class OneDraw:
    """Makes a node's diagonals; what the node draws at random follows from the numbers it belongs to.

    All passes between two steps of an optimiser then have the same draw, and so has what a backward pass computes
    again; resumed runs and parallel ranks have the draws of whole ones. In a compiled graph it is one operator.

    It is no module: the node's parameters belong to whoever holds the node. Copies and pickles of a module that holds
    both hold copies of both.

    Args:
        node: The node, which trains as before.
    """

    def __init__(self, node: DiagonalNode) -> None:
        self.node = node
        self._handle = register(self)

    def __reduce__(self) -> tuple[type[OneDraw], tuple[DiagonalNode]]:
        return OneDraw, (self.node,)  # a copy registers itself

    def __call__(self, state: Sequence[Tensor]) -> Tensor:
        """The diagonals, (count, size).

        Args:
            state: The other numbers that the draw follows from.
        """
        node = self.node
        if not (node.draws and node.training):
            return node()  # type: ignore[no-any-return]
        values = node.weight.reshape(-1)
        if torch.compiler.is_compiling():
            return traced_call(self._handle, [node.count, node.size], values, state)
        return self.run(values, state)

    def run(self, values: Tensor, state: Sequence[Tensor]) -> Tensor:
        """The diagonals from the node's numbers in one vector."""
        numbers = torch.cat([tensor.detach().reshape(-1) for tensor in (values, *state)])
        with _seeded(fingerprint(numbers), values.device):
            diagonals: Tensor = functional_call(self.node, {"weight": values.view_as(self.node.weight)}, ())
        return diagonals


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """What is drawn in here follows from the seed, and changes no other draw."""
    others = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(others, device_type="cuda" if device.type == "cpu" else device.type):
        torch.manual_seed(seed % 2**63)
        yield
