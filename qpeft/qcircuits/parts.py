"""Runs a large batch of circuits part by part, so that on a CPU their states stay in its cache from step to step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qpeft.qcircuits.kernels import run, run_back
from qpeft.qcircuits.program import Program

PART_BYTES = 2**20  # of states; a core's second cache is about as large


def _parts(states: Tensor) -> list[slice]:
    """Which circuits to run together: all if they are few, small, or not on a CPU."""
    if states.ndim == 1 or states.device.type != "cpu":
        return [slice(None)]
    circuits, size = states.shape
    together = max(1, PART_BYTES // (size * states.itemsize))
    return [slice(first, first + together) for first in range(0, circuits, together)] or [slice(None)]


def run_in_parts(program: Program, states: Tensor, tables: Sequence[Tensor], columns: int) -> Tensor:
    """`kernels.run` without autograd."""
    parts = _parts(states)
    if len(parts) == 1:
        return run(program, states, tables, columns, reuse=True)
    final = torch.empty(states.shape, dtype=states.dtype, device=states.device)
    for part in parts:
        final[part] = run(program, states[part], [table[part] for table in tables], columns, reuse=True)
    return final


def run_back_in_parts(
    program: Program, final: Tensor, cotangent: Tensor, tables: Sequence[Tensor], columns: int, need_initial: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """`kernels.run_back`; the cotangent of the initial states is None unless needed."""
    parts = _parts(final)
    if len(parts) == 1:
        return run_back(program, final, cotangent, tables, columns)
    initial = torch.empty_like(final) if need_initial else None
    gradients = [torch.empty_like(table) for table in tables]
    for part in parts:
        change, changes = run_back(program, final[part], cotangent[part], [t[part] for t in tables], columns)
        if initial is not None:
            initial[part] = change
        for gradient, of_part in zip(gradients, changes, strict=True):
            gradient[part] = of_part
    return initial, gradients
