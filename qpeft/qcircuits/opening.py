"""The first layer of a circuit on basis states, whose result is a Kronecker product of columns of its blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qpeft.qcircuits.program import LocalStep, Program


def opens(program: Program) -> bool:
    """Whether the program starts with a layer of single-qubit gates."""
    return bool(program.steps) and isinstance(program.steps[0], LocalStep)


def opening(tables: Sequence[Tensor], columns: int) -> Tensor:
    """The states after the first layer, from the basis states 0 to C - 1.

    Args:
        tables: The first layer's blocks, (B, number of blocks, d, d) for each block size.
        columns: C.

    Returns:
        (B, C * D), with the C states first, as any layer leaves them.
    """
    blocks = [block.mT for table in tables for block in table.unbind(1)]  # a row of each is a column of the block
    states = blocks.pop()[:, :columns]  # (B, states, amplitudes) of the trailing qubits
    while blocks:
        dim = states.shape[-1]
        leading = blocks.pop()[:, : -(-columns // dim)]
        product = leading[:, :, None, :, None] * states[:, None, :, None, :]
        states = product.flatten(3).flatten(1, 2)[:, :columns]
    return states.flatten(1)


def opening_back(tables: Sequence[Tensor], columns: int, change: Tensor) -> tuple[Tensor, ...]:
    """The cotangent of each of `opening`'s tables, from that of its states (B, C * D)."""
    with torch.enable_grad():
        leaves = [table.detach().requires_grad_() for table in tables]
        return torch.autograd.grad(opening(leaves, columns), leaves, change)
