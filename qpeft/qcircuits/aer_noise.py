"""Noise models for Aer: a device's errors on the qubits in use, and the check that no gate runs without its error."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from qpeft.errors import ConfigError, EngineError
from qpeft.extras import require

if TYPE_CHECKING:
    from qiskit.transpiler import Target
    from qiskit_aer.noise import NoiseModel

VIRTUAL_GATES = frozenset({"rz", "p", "u1", "z", "s", "sdg", "t", "tdg"})
"""Ideal by design: a change of the phase of later pulses (McKay et al., Physical Review A 96, 022330 (2017))."""

ANY_PHASE = frozenset({"rz", "p", "u1"})
"""The virtual gates of any angle."""

GateUse = tuple[str, tuple[int, ...]]
"""A gate's name in Qiskit and the qubits it acts on."""

Matrix = npt.NDArray[np.float64]


def device_noise(target: Target, qubits: Sequence[int], uses: Iterable[GateUse]) -> NoiseModel:
    """The errors a target states for some gates, with its `qubits` counted from 0 in their order.

    These are the errors of `NoiseModel.from_backend`: for a gate, depolarisation and relaxation; for a measurement, one
    probability to read it wrong, the same for 0 and 1.

    Args:
        target: A device's target.
        qubits: The device's qubits to keep.
        uses: Gates with their qubits, counted from 0; a gate for which the target states nothing gets no error.
    """
    noise = require("qiskit_aer.noise", "aer", "a noise model")
    device = require("qiskit_aer.noise.device", "aer", "a noise model")
    reduced = _reduced(target, qubits, uses)
    model: NoiseModel = noise.NoiseModel(basis_gates=list(reduced.operation_names))
    relaxes = reduced.qubit_properties is not None
    for name, places, error in device.basic_device_gate_errors(target=reduced, thermal_relaxation=relaxes):
        model.add_quantum_error(error, name, places)
    for places, error in device.basic_device_readout_errors(target=reduced):
        model.add_readout_error(error, places)
    return model


def _reduced(target: Target, qubits: Sequence[int], uses: Iterable[GateUse]) -> Target:
    """A target of these qubits and gates: Aer makes an error for every entry, most of 133 qubits' in vain."""
    transpiler = require("qiskit.transpiler", "aer", "a noise model")
    properties = None if target.qubit_properties is None else [target.qubit_properties[qubit] for qubit in qubits]
    reduced = transpiler.Target(num_qubits=len(qubits), qubit_properties=properties)
    entries: dict[str, dict[tuple[int, ...], object]] = {}
    for name, places in [*uses, *(("measure", (place,)) for place in range(len(qubits)))]:
        stated = target[name].get(tuple(qubits[place] for place in places)) if name in target else None
        if stated is not None and not (name == "measure" and stated.error is None):
            entries.setdefault(name, {})[places] = stated
    for name, stated_at in entries.items():
        reduced.add_instruction(target.operation_from_name(name), stated_at, name=name)
    return reduced


def stated_ideal(target: Target, qubits: Sequence[int], use: GateUse) -> bool:
    """Whether the target says that this gate, on qubits counted as in `device_noise`, has an error of 0."""
    stated = target[use[0]].get(tuple(qubits[place] for place in use[1]))
    return stated is not None and stated.error == 0


def gates_with_errors(model: NoiseModel) -> dict[str, set[tuple[int, ...]] | None]:
    """The gates with an error, each with the qubits it is on, or None if on all."""
    found: dict[str, set[tuple[int, ...]] | None] = {}
    for error in model.to_dict()["errors"]:
        if error["type"] != "qerror":
            continue
        for name in error["operations"]:
            on = {tuple(qubits) for qubits in error["gate_qubits"]} if "gate_qubits" in error else None
            before = found.get(name, set())
            found[name] = None if on is None or before is None else before | on
    return found


def ideal_by_design(model: NoiseModel) -> frozenset[str]:
    """The `VIRTUAL_GATES` that a hand-made model may leave without an error: all of them, or none.

    A machine that turns phases in software does so for any angle and every gate of this kind. So they are ideal where
    the model's basis has a gate of `ANY_PHASE` and no virtual gate has an error on any qubit. A model with an error for
    one of them, or one whose only phases are those of z, s and t, means gates like any other: each needs its error.

    Example:
        >>> from qiskit_aer.noise import NoiseModel, depolarizing_error
        >>> model = NoiseModel(["rz", "sx", "cx"])
        >>> "rz" in ideal_by_design(model)
        True
        >>> model.add_quantum_error(depolarizing_error(0.1, 1), "rz", [0])
        >>> ideal_by_design(model)
        frozenset()
    """
    in_software = ANY_PHASE & {*model.basis_gates} and not VIRTUAL_GATES & gates_with_errors(model).keys()
    return VIRTUAL_GATES if in_software else frozenset()


def basis_gates(model: NoiseModel) -> tuple[str, ...]:
    """The model's basis, as far as it names gates of Qiskit's."""
    library = require("qiskit.circuit.library", "aer", "a noise model")
    known = library.get_standard_gate_name_mapping()
    return tuple(sorted(name for name in model.basis_gates if name in known))


def require_noise_model(given: object) -> NoiseModel:
    """What is given, if it is a noise model of Aer's; else raises `ConfigError`."""
    noise = require("qiskit_aer.noise", "aer", "a noise model")
    if not isinstance(given, noise.NoiseModel):
        raise ConfigError(
            f"noise_model is {type(given).__module__}.{type(given).__name__}; expected a qiskit_aer.noise.NoiseModel. "
            "For a device's noise give backend=, e.g. backend=qpeft.noise.devices.snapshot('ibm_torino')"
        )
    model: NoiseModel = given
    return model


def require_errors(model: NoiseModel, uses: Iterable[GateUse], ideal: Collection[str], source: str) -> None:
    """Raises `EngineError` if a gate would run without an error; Aer looks errors up by name and qubits, silently.

    Args:
        model: The noise model.
        uses: The gates of a circuit.
        ideal: Names of the gates that may run without an error.
        source: What the model is of, for the message.
    """
    has = gates_with_errors(model)
    missing = sorted({
        use for use in uses
        if use[0] not in ideal and not (use[0] in has and ((on := has[use[0]]) is None or use[1] in on))
    })  # fmt: skip
    if missing:
        listed = ", ".join(f"{name} on {qubits}" for name, qubits in missing[:8]) + (", ..." if missing[8:] else "")
        known = ", ".join(
            f"{name}" if on is None else f"{name} on {sorted(on)[:8]}" for name, on in sorted(has.items())
        )
        advised = tuple(sorted({name for name, _ in missing}))
        raise EngineError(
            f"the transpiled circuit has gates that would run without an error: {listed}. {source} has errors for: "
            f"{known or 'no gate'}. Give the model errors for these gates, restrict its basis_gates to the gates that "
            f"have one, or name gates that are ideal by design: ideal_gates={advised}"
        )


def readout_matrices(model: NoiseModel, qubits: Sequence[int]) -> list[Matrix | None]:
    """What is read on each qubit: (2, 2) with rows the true bit and columns the one read, None if always right.

    Raises:
        EngineError: A readout error of several qubits at once, which Aer leaves out without a word where each qubit is
            measured by itself.
    """
    default: Matrix | None = None
    single: dict[int, Matrix] = {}
    for error in model.to_dict()["errors"]:
        if error["type"] != "roerror":
            continue
        matrix = np.asarray(error["probabilities"], dtype=np.float64)
        if "gate_qubits" not in error:
            default = matrix
        for places in error.get("gate_qubits", ()):
            if len(places) == 1:
                single[places[0]] = matrix
            elif set(places) & set(qubits):
                raise EngineError(
                    f"the noise model has a correlated readout error on qubits {tuple(places)}, which Aer does not "
                    "apply to qubits that are measured one by one; give each qubit a readout error of its own"
                )
    if default is not None and default.shape != (2, 2):
        raise EngineError("the noise model's readout error for all qubits is of several at once; give one of one qubit")
    return [single.get(qubit, default) for qubit in qubits]


def misread(probabilities: npt.NDArray[np.float64], matrices: Sequence[Matrix | None]) -> npt.NDArray[np.float64]:
    """Probabilities of what is read, (B, 2**N) -> (B, 2**N), from those of the states and each qubit's matrix."""
    shape = probabilities.shape
    values = probabilities.reshape(-1, *[2] * len(matrices))
    for axis, matrix in enumerate(matrices, start=1):
        if matrix is not None:
            values = np.moveaxis(np.tensordot(values, matrix, axes=(axis, 0)), -1, axis)
    return values.reshape(shape)
