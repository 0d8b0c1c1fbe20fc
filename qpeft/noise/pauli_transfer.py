"""The noisy engine: a density matrix as 4**N real Pauli coefficients, exact and differentiable in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
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
READ_BLOCK = 5  # qubits that are read by one matrix

_Compiled = tuple[PauliProgram, Tensor, list[Tensor]]  # and what `_outputs` gives


@dataclass(frozen=True, eq=False)
class PauliTransferEngine(Engine):
    """Exact probabilities under noise, with the exact gradient.

    The circuit is transpiled once to the native gates, its angles staying affine. Each native gate followed by its
    error is a real matrix on Pauli coefficients; they are merged into one 16 x 16 matrix a pair of qubits and applied
    in order. Memory is about sqrt(S) + 4 states of 4**N numbers for S such steps.

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
        self._require_memory(circuit, max(1, len(flat)), angles.dtype, angles.device)
        program, places, blocks = self._compiled(circuit, angles.dtype, angles.device)
        with full_precision(angles.device):
            matrices = program.matrices(flat)
            start = torch.zeros(len(flat), 4**program.num_qubits, dtype=angles.dtype, device=angles.device)
            start[:, _diagonal(program.num_qubits).to(angles.device)] = 1.0
            final: Tensor = Evolution.apply(start, matrices, program.steps, program.num_qubits)  # type: ignore[no-untyped-call]
            found = _read(final, places, blocks).view(*leading, dim)
        return found + 0 * angles.sum(-1, keepdim=True)  # angles in no matrix get zero gradients

    def check(self, circuit: Circuit, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        """Raises `EngineError` if the state does not fit into memory, `NoiseError` if the device is too small."""
        self._require_memory(circuit, 1, dtype, torch.device(device))
        self.noise.noise(circuit.num_qubits)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "diff_method": "adjoint", "noise": self.noise.name, "calibrated": self.noise.calibrated,
            "ran_on": sorted({self.native(circuit).noise.name for circuit, _, _ in self._programs}),
        }  # fmt: skip

    def _require_memory(self, circuit: Circuit, states: int, dtype: torch.dtype, device: torch.device) -> None:
        steps = sum(len(operation.qubits) == 2 for operation in circuit.operations)
        held = HELD + 2 * math.isqrt(steps)
        require_bytes(
            held * states * dtype.itemsize << 2 * circuit.num_qubits, device,
            f"{circuit.num_qubits} qubits under noise ({states} state(s) of 4**{circuit.num_qubits} numbers, "
            f"{held} times)",
            "Use fewer qubits (for QPA: a larger chunk size), or random trajectories: NoisyAerEngine(noise, shots, "
            "method='statevector')",
        )  # fmt: skip

    def _compiled(self, circuit: Circuit, dtype: torch.dtype, device: torch.device) -> _Compiled:
        key = (circuit, dtype, device)
        if key not in self._programs:
            there = self.native(circuit)
            program = compile_noisy(there.circuit, there.noise.error_of, dtype, device)
            self._programs[key] = program, *_outputs(there, program.num_qubits, dtype, device)
        return self._programs[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> PauliTransferEngine:
        return self  # nothing of it changes but the memory of compiled circuits

    def __reduce__(self) -> tuple[type[PauliTransferEngine], tuple[NoiseModel | Device]]:
        return PauliTransferEngine, (self.noise,)


def _outputs(there: Native, n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """Which coefficients are read, (2**N,), and the blocks that turn them into probabilities of what is measured."""
    places = torch.zeros(1, dtype=torch.int64)
    for qubit in there.outputs:  # I or Z on each of the circuit's qubits in their order, I on all others
        places = (places[:, None] + torch.tensor([0, 3 * 4 ** (n - 1 - qubit)])).flatten()
    hadamard = np.array([[0.5, 0.5], [0.5, -0.5]])  # coefficients of I and Z -> probabilities of 0 and 1
    readouts = [there.noise.readout_of(qubit) for qubit in there.outputs]
    maps = np.stack([hadamard if matrix is None else matrix @ hadamard for matrix in readouts])
    blocks = [kronecker(block) for block in torch.from_numpy(maps).to(dtype).split(READ_BLOCK)]
    return places.to(device), [block.to(device) for block in blocks]


def _read(final: Tensor, places: Tensor, blocks: list[Tensor]) -> Tensor:
    """Coefficients (B, 4**n) -> probabilities (B, 2**N): each block acts on the leading qubits and moves them back."""
    values = final.index_select(-1, places)
    for block in blocks:
        values = (values.view(len(values), len(block), places.numel() // len(block)).mT @ block.mT).flatten(1)
    return values


@lru_cache(maxsize=32)
def _diagonal(n: int) -> Tensor:
    """The Pauli strings of I and Z alone, (2**n,): |0...0> has coefficient 1 there and 0 elsewhere."""
    places = torch.zeros(1, dtype=torch.int64)
    for _ in range(n):
        places = (4 * places[:, None] + torch.tensor([0, 3])).flatten()
    return places
