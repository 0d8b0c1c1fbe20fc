"""Adapter weights that are computed instead of stored.

A *bank* gives the tensors of every target layer. A layer reaches its tensors through a `WeightSource`, which is no
module: the bank's parameters then belong to the tuner alone and are saved once.
"""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

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
        """Whether it generates at random in training mode, and not in evaluation mode."""
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


class WeightSource:
    """Runs a bank when its weights are needed, and keeps the result while the bank's numbers are unchanged.

    Every forward pass with gradients generates anew, since a graph can be walked back only once. Without gradients the
    kept tensors serve until the bank's numbers change, so that decoding runs the circuit once, however many tokens
    follow. Whether they changed is decided by comparing the numbers themselves: fused optimisers and `.data` change
    them without a trace.
    """

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self._weights: Mapping[str, Weights] | None = None
        self._made_from: Tensor | None = None
        self._drawn = False
        self._has_graph = False
        self._in_forward = False

    def begin_forward(self) -> None:
        """Called before a forward pass of the model: from here to `end_forward` the tensors stay the same."""
        wants_graph = self._wants_graph()
        drawn = self._draws()
        if wants_graph or not self._is_current(drawn):
            self._keep(wants_graph, drawn)
        self._in_forward = True

    def end_forward(self) -> None:
        """Called after a forward pass, whether it succeeded or not."""
        self._in_forward = False

    def __getitem__(self, layer: str) -> Weights:
        if not self._in_forward:
            weights: Weights = self._outside_forward(layer)
            return weights
        assert self._weights is not None
        return self._weights[layer]

    # What a backward pass recomputes may be compiled, but a compiler cannot ask whether it is in one.
    @untraced
    def _outside_forward(self, layer: str) -> Weights:
        wants_graph, in_backward = self._wants_graph(), _in_backward()
        # Merged and exported are the weights of evaluation, as a model is that is loaded from what they give.
        drawn = in_backward and self._draws()
        if wants_graph and not in_backward:
            return self._generate(drawn)[layer]  # the graph of the last forward pass may be spent
        # In a backward pass a checkpointed block is computed again: with the tensors it was computed with.
        if not (self._is_current(drawn) and self._has_graph == wants_graph):
            self._keep(wants_graph, drawn)
        assert self._weights is not None
        return self._weights[layer]

    def _wants_graph(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.bank.parameters())

    def _draws(self) -> bool:
        return self.bank.training and self.bank.draws

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

    def _keep(self, has_graph: bool, drawn: bool) -> None:
        self._weights, self._has_graph = self._generate(drawn), has_graph
        self._made_from, self._drawn = self._numbers(), drawn

    def _is_current(self, drawn: bool) -> bool:
        """Whether the kept tensors are what the bank would give now (a graph aside)."""
        if self._weights is None or self._made_from is None or torch.compiler.is_compiling():
            return False
        if self._made_from.is_inference() != torch.is_inference_mode_enabled():
            return False  # what inference mode makes, autograd cannot use
        if self._drawn != drawn:
            return False
        if self._has_graph and not _in_backward() and not self._wants_graph():
            return False
        now, then = self._numbers(), self._made_from
        return (now.device, now.dtype) == (then.device, then.dtype) and torch.equal(now, then)

    @torch.no_grad()
    def _numbers(self) -> Tensor:
        """The bank's parameters and saved buffers in one vector."""
        return torch.cat([tensor.reshape(-1) for tensor in state_tensors(self.bank)])

    def __deepcopy__(self, memo: dict[int, Any]) -> WeightSource:
        return WeightSource(copy.deepcopy(self.bank, memo))

    def __reduce__(self) -> tuple[type[WeightSource], tuple[Bank]]:
        return WeightSource, (self.bank,)


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
        return F.linear(x, self.weight)
