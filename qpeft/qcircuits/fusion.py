"""Compiles a circuit, once, into a short program of large steps.

Gates are merged into three kinds of step:

* `LocalStep`: at most one 2 x 2 matrix a qubit. The 2 x 2 matrices of a block of neighbouring qubits are multiplied out
  to one Kronecker block, so that a whole layer of rotations is two or three matrix products.
* `MonomialStep`: constant permutations and diagonals, however many, as one index permutation times phases. A CNOT
  ladder is the single gather `state[i ^ (i >> 1)]`; a layer of CZs is one vector of signs.
* `PairStep`: any other two-qubit gate, applied to its two axes.

A gate joins the earliest step it can: it moves past steps that do not touch its qubits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qpeft.qcircuits.circuit import Circuit, Operation
from qpeft.qcircuits.gates import Kind, gate
from qpeft.qcircuits.memory import Footprint
from qpeft.qcircuits.program import LocalStep, MatrixTable, MonomialStep, PairStep, Program, Step

MAX_BLOCK_QUBITS = 4  # 16 x 16 Kronecker blocks: measured fastest on CPU for 8 to 20 qubits


@dataclass
class _Draft:
    """A step while gates still join it."""

    kind: str  # "local", "monomial" or "pair"
    operations: list[Operation] = field(default_factory=list)
    qubits: set[int] = field(default_factory=set)

    def add(self, operation: Operation) -> None:
        self.operations.append(operation)
        self.qubits.update(operation.qubits)


def _schedule(circuit: Circuit) -> list[_Draft]:
    drafts: list[_Draft] = []
    for operation in circuit.operations:
        row = gate(operation.gate)
        constant = not row.has_angle and row.kind in (Kind.PERMUTATION, Kind.DIAGONAL)
        single = row.num_qubits == 1
        home = None
        for draft in reversed(drafts):
            if (draft.kind == "monomial" and constant) or (draft.kind == "local" and single):
                home = draft
                break
            if draft.qubits & set(operation.qubits):
                break
        if home is None:
            home = _Draft("local" if single else "monomial" if constant else "pair")
            drafts.append(home)
        home.add(operation)
    return drafts


def monomial_arrays(
    num_qubits: int, operations: tuple[Operation, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.complex128] | None]:
    """Constant permutations and diagonals multiplied out: `new[i] = phases[i] * old[source[i]]`; no phases if all 1.

    Each gate moves, in place, only the amplitudes that it moves: those with certain values of its qubits.
    """
    axes = (2,) * num_qubits
    source = np.arange(2**num_qubits).reshape(axes)
    matrices = [gate(operation.gate).at() for operation in operations]
    phases = np.ones(axes, dtype=np.complex128) if any(map(_turns, operations)) else None
    for operation, matrix in zip(operations, matrices, strict=True):
        values = list(np.ndindex(*axes[: len(operation.qubits)]))
        columns = np.abs(matrix).argmax(axis=1)
        moved = [(values[row], values[column]) for row, column in enumerate(columns.tolist()) if row != column]
        for array in (source,) if phases is None else (source, phases):
            front = np.moveaxis(array, operation.qubits, range(len(operation.qubits)))
            old = [front[column].copy() for _, column in moved]
            for (row, _), part in zip(moved, old, strict=True):
                front[row] = part
        if phases is not None:
            front = np.moveaxis(phases, operation.qubits, range(len(operation.qubits)))
            for value, entries, column in zip(values, matrix, columns, strict=True):
                if entries[column] != 1:
                    front[value] *= entries[column]
    return source.reshape(-1), None if phases is None else phases.reshape(-1)


def _monomial_step(
    num_qubits: int, operations: tuple[Operation, ...], dtype: torch.dtype, device: torch.device
) -> MonomialStep:
    order, turns = monomial_arrays(num_qubits, operations)
    source, phases = torch.from_numpy(order), None
    if turns is not None and turns.real.min() < 1 - 1e-12:  # all have modulus 1
        values = torch.from_numpy(turns)
        phases = (values if dtype.is_complex else values.real).to(device=device, dtype=dtype)
    counting = torch.arange(len(source))
    if torch.equal(source, counting):
        return MonomialStep(None, None, phases)
    inverse = torch.empty_like(source).scatter_(0, source, counting)
    return MonomialStep(source.to(device), inverse.to(device), phases)


def _blocks(num_qubits: int) -> tuple[tuple[int, int], ...]:
    """Splits the qubits into blocks of nearly equal size, larger ones first: (number of blocks, qubits a block)."""
    count = -(-num_qubits // MAX_BLOCK_QUBITS)
    size, larger = divmod(num_qubits, count)
    return tuple(group for group in ((larger, size + 1), (count - larger, size)) if group[0])


@lru_cache(maxsize=32)
def footprint(circuit: Circuit) -> Footprint:
    """What the circuit's program will hold, without compiling it."""
    drafts = _schedule(circuit)
    locals_, pairs = (sum(draft.kind == kind for draft in drafts) for kind in ("local", "pair"))
    monomials = {tuple(draft.operations) for draft in drafts if draft.kind == "monomial"}
    blocks = _blocks(circuit.num_qubits)
    return Footprint(
        moves=sum(any(gate(o.gate).kind is Kind.PERMUTATION for o in group) for group in monomials),
        turns=sum(any(_turns(o) for o in group) for group in monomials),
        table=locals_ * sum(count * 4**size for count, size in blocks) + pairs * 16,
        pairs=pairs > 0,
        results=len(drafts) + locals_ * (sum(count for count, _ in blocks) - 1) + 2 * pairs,
    )


def _turns(operation: Operation) -> bool:
    """Whether a constant permutation or diagonal has a phase that is not 1."""
    return not bool(np.isin(gate(operation.gate).at(), (0, 1)).all())


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # cached tensors serve training too, even when first made for inference
def compile_circuit(circuit: Circuit, dtype: torch.dtype, device: torch.device) -> Program:
    """The program of a circuit.

    Args:
        circuit: What to run.
        dtype: dtype of the state: a real one only if the circuit is real.
        device: Where the program's tensors live.
    """
    n = circuit.num_qubits
    steps: list[Step] = []
    local: list[Operation] = []
    pairs: list[Operation] = []
    runs: dict[tuple[int, int], list[int]] = {}  # (row, qubit) -> its gates in time order
    monomials: dict[tuple[Operation, ...], MonomialStep] = {}
    rows = 0
    for draft in _schedule(circuit):
        if draft.kind == "local":
            for operation in draft.operations:
                runs.setdefault((rows, operation.qubits[0]), []).append(len(local))
                local.append(operation)
            steps.append(LocalStep(rows))
            rows += 1
        elif draft.kind == "monomial":
            key = tuple(draft.operations)
            if key not in monomials:  # equal layers share one index tensor
                monomials[key] = _monomial_step(n, key, dtype, device)
            step = monomials[key]
            if step.source is not None or step.phases is not None:  # gates that cancel leave no step
                steps.append(step)
        else:
            (operation,) = draft.operations
            steps.append(PairStep(len(pairs), (operation.qubits[0], operation.qubits[1])))
            pairs.append(operation)
    return Program(
        n, tuple(steps),
        MatrixTable.of(local, circuit.num_parameters, dtype, device) if local else None,
        _run_tables(runs, rows * n, n, len(local), device), _blocks(n),
        MatrixTable.of(pairs, circuit.num_parameters, dtype, device) if pairs else None, dtype,
    )  # fmt: skip


def _run_tables(
    runs: dict[tuple[int, int], list[int]], slots: int, num_qubits: int, num_gates: int, device: torch.device
) -> tuple[Tensor, ...] | None:
    longest = max((len(run) for run in runs.values()), default=0)
    tables = np.full((longest, slots), num_gates)
    for (row, qubit), run in runs.items():
        tables[: len(run), row * num_qubits + qubit] = run
    if longest == 1 and np.array_equal(tables[0], np.arange(num_gates)):
        return None
    return tuple(torch.from_numpy(tables).to(device))
