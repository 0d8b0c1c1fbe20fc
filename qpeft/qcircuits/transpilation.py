"""Transpiles a circuit once for a Qiskit target, with its parameters left symbolic.

Our qubit i is measured into classical bit N-1-i. Qiskit's classical bit 0 is the least significant bit of an outcome
and our qubit 0 the most significant bit of a basis index, so the integer of an outcome is our basis index as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from qpeft.errors import ConfigError, EngineError
from qpeft.extras import require
from qpeft.qcircuits.circuit import Circuit
from qpeft.qcircuits.interop.qiskit import to_qiskit

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.providers import BackendV2

REGISTER = "meas"  # Qiskit's own name for the classical bits of a measurement of everything


@dataclass(frozen=True, eq=False)
class Transpiled:
    """A measured circuit in the gates and on the qubits of a target.

    Attributes:
        circuit: The Qiskit circuit, whose register `REGISTER` holds our basis index.
        columns: Which of our parameters each of `circuit.parameters` is; transpilation may drop some.
        qubits: The target's qubit that is measured for each of ours.
    """

    circuit: QuantumCircuit
    columns: tuple[int, ...]
    qubits: tuple[int, ...]

    def values(self, angles: Tensor) -> npt.NDArray[np.float64]:
        """Our angles (B, P) -> the values (B, len(columns)) of `circuit.parameters`, in their order."""
        return np.asarray(angles.detach().cpu().double().numpy()[:, list(self.columns)])


@lru_cache(maxsize=64)
def transpile(
    circuit: Circuit, backend: BackendV2 | None = None, basis_gates: tuple[str, ...] | None = None,
    optimization_level: int = 3, seed: int = 0, coupling: tuple[tuple[int, int], ...] | None = None,
) -> Transpiled:  # fmt: skip
    """The circuit for a back-end, or for qubits that are all connected and have `basis_gates`.

    A result is kept: the same circuit, back-end (the same object), gates, level and seed are transpiled once. The last
    64 results, and with them their back-ends, stay in memory; `transpile.cache_clear()` lets them go.

    Args:
        circuit: What to run; its parameters stay symbolic.
        backend: The device; None for all qubits connected.
        basis_gates: Qiskit's names of the gates to use; None for those of the back-end, or all of them.
        optimization_level: Qiskit's, 0 to 3; above 1 the layout follows the device's reported errors.
        seed: Decides what Qiskit's transpiler draws at random.
        coupling: Pairs of qubits that are connected, where there is no back-end; None for all.

    Raises:
        EngineError: Too few qubits, or gates that the target cannot express.
        MissingExtraError: Qiskit is not installed.

    Example:
        >>> from qpeft.qcircuits import ansatz
        >>> transpile(ansatz("ry_cnot", 2, 1), basis_gates=("rz", "sx", "cz")).circuit.count_ops()["cz"]
        1
    """
    require_qubits(circuit, backend)
    there = require("qiskit", "qiskit", "transpilation")
    transpiler = require("qiskit.transpiler", "qiskit", "transpilation")
    measured = to_qiskit(circuit)
    measured.add_register(there.ClassicalRegister(circuit.num_qubits, REGISTER))
    measured.measure(range(circuit.num_qubits), range(circuit.num_qubits - 1, -1, -1))
    manager = transpiler.generate_preset_pass_manager(
        optimization_level=optimization_level, backend=backend, seed_transpiler=seed,
        basis_gates=None if basis_gates is None else list(basis_gates),
        coupling_map=transpiler.CouplingMap(coupling) if coupling else None,  # Qiskit panics on an empty one
    )  # fmt: skip
    try:
        result: QuantumCircuit = manager.run(measured)
    except transpiler.TranspilerError as error:
        raise EngineError(
            f"Qiskit cannot transpile the circuit for {_described(backend, basis_gates)}: {error}"
        ) from error
    places = {
        result.find_bit(instruction.clbits[0]).index: result.find_bit(instruction.qubits[0]).index
        for instruction in result.data if instruction.operation.name == "measure"
    }  # fmt: skip
    return Transpiled(
        result,
        tuple(parameter.index for parameter in result.parameters),
        tuple(places[circuit.num_qubits - 1 - qubit] for qubit in range(circuit.num_qubits)),
    )


def compact(transpiled: Transpiled) -> tuple[list[int], QuantumCircuit]:
    """The target's qubits in use, and the circuit on them alone, counted from 0, without its measurements."""
    there = require("qiskit", "qiskit", "transpilation")
    whole = transpiled.circuit
    placed = [
        ([whole.find_bit(qubit).index for qubit in instruction.qubits], instruction) for instruction in whole.data
    ]
    qubits = sorted({qubit for used, _ in placed for qubit in used})
    small = there.QuantumCircuit(len(qubits))
    small.add_register(there.ClassicalRegister(len(transpiled.qubits), REGISTER))
    for used, instruction in placed:
        if instruction.operation.name != "measure":
            small.append(instruction.operation, [qubits.index(qubit) for qubit in used])
    return qubits, small


def require_backend(given: object) -> BackendV2:
    """What is given, if it is a `BackendV2`; else raises `ConfigError`."""
    providers = require("qiskit.providers", "qiskit", "transpilation")
    if not isinstance(given, providers.BackendV2):
        raise ConfigError(
            f"the backend is {type(given).__name__}; expected a qiskit.providers.BackendV2, e.g. "
            "qpeft.noise.devices.snapshot('ibm_torino')"
        )
    backend: BackendV2 = given
    return backend


def require_qubits(circuit: Circuit, backend: BackendV2 | None) -> None:
    """Raises `EngineError` if the back-end has fewer qubits than the circuit."""
    if backend is not None and backend.num_qubits is not None and backend.num_qubits < circuit.num_qubits:
        raise EngineError(
            f"the circuit has {circuit.num_qubits} qubits; {backend.name} has {backend.num_qubits}. "
            "Use fewer qubits (for QPA: a larger chunk size) or a larger device"
        )


def _described(backend: BackendV2 | None, basis_gates: tuple[str, ...] | None) -> str:
    return f"the gates {', '.join(basis_gates or ())}" if backend is None else str(backend.name)
