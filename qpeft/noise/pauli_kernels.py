"""Evolves Pauli coefficients step by step, and back, recomputing from checkpoints.

A state is a row (4**n,) of coefficients r_j = Tr(P_j rho), an axis of size 4 a qubit. A channel is never inverted: the
backward pass recomputes each segment of the program from the checkpoint at its start.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from qpeft.errors import EngineError
from qpeft.noise.pauli_program import Pair


def _to_columns(states: Tensor, pair: Pair, n: int) -> Tensor:
    """(B, 4**n) -> (B, 16, 4**(n - 2)) with the pair's axes first."""
    low, high = pair
    axes = states.view(len(states), 4**low, 4, 4 ** (high - low - 1), 4, 4 ** (n - high - 1))
    return axes.permute(0, 2, 4, 1, 3, 5).reshape(len(states), 16, 4 ** (n - 2))


def _from_columns(columns: Tensor, pair: Pair, n: int) -> Tensor:
    """Undoes `_to_columns`."""
    low, high = pair
    axes = columns.view(len(columns), 4, 4, 4**low, 4 ** (high - low - 1), 4 ** (n - high - 1))
    return axes.permute(0, 3, 1, 4, 2, 5).reshape(len(columns), 4**n)


def apply(matrix: Tensor, states: Tensor, pair: Pair, n: int) -> Tensor:
    """Applies (B, 16, 16) to a pair of axes of (B, 4**n)."""
    low, high = pair
    trailing = 4 ** (n - high - 1)
    if high == low + 1 and trailing == 1:  # the last two axes: one product with the transpose
        return (states.view(len(states), 4**low, 16) @ matrix.mT).view(states.shape)
    if high == low + 1 and trailing >= 16:  # neighbours: a view, no copy; below 16 columns copying is faster
        return (matrix[:, None] @ states.view(len(states), 4**low, 16, trailing)).view(states.shape)
    return _from_columns(matrix @ _to_columns(states, pair, n), pair, n)


def evolve(states: Tensor, matrices: Tensor, steps: tuple[Pair, ...], n: int) -> Tensor:
    """All steps in order: (B, 4**n) with matrices (B, S, 16, 16)."""
    for pair, matrix in zip(steps, matrices.unbind(1), strict=True):
        states = apply(matrix, states, pair, n)
    return states


class Evolution(torch.autograd.Function):
    """`evolve` that keeps about sqrt(S) states for the backward pass, whatever the number of steps S."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, matrices: Tensor, steps: tuple[Pair, ...], n: int) -> Tensor:
        length = max(1, math.isqrt(len(steps)))
        checkpoints, states = [], start
        for place in range(0, len(steps), length):
            checkpoints.append(states)
            states = evolve(states, matrices[:, place : place + length], steps[place : place + length], n)
        ctx.steps, ctx.n, ctx.length = steps, n, length
        ctx.save_for_backward(matrices, *checkpoints)
        return states

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        matrices, *checkpoints = ctx.saved_tensors
        if torch.is_grad_enabled():  # under create_graph
            gradient = _BackwardOnce.apply(ctx, cotangent, matrices, *checkpoints)  # type: ignore[no-untyped-call]
        else:
            gradient = _walk_back(ctx, cotangent, matrices, checkpoints)
        return None, gradient, None, None


def _walk_back(ctx: Any, cotangent: Tensor, matrices: Tensor, checkpoints: list[Tensor]) -> Tensor:
    steps, n, length = ctx.steps, ctx.n, ctx.length
    each, gradient = matrices.unbind(1), torch.empty_like(matrices)
    change = cotangent.contiguous()
    for place in reversed(range(0, len(steps), length)):
        states = [checkpoints.pop()]
        for index in range(place, min(place + length, len(steps)) - 1):
            states.append(apply(each[index], states[-1], steps[index], n))
        for index in reversed(range(place, place + len(states))):
            pair, before = steps[index], states.pop()
            gradient[:, index] = _to_columns(change, pair, n) @ _to_columns(before, pair, n).mT
            change = apply(each[index].mT, change, pair, n)
    return gradient


class _BackwardOnce(torch.autograd.Function):
    """Refuses a second derivative, which would otherwise silently be partial."""

    @staticmethod
    def forward(ctx: Any, outer: Any, cotangent: Tensor, matrices: Tensor, *checkpoints: Tensor) -> Tensor:
        return _walk_back(outer, cotangent, matrices, list(checkpoints))

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise EngineError("PauliTransferEngine is differentiable once")
