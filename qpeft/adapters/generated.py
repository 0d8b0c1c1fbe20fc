"""Adapter weights that are computed instead of stored.

A *bank* is a module whose `forward()` gives the LoRA factors of every target layer. A layer reaches its factors
through a `WeightSource`, which is no module: the bank's parameters then belong to the tuner alone and are saved once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Factors(NamedTuple):
    """The LoRA factors of one layer: delta W = B A."""

    A: Tensor  # (r, in_features)
    B: Tensor  # (out_features, r)


class WeightSource:
    """Runs a bank when its weights are needed, and keeps the result while the bank's parameters are unchanged.

    Training renews at every forward pass, since a graph can be walked back only once. Decoding under `no_grad` runs the
    circuit once, however many tokens follow.
    """

    def __init__(self, bank: nn.Module) -> None:
        self.bank = bank
        self._factors: Mapping[str, Factors] | None = None
        self._made_from: tuple[object, ...] | None = None
        self._has_graph = False

    def _wants_graph(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.bank.parameters())

    def _state(self) -> tuple[object, ...]:
        """What the factors depend on. A tensor's version counts its in-place changes, less those through `.data`."""
        tensors = [*self.bank.parameters(), *self.bank.buffers()]
        eager = not torch.compiler.is_compiling()  # dynamo cannot trace questions about inference mode
        versions = [(t.data_ptr(), 0 if eager and t.is_inference() else t._version) for t in tensors]
        # What inference mode makes, autograd cannot use.
        return eager and torch.is_inference_mode_enabled(), *versions

    def renew(self) -> None:
        """Called before every forward pass of the model."""
        if self._wants_graph() or self._has_graph:
            self._factors = None
        self._current()

    def _current(self) -> Mapping[str, Factors]:
        wants_graph, state = self._wants_graph(), self._state()
        if self._factors is None or state != self._made_from or (wants_graph and not self._has_graph):
            device = next(iter(self.bank.buffers())).device
            with torch.autocast(device.type, enabled=False):  # circuits need full precision
                self._factors = self.bank()
            self._made_from, self._has_graph = state, wants_graph
        assert self._factors is not None
        return self._factors

    def __getitem__(self, layer: str) -> Factors:
        return self._current()[layer]

    def __deepcopy__(self, memo: dict[int, Any]) -> WeightSource:
        return WeightSource(copy.deepcopy(self.bank, memo))

    def __reduce__(self) -> tuple[type[WeightSource], tuple[nn.Module]]:
        return WeightSource, (self.bank,)


class GeneratedLinear(nn.Module):
    """Stands where peft keeps the bias-free `nn.Linear` of a LoRA factor, and owns no parameter.

    Args:
        source: Where the factors come from.
        layer: Name of the target layer.
        factor: "A" or "B".
    """

    bias = None

    def __init__(self, source: WeightSource, layer: str, factor: str) -> None:
        super().__init__()
        self.source, self.layer, self.factor = source, layer, factor

    @property
    def weight(self) -> Tensor:
        weight: Tensor = getattr(self.source[self.layer], self.factor)
        return weight

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return F.linear(x, self.weight)

    def extra_repr(self) -> str:
        return f"layer={self.layer!r}, factor={self.factor!r}"
