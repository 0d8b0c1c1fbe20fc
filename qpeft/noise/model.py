"""A noise model: which error follows which gate on which qubits, and how measured bits are misread."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from qpeft.errors import NoiseError
from qpeft.noise import channels
from qpeft.noise.channels import RealMatrix
from qpeft.qcircuits.aer_noise import ANY_PHASE, VIRTUAL_GATES
from qpeft.qcircuits.gates import GATES, gate

if TYPE_CHECKING:
    from qiskit.providers import BackendV2
    from qiskit_aer.noise import NoiseModel as AerNoiseModel

FORMAT, FORMAT_VERSION = "qpeft-noise", 1
IBM_BASIS = ("rz", "sx", "x", "cz")

Place = tuple[str, tuple[int, ...]]  # a gate and the qubits it acts on, in its order


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """Errors of a device, or of an imagined one.

    Attributes:
        name: What it describes.
        basis_gates: The native gates, by their names in our gate table.
        errors: For a gate on given qubits, the channel that follows the ideal gate: a transfer matrix (4**n, 4**n).
        readout: For a qubit, the confusion matrix (2, 2), entry [measured, true].
        num_qubits: The device's qubits; None for any number.
        default_errors: For a gate on any other qubits.
        default_readout: For any other qubit.
        coupling: Pairs on which two-qubit gates are possible; None for all.
        calibrated: Date of the device's calibration, if it has one.
        rates: What a parametric model was made from.

    Example:
        >>> model = NoiseModel.depolarizing(0.001, 0.01)
        >>> model.error_of("cz", (0, 1)).shape
        (16, 16)
    """

    name: str
    basis_gates: tuple[str, ...]
    errors: Mapping[Place, RealMatrix] = field(default_factory=dict)
    readout: Mapping[int, RealMatrix] = field(default_factory=dict)
    num_qubits: int | None = None
    default_errors: Mapping[str, RealMatrix] = field(default_factory=dict)
    default_readout: RealMatrix | None = None
    coupling: tuple[tuple[int, int], ...] | None = None
    calibrated: str | None = None
    rates: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.basis_gates if name not in GATES]
        if unknown:
            raise NoiseError(f"native gates {', '.join(unknown)} are not in the gate table: {', '.join(GATES)}")
        for (name, qubits), error in self.errors.items():
            _check_error(name, error, f"the error of {name} on {qubits}")
        for name, error in self.default_errors.items():
            _check_error(name, error, f"the error of {name}")
        for qubit, matrix in self.readout.items():
            channels.validated_readout(matrix, f"the readout of qubit {qubit}")
        if self.default_readout is not None:
            channels.validated_readout(self.default_readout, "the readout")
        if self.calibrated is not None:
            try:
                date.fromisoformat(self.calibrated)
            except (TypeError, ValueError) as error:
                raise NoiseError(f"calibrated is {self.calibrated!r}; expected a date like 2026-01-31") from error

    @cached_property
    def ideal_gates(self) -> frozenset[str]:
        """Virtual gates, changes of phase made in software: ideal unless one of them has an error somewhere."""
        with_errors = {name for name, _ in self.errors} | self.default_errors.keys()
        return VIRTUAL_GATES if ANY_PHASE & {*self.basis_gates} and not VIRTUAL_GATES & with_errors else frozenset()

    def error_of(self, name: str, qubits: tuple[int, ...]) -> RealMatrix | None:
        """The channel that follows gate `name` on `qubits`; None if it is ideal there."""
        found = self.errors.get((name, qubits))
        return self.default_errors.get(name) if found is None else found

    def readout_of(self, qubit: int) -> RealMatrix | None:
        """The confusion matrix [measured, true] of a qubit; None if it is always read right."""
        return self.readout.get(qubit, self.default_readout)

    def noise(self, num_qubits: int) -> NoiseModel:
        """The noise of a circuit on `num_qubits`: the model itself; raises `NoiseError` if it has fewer qubits."""
        if self.num_qubits is not None and self.num_qubits < num_qubits:
            raise NoiseError(
                f"the circuit has {num_qubits} qubits; the noise model {self.name} has {self.num_qubits}. Use fewer "
                "qubits (for QPA: a larger chunk size) or a larger device"
            )
        return self

    # ---- making one

    @classmethod
    def depolarizing(
        cls, single: float, pair: float, readout: float = 0.0, basis_gates: Sequence[str] = IBM_BASIS
    ) -> NoiseModel:
        """Depolarisation after every gate, on any number of qubits that are all connected.

        Args:
            single: Probability after a single-qubit gate, but for virtual ones (rz and its like).
            pair: Probability after a two-qubit gate.
            readout: Probability that a measured bit is flipped.
            basis_gates: The native gates.
        """
        by_arity = {1: channels.depolarizing(single), 2: channels.depolarizing(pair, 2)}
        noisy = [gate(name) for name in basis_gates if name not in VIRTUAL_GATES]
        return cls(
            f"depolarizing({single:g}, {pair:g}, {readout:g})", tuple(basis_gates),
            default_errors={row.name: by_arity[row.num_qubits] for row in noisy},
            default_readout=channels.readout(readout, readout) if readout else None,
            rates={"single": single, "pair": pair, "readout": readout},
        )  # fmt: skip

    def scaled(self, factor: float) -> NoiseModel:
        """The same model with more or less noise.

        Up to 1 every channel E becomes (1 - factor) identity + factor E, and readout likewise. Above 1 that would not
        be physical, so only the rates of a parametric model can grow.

        Raises:
            NoiseError: A factor below 0, or above 1 for a model that has no rates.
        """
        if not factor >= 0:
            raise NoiseError(f"the factor is {factor}; it must be 0 or more")
        if self.rates is not None:
            rates = {name: rate * factor for name, rate in self.rates.items()}
            more = NoiseModel.depolarizing(**rates, basis_gates=self.basis_gates)
            return replace(
                self, name=more.name, rates=more.rates, default_errors=more.default_errors,
                default_readout=more.default_readout,
            )  # fmt: skip
        if factor > 1:
            raise NoiseError(f"{self.name} cannot be scaled by {factor:g}: only parametric models can exceed 1")

        def mixed(matrix: RealMatrix) -> RealMatrix:
            return np.asarray((1 - factor) * np.eye(len(matrix)) + factor * matrix)

        return replace(
            self, name=f"{factor:g} x {self.name}",
            errors={place: mixed(error) for place, error in self.errors.items()},
            default_errors={name: mixed(error) for name, error in self.default_errors.items()},
            readout={qubit: mixed(matrix) for qubit, matrix in self.readout.items()},
            default_readout=None if self.default_readout is None else mixed(self.default_readout),
        )  # fmt: skip

    def on(self, qubits: Sequence[int]) -> NoiseModel:
        """The model of these qubits alone, counted from 0 in their order.

        Raises:
            NoiseError: A qubit the device does not have, or one named twice.
        """
        wrong = [q for q in qubits if q < 0 or (self.num_qubits is not None and q >= self.num_qubits)]
        if wrong or len(set(qubits)) != len(qubits):
            raise NoiseError(
                f"qubits {list(qubits)} of {self.name}: they must be distinct and below {self.num_qubits or 'infinity'}"
            )
        place = {qubit: index for index, qubit in enumerate(qubits)}
        coupling = self.coupling and tuple((place[a], place[b]) for a, b in self.coupling if {a, b} <= place.keys())
        return replace(
            self, num_qubits=len(qubits), coupling=coupling,
            errors={(n, tuple(place[q] for q in qs)): e for (n, qs), e in self.errors.items() if {*qs} <= place.keys()},
            readout={place[qubit]: matrix for qubit, matrix in self.readout.items() if qubit in place},
        )  # fmt: skip

    @classmethod
    def from_backend(cls, backend: BackendV2, qubits: Sequence[int] | None = None) -> NoiseModel:
        """What a device's target states: gate errors, relaxation and readout, for its gates that our table has.

        Args:
            backend: The device, e.g. `qpeft.noise.devices.snapshot("ibm_torino")`.
            qubits: Its qubits to keep, counted from 0 in their order; all if None.

        As in Aer: readout is wrong equally often for 0 and 1, a T2 above 2 T1 is cut to that, and idle qubits keep
        their state. A two-qubit gate with an error of a half or more, which marks a broken one, is left out.

        Raises:
            NoiseError: Native gates that our table lacks, or no working two-qubit gate.
        """
        from qpeft.noise.devices import calibration_date
        from qpeft.noise.lines import is_working, require_native
        from qpeft.qcircuits.aer_noise import device_noise

        target, name = backend.target, str(backend.name)
        line = tuple(range(backend.num_qubits) if qubits is None else qubits)
        place = {qubit: index for index, qubit in enumerate(line)}
        require_native(target, name)
        uses = [
            (native, tuple(place[q] for q in on))
            for native in target.operation_names if native in GATES
            for on, stated in (target[native] or {}).items()
            if on is not None and {*on} <= place.keys() and (len(on) == 1 or is_working(stated))
        ]  # fmt: skip
        pairs = [on for _, on in uses if len(on) == 2]
        if len(line) > 1 and not pairs:
            raise NoiseError(f"{name} states no working two-qubit gate between its qubits {list(line)}")
        described = name if qubits is None else f"{name}{list(line)}"
        model = device_noise(target, line, uses)
        return cls.from_aer(model, len(line), pairs, described, calibration_date(backend))

    # ---- Aer

    @classmethod
    def from_aer(
        cls, model: AerNoiseModel, num_qubits: int | None = None,
        coupling: Iterable[tuple[int, int]] | None = None, name: str = "aer", calibrated: str | None = None,
    ) -> NoiseModel:  # fmt: skip
        """The same errors as a `qiskit_aer.noise.NoiseModel`.

        Raises:
            NoiseError: A readout error of several qubits at once, or an error of a gate that we do not have.
        """
        from qpeft.noise.aer import read_model

        errors, default_errors, readout, default_readout = read_model(model)
        basis = tuple(gate for gate in GATES if gate in model.basis_gates)
        return cls(
            name, basis, errors, readout, num_qubits, default_errors, default_readout,
            None if coupling is None else tuple(sorted(set(coupling))), calibrated,
        )  # fmt: skip

    def to_aer(self) -> AerNoiseModel:
        """A `qiskit_aer.noise.NoiseModel` with the same errors."""
        from qpeft.noise.aer import write_model

        return write_model(self)

    # ---- plain data

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`."""
        return {
            "format": FORMAT, "version": FORMAT_VERSION, "name": self.name, "basis_gates": list(self.basis_gates),
            "num_qubits": self.num_qubits, "calibrated": self.calibrated,
            "coupling": None if self.coupling is None else [list(pair) for pair in self.coupling],
            "rates": None if self.rates is None else dict(self.rates),
            "errors": [[name, list(qubits), error.tolist()] for (name, qubits), error in self.errors.items()],
            "default_errors": {name: error.tolist() for name, error in self.default_errors.items()},
            "readout": [[qubit, matrix.tolist()] for qubit, matrix in self.readout.items()],
            "default_readout": None if self.default_readout is None else self.default_readout.tolist(),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NoiseModel:
        """The model that `to_dict` wrote; raises `NoiseError` for anything else."""
        if data.get("format") != FORMAT or data.get("version") != FORMAT_VERSION:
            raise NoiseError(
                f"not a noise model: expected format {FORMAT!r} {FORMAT_VERSION}, found {data.get('format')!r} "
                f"{data.get('version')!r}"
            )
        try:
            coupling, default = data["coupling"], data["default_readout"]
            return cls(
                data["name"], tuple(data["basis_gates"]),
                {(name, tuple(qubits)): np.array(error) for name, qubits, error in data["errors"]},
                {qubit: np.array(matrix) for qubit, matrix in data["readout"]}, data["num_qubits"],
                {name: np.array(error) for name, error in data["default_errors"].items()},
                None if default is None else np.array(default),
                None if coupling is None else tuple((a, b) for a, b in coupling), data["calibrated"], data["rates"],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, NoiseError):
                raise
            raise NoiseError(f"damaged noise model: {type(error).__name__}: {error}") from error

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> NoiseModel:
        """The model that `to_json` wrote; raises `NoiseError` for anything else."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise NoiseError(f"not JSON: {error}") from error
        if not isinstance(data, dict):
            raise NoiseError(f"not a noise model: a JSON {type(data).__name__}, expected an object")
        return cls.from_dict(data)


def _check_error(name: str, error: RealMatrix, what: str) -> None:
    if name not in GATES:
        raise NoiseError(f"{what}: no such gate; the gates are {', '.join(GATES)}")
    expected = (4 ** GATES[name].num_qubits,) * 2
    if np.shape(error) != expected:
        raise NoiseError(f"{what} has shape {np.shape(error)}; a transfer matrix of {name} has {expected}")
    channels.validated(error, what)
