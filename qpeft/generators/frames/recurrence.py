"""A linear recurrence in logarithmically many steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx


def linear_recurrence(gains: Tensor, inputs: Tensor) -> Tensor:
    """h_j = gains_j h_{j-1} + inputs_j along the second axis, from h = 0.

    The recurrence of neighbouring pairs is one of half the length, so n steps take 2 log2(n) rounds of vector
    operations and O(n) work in all (Blelloch, 1990). It is stable for |gains| <= 1. Backward is the same
    recurrence read from the end, and keeps gains and h only.

    Args:
        gains: (count, n); the first one multiplies nothing.
        inputs: (count, n, columns).

    Returns:
        h, (count, n, columns).
    """
    states: Tensor = _LinearRecurrence.apply(gains, inputs)  # type: ignore[no-untyped-call]
    return states


class _LinearRecurrence(Function):
    @staticmethod
    def forward(gains: Tensor, inputs: Tensor) -> Tensor:
        return _by_pairs(gains, inputs)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gains, states = ctx.saved_tensors
        # The gradient of h_j is grad_j + gains_{j+1} times that of h_{j+1}.
        reversed_gains = torch.nn.functional.pad(gains[:, 1:].flip(1), (1, 0))
        grad_inputs = linear_recurrence(reversed_gains, grad.flip(1)).flip(1)
        before = torch.nn.functional.pad(states[:, :-1], (0, 0, 1, 0))
        return (grad_inputs * before).sum(-1), grad_inputs


def _by_pairs(gains: Tensor, inputs: Tensor) -> Tensor:
    length = inputs.shape[1]
    if length == 1:
        return inputs.clone()
    first, second = slice(0, length - 1, 2), slice(1, None, 2)  # the steps of each pair; an odd last step has no pair
    pair_inputs = gains[:, second, None] * inputs[:, first] + inputs[:, second]
    after_pairs = _by_pairs(gains[:, second] * gains[:, first], pair_inputs)
    states = inputs.clone()
    states[:, second] = after_pairs
    states[:, 2::2] += gains[:, 2::2, None] * after_pairs[:, : (length - 1) // 2]
    return states
