"""Runs a large batch of circuits part by part, so that on a CPU their states stay in its cache from step to step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qpeft.qcircuits.kernels import run, run_back
from qpeft.qcircuits.opening import opening, opening_back
from qpeft.qcircuits.program import Program

PART_BYTES = 2**20  # of states; a core's second cache is about as large


def _parts(shape: tuple[int, ...], like: Tensor) -> list[slice]:
    """Which circuits of states (B, D * C) or (D * C,) run together: all if they are few, small, or not on a CPU."""
    if len(shape) == 1 or like.device.type != "cpu":
        return [slice(None)]
    together = max(1, PART_BYTES // (shape[1] * like.itemsize))
    return [slice(first, first + together) for first in range(0, shape[0], together)] or [slice(None)]


def _first_layer(program: Program, tables: Sequence[Tensor]) -> list[Tensor]:
    return [table[:, 0] for table in tables[: len(program.blocks)]]


def start_from_basis(program: Program, shape: tuple[int, ...], tables: Sequence[Tensor], columns: int) -> Tensor:
    """The states after the first layer of a program that `opens`, (B, D * C) or (D * C,)."""
    states = opening(_first_layer(program, tables), columns)
    return states[0] if len(shape) == 1 else states


def run_in_parts(
    program: Program, shape: tuple[int, ...], states: Tensor | None, tables: Sequence[Tensor], columns: int
) -> Tensor:
    """`kernels.run` without autograd, for states of this shape; None stands for the first basis states."""

    def result(part: slice) -> Tensor:
        some = [table[part] for table in tables]
        if states is not None:
            return run(program, states[part], some, columns, reuse=True)
        start = start_from_basis(program, shape, some, columns)
        return run(program, start, some, columns, reuse=True, done=1)

    like = tables[0] if states is None else states
    parts = _parts(shape, like)
    if len(parts) == 1:
        return result(parts[0])
    final = torch.empty(shape, dtype=like.dtype, device=like.device)
    for part in parts:
        final[part] = result(part)
    return final


def run_back_in_parts(
    program: Program, final: Tensor, cotangent: Tensor, tables: Sequence[Tensor], columns: int, *,
    from_basis: bool, need_initial: bool,
) -> tuple[Tensor | None, list[Tensor]]:  # fmt: skip
    """`kernels.run_back`; the cotangent of the initial states is None if they are the basis states or not needed."""

    def result(part: slice) -> tuple[Tensor, list[Tensor]]:
        some = [table[part] for table in tables]
        change, gradients = run_back(program, final[part], cotangent[part], some, columns, done=int(from_basis))
        if from_basis:
            opened = opening_back(_first_layer(program, some), columns, change.view(-1, final.shape[-1]))
            for gradient, of_first in zip(gradients, opened, strict=False):  # none for the pair gates
                gradient[:, 0] = of_first
        return change, gradients

    parts = _parts(tuple(final.shape), final)
    if len(parts) == 1:
        change, gradients = result(parts[0])
        return change if need_initial else None, gradients
    initial = torch.empty_like(final) if need_initial else None
    gradients = [torch.empty_like(table) for table in tables]
    for part in parts:
        change, changes = result(part)
        if initial is not None:
            initial[part] = change
        for gradient, of_part in zip(gradients, changes, strict=True):
            gradient[part] = of_part
    return initial, gradients
