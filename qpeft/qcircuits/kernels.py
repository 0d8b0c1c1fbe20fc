"""Runs a program forwards and backwards on a batch of states.

States are the rows of a tensor (M, D): M = B * C for B circuits (one a row of angles) with C states each, and D = 2**N
amplitudes. A single state is (D,), so that its products are plain ones: fewer views, and a batched product starts
torch's threads however small the matrices. A Kronecker block acts on the leading qubits, and the product is written
with those qubits last: `state.view(d, rest).T @ K.T`. Each block is thus one matrix product without any copy, and after
all blocks of a layer the qubits stand in their old order again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qpeft.qcircuits.program import LocalStep, MonomialStep, Program


class Frame:
    """States, and their views by block size, made once: for small states making views costs more than arithmetic."""

    def __init__(self, states: Tensor, reusable: bool = False) -> None:
        self.states = states
        self.reusable = reusable
        self._views: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def views(self, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(..., d, rest) for a block of leading qubits, (..., rest, d) for trailing ones, and their transposes."""
        found = self._views.get(d)
        if found is None:
            *many, size = self.states.shape
            leading, trailing = self.states.view(*many, d, size // d), self.states.view(*many, size // d, d)
            found = self._views[d] = (leading, trailing, leading.mT, trailing.mT)
        return found


class Buffers:
    """Tensors that results are written into in turn: a long walk then allocates nothing.

    Fresh allocations of a state's size cost more than the arithmetic on it (the system takes freed memory back at every
    step). Under "backprop" autograd keeps each result, so nothing is reused.
    """

    def __init__(self, reuse: bool) -> None:
        self._reuse = reuse
        self._free: list[Frame] = []

    def take(self, like: Frame) -> Frame | None:
        if self._free:
            return self._free.pop()
        return Frame(torch.empty_like(like.states), reusable=True) if self._reuse else None

    def release(self, frame: Frame) -> None:
        if frame.reusable:
            self._free.append(frame)


def _multiply(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.mm(left, right, out=out) if left.ndim == 2 else torch.bmm(left, right, out=out)


def _rotate(transposed: Tensor, frame: Frame, buffers: Buffers) -> Frame:
    """Applies a block (..., d, d), given transposed, to the leading qubits and moves them to the end."""
    d = transposed.shape[-1]
    out, leading = buffers.take(frame), frame.views(d)[2]
    if out is None:
        return Frame(_multiply(leading, transposed).view(frame.states.shape))
    _multiply(leading, transposed, out.views(d)[1])
    buffers.release(frame)
    return out


def _rotate_back(inverse: Tensor, frame: Frame, buffers: Buffers) -> Frame:
    """Undoes `_rotate`: moves the trailing qubits to the front and applies the inverse block to them."""
    d = inverse.shape[-1]
    out = buffers.take(frame)
    assert out is not None
    _multiply(inverse, frame.views(d)[3], out.views(d)[0])
    buffers.release(frame)
    return out


def _to_front(states: Tensor, qubits: tuple[int, int], num_qubits: int) -> Tensor:
    """(..., D) -> (..., 4, D / 4) with the two qubits as the leading index."""
    low, high = sorted(qubits)
    axes = states.view(-1, 2**low, 2, 2 ** (high - low - 1), 2, 2 ** (num_qubits - high - 1))
    first, second = (2, 4) if qubits[0] < qubits[1] else (4, 2)
    return axes.permute(0, first, second, 1, 3, 5).reshape(*states.shape[:-1], 4, states.shape[-1] // 4)


def _from_front(front: Tensor, qubits: tuple[int, int], num_qubits: int) -> Tensor:
    """Undoes `_to_front`."""
    low, high = sorted(qubits)
    axes = front.view(-1, 2, 2, 2**low, 2 ** (high - low - 1), 2 ** (num_qubits - high - 1))
    order = (0, 3, 1, 4, 2, 5) if qubits[0] < qubits[1] else (0, 3, 2, 4, 1, 5)
    return axes.permute(order).reshape(*front.shape[:-2], 4 * front.shape[-1])


def _take(frame: Frame, source: Tensor, buffers: Buffers) -> Frame:
    """`states[..., source]`; of torch's calls, one state is fastest by index_select and several by gather."""
    out = buffers.take(frame)
    into = None if out is None else out.states
    if frame.states.ndim == 1:
        moved = torch.index_select(frame.states, 0, source, out=into)
    else:
        moved = torch.gather(frame.states, 1, source.expand(frame.states.shape), out=into)
    buffers.release(frame)
    return out or Frame(moved)


def _turn(frame: Frame, phases: Tensor, buffers: Buffers) -> Frame:
    out = buffers.take(frame)
    turned = torch.mul(frame.states, phases, out=None if out is None else out.states)
    buffers.release(frame)
    return out or Frame(turned)


def _permute(step: MonomialStep, frame: Frame, buffers: Buffers) -> Frame:
    if step.source is not None:
        frame = _take(frame, step.source, buffers)
    return frame if step.phases is None else _turn(frame, step.phases, buffers)


def _permute_back(step: MonomialStep, frame: Frame, buffers: Buffers) -> Frame:
    if step.phases is not None:
        frame = _turn(frame, step.phases.conj(), buffers)
    return frame if step.inverse is None else _take(frame, step.inverse, buffers)


class StepMatrices:
    """A program's tables, one matrix a state, as a list for each step; for a single state (d, d), else (M, d, d).

    Attributes:
        local: For each row, the blocks from the leading qubits on.
        pairs: For each pair gate, its matrix.
    """

    def __init__(self, program: Program, tables: Sequence[Tensor], single: bool) -> None:
        axis = 0 if single else 1
        flat = [table.flatten(axis, -3).unbind(axis) for table in tables]
        self.pairs = flat.pop() if program.pairs else ()
        self.local: list[list[Tensor]] = []
        if program.local:
            counts = [count for count, _ in program.blocks]
            for row in range(len(flat[0]) // counts[0]):
                parts = zip(flat, counts, strict=True)
                self.local.append([m for part, count in parts for m in part[row * count : (row + 1) * count]])


def _for_states(tables: Sequence[Tensor], states: Tensor) -> list[Tensor]:
    """The tables with one entry a state: states of one circuit repeat it."""
    if states.ndim == 1:
        return list(tables)
    return [t if len(t) == len(states) else t.repeat_interleave(len(states) // len(t), 0) for t in tables]


def run(program: Program, states: Tensor, tables: Sequence[Tensor], reuse: bool) -> Tensor:
    """All steps in order on (M, D) or (D,), with the matrices that `Program.matrices` gave.

    Args:
        program: What to run.
        states: Left as they are.
        tables: The matrices.
        reuse: Whether results may be overwritten; not if autograd records them.
    """
    n, frame, buffers = program.num_qubits, Frame(states), Buffers(reuse)
    transposed = StepMatrices(program, [t.mT for t in _for_states(tables, states)], states.ndim == 1)
    for step in program.steps:
        if isinstance(step, MonomialStep):
            frame = _permute(step, frame, buffers)
        elif isinstance(step, LocalStep):
            for matrix in transposed.local[step.row]:
                frame = _rotate(matrix, frame, buffers)
        else:
            front = _multiply(transposed.pairs[step.index].mT, _to_front(frame.states, step.qubits, n))
            frame = Frame(_from_front(front, step.qubits, n))
    return frame.states


def run_back(
    program: Program, final: Tensor, cotangent: Tensor, tables: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Walks the program backwards: the cotangent of the initial states, and of each table.

    State and cotangent are undone by separate calls: a batch of two would start torch's threads for each small product.
    They share three buffers.
    """
    n, single, buffers = program.num_qubits, final.ndim == 1, Buffers(reuse=True)
    state, change = Frame(final), Frame(cotangent.contiguous())
    each = _for_states(tables, final)
    gradients = [torch.empty_like(t) for t in each]
    inverses, outs = StepMatrices(program, [t.mH for t in each], single), StepMatrices(program, gradients, single)
    for step in reversed(program.steps):
        if isinstance(step, MonomialStep):
            state = _permute_back(step, state, buffers)
            change = _permute_back(step, change, buffers)
        elif isinstance(step, LocalStep):
            for inverse, out in zip(reversed(inverses.local[step.row]), reversed(outs.local[step.row]), strict=True):
                d = inverse.shape[-1]
                state = _rotate_back(inverse, state, buffers)
                _multiply(change.views(d)[3], state.views(d)[2].conj(), out)  # the block's gradient
                change = _rotate_back(inverse, change, buffers)
        else:
            inverse, qubits = inverses.pairs[step.index], step.qubits
            after = _to_front(change.states, qubits, n)
            before = _multiply(inverse, _to_front(state.states, qubits, n))
            _multiply(after, before.mH, outs.pairs[step.index])
            state = Frame(_from_front(before, qubits, n))
            change = Frame(_from_front(_multiply(inverse, after), qubits, n))
    return change.states, [
        g if len(g) == len(t) else g.unflatten(0, (len(t), -1)).sum(1) for g, t in zip(gradients, tables, strict=True)
    ]
