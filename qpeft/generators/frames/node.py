"""Frames of a circuit on digits instead of bits: orthogonal N' x N' nodes and signs between neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from qpeft.errors import ConfigError
from qpeft.generators.frames.acting import ActingFrame
from qpeft.generators.frames.base import FrameFactory
from qpeft.generators.frames.cayley import CayleyFrame

SUBLAYERS = ("eq2", "fig7")


class NodeFrame(ActingFrame):
    """The first K columns of a circuit of N' x N' nodes, N = N'^m, orthonormal whenever the nodes are orthogonal.

    The simplified two-design of `PauliFrame` with its RY replaced by any orthogonal node and its CZ by the fixed signs
    (-1)^(a b) of neighbouring digits a and b (arXiv 2503.05431, section 4.2). In time order: a node on each of the m
    digits; then sub-layers, each of signs on neighbouring pairs and a node on every digit of those pairs. Pairs are
    (1, 2), (3, 4), ... and (2, 3), (4, 5), ... in turn. The paper counts sub-layers in two ways:

    * "eq2": two a layer, m + 2 L (m - 1) nodes;
    * "fig7": one a layer, m + L (m - 1) nodes as the figure prints for odd m (for even m and odd L, one more).

    With N' = 2 and "eq2" these are the matrices of `PauliFrame`. Only N' x N' and N x K matrices are made.

    Args:
        size: N, a power of `node_size`.
        columns: K.
        count: Number of frames.
        node_size: N', at least 2.
        reps: L, 0 or more.
        sublayers: "eq2" or "fig7".
        node: Makes the nodes of all frames as one `Frame`, with (N', N', number of nodes).

    Raises:
        ConfigError: A size that is no power of N', or another setting outside what is allowed.

    Example:
        >>> frame = NodeFrame(729, 1, node_size=9, sublayers="fig7")
        >>> frame.num_parameters  # 5 nodes of 9 * 8 / 2
        180
        >>> NodeFrame(729, 1, node_size=9).num_parameters  # 7 nodes
        252
    """

    signs: Tensor

    def __init__(
        self, size: int, columns: int, count: int = 1, *, node_size: int, reps: int = 1,
        sublayers: Literal["eq2", "fig7"] = "eq2", node: FrameFactory = CayleyFrame,
    ) -> None:  # fmt: skip
        super().__init__(size, columns, count)
        if node_size < 2:
            raise ConfigError(f"a node needs size N' >= 2, got {node_size}")
        if reps < 0:
            raise ConfigError(f"reps must be 0 or more, got {reps}")
        if sublayers not in SUBLAYERS:
            raise ConfigError(f"sublayers is {sublayers!r}; it must be 'eq2' (two a layer) or 'fig7' (one a layer)")
        self.node_size = node_size
        self.digits = _digits(size, node_size)
        self.reps = reps
        self.sublayers = sublayers
        self.num_nodes = self.digits + sum(len(_paired(pairs)) for pairs in self._pairs())
        self.nodes = node(node_size, node_size, count * self.num_nodes)
        if self.nodes.columns != node_size:
            raise ConfigError(
                f"a node needs all {node_size} columns, got {self.nodes.columns}: it must be an orthogonal matrix"
            )
        digit = torch.arange(node_size)
        signs = 1.0 - 2.0 * (torch.outer(digit, digit) % 2)
        self.register_buffer("signs", signs, persistent=False)

    def act_on(self, block: Tensor) -> Tensor:
        """Q @ block, (count, N, k)."""
        nodes = iter(self.nodes().unflatten(0, (self.count, self.num_nodes)).unbind(1))  # (count, N', N') each
        for digit in range(self.digits):
            block = self._rotate(block, next(nodes), digit)
        for pairs in self._pairs():
            for first in pairs:
                block = self._flip(block, first)
            for digit in _paired(pairs):
                block = self._rotate(block, next(nodes), digit)
        return block

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, node_size={self.node_size}, nodes={self.num_nodes}"

    def _pairs(self) -> Iterator[range]:
        """The first digits of each sub-layer's pairs."""
        for sublayer in range(self.reps * (2 if self.sublayers == "eq2" else 1)):
            yield range(sublayer % 2, self.digits - 1, 2)

    def _rotate(self, block: Tensor, node: Tensor, digit: int) -> Tensor:
        """The nodes (count, N', N') on one digit of the block's row index."""
        before = self.node_size**digit
        axes = block.reshape(self.count, before, self.node_size, -1)
        return (node[:, None] @ axes).view(block.shape)

    def _flip(self, block: Tensor, first: int) -> Tensor:
        """The signs on digits `first` and `first` + 1."""
        before, n = self.node_size**first, self.node_size
        axes = block.reshape(self.count, before, n, n, -1)
        return (axes * self.signs[:, :, None].to(block.dtype)).view(block.shape)


def _paired(pairs: range) -> list[int]:
    """The digits of pairs that start at these."""
    return [digit for first in pairs for digit in (first, first + 1)]


def _digits(size: int, node_size: int) -> int:
    """The m of size = node_size**m; raises `ConfigError` naming the nearest powers."""
    digits, power = 1, node_size
    while power < size:
        digits, power = digits + 1, power * node_size
    if power != size:
        raise ConfigError(
            f"N = {size} is no power of N' = {node_size}; the nearest are {power // node_size} and {power}. Choose "
            "another node_size, or wrap the frame: ShannonFrame or PaddedFrame"
        )
    return digits
