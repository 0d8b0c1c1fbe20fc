"""Qiskit Aer: exact or measured, ideal, with a noise model, or with the noise of a device."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qpeft.errors import ConfigError, EngineError, unknown_name
from qpeft.extras import require
from qpeft.qcircuits.aer_noise import (
    VIRTUAL_GATES,
    Matrix,
    basis_gates,
    device_noise,
    gates_with_errors,
    ideal_by_design,
    misread,
    readout_matrices,
    require_errors,
    require_noise_model,
    stated_ideal,
)
from qpeft.qcircuits.blackbox import BlackBoxEngine
from qpeft.qcircuits.circuit import Circuit
from qpeft.qcircuits.gradients import BLOCK_NUMBERS
from qpeft.qcircuits.memory import require_bytes
from qpeft.qcircuits.seeding import Stream
from qpeft.qcircuits.shots import Shots
from qpeft.qcircuits.transpilation import Transpiled, compact, require_backend, require_qubits, transpile

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.providers import BackendV2
    from qiskit.result import Result
    from qiskit_aer import AerSimulator
    from qiskit_aer.noise import NoiseModel

COMPLEX_BYTES, FLOAT_BYTES = 16, 8  # of Aer's amplitudes and probabilities
PROBABILITIES = "probabilities"
_PROGRAMS_KEPT = 64


@dataclass(frozen=True, eq=False)
class _Program:
    """All that is decided once for a circuit, exact or measured."""

    circuit: QuantumCircuit  # on the qubits in use, ending in measurements or in saved probabilities
    transpiled: Transpiled
    simulator: AerSimulator
    readout: list[Matrix | None]  # of each of our qubits


class AerEngine(BlackBoxEngine):
    """Runs circuits on `qiskit_aer.AerSimulator`; all rows of a call, and all shifted circuits of a step, in one job.

    The circuit is transpiled once, with symbolic parameters. On a device, only the qubits it then uses are simulated.

    Args:
        shots: Measurements of each circuit, e.g. 4096 or "10x" (10 * 2**N); None for exact probabilities, from the
            statevector or, with noise, the density matrix.
        noise_model: A `qiskit_aer.noise.NoiseModel`, whose qubit i is the circuit's; the engine keeps a copy. The
            circuit is transpiled to the model's `basis_gates`. optimization_level=0 runs it gate by gate; above,
            gates are cancelled and merged, and from 2 on a swap only renames qubits: such gates bring no error.
        backend: A `BackendV2`, e.g. `qpeft.noise.devices.snapshot("ibm_torino")`: the circuit is transpiled for it and
            runs with the gate and readout errors its target states. Instead of a noise model.
        method: Aer's simulation method.
        device: "CPU", or "GPU" where Aer is built for it.
        ideal_gates: Qiskit's names of gates that may run without an error, beside `VIRTUAL_GATES` on a device and,
            with a noise model, those of `ideal_by_design`.
        diff_method: "parameter-shift" or "spsa".
        gradient_shots: Measurements of each circuit of a gradient; `shots` if None.
        seed: Decides every sample together with the number of the call.
        optimization_level: Of Qiskit's transpiler, 0 to 3.
        seed_transpiler: Decides what Qiskit's transpiler draws at random.

    Raises:
        EngineError: A method or device that this Aer does not have; exact probabilities that Aer does not give with
            this method and noise.
        ConfigError: Settings that exclude each other.
        MissingExtraError: qiskit-aer is not installed.

    Example:
        >>> from qpeft.qcircuits import ansatz
        >>> circuit = ansatz("ry_cnot", 2, 1)
        >>> AerEngine(shots=100).probabilities(circuit, torch.tensor([0.0, 3.14159265]))
        tensor([0., 1., 0., 0.])
    """

    def __init__(
        self, shots: Shots | int | str | None = None, *, noise_model: NoiseModel | None = None,
        backend: BackendV2 | None = None, method: str = "automatic", device: str = "CPU",
        ideal_gates: Iterable[str] = (), diff_method: str = "parameter-shift",
        gradient_shots: Shots | int | str | None = None, seed: int = 0, optimization_level: int = 3,
        seed_transpiler: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(shots, diff_method, gradient_shots, seed)
        aer = require("qiskit_aer", "aer", "AerEngine")
        if noise_model is not None and backend is not None:
            raise ConfigError(
                "both noise_model and backend are given; a backend brings its own noise. Give one of them"
            )
        if isinstance(backend, aer.AerSimulator):
            raise ConfigError(
                f"backend is {backend.name}, a simulator; give the device it imitates, or "
                "noise_model=backend.options.noise_model"
            )
        self.backend = None if backend is None else require_backend(backend)
        self.noise_model = None if noise_model is None else copy.deepcopy(require_noise_model(noise_model))
        self.method, self.device = method, device
        virtual = VIRTUAL_GATES if self.noise_model is None else ideal_by_design(self.noise_model)
        self.ideal_gates = virtual | set(ideal_gates)
        self.optimization_level, self.seed_transpiler = optimization_level, seed_transpiler
        self._errors = frozenset(() if self.noise_model is None else gates_with_errors(self.noise_model))
        self._programs: dict[tuple[Circuit, bool], _Program] = {}
        self._check_available(aer.AerSimulator())

    def __getstate__(self) -> dict[str, Any]:  # compiled anew where it arrives
        return self.__dict__ | {"_programs": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> AerEngine:
        """Shares what never changes: a back-end may hold a connection, and for a copy of it all is transpiled anew."""
        twin = copy.copy(self)
        twin.draws = copy.deepcopy(self.draws, memo)
        return twin

    def evaluate(self, circuit: Circuit, angles: Tensor, shots: int | None, stream: Stream) -> Iterable[Tensor]:
        """See `BlackBoxEngine.evaluate`."""
        program = self._program(circuit, exact=shots is None)
        rows, dim = len(angles), 2**circuit.num_qubits
        require_bytes(
            rows * dim * FLOAT_BYTES, torch.device("cpu"),
            f"the results of {rows} circuits of {circuit.num_qubits} qubits", "Use fewer qubits or a smaller batch",
        )  # fmt: skip
        result = self._run(program, program.transpiled.values(angles), shots, stream.integer())

        def blocks() -> Iterator[Tensor]:
            for places in torch.arange(rows).split(max(1, BLOCK_NUMBERS // dim)):
                yield torch.from_numpy(_read(result, places.tolist(), shots, dim, program.readout))

        return blocks()

    def check(self, circuit: Circuit, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        """See `Engine.check`."""
        require_qubits(circuit, self.backend)
        for exact in {shots is None for shots in (self.shots, self.gradient_shots)}:
            self._check_memory(circuit.num_qubits, exact)
        super().check(circuit, dtype, device)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "backend": None if self.backend is None else str(self.backend.name),
            "noise": None if self.noise_model is None else sorted(self.noise_model.noise_instructions),
            "method": self.method, "device": self.device, "ideal_gates": sorted(self.ideal_gates),
            "optimization_level": self.optimization_level, "seed_transpiler": self.seed_transpiler,
        }  # fmt: skip

    @property
    def _noisy(self) -> bool:
        """Whether states are mixed; errors of readout alone are put on the probabilities of pure ones."""
        return self.backend is not None or bool(self._errors)

    def _check_available(self, simulator: AerSimulator) -> None:
        devices, methods = simulator.available_devices(), simulator.available_methods()
        if self.device not in devices:
            gpu = "; for a GPU, Aer must be built for it (qiskit-aer-gpu)" if self.device == "GPU" else ""
            raise EngineError(f"{unknown_name('device of Aer', self.device, devices)}{gpu}")
        if self.method not in methods:
            raise EngineError(unknown_name("method of Aer", self.method, methods))
        if None not in (self.shots, self.gradient_shots):
            return
        if "measure" in self._errors:  # saved probabilities are those before it
            raise EngineError(
                "the noise model has a quantum error on 'measure', which exact probabilities would leave out; give "
                "shots, or make it a qiskit_aer.noise.ReadoutError"
            )
        if self._noisy and self._exact_method() != "density_matrix":
            raise EngineError(
                f"Aer's method {self.method!r} averages noise over random runs and has no exact probabilities; use "
                "'density_matrix', or give shots"
            )

    def _exact_method(self) -> str:
        if self.method != "automatic":
            return self.method
        return "density_matrix" if self._noisy else "statevector"

    def _check_memory(self, num_qubits: int, exact: bool) -> None:
        method = self._exact_method() if exact else self.method
        power = {"statevector": 1, "density_matrix": 2}.get(method)
        if power is not None and self.device == "CPU":
            require_bytes(
                COMPLEX_BYTES << power * num_qubits, torch.device("cpu"),
                f"{num_qubits} qubits in Aer ({method}: {2**power}**{num_qubits} complex numbers)",
                "Use fewer qubits (for QPA: a larger chunk size), or another method with shots",
            )  # fmt: skip

    def _program(self, circuit: Circuit, exact: bool) -> _Program:
        if (circuit, exact) not in self._programs:
            if len(self._programs) >= _PROGRAMS_KEPT:
                self._programs.clear()
            self._programs[circuit, exact] = self._compile(circuit, exact)
        return self._programs[circuit, exact]

    def _compile(self, circuit: Circuit, exact: bool) -> _Program:
        basis = None if self.noise_model is None else basis_gates(self.noise_model)
        transpiled = transpile(circuit, self.backend, basis, self.optimization_level, self.seed_transpiler)
        qubits, small = compact(transpiled)
        self._check_memory(len(qubits), exact)
        uses = {
            (instruction.operation.name, tuple(small.find_bit(qubit).index for qubit in instruction.qubits))
            for instruction in small.data
        }  # fmt: skip
        model = self._model(qubits, uses)
        measured = [qubits.index(qubit) for qubit in transpiled.qubits]
        readout: list[Matrix | None] = [None] * len(measured)
        if model is not None:
            readout = readout_matrices(model, measured)
        if exact:  # the first qubit of the list becomes the least significant bit
            small.save_probabilities(measured[::-1], label=PROBABILITIES)
        else:
            small.measure(measured[::-1], range(len(measured)))
        simulator = require("qiskit_aer", "aer", "AerEngine").AerSimulator(
            method=self._exact_method() if exact else self.method, device=self.device, noise_model=model,
            max_parallel_experiments=0,  # 0: as many circuits at once as there are cores and memory for
        )  # fmt: skip
        return _Program(small, transpiled, simulator, readout)

    def _model(self, qubits: list[int], uses: set[tuple[str, tuple[int, ...]]]) -> NoiseModel | None:
        """The noise on the qubits in use, after the check that each gate has its error."""
        if self.backend is not None:
            target, name = self.backend.target, str(self.backend.name)
            model = device_noise(target, qubits, uses)
            noisy = {use for use in uses if use[0] not in self.ideal_gates and not stated_ideal(target, qubits, use)}
            require_errors(model, noisy, self.ideal_gates, f"{name} (its qubits {qubits} counted from 0)")
            return model
        if self.noise_model is not None and self._errors - {"measure", "reset"}:  # else of readout alone
            require_errors(self.noise_model, uses, self.ideal_gates, "The noise model")
        return self.noise_model

    def _run(self, program: _Program, values: npt.NDArray[np.float64], shots: int | None, seed: int) -> Result:
        options = {"shots": 1 if shots is None else shots, "seed_simulator": seed}
        if program.transpiled.columns:
            binds = dict(zip(program.circuit.parameters, values.T.tolist(), strict=True))
            job = program.simulator.run(program.circuit, parameter_binds=[binds], **options)
        else:  # nothing to bind, so Aer would take the circuit once
            job = program.simulator.run([program.circuit] * len(values), **options)
        result = job.result()
        if not result.success:
            failed = [f"circuit {i}: {r.status}" for i, r in enumerate(result.results) if not r.success]
            raise EngineError(f"Aer failed: {failed[0] if failed else result.status}")
        return result


def _read(
    result: Result, rows: list[int], shots: int | None, dim: int, readout: list[Matrix | None]
) -> npt.NDArray[np.float64]:
    """Rows of a result, (len(rows), 2**N): frequencies, or the probabilities of what is read."""
    if shots is None:
        return misread(np.stack([result.data(row)[PROBABILITIES] for row in rows]), readout)
    values = np.zeros((len(rows), dim))
    for place, row in enumerate(rows):
        counts = result.data(row)["counts"]
        values[place, [int(outcome, 16) for outcome in counts]] = list(counts.values())
    return values / shots
