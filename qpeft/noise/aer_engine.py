"""A device's noise on Aer: the same native gates and errors as `PauliTransferEngine`, by another simulator."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from qpeft.errors import EngineError
from qpeft.noise.device import Device
from qpeft.noise.model import NoiseModel
from qpeft.noise.native import Native, native
from qpeft.noise.pauli_transfer import PROGRAMS_KEPT
from qpeft.qcircuits.aer_engine import AerEngine
from qpeft.qcircuits.blackbox import BlackBoxEngine
from qpeft.qcircuits.circuit import Circuit
from qpeft.qcircuits.seeding import Stream
from qpeft.qcircuits.shots import Shots


class NoisyAerEngine(BlackBoxEngine):
    """Runs a circuit's native gates under a noise model on Aer: exactly on its density matrix, or measured.

    Args:
        noise: A noise model, or a device, of which the best line of qubits is taken.
        shots: Measurements of each circuit; None for exact probabilities.
        method: Aer's simulation method, e.g. "density_matrix", or "statevector" (random trajectories, with shots).
        diff_method: "parameter-shift" or "spsa". For a gradient in one pass: `Surrogate` with `PauliTransferEngine`.
        gradient_shots: Measurements of each circuit of a gradient; `shots` if None.
        seed: Decides every sample together with the number of the call.
    """

    def __init__(
        self, noise: NoiseModel | Device, shots: Shots | int | str | None = None, method: str = "automatic",
        diff_method: str = "parameter-shift", gradient_shots: Shots | int | str | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(shots, diff_method, gradient_shots, seed)
        self.noise, self.method = noise, method
        self._simulators: dict[Circuit, tuple[Native, AerEngine]] = {}
        self._ran_on: dict[str, None] = {}  # names, in the order of the first runs

    def evaluate(self, circuit: Circuit, angles: Tensor, shots: int | None, stream: Stream) -> Iterable[Tensor]:
        """See `BlackBoxEngine.evaluate`."""
        there, simulator = self._simulator(circuit)
        found = simulator.evaluate(there.circuit, angles, shots, stream)
        self._ran_on[there.noise.name] = None
        return _in_order(found, there)

    def check(self, circuit: Circuit, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        """See `Engine.check`.

        Raises:
            EngineError: Too many qubits for memory, or exact probabilities by a method that does not give them.
            NoiseError: The noise is of too few qubits.
        """
        super().check(circuit, dtype, device)
        noise, method = self.noise.noise(circuit.num_qubits), self.method
        mixes, exact = bool(noise.errors or noise.default_errors), None in (self.shots, self.gradient_shots)
        if mixes and exact and method not in ("automatic", "density_matrix"):
            raise EngineError(
                f"Aer's method {method!r} averages noise over random runs and has no exact probabilities; use "
                "'density_matrix', or give shots"
            )
        if mixes and exact:
            method = "density_matrix"  # what Aer takes; no model of its own is made to ask for the memory
        AerEngine(self.shots, method=method, gradient_shots=self.gradient_shots).check(circuit, dtype, device)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "noise": self.noise.name, "calibrated": self.noise.calibrated, "method": self.method,
            "ran_on": sorted(self._ran_on),
        }  # fmt: skip

    def _simulator(self, circuit: Circuit) -> tuple[Native, AerEngine]:
        if circuit not in self._simulators:
            there = native(circuit, self.noise.noise(circuit.num_qubits))
            simulator = AerEngine(
                self.shots, noise_model=there.noise.to_aer(), method=self.method, gradient_shots=self.gradient_shots,
                optimization_level=0,  # the gates are native already; nothing may be left out
            )  # fmt: skip
            if len(self._simulators) >= PROGRAMS_KEPT:
                del self._simulators[next(iter(self._simulators))]
            self._simulators[circuit] = there, simulator
        return self._simulators[circuit]

    def __getstate__(self) -> dict[str, Any]:  # made anew where it arrives
        return self.__dict__ | {"_simulators": {}, "_ran_on": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> NoisyAerEngine:
        """Shares what never changes, and the simulators."""
        twin = copy.copy(self)
        twin.noise, twin._simulators = self.noise, self._simulators
        twin._ran_on = dict(self._ran_on)
        twin.draws = copy.deepcopy(self.draws, memo)
        return twin


def _in_order(blocks: Iterable[Tensor], there: Native) -> Iterator[Tensor]:
    """Probabilities of the native qubits (b, 2**n) -> those of the circuit's own, in their order (b, 2**N)."""
    n = there.circuit.num_qubits
    others = [qubit for qubit in range(n) if qubit not in there.outputs]
    order = [0, *(1 + qubit for qubit in (*there.outputs, *others))]
    for block in blocks:
        yield block.view(len(block), *[2] * n).permute(order).reshape(len(block), -1, 2 ** len(others)).sum(-1)
