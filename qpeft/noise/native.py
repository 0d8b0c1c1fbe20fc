"""A circuit as a device runs it: in native gates, on the device's qubits, under its noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from qpeft.errors import EngineError
from qpeft.noise.model import NoiseModel
from qpeft.qcircuits.circuit import Angle, Circuit, Operation


@dataclass(frozen=True, eq=False)
class Native:
    """A circuit in a device's native gates, and the noise it runs under.

    Attributes:
        circuit: On the qubits of `noise`; its parameters are the original ones, angles affine.
        noise: The errors on these qubits.
        outputs: Which of these qubits holds each of the original circuit's at the end.
    """

    circuit: Circuit
    noise: NoiseModel
    outputs: tuple[int, ...]


@lru_cache(maxsize=64)
def native(circuit: Circuit, noise: NoiseModel) -> Native:
    """The circuit in the native gates of a noise model, transpiled once, its angles affine.

    Raises:
        EngineError: A gate would run without an error although the model has errors.
    """
    from qpeft.qcircuits.interop.qiskit import from_qiskit
    from qpeft.qcircuits.transpilation import transpile

    transpiled = transpile(circuit, None, noise.basis_gates, coupling=noise.coupling)
    there = from_qiskit(transpiled.circuit)  # skips the measurements at the end
    used = sorted({*transpiled.qubits, *(qubit for operation in there.operations for qubit in operation.qubits)})
    place = {qubit: index for index, qubit in enumerate(used)}

    def renamed(angle: Angle | None) -> Angle | None:
        if angle is None or angle.index is None:
            return angle
        return replace(angle, index=transpiled.columns[angle.index])

    operations = [Operation(o.gate, tuple(place[q] for q in o.qubits), renamed(o.angle)) for o in there.operations]
    found = Native(
        Circuit(len(used), tuple(operations), circuit.num_parameters), noise.on(used),
        tuple(place[q] for q in transpiled.qubits),
    )  # fmt: skip
    if noise.errors or noise.default_errors:  # else it is of readout alone, or none
        _require_errors(found, noise.ideal_gates)
    return found


def _require_errors(there: Native, ideal_gates: frozenset[str]) -> None:
    """Raises `EngineError` if a gate would silently run without an error."""
    ideal = sorted({
        f"{o.gate} on {o.qubits}" for o in there.circuit.operations
        if o.gate not in ideal_gates and there.noise.error_of(o.gate, o.qubits) is None
    })  # fmt: skip
    if ideal:
        raise EngineError(
            f"gates would run without an error: {', '.join(ideal[:8])}. The noise model {there.noise.name} has none "
            "for them: add them, or leave these gates out of its basis_gates"
        )
