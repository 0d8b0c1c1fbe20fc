"""Adapter weights that are computed instead of stored.

A *bank* gives the tensors of every target layer. A layer reaches its tensors through a `WeightSource`, which is no
module: the bank's parameters then belong to the tuner alone and are saved once.
"""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qpeft.generators.saved import state_tensors
from qpeft.qcircuits.untraced import untraced

Weights = Mapping[str, Tensor]  # one layer's tensors by role, e.g. "lora_A"


class Bank(nn.Module, ABC):
    """Generates the tensors of every target layer of one adapter."""

    @property
    def draws(self) -> bool:
        """Whether it draws at random in training mode, and not in evaluation mode.

        What it draws follows from its numbers: it is the same in all passes between two steps of an optimiser.
        """
        return False

    @abstractmethod
    def forward(self) -> dict[str, Weights]:
        """The generated tensors of every layer, by role."""

    @property
    @abstractmethod
    def layers(self) -> list[str]:
        """Names of the layers it generates for, in order."""

    @property
    @abstractmethod
    def num_frozen(self) -> int:
        """Numbers that do not train but are needed."""

    @property
    def device(self) -> torch.device:
        """Where its numbers are."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Follows the model to its device but not to half precision, in which a circuit would lose its digits."""

        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype in (torch.float32, torch.float64) else tensor.to(moved.device)

        return super()._apply(keep, recurse)  # type: ignore[no-untyped-call]


class Kept(NamedTuple):
    """Generated tensors, and what they were made from.

    Attributes:
        weights: By layer and role.
        numbers: The bank's, in one vector.
        drawn: Whether they were drawn at random.
    """

    weights: Mapping[str, Weights]
    numbers: Tensor
    drawn: bool


class WeightSource:
    """Runs a bank when its weights are needed, and keeps the result while the bank's numbers are unchanged.

    Every forward pass with gradients generates anew, since a graph can be walked back only once. Without gradients the
    kept tensors serve until the bank's numbers change, so that decoding runs the circuit once, however many tokens
    follow. Whether they changed is decided by comparing the numbers themselves: fused optimisers and `.data` change
    them without a trace.
    """

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self._with_graph: Kept | None = None  # of the last pass with gradients; a backward pass may ask for it
        self._without_graph: Kept | None = None
        self._pass: Mapping[str, Weights] | None = None  # from `begin_forward` to `end_forward`

    def begin_forward(self) -> None:
        """Called before a forward pass of the model: from here to `end_forward` the tensors stay the same."""
        if self._wants_graph():
            self._with_graph = self._make(self._draws())
            self._pass = self._with_graph.weights
        else:
            self._pass = self._unchanged(self._draws())

    def end_forward(self) -> None:
        """Called after a forward pass, whether it succeeded or not."""
        self._pass = None

    def __getitem__(self, layer: str) -> Weights:
        """A layer's tensors to look at; outside of forward passes those of evaluation, for merging and exporting."""
        weights: Weights = self._outside_forward(layer, drawn=False) if self._pass is None else self._pass[layer]
        return weights

    def to_compute(self, layer: str) -> Weights:
        """A layer's tensors to compute with, which may be drawn at random though a part of the model alone is run."""
        weights: Weights = self._outside_forward(layer, self._draws()) if self._pass is None else self._pass[layer]
        return weights

    # What a backward pass recomputes may be compiled, but a compiler cannot ask whether it is in one.
    @untraced
    def _outside_forward(self, layer: str, drawn: bool) -> Weights:
        in_backward = _in_backward()
        drawn = drawn or (in_backward and self._draws())
        if not self._wants_graph():
            return self._unchanged(drawn)[layer]
        if not in_backward:
            return self._generate(drawn)[layer]  # the graph of the last forward pass may be spent
        # In a backward pass a checkpointed block is computed again: with the tensors it was computed with.
        if not self._is_current(self._with_graph, drawn):
            self._with_graph = self._make(drawn)
        assert self._with_graph is not None
        return self._with_graph.weights[layer]

    def _wants_graph(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.bank.parameters())

    def _draws(self) -> bool:
        return self.bank.training and self.bank.draws

    def _unchanged(self, drawn: bool) -> Mapping[str, Weights]:
        """The tensors without a graph: those that are kept, if they are what the bank would give now."""
        if self._without_graph is None or not self._is_current(self._without_graph, drawn):
            self._without_graph = self._make(drawn)
        return self._without_graph.weights

    def _make(self, drawn: bool) -> Kept:
        return Kept(self._generate(drawn), self._numbers(), drawn)

    def _generate(self, drawn: bool) -> Mapping[str, Weights]:
        if drawn != self._draws():
            return self._as_evaluated()
        with torch.autocast(self.bank.device.type, enabled=False):  # circuits need full precision
            weights: Mapping[str, Weights] = self.bank()
        return weights

    def _as_evaluated(self) -> Mapping[str, Weights]:
        self.bank.eval()
        try:
            return self._generate(drawn=False)
        finally:
            self.bank.train()

    def _is_current(self, kept: Kept | None, drawn: bool) -> bool:
        """Whether kept tensors are what the bank would give now."""
        if kept is None or torch.compiler.is_compiling() or kept.drawn != drawn:
            return False
        if kept.numbers.is_inference() != torch.is_inference_mode_enabled():
            return False  # what inference mode makes, autograd cannot use
        return _equal(self._numbers(), kept.numbers)

    @torch.no_grad()
    def _numbers(self) -> Tensor:
        """The bank's parameters and saved buffers in one vector."""
        return torch.cat([tensor.reshape(-1) for tensor in state_tensors(self.bank)])

    def __deepcopy__(self, memo: dict[int, Any]) -> WeightSource:
        return WeightSource(copy.deepcopy(self.bank, memo))

    def __reduce__(self) -> tuple[type[WeightSource], tuple[Bank]]:
        return WeightSource, (self.bank,)


def _equal(one: Tensor, other: Tensor) -> bool:
    return (one.device, one.dtype) == (other.device, other.dtype) and torch.equal(one, other)


def _in_backward() -> bool:
    """Whether autograd is walking a graph back in this thread (torch's own checkpointing asks the same way)."""
    return not torch.compiler.is_compiling() and bool(torch._C._current_graph_task_id() != -1)


class GeneratedTensor(nn.Module):
    """Stands where peft keeps a module with a `weight`, and owns no parameter.

    Args:
        source: Where the tensors come from.
        layer: Name of the target layer.
        role: Which of its tensors.
    """

    def __init__(self, source: WeightSource, layer: str, role: str) -> None:
        super().__init__()
        self.source, self.layer, self.role = source, layer, role

    @property
    def weight(self) -> Tensor:
        return self.source[self.layer][self.role]

    def extra_repr(self) -> str:
        return f"layer={self.layer!r}, role={self.role!r}"


class GeneratedLinear(GeneratedTensor):
    """In place of a bias-free `nn.Linear`."""

    bias = None

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        weight = self.source.to_compute(self.layer)[self.role]
        return F.linear(x, weight.to(x.device))  # a model may be spread over several devices
