"""Runs a program forwards and backwards on a batch of states.

States are the rows of a tensor (M, D): M = B * C for B circuits (one a row of angles) with C states each, and D = 2**N
amplitudes. A Kronecker block acts on the leading qubits, and the product is written with those qubits last:
`state.view(d, rest).T @ K.T`. Each block is thus one matrix product without any copy, and after all blocks of a layer
the qubits stand in their old order again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qpeft.qcircuits.program import LocalStep, MonomialStep, Program


class Buffers:
    """Two tensors that results are written into in turn: a long walk then allocates nothing.

    Fresh allocations of a state's size cost more than the arithmetic on it (the system takes freed memory back at every
    step). Under "backprop" autograd keeps each result, so there are no buffers.
    """

    def __init__(self, like: Tensor | None) -> None:
        self._pair = () if like is None else (torch.empty_like(like), torch.empty_like(like))
        self._turn = 0

    def next(self) -> Tensor | None:
        if not self._pair:
            return None
        self._turn = 1 - self._turn
        return self._pair[self._turn]


def _rotate(matrix: Tensor, state: Tensor, out: Tensor | None) -> Tensor:
    """Applies (M, d, d) to the leading qubits of (M, D) and moves them to the end."""
    d = matrix.shape[-1]
    rest = state.shape[1] // d  # not -1, which is ambiguous for an empty batch
    leading = state.view(len(state), d, rest)
    into = None if out is None else out.view(len(state), rest, d)
    return torch.bmm(leading.transpose(1, 2), matrix.transpose(1, 2), out=into).view(state.shape)


def _rotate_back(matrix: Tensor, state: Tensor, out: Tensor | None) -> Tensor:
    """Undoes `_rotate`: moves the trailing qubits to the front and applies the inverse of the unitary."""
    d = matrix.shape[-1]
    rest = state.shape[1] // d
    trailing = state.view(len(state), rest, d)
    into = None if out is None else out.view(len(state), d, rest)
    return torch.bmm(matrix.mH, trailing.transpose(1, 2), out=into).view(state.shape)


def _to_front(state: Tensor, qubits: tuple[int, int], num_qubits: int) -> Tensor:
    """(M, D) -> (M, 4, D / 4) with the two qubits as the leading index."""
    low, high = sorted(qubits)
    axes = state.view(-1, 2**low, 2, 2 ** (high - low - 1), 2, 2 ** (num_qubits - high - 1))
    first, second = (2, 4) if qubits[0] < qubits[1] else (4, 2)
    return axes.permute(0, first, second, 1, 3, 5).reshape(len(state), 4, state.shape[1] // 4)


def _from_front(front: Tensor, qubits: tuple[int, int], num_qubits: int) -> Tensor:
    """Undoes `_to_front`."""
    low, high = sorted(qubits)
    axes = front.view(-1, 2, 2, 2**low, 2 ** (high - low - 1), 2 ** (num_qubits - high - 1))
    order = (0, 3, 1, 4, 2, 5) if qubits[0] < qubits[1] else (0, 3, 2, 4, 1, 5)
    return axes.permute(order).reshape(len(front), 4 * front.shape[2])


def _take(state: Tensor, source: Tensor, out: Tensor | None) -> Tensor:
    """`state[:, source]`; of torch's equivalent calls, one row is fastest by index_select and several by gather."""
    if len(state) == 1:
        into = None if out is None else out.view(-1)
        return torch.index_select(state.view(-1), 0, source, out=into).view(state.shape)
    return torch.gather(state, 1, source.expand(state.shape), out=out)


def _permute(step: MonomialStep, state: Tensor, out: Tensor | None) -> Tensor:
    if step.source is None:
        return state if step.phases is None else torch.mul(state, step.phases, out=out)
    moved = _take(state, step.source, out)
    return moved if step.phases is None else torch.mul(moved, step.phases, out=out)


def _permute_back(step: MonomialStep, state: Tensor, out: Tensor | None) -> Tensor:
    if step.inverse is None:
        return state if step.phases is None else torch.mul(state, step.phases.conj(), out=out)
    return _take(state if step.phases is None else state * step.phases.conj(), step.inverse, out)


class StepMatrices:
    """A program's matrices, one a state, split into a list for each step.

    Attributes:
        local: For each row, the blocks (M, d, d) from the leading qubits on.
        pairs: For each pair gate, its matrix (M, 4, 4).
    """

    def __init__(self, program: Program, tables: Sequence[Tensor], states: int) -> None:
        each = [t if t.shape[0] == states else t.repeat_interleave(states // t.shape[0], 0) for t in tables]
        blocks = each[: len(program.blocks)] if program.local else []
        by_row = [[row.unbind(1) for row in table.unbind(1)] for table in blocks]
        self.local = [[matrix for part in parts for matrix in part] for parts in zip(*by_row, strict=True)]
        self.pairs = each[-1].unbind(1) if program.pairs else ()


def run(program: Program, state: Tensor, tables: Sequence[Tensor], buffers: Buffers) -> Tensor:
    """All steps in order on (M, D), with the matrices that `Program.matrices` gave."""
    matrices = StepMatrices(program, tables, len(state))
    for step in program.steps:
        if isinstance(step, MonomialStep):
            state = _permute(step, state, buffers.next())
        elif isinstance(step, LocalStep):
            for matrix in matrices.local[step.row]:
                state = _rotate(matrix, state, buffers.next())
        else:
            front = torch.bmm(matrices.pairs[step.index], _to_front(state, step.qubits, program.num_qubits))
            state = _from_front(front, step.qubits, program.num_qubits)
    return state


def run_back(
    program: Program, final: Tensor, cotangent: Tensor, tables: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Walks the program backwards: the cotangent of the initial state (M, D), and of each table.

    State and cotangent are undone by separate calls: a batch of two would start torch's threads for each small product.
    """
    state, cotangent = final, cotangent.contiguous()
    states, cotangents = Buffers(state), Buffers(cotangent)
    matrices = StepMatrices(program, tables, len(state))
    local: list[list[Tensor]] = [[] for _ in matrices.local]
    pairs: list[Tensor] = []
    for step in reversed(program.steps):
        if isinstance(step, MonomialStep):
            state = _permute_back(step, state, states.next())
            cotangent = _permute_back(step, cotangent, cotangents.next())
        elif isinstance(step, LocalStep):
            for matrix in reversed(matrices.local[step.row]):
                state = _rotate_back(matrix, state, states.next())
                local[step.row].append(_outer(matrix, cotangent, state))
                cotangent = _rotate_back(matrix, cotangent, cotangents.next())
        else:
            matrix, qubits = matrices.pairs[step.index], step.qubits
            after = _to_front(cotangent, qubits, program.num_qubits)
            before = torch.bmm(matrix.mH, _to_front(state, qubits, program.num_qubits))
            pairs.append(torch.bmm(after, before.mH))
            state = _from_front(before, qubits, program.num_qubits)
            cotangent = _from_front(torch.bmm(matrix.mH, after), qubits, program.num_qubits)
    return cotangent, _collect(program, tables, local, pairs)


def _outer(matrix: Tensor, after: Tensor, before: Tensor) -> Tensor:
    """The gradient of a block: its cotangent with the qubits at the end times its input with them in front."""
    count, d = len(before), matrix.shape[-1]
    rest = before.shape[1] // d
    return torch.bmm(after.view(count, rest, d).transpose(1, 2), before.view(count, d, rest).mH)


def _collect(
    program: Program, tables: Sequence[Tensor], local: list[list[Tensor]], pairs: list[Tensor]
) -> list[Tensor]:
    """The matrices' gradients, found last to first, as tables; states of one circuit are summed."""
    stacks: list[Tensor] = []
    if local:
        position = len(local[0])
        for count, _ in program.blocks:
            rows = [torch.stack(row[position - count : position][::-1], dim=1) for row in local]
            stacks.append(torch.stack(rows, dim=1))
            position -= count
    if pairs:
        stacks.append(torch.stack(pairs[::-1], dim=1))
    return [
        s if s.shape == t.shape else s.unflatten(0, (t.shape[0], -1)).sum(1)
        for s, t in zip(stacks, tables, strict=True)
    ]
