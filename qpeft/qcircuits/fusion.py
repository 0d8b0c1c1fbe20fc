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


@lru_cache(maxsize=16)  # each holds 24 bytes an amplitude
def monomial_arrays(
    num_qubits: int, operations: tuple[Operation, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.complex128]]:
    """Constant permutations and diagonals multiplied out: `new[i] = phases[i] * old[source[i]]`."""
    index = np.arange(2**num_qubits)
    source, phases = index.copy(), np.ones(2**num_qubits, dtype=np.complex128)
    for operation in operations:
        matrix = gate(operation.gate).at()
        columns = np.abs(matrix).argmax(axis=1)
        shifts = [num_qubits - 1 - q for q in operation.qubits]
        row = np.zeros_like(index)
        for shift in shifts:
            row = 2 * row + ((index >> shift) & 1)
        column = columns[row]
        moved = index.copy()
        for place, shift in enumerate(reversed(shifts)):
            moved = (moved & ~(1 << shift)) | (((column >> place) & 1) << shift)
        source, phases = source[moved], matrix[row, column] * phases[moved]
    return source, phases


def _monomial_step(num_qubits: int, draft: _Draft, dtype: torch.dtype, device: torch.device) -> MonomialStep:
    source, phases = monomial_arrays(num_qubits, tuple(draft.operations))
    moves, turns = bool((source != np.arange(len(source))).any()), not np.allclose(phases, 1)
    values = torch.from_numpy(phases)
    return MonomialStep(
        torch.from_numpy(source).to(device) if moves else None,
        torch.from_numpy(np.argsort(source)).to(device) if moves else None,
        (values if dtype.is_complex else values.real).to(device=device, dtype=dtype) if turns else None,
    )


def _blocks(num_qubits: int) -> tuple[tuple[int, int], ...]:
    """Splits the qubits into blocks of nearly equal size, larger ones first: (number of blocks, qubits a block)."""
    count = -(-num_qubits // MAX_BLOCK_QUBITS)
    size, larger = divmod(num_qubits, count)
    return tuple(group for group in ((larger, size + 1), (count - larger, size)) if group[0])


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
                monomials[key] = _monomial_step(n, draft, dtype, device)
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
