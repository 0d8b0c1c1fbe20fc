"""Derivatives of a circuit's cost at random angles: all initialisations as one batch, cut where memory ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from qpeft.errors import ConfigError, EngineError
from qpeft.qcircuits import Circuit, Engine
from qpeft.qcircuits.fusion import footprint
from qpeft.qcircuits.memory import Footprint, needed_bytes, require_bytes
from qpeft.registry import Registry

DTYPE = torch.float64  # derivatives of 14 qubits are 1e-5 of their costs
BATCH_BYTES = 2**28  # of one batch: large enough to be fast, small enough for any machine
NOISY_STATES = 40  # of 4**N coefficients, that a row keeps under noise; 4 + 2 sqrt(steps), at 64 layers of 8 qubits
NOISY_QUBITS = 8  # 4**8 coefficients a row take seconds, and each further qubit four times as long

Cost = Callable[[Tensor], Tensor]
"""Basis probabilities (B, 2**N) -> costs (B,)."""


def _all_zeros(probabilities: Tensor) -> Tensor:
    """The expectation of |0..0><0..0|."""
    return probabilities[:, 0]


def _first_qubit(probabilities: Tensor) -> Tensor:
    """The expectation of Z on qubit 0, the most significant bit."""
    zero, one = probabilities.chunk(2, dim=1)
    return zero.sum(1) - one.sum(1)


OBSERVABLES: Registry[Cost] = Registry("observable", {"global": _all_zeros, "local": _first_qubit})


class Objective(Protocol):
    """What is differentiated.

    Attributes:
        name: Its name in tables and files.
        settings: What decides its numbers beside circuit, angles and engine, as plain data.
    """

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    def check(self, circuit: Circuit) -> None:
        """Raises `ConfigError` if it cannot be asked of the circuit."""

    def gradients(self, engine: Engine, circuit: Circuit, angles: Tensor, is_noisy: bool) -> Tensor:
        """dL/dtheta of every row of angles: (n, P) -> (n, P); `is_noisy` as in `cost_gradients`."""


@dataclass(frozen=True)
class Observable:
    """The expectation of one of `OBSERVABLES`; all initialisations run as one batch."""

    name: str

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def check(self, circuit: Circuit) -> None:
        """Every circuit has expectations; an unknown name raises."""
        OBSERVABLES[self.name]

    def gradients(self, engine: Engine, circuit: Circuit, angles: Tensor, is_noisy: bool) -> Tensor:
        return cost_gradients(engine, circuit, angles, OBSERVABLES[self.name], is_noisy)


def draw_angles(circuit: Circuit, initialisations: int, seed: int) -> Tensor:
    """Angles from the uniform distribution over (-pi, pi): (initialisations, P).

    They depend on the circuit's size and the seed alone: costs and engines are compared at equal angles.
    """
    rng = np.random.default_rng([seed, circuit.num_qubits, circuit.num_parameters])
    return torch.from_numpy(rng.uniform(-np.pi, np.pi, (initialisations, circuit.num_parameters))).to(DTYPE)


def cost_gradients(engine: Engine, circuit: Circuit, angles: Tensor, cost: Cost, is_noisy: bool = False) -> Tensor:
    """dL/dtheta of every row of angles: (n, P) -> (n, P), as the engine differentiates.

    Args:
        engine: Exact, sampled (parameter-shift) or noisy.
        circuit: The circuit.
        angles: (n, P) in radians.
        cost: What is differentiated.
        is_noisy: Whether the engine holds 4**N numbers a row instead of 2**N.
    """
    found = []
    for part in angles.split(rows_of_batch(circuit, is_noisy)):
        leaf = part.clone().requires_grad_()
        costs = cost(engine.probabilities(circuit, leaf))
        found.append(torch.autograd.grad(costs.sum(), leaf)[0])
    return torch.cat(found)


def rows_of_batch(circuit: Circuit, is_noisy: bool) -> int:
    """How many initialisations a batch takes."""
    if is_noisy:
        return max(1, BATCH_BYTES // (NOISY_STATES * DTYPE.itemsize << 2 * circuit.num_qubits))
    dtype = DTYPE if circuit.is_real else DTYPE.to_complex()
    return max(1, BATCH_BYTES // needed_bytes(circuit.num_qubits, 1, dtype, footprint(circuit)))


def check_size(engine: Engine, circuit: Circuit, name: str, is_noisy: bool) -> None:
    """Raises `ConfigError` if the engine has no room for the circuit, or it is too large to be worth trying."""
    if is_noisy and circuit.num_qubits > NOISY_QUBITS:
        raise ConfigError(
            f"{circuit.num_qubits} qubits under noise are too many: engine {name!r} takes 2 to {NOISY_QUBITS} here, "
            "since it holds 4**N numbers. Give fewer qubits, or an engine without noise in a study of its own"
        )
    try:
        engine.check(circuit, DTYPE)
    except EngineError as error:
        raise ConfigError(f"{circuit.num_qubits} qubits do not fit: {error}") from error


def check_room(num_qubits: int) -> None:
    """Raises `ConfigError` if not even the states of so many qubits fit; needs no circuit."""
    try:
        require_bytes(
            needed_bytes(num_qubits, 1, DTYPE, Footprint()), torch.device("cpu"), f"their 2**{num_qubits} amplitudes",
            "Give fewer",
        )  # fmt: skip
    except EngineError as error:
        raise ConfigError(f"{num_qubits} qubits do not fit: {error}") from error
