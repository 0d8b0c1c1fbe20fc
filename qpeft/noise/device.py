"""A device: its noise on the qubits a circuit would use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from qpeft.errors import NoiseError
from qpeft.noise.devices import calibration_date, snapshot
from qpeft.noise.lines import best_line, coupler_errors, qubit_errors, require_line, require_native
from qpeft.noise.model import NoiseModel
from qpeft.qcircuits.transpilation import require_backend

if TYPE_CHECKING:
    from qiskit.providers import BackendV2


@dataclass(frozen=True, eq=False)
class Device:
    """The noise of a `BackendV2`, on its best line of qubits or on a given one.

    Args:
        backend: The device, e.g. `qpeft.noise.devices.snapshot("ibm_torino")`.
        qubits: Its qubits to use, neighbours coupled; the best line of as many as a circuit has if None.

    Example:
        >>> device("ibm_torino").line(2)
        (92, 99)
    """

    backend: BackendV2
    qubits: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        require_backend(self.backend)
        require_native(self.backend.target, self.name)
        if self.qubits is not None:
            object.__setattr__(self, "qubits", tuple(self.qubits))
            require_line(self.qubits, self.backend.num_qubits, coupler_errors(self.backend.target), self.name)

    @property
    def name(self) -> str:
        return str(self.backend.name)

    @property
    def calibrated(self) -> str | None:
        """Date of the calibration, e.g. 2025-02-26; None if the device does not say."""
        return calibration_date(self.backend)

    def line(self, num_qubits: int) -> tuple[int, ...]:
        """The device's qubits for a circuit on `num_qubits`; raises `NoiseError` if there are too few."""
        if self.qubits is None:
            target = self.backend.target
            return best_line(num_qubits, coupler_errors(target), qubit_errors(target), self.name)
        if len(self.qubits) < num_qubits:
            raise NoiseError(
                f"the circuit has {num_qubits} qubits; the line on {self.name} has {len(self.qubits)}: "
                f"{list(self.qubits)}. Give a longer line"
            )
        return self.qubits[:num_qubits]

    def noise(self, num_qubits: int) -> NoiseModel:
        """The noise on the line, its qubits counted from 0."""
        return _noise(self.backend, self.line(num_qubits))


def device(name: str) -> Device:
    """The device called `name`, as its shipped calibration snapshot describes it; see `devices.snapshot`."""
    return Device(snapshot(name))


@lru_cache(maxsize=64)
def _noise(backend: BackendV2, line: tuple[int, ...]) -> NoiseModel:
    return NoiseModel.from_backend(backend, line)
