"""Circuits on TorchQuantum's statevector simulator, https://github.com/mit-han-lab/torchquantum."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qpeft.extras import MissingExtraError, is_installed
from qpeft.qcircuits.circuit import Angle, Circuit
from qpeft.qcircuits.engine import Engine, check_angles
from qpeft.qcircuits.interop.decompose import decompose, foreign_gate
from qpeft.qcircuits.memory import Footprint, require_memory

INSTALL = (
    "TorchQuantum 0.1.8 pins qiskit<1 and shares no environment with Qiskit 2; `make test-torchquantum` builds one of "
    "its own, .venv-torchquantum, from requirements/torchquantum.txt"
)
PRECISION = torch.complex64  # of every state and gate of TorchQuantum, whatever the dtype of the angles
RESULTS_HELD = 2  # states that autograd keeps of a gate, at most: what goes in, with the gate's wires in front, and out


@dataclass(frozen=True)
class TorchQuantumEngine(Engine):
    """Exact simulation by `torchquantum.QuantumDevice`, differentiated by torch's autograd.

    TorchQuantum computes in complex64: angles in float64 get probabilities and gradients in float64, but right to
    about 1e-6 only. Its wire 0 is the most significant bit of a basis index, as our qubit 0 is.

    Example:
        >>> TorchQuantumEngine().describe()["precision"]
        'complex64'
    """

    def check(self, circuit: Circuit, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        """Raises `MissingExtraError` without TorchQuantum, `EngineError` if the states do not fit into memory."""
        _require_torchquantum()
        _require_memory(decompose(circuit, "torchquantum"), 1, torch.device(device))

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"diff_method": "backprop", "precision": str(PRECISION).removeprefix("torch.")}

    def probabilities(self, circuit: Circuit, angles: Tensor) -> Tensor:
        """See `Engine.probabilities`; raises `MissingExtraError` without TorchQuantum."""
        check_angles(circuit, angles)
        leading, dim = angles.shape[:-1], 2**circuit.num_qubits
        flat = angles.reshape(math.prod(leading), circuit.num_parameters)
        states = _run(decompose(circuit, "torchquantum"), flat)
        probabilities = (states.real.square() + states.imag.square()).to(angles.dtype).view(*leading, dim)
        return probabilities + 0 * angles.sum(-1, keepdim=True)  # angles of no gate get zero gradients


def _run(circuit: Circuit, angles: Tensor) -> Tensor:
    """Angles (B, P) -> states (B, 2**N) in complex64."""
    _require_torchquantum()
    if not len(angles):  # TorchQuantum reshapes with -1, which no empty tensor can
        return angles.new_zeros(0, 2**circuit.num_qubits, dtype=PRECISION)
    _require_memory(circuit, len(angles), angles.device)
    torchquantum = importlib.import_module("torchquantum")
    device = torchquantum.QuantumDevice(n_wires=circuit.num_qubits, bsz=len(angles), device=angles.device)
    for operation in circuit.operations:
        foreign = foreign_gate(operation.gate, "torchquantum")
        values = None if operation.angle is None else foreign.scale * _values(operation.angle, angles)
        torchquantum.functional.func_name_dict[foreign.name](device, wires=list(operation.qubits), params=values)
    states: Tensor = device.get_states_1d()
    return states


def _values(angle: Angle, angles: Tensor) -> Tensor:
    """(B, 1), or (1, 1) for a constant."""
    if angle.index is None:
        return angles.new_full((1, 1), angle.offset)
    return angle.scale * angles[:, angle.index, None] + angle.offset


def _require_memory(circuit: Circuit, states: int, device: torch.device) -> None:
    footprint = Footprint(results=RESULTS_HELD * len(circuit.operations))
    require_memory(circuit.num_qubits, states, PRECISION, device, footprint, keep_all=torch.is_grad_enabled())


def _require_torchquantum() -> None:
    if not is_installed("torchquantum"):
        raise MissingExtraError(f"TorchQuantumEngine needs torchquantum, which is not installed. {INSTALL}")
