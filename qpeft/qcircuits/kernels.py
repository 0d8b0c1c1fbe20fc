"""Runs a program forwards and backwards on a batch of states.

States are the rows of a tensor (B, D * C): B circuits (one a row of angles) with C states each, of D = 2**N amplitudes.
For one circuit it is (D * C,), so that its products are plain ones: fewer views, and a batched product starts torch's
threads however small the matrices. A Kronecker block acts on the leading qubits, and the product is written with those
qubits last: `state.view(d, rest).T @ K.T`. Each block is thus one matrix product without any copy, and after all blocks
of a layer the qubits stand in their old order again.

The C states of a circuit share its matrices, so they are one more axis of its row. It starts last, (D, C), and a layer
leaves it first, (C, D). From there the next layer goes the other way round, trailing qubits becoming leading ones, and
leaves it last again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qpeft.qcircuits.layout import Layout
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


def _multiply_into(out: Tensor, left: Tensor, right: Tensor) -> None:
    """Writes the products into a view; into one that is not contiguous, torch would multiply matrix by matrix."""
    if left.ndim == 2:
        torch.mm(left, right, out=out)
    else:
        out.copy_(torch.bmm(left, right))


def _rotate(transposed: Tensor, frame: Frame, buffers: Buffers) -> Frame:
    """Applies a block (..., d, d), given transposed, to the leading qubits and moves them to the end."""
    d = transposed.shape[-1]
    out, leading = buffers.take(frame), frame.views(d)[2]
    if out is None:
        return Frame(_multiply(leading, transposed).view(frame.states.shape))
    _multiply(leading, transposed, out.views(d)[1])
    buffers.release(frame)
    return out


def _rotate_trailing(block: Tensor, frame: Frame, buffers: Buffers) -> Frame:
    """Applies a block (..., d, d) to the trailing qubits and moves them to the front."""
    d = block.shape[-1]
    out, trailing = buffers.take(frame), frame.views(d)[3]
    if out is None:
        return Frame(_multiply(block, trailing).view(frame.states.shape))
    _multiply(block, trailing, out.views(d)[0])
    buffers.release(frame)
    return out


def _to_front(states: Tensor, qubits: tuple[int, int], layout: Layout) -> Tensor:
    """(..., S) -> (..., 4, S / 4) with the two qubits as the leading index."""
    before, between, after = layout.around(qubits)
    axes = states.view(-1, before, 2, between, 2, after)
    first, second = (2, 4) if qubits[0] < qubits[1] else (4, 2)
    return axes.permute(0, first, second, 1, 3, 5).reshape(*states.shape[:-1], 4, states.shape[-1] // 4)


def _from_front(front: Tensor, qubits: tuple[int, int], layout: Layout) -> Tensor:
    """Undoes `_to_front`."""
    before, between, after = layout.around(qubits)
    axes = front.view(-1, 2, 2, before, between, after)
    order = (0, 3, 1, 4, 2, 5) if qubits[0] < qubits[1] else (0, 3, 2, 4, 1, 5)
    return axes.permute(order).reshape(*front.shape[:-2], 4 * front.shape[-1])


def _take(frame: Frame, source: Tensor, layout: Layout, buffers: Buffers) -> Frame:
    """Amplitude `source[i]` becomes amplitude i; of torch's calls, several single states are fastest by gather."""
    out = buffers.take(frame)
    old = layout.amplitudes(frame.states)
    into = None if out is None else layout.amplitudes(out.states)
    if old.ndim == 2 and layout.columns == 1:
        moved = torch.gather(old, 1, source.expand(old.shape), out=into)
    else:
        moved = torch.index_select(old, -2 if layout.columns > 1 and not layout.first else -1, source, out=into)
    buffers.release(frame)
    return out or Frame(moved.view(frame.states.shape))


def _turn(frame: Frame, phases: Tensor, layout: Layout, buffers: Buffers) -> Frame:
    out = buffers.take(frame)
    if layout.columns > 1 and not layout.first:
        phases = phases[:, None]
    into = None if out is None else layout.amplitudes(out.states)
    turned = torch.mul(layout.amplitudes(frame.states), phases, out=into)
    buffers.release(frame)
    return out or Frame(turned.view(frame.states.shape))


def _permute(step: MonomialStep, frame: Frame, layout: Layout, buffers: Buffers) -> Frame:
    if step.source is not None:
        frame = _take(frame, step.source, layout, buffers)
    return frame if step.phases is None else _turn(frame, step.phases, layout, buffers)


def _permute_back(step: MonomialStep, frame: Frame, layout: Layout, buffers: Buffers) -> Frame:
    if step.phases is not None:
        frame = _turn(frame, step.phases.conj(), layout, buffers)
    return frame if step.inverse is None else _take(frame, step.inverse, layout, buffers)


class StepMatrices:
    """A program's tables, one matrix a circuit, as a list for each step; for one circuit (d, d), else (B, d, d).

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


def run(program: Program, states: Tensor, tables: Sequence[Tensor], columns: int, reuse: bool, done: int = 0) -> Tensor:
    """All steps in order, with the matrices that `Program.matrices` gave.

    Args:
        program: What to run.
        states: (B, D * C) or (D * C,), in the layout after `done` layers; left as they are.
        tables: The matrices.
        columns: C.
        reuse: Whether results may be overwritten; not if autograd records them.
        done: How many steps, all of them layers, to leave out at the start.

    Returns:
        The final states, of the same shape, in the layout after `program.layers` layers.
    """
    layout, frame, buffers = Layout(program.num_qubits, columns, done), Frame(states), Buffers(reuse)
    transposed = StepMatrices(program, [t.mT for t in tables], states.ndim == 1)
    for step in program.steps[done:]:
        if isinstance(step, MonomialStep):
            frame = _permute(step, frame, layout, buffers)
        elif isinstance(step, LocalStep):
            matrices = transposed.local[step.row]
            if layout.first:
                for matrix in reversed(matrices):
                    frame = _rotate_trailing(matrix.mT, frame, buffers)
            else:
                for matrix in matrices:
                    frame = _rotate(matrix, frame, buffers)
            layout.turn()
        else:
            front = _multiply(transposed.pairs[step.index].mT, _to_front(frame.states, step.qubits, layout))
            frame = Frame(_from_front(front, step.qubits, layout))
    return frame.states


def run_back(
    program: Program, final: Tensor, cotangent: Tensor, tables: Sequence[Tensor], columns: int, done: int = 0
) -> tuple[Tensor, list[Tensor]]:
    """Walks the program backwards: the cotangent of the initial states, and of each table (unset in `done` layers).

    State and cotangent are undone by separate calls: a batch of two would start torch's threads for each small product.
    They share three buffers.
    """
    buffers, single = Buffers(reuse=True), final.ndim == 1
    layout = Layout(program.num_qubits, columns, program.layers)
    state, change = Frame(final), Frame(cotangent.contiguous())
    gradients = [torch.empty_like(t) for t in tables]
    inverses, outs = StepMatrices(program, [t.mH for t in tables], single), StepMatrices(program, gradients, single)
    for step in reversed(program.steps[done:]):
        if isinstance(step, MonomialStep):
            state = _permute_back(step, state, layout, buffers)
            change = _permute_back(step, change, layout, buffers)
        elif isinstance(step, LocalStep):
            layout.turn()
            blocks = list(zip(inverses.local[step.row], outs.local[step.row], strict=True))
            if layout.first:
                for inverse, out in blocks:
                    d, transposed = inverse.shape[-1], inverse.mT
                    state = _rotate(transposed, state, buffers)
                    _multiply_into(out, change.views(d)[0], state.views(d)[1].conj())  # the block's gradient
                    change = _rotate(transposed, change, buffers)
            else:
                for inverse, out in reversed(blocks):
                    d = inverse.shape[-1]
                    state = _rotate_trailing(inverse, state, buffers)
                    _multiply_into(out, change.views(d)[3], state.views(d)[2].conj())
                    change = _rotate_trailing(inverse, change, buffers)
        else:
            inverse, qubits = inverses.pairs[step.index], step.qubits
            after = _to_front(change.states, qubits, layout)
            before = _multiply(inverse, _to_front(state.states, qubits, layout))
            _multiply_into(outs.pairs[step.index], after, before.mH)
            state = Frame(_from_front(before, qubits, layout))
            change = Frame(_from_front(_multiply(inverse, after), qubits, layout))
    return change.states, gradients
