"""Noise models from and to qiskit-aer, through its public interfaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qpeft.errors import NoiseError
from qpeft.extras import require
from qpeft.noise.channels import RealMatrix, reversed_qubits, superoperator
from qpeft.qcircuits.gates import GATES

if TYPE_CHECKING:
    from qiskit_aer.noise import NoiseModel as AerNoiseModel

    from qpeft.noise.model import NoiseModel

NOT_GATES = frozenset({"reset", "delay", "id"})  # Aer has errors for these too; no circuit here has them

Place = tuple[str, tuple[int, ...]]
Read = tuple[dict[Place, RealMatrix], dict[str, RealMatrix], dict[int, RealMatrix], RealMatrix | None]


def read_model(model: AerNoiseModel) -> Read:
    """Errors by place, errors by gate, readout by qubit and readout of the rest.

    Raises:
        NoiseError: A correlated readout error, a quantum error on measure, or an error of a gate that our table does
            not have.
    """
    info = require("qiskit.quantum_info", "aer", "a noise model of Aer's")
    errors: dict[Place, RealMatrix] = {}
    default_errors: dict[str, RealMatrix] = {}
    readout: dict[int, RealMatrix] = {}
    default_readout: RealMatrix | None = None
    for entry in model.to_dict()["errors"]:
        places = [tuple(qubits) for qubits in entry.get("gate_qubits", ())]
        if entry["type"] == "roerror":
            matrix = np.asarray(entry["probabilities"], dtype=np.float64).T  # Aer's rows are the true bit
            if matrix.shape != (2, 2):
                raise NoiseError(f"a readout error of several qubits at once ({places}) is not supported")
            readout |= {qubit: matrix for (qubit,) in places}
            default_readout = default_readout if places else matrix
            continue
        if "measure" in entry["operations"]:
            raise NoiseError("the model has a quantum error on measure; give a ReadoutError instead")
        names = [name for name in entry["operations"] if name not in NOT_GATES]
        unknown = [name for name in names if name not in GATES]
        if unknown:
            raise NoiseError(f"the model has errors for {', '.join(unknown)}; our gates are {', '.join(GATES)}")
        if names:
            ptm = _channel(entry, info)
            errors |= {(name, qubits): ptm for name in names for qubits in places}
            default_errors |= {} if places else dict.fromkeys(names, ptm)
    return errors, default_errors, readout, default_readout


def _channel(entry: dict[str, object], info: object) -> RealMatrix:
    """The transfer matrix of an entry's mixture of circuits; its first qubit is Qiskit's qubit 0."""
    noise = require("qiskit_aer.noise", "aer", "a noise model of Aer's")
    error = noise.QuantumError.from_dict(entry)
    return reversed_qubits(superoperator(info.SuperOp(error).data))  # type: ignore[attr-defined]


def write_model(model: NoiseModel) -> AerNoiseModel:
    """The Aer model with the same errors."""
    noise = require("qiskit_aer.noise", "aer", "a noise model of Aer's")
    written: AerNoiseModel = noise.NoiseModel(basis_gates=list(model.basis_gates))
    for (name, qubits), error in model.errors.items():
        written.add_quantum_error(_quantum_error(error), name, list(qubits))
    for name, error in model.default_errors.items():
        written.add_all_qubit_quantum_error(_quantum_error(error), name)
    for qubit, matrix in model.readout.items():
        written.add_readout_error(noise.ReadoutError(matrix.T), [qubit])
    if model.default_readout is not None:
        written.add_all_qubit_readout_error(noise.ReadoutError(model.default_readout.T))
    return written


def _quantum_error(ptm: RealMatrix) -> object:
    info = require("qiskit.quantum_info", "aer", "a noise model of Aer's")
    noise = require("qiskit_aer.noise", "aer", "a noise model of Aer's")
    return noise.QuantumError(info.SuperOp(info.PTM(reversed_qubits(ptm))))
