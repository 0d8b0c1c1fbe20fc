"""The noisy engine: a density matrix as 4**N real Pauli coefficients, exact and differentiable in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qpeft.noise.device import Device
from qpeft.noise.model import NoiseModel
from qpeft.noise.native import Native, native
from qpeft.noise.pauli_kernels import Evolution
from qpeft.noise.pauli_program import PauliProgram, compile_noisy
from qpeft.qcircuits.circuit import Circuit
from qpeft.qcircuits.engine import Engine, check_angles, full_precision
from qpeft.qcircuits.memory import require_bytes
from qpeft.qcircuits.program import kronecker

HELD = 4  # states at work beside the checkpoints
# Copies of the 16 x 16 matrices of all layers and of all factors of steps, with what autograd keeps of them and their
# gradients: the growth of resident memory over a forward and backward pass, less that of the states, over the matrices'
# bytes. 2.9 to 4.0 for ry_cnot and random
# circuits on 2 to 5 qubits (batches of 500 to 8000, both dtypes, 9 to 264 such matrices a row), on one CPU.
TABLES_HELD = 4
PROGRAMS_KEPT = 64  # compiled circuits; the oldest goes first
READ_BLOCK = 5  # qubits that are read by one matrix


@dataclass(frozen=True, eq=False)
class _Compiled:
    """All that is decided once for a circuit, a dtype and a device.

    Attributes:
        name: Of the noise it runs under.
        program: The steps.
        start: The coefficients that are 1 in |0...0>, (2**n,).
        places: The coefficients that are read, (2**N,).
        blocks: The matrices that turn those into probabilities.
    """

    name: str
    program: PauliProgram
    start: Tensor
    places: Tensor
    blocks: list[Tensor]


@dataclass(frozen=True, eq=False)
class PauliTransferEngine(Engine):
    """Exact probabilities under noise, with the exact gradient.

    The circuit is transpiled once to the native gates, its angles staying affine. Each native gate followed by its
    error is a real matrix on Pauli coefficients; they are merged into one 16 x 16 matrix a pair of qubits and applied
    in order. A training step holds, for each row of a batch, about 2 sqrt(S) + 4 states of 4**N numbers for S such
    steps, and four times the 16 x 16 matrices before and while they are merged.

    Args:
        noise: A noise model, or a device, of which the best line of qubits is taken.

    Example:
        >>> from qpeft.qcircuits import ansatz
        >>> engine = PauliTransferEngine(NoiseModel.depolarizing(0.0, 0.0, readout=0.1))
        >>> engine.probabilities(ansatz("ry_cnot", 1, 1), torch.zeros(1))
        tensor([0.9000, 0.1000])
    """

    noise: NoiseModel | Device
    _programs: dict[tuple[Circuit, torch.dtype, torch.device], _Compiled] = field(default_factory=dict, repr=False)
    _ran_on: dict[str, None] = field(default_factory=dict, repr=False)  # names, in the order of the first runs

    def native(self, circuit: Circuit) -> Native:
        """The circuit as the device runs it.

        Raises:
            EngineError: A gate would run without an error although the model has errors.
            NoiseError: The device has too few qubits.
        """
        return native(circuit, self.noise.noise(circuit.num_qubits))

    def probabilities(self, circuit: Circuit, angles: Tensor) -> Tensor:
        """See `Engine.probabilities`."""
        check_angles(circuit, angles)
        leading, dim = angles.shape[:-1], 2**circuit.num_qubits
        flat = angles.reshape(math.prod(leading), circuit.num_parameters)
        _require_states(circuit.num_qubits, angles.dtype, angles.device)
        compiled = self._compiled(circuit, angles.dtype, angles.device)
        program = compiled.program
        _require_memory(program, max(1, len(flat)), angles.dtype, angles.device)
        with full_precision(angles.device):
            matrices = program.matrices(flat)
            start = torch.zeros(len(flat), 4**program.num_qubits, dtype=angles.dtype, device=angles.device)
            start[:, compiled.start] = 1.0
            final: Tensor = Evolution.apply(start, matrices, program.steps, program.num_qubits)  # type: ignore[no-untyped-call]
            found = _read(final, compiled.places, compiled.blocks).view(*leading, dim)
        self._ran_on[compiled.name] = None
        return found + 0 * angles.sum(-1, keepdim=True)  # angles in no matrix get zero gradients

    def check(self, circuit: Circuit, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        """Raises `EngineError` if one state does not fit into memory, `NoiseError` if the device is too small."""
        _require_states(circuit.num_qubits, dtype, torch.device(device))
        self.noise.noise(circuit.num_qubits)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "diff_method": "adjoint", "noise": self.noise.name, "calibrated": self.noise.calibrated,
            "ran_on": sorted(self._ran_on),
        }  # fmt: skip

    def _compiled(self, circuit: Circuit, dtype: torch.dtype, device: torch.device) -> _Compiled:
        key = (circuit, dtype, device)
        if key not in self._programs:
            there = self.native(circuit)
            with torch.inference_mode(False):  # else no later call could save these tensors for its backward pass
                compiled = _compile(there, dtype, device)
            if len(self._programs) >= PROGRAMS_KEPT:
                del self._programs[next(iter(self._programs))]
            self._programs[key] = compiled
        return self._programs[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> PauliTransferEngine:
        return self  # nothing of it changes but the memory of compiled circuits

    def __reduce__(self) -> tuple[type[PauliTransferEngine], tuple[NoiseModel | Device]]:
        return PauliTransferEngine, (self.noise,)


def _compile(there: Native, dtype: torch.dtype, device: torch.device) -> _Compiled:
    program = compile_noisy(there.circuit, there.noise.error_of, dtype, device)
    n = program.num_qubits
    return _Compiled(
        there.noise.name, program, _places(range(n), n).to(device), *_outputs(there, n, dtype, device)
    )  # fmt: skip


def _require_states(num_qubits: int, dtype: torch.dtype, device: torch.device) -> None:
    """Raises `EngineError` if the states at work of one row do not fit: cheap, before anything is compiled."""
    _require(num_qubits, 1, HELD, 0, dtype, device)


def _require_memory(program: PauliProgram, rows: int, dtype: torch.dtype, device: torch.device) -> None:
    """Raises `EngineError` if a forward and backward pass does not fit."""
    steps = len(program.steps)
    matrices = len(program.pair_of_layer[0]) + steps * len(program.layer_runs)
    _require(program.num_qubits, rows, HELD + 2 * math.isqrt(steps), TABLES_HELD * matrices, dtype, device)


def _require(n: int, rows: int, held: int, matrices: int, dtype: torch.dtype, device: torch.device) -> None:
    require_bytes(
        rows * dtype.itemsize * (held * 4**n + matrices * 16**2), device,
        f"{n} qubits under noise ({rows} state(s) of 4**{n} numbers, {held} times, and {matrices} matrices of 16 x 16 "
        "for each)",
        "Use a smaller batch, fewer qubits (for QPA: a larger chunk size), or random trajectories: "
        "NoisyAerEngine(noise, shots, method='statevector')",
    )  # fmt: skip


def _outputs(there: Native, n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """Which coefficients are read, (2**N,), and the blocks that turn them into probabilities of what is measured."""
    hadamard = np.array([[0.5, 0.5], [0.5, -0.5]])  # coefficients of I and Z -> probabilities of 0 and 1
    readouts = [there.noise.readout_of(qubit) for qubit in there.outputs]
    maps = np.stack([hadamard if matrix is None else matrix @ hadamard for matrix in readouts])
    blocks = [kronecker(block) for block in torch.from_numpy(maps).to(dtype).split(READ_BLOCK)]
    return _places(there.outputs, n).to(device), [block.to(device) for block in blocks]


def _read(final: Tensor, places: Tensor, blocks: list[Tensor]) -> Tensor:
    """Coefficients (B, 4**n) -> probabilities (B, 2**N): each block acts on the leading qubits and moves them back."""
    values = final.index_select(-1, places)
    for block in blocks:
        values = (values.view(len(values), len(block), places.numel() // len(block)).mT @ block.mT).flatten(1)
    return values


def _places(qubits: Iterable[int], n: int) -> Tensor:
    """The Pauli strings of I or Z on each of these qubits, in their order, and I on all others, (2**k,)."""
    places = torch.zeros(1, dtype=torch.int64)
    for qubit in qubits:
        places = (places[:, None] + torch.tensor([0, 3 * 4 ** (n - 1 - qubit)])).flatten()
    return places
