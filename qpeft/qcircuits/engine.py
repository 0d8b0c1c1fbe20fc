"""What every engine answers, with one signature."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from qpeft.errors import ConfigError, EngineError
from qpeft.qcircuits.circuit import Circuit


@runtime_checkable
class Engine(Protocol):
    """Runs a circuit.

    Exact, sampled and noisy engines differ in how they get the numbers, never in how they are asked. A basis index has
    qubit 0 as its most significant bit. An engine of your own inherits from this class, implements `probabilities`,
    is checked with `qpeft.qcircuits.conformance.assert_engine_conforms` and gets a name with
    `qpeft.engines.register_engine`.
    """

    @abstractmethod
    def probabilities(self, circuit: Circuit, angles: Tensor) -> Tensor:
        """Basis probabilities of the circuit applied to |0...0>.

        Args:
            circuit: What to run.
            angles: The parameters theta in radians, (..., circuit.num_parameters), float32 or float64.

        Returns:
            (..., 2**circuit.num_qubits) in the dtype of `angles` and on their device, differentiable in `angles`.

        Raises:
            EngineError: Angles of another shape or dtype, or a circuit the engine cannot run.
        """

    def state(self, circuit: Circuit, angles: Tensor, initial_state: Tensor | None = None) -> Tensor:
        """The final state (..., 2**N), where the engine has one; see `StatevectorEngine.state`."""
        raise EngineError(f"{type(self).__name__} has no state; use StatevectorEngine ('exact')")

    def columns(self, circuit: Circuit, angles: Tensor, k: int) -> Tensor:
        """The first `k` columns of the unitary, where the engine has them; see `StatevectorEngine.columns`."""
        raise EngineError(
            f"{type(self).__name__} has no columns, which need a unitary; use StatevectorEngine ('exact')"
        )

    def check(self, circuit: Circuit, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        """Raises `EngineError` if the engine cannot run `circuit`; cheap, and called before any work starts."""

    def describe(self) -> dict[str, Any]:
        """What the engine is, as plain data that goes into reports."""
        return {"engine": type(self).__name__}


def require_engine(given: object, what: str) -> None:
    """Raises `ConfigError` unless `given` is an engine."""
    if not isinstance(given, Engine):
        raise ConfigError(f"{what} is {given!r}; expected an engine, e.g. get_engine('exact')")


def check_angles(circuit: Circuit, angles: Tensor) -> None:
    """Raises `EngineError` unless `angles` are (..., P) of a dtype that engines take."""
    if not isinstance(circuit, Circuit) or not isinstance(angles, Tensor):
        raise EngineError(
            f"expected a qpeft Circuit and a torch.Tensor of angles; given {type(circuit).__name__} and "
            f"{type(angles).__name__}"
        )
    if angles.ndim == 0 or angles.shape[-1] != circuit.num_parameters:
        raise EngineError(
            f"the circuit has {circuit.num_parameters} angles; given a tensor of shape {tuple(angles.shape)}, "
            f"expected (..., {circuit.num_parameters})"
        )
    if angles.dtype not in (torch.float32, torch.float64):
        raise EngineError(f"angles are {angles.dtype}; expected torch.float32 or torch.float64 (use angles.float())")


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Keeps autocast away from a state: a long circuit in bfloat16 loses every digit."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # making the other costs as much as a layer
