"""Circuits on any PennyLane device, with PennyLane's own differentiation methods."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qpeft.errors import ConfigError, EngineError, unknown_name
from qpeft.extras import require
from qpeft.qcircuits.blackbox import SPSA_STEP_EXACT, SPSA_STEP_SAMPLED, BlackBoxEngine
from qpeft.qcircuits.circuit import Circuit
from qpeft.qcircuits.engine import check_angles
from qpeft.qcircuits.gradients import BLOCK_NUMBERS, unshared
from qpeft.qcircuits.interop.decompose import decompose, foreign_gate
from qpeft.qcircuits.interop.pennylane import to_pennylane
from qpeft.qcircuits.memory import require_memory
from qpeft.qcircuits.seeding import Purpose, Stream
from qpeft.qcircuits.shots import Shots

OF_THE_DEVICE = ("backprop", "adjoint")
OF_ANY_DEVICE = ("parameter-shift", "finite-diff", "spsa", "hadamard")
DIFF_METHODS = ("best", *OF_THE_DEVICE, *OF_ANY_DEVICE)
_DENSITY_MATRICES = ("default.mixed",)  # hold 4**N numbers
_CIRCUITS_REMEMBERED = 256


class PennyLaneEngine(BlackBoxEngine):
    """Probabilities from a PennyLane device, in double precision on the CPU.

    "backprop" and "adjoint" are methods of the device; batches then run as one broadcast circuit. The others
    ("parameter-shift", "finite-diff", "spsa", "hadamard") are PennyLane's transforms, which run more circuits, one set
    of them for each row of a batch, and build the Jacobian of a row, P x 2**N numbers. "best" is what PennyLane
    chooses for probabilities: "backprop" on `default.qubit` and `default.mixed`, "parameter-shift" with shots and on
    `lightning.qubit`, whose adjoint method has no probabilities. `Surrogate(PennyLaneEngine("lightning.qubit"),
    StatevectorEngine())` has the same gradient much sooner.

    Args:
        device: Name of a device, of a plugin too: one of `qml.plugin_devices`.
        shots: Measurements of each circuit, e.g. 4096 or "10x" (10 * 2**N); None for exact probabilities.
        diff_method: One of `DIFF_METHODS`. With shots, "spsa" and "finite-diff" take steps of 0.1, which lift the
            difference above the shot noise.
        gradient_shots: Measurements of each circuit of a gradient that is not the device's own; `shots` if None.
        seed: Decides every sample together with the number of the call. A device that takes no `seed` (most hardware)
            draws as it likes.
        **device_options: What else `qml.device` gets.

    Raises:
        MissingExtraError: PennyLane is not installed.
        ConfigError: No such device or method.

    Example:
        >>> from qpeft.qcircuits import ansatz
        >>> angles = torch.tensor([0.0, 3.14159265], requires_grad=True)
        >>> PennyLaneEngine().probabilities(ansatz("ry_cnot", 2, 1), angles).detach().round(decimals=4)
        tensor([0., 1., 0., 0.])
    """

    diff_methods = DIFF_METHODS

    def __init__(
        self, device: str = "default.qubit", *, shots: Shots | int | str | None = None, diff_method: str = "best",
        gradient_shots: Shots | int | str | None = None, seed: int = 0, **device_options: Any,
    ) -> None:  # fmt: skip
        super().__init__(shots, diff_method, gradient_shots, seed)
        if device not in self._qml.plugin_devices:
            raise ConfigError(unknown_name("PennyLane device", str(device), self._qml.plugin_devices))
        self.device = device
        self.device_options = device_options
        self._devices: dict[int, Any] = {}
        self._methods: dict[Circuit, str] = {}

    @property
    def _qml(self) -> Any:
        return require("pennylane", "pennylane", "the PennyLane engine")

    def __getstate__(self) -> dict[str, Any]:  # devices are not all made to be copied
        return self.__dict__ | {"_devices": {}, "_methods": {}}

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def probabilities(self, circuit: Circuit, angles: Tensor) -> Tensor:
        """See `Engine.probabilities`."""
        check_angles(circuit, angles)
        self.check(circuit, angles.dtype, angles.device)
        plain = unshared(circuit)
        method = self._method(circuit)
        if method in OF_ANY_DEVICE or not angles.numel() or not plain.circuit.num_parameters:
            estimated: Tensor = super().probabilities(circuit, angles)
            return estimated
        rows = math.prod(angles.shape[:-1])
        self._require_memory(circuit, rows, keep_all=method == "backprop")
        theta = angles.reshape(rows, -1).to("cpu", torch.float64)
        tape = self._tape(plain.circuit, plain.expand(theta), self._number(self.shots, circuit))
        device = self._device(circuit.num_qubits, self.draws.stream(self.draws.next(), Purpose.FORWARD))
        values: Tensor = self._execute([tape], device, method)[0]
        return values.reshape(*angles.shape[:-1], -1).to(angles)

    def evaluate(self, circuit: Circuit, angles: Tensor, shots: int | None, stream: Stream) -> Iterator[Tensor]:
        """See `BlackBoxEngine.evaluate`."""
        device = self._device(circuit.num_qubits, None if shots is None else stream)
        for part in angles.to("cpu", torch.float64).split(max(1, BLOCK_NUMBERS >> circuit.num_qubits)):
            if circuit.num_parameters:
                tapes = [self._tape(circuit, part.numpy(), shots)]
            else:  # nothing to broadcast over
                tapes = [self._tape(circuit, row, shots) for row in part.numpy()]
            results = np.stack(self._execute(tapes, device))
            yield torch.from_numpy(results.reshape(len(part), -1))

    def _vjp(self, circuit: Circuit, angles: Tensor, cotangent: Tensor, call: int) -> Tensor:
        plain = unshared(decompose(circuit, "pennylane"))
        turning = [o for o in plain.circuit.operations if o.angle is not None]
        trainable = [place for place, o in enumerate(turning) if o.angle and o.angle.index is not None]
        gradient = torch.zeros(len(angles), len(trainable), dtype=torch.float64)
        if not gradient.numel():
            return torch.zeros_like(angles)
        method, shots = self._method(circuit), self._number(self.gradient_shots, circuit)
        transform, options = self._transform(method, shots, circuit.num_qubits, call)
        wires = circuit.num_qubits + (method == "hadamard")
        device = self._device(wires, self.draws.stream(call, Purpose.GRADIENT))
        phi, upstream = plain.expand(angles.to("cpu", torch.float64)).numpy(), cotangent.to("cpu", torch.float64)
        for row, out in enumerate(gradient):
            tape = self._tape(plain.circuit, phi[row], shots)
            tape.trainable_params = trainable
            tapes, contract = self._qml.gradients.vjp(tape, upstream[row].numpy(), transform, options)
            out.copy_(torch.as_tensor(contract(self._execute(tapes, device)), dtype=torch.float64))
        scales = [foreign_gate(turning[place].gate, "pennylane").scale for place in trainable]
        in_our_angles = gradient * torch.tensor(scales, dtype=torch.float64)
        return plain.gather(in_our_angles, circuit.num_parameters).to(angles)

    def _transform(self, method: str, shots: int | None, num_qubits: int, call: int) -> tuple[Any, dict[str, Any]]:
        """PennyLane's transform of a tape into those of its gradient, and its options."""
        gradients = self._qml.gradients
        if method == "hadamard":
            wires = self._qml.wires.Wires(range(num_qubits + 1))
            return gradients.hadamard_grad, {"aux_wire": num_qubits, "device_wires": wires}
        if method == "spsa":
            step = SPSA_STEP_EXACT if shots is None else SPSA_STEP_SAMPLED
            return gradients.spsa_grad, {
                "h": step, "sampler_rng": self.draws.stream(call, Purpose.DIRECTION).generator()
            }  # fmt: skip
        if method == "finite-diff":
            sampled = {"h": SPSA_STEP_SAMPLED, "approx_order": 2, "strategy": "center"}
            return gradients.finite_diff, {} if shots is None else sampled
        return gradients.param_shift, {}

    def _tape(self, circuit: Circuit, angles: Any, shots: int | None) -> Any:
        """A tape that measures all qubits, whose parameters are the angles of the gates in order."""
        qml = self._qml
        with qml.queuing.AnnotatedQueue() as queue:
            to_pennylane(circuit)(angles)
            qml.probs(wires=range(circuit.num_qubits))
        return qml.tape.QuantumScript.from_queue(queue, shots=shots)

    def _execute(self, tapes: Any, device: Any, method: str | None = None) -> Any:
        # Without its cache, which answers equal circuits with one and the same sample.
        return self._qml.execute(tapes, device, diff_method=method, cache=False)

    def _device(self, num_wires: int, stream: Stream | None) -> Any:
        """A device; one whose samples are the stream's if there is one."""
        if stream is None or self.shots is None:
            if num_wires not in self._devices:
                self._devices[num_wires] = self._made(num_wires)
            return self._devices[num_wires]
        kind = self._qml.plugin_devices[self.device].load()
        seeded = "seed" in inspect.signature(kind).parameters
        return self._made(num_wires, **({"seed": stream.integer()} if seeded else {}))

    def _made(self, num_wires: int, **seed: int) -> Any:
        try:
            return self._qml.device(self.device, wires=num_wires, **self.device_options, **seed)
        except Exception as error:  # whatever a plugin raises
            raise EngineError(f"PennyLane device {self.device!r} on {num_wires} wires: {error}") from error

    def check(self, circuit: Circuit, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        """Raises `EngineError` if the device cannot run or differentiate `circuit`, or it does not fit in memory."""
        self._require_memory(circuit, 1)
        self._method(circuit)

    def _require_memory(self, circuit: Circuit, rows: int, keep_all: bool = False) -> None:
        qubits = circuit.num_qubits * (2 if self.device in _DENSITY_MATRICES else 1)
        states = rows * (len(circuit.operations) + 1 if keep_all else 1)
        require_memory(qubits, states, torch.complex128, torch.device("cpu"))

    def _method(self, circuit: Circuit) -> str:
        """How `circuit` is differentiated; raises `EngineError` if the device cannot."""
        if circuit not in self._methods:
            if len(self._methods) >= _CIRCUITS_REMEMBERED:
                self._methods.clear()
            self._methods[circuit] = self._resolved(circuit)
        return self._methods[circuit]

    def _resolved(self, circuit: Circuit) -> str:
        qml, device = self._qml, self._device(circuit.num_qubits, None)
        tape = self._tape(circuit, np.zeros(circuit.num_parameters), self._number(self.shots, circuit))

        def supports(method: str) -> bool:
            config = qml.devices.ExecutionConfig(gradient_method=method)
            return bool(device.supports_derivatives(config, tape))

        try:
            config = device.setup_execution_config(circuit=tape)
            device.preprocess_transforms(config)([tape])
        except Exception as error:  # whatever a plugin raises
            raise EngineError(f"PennyLane device {self.device!r} cannot run the circuit: {error}") from error
        if self.diff_method == "best":
            chosen = device.setup_execution_config(qml.devices.ExecutionConfig(gradient_method="best"), tape)
            return str(chosen.gradient_method) if supports("best") else "parameter-shift"
        if self.diff_method in OF_THE_DEVICE and not supports(self.diff_method):
            available = [method for method in OF_THE_DEVICE if supports(method)]
            measured = "probabilities" if self.shots is None else f"{self.shots} shots"
            raise EngineError(
                f"PennyLane device {self.device!r} does not support diff_method {self.diff_method!r} with {measured}; "
                f"available: {', '.join(('best', *available, *OF_ANY_DEVICE))}"
            )
        return self.diff_method

    def describe(self) -> dict[str, Any]:
        plain = (str, int, float, bool, type(None))
        options = {name: x if isinstance(x, plain) else str(x) for name, x in self.device_options.items()}
        return super().describe() | {"device": self.device, "device_options": options}
