"""Circuits on any PennyLane device, with PennyLane's own differentiation methods."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from functools import lru_cache
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
from qpeft.qcircuits.untraced import untraced

OF_THE_DEVICE = ("backprop", "adjoint")
OF_ANY_DEVICE = ("parameter-shift", "finite-diff", "spsa", "hadamard")
DIFF_METHODS = ("best", *OF_THE_DEVICE, *OF_ANY_DEVICE)
# PennyLane 0.45 on default.mixed runs some broadcast circuits not at all, and "backprop" there is wrong for them, of
# single precision for torch's single numbers and not a number for some of autograd's.
_BROADCASTING = ("default.qubit",)
_DENSITY_MATRICES = ("default.mixed",)  # hold 4**N numbers
_CIRCUITS_REMEMBERED = 256


@lru_cache(_CIRCUITS_REMEMBERED)
def _function(circuit: Circuit) -> Callable[..., None]:
    """The circuit's function, which every row of a batch calls."""
    return to_pennylane(circuit)


class PennyLaneEngine(BlackBoxEngine):
    """Probabilities from a PennyLane device, in double precision on the CPU.

    "backprop" and "adjoint" are methods of the device, for gradients without shots. "backprop" is there on
    `default.qubit`, where a batch runs as one broadcast circuit; on `default.mixed` PennyLane 0.45 gets some gradients
    wrong by it. The adjoint method has no probabilities on most devices, so it differentiates the expectation of the
    diagonal observable whose values are the cotangent, which has the same gradient: one pass a row. The others
    ("parameter-shift", "finite-diff", "spsa", "hadamard") are PennyLane's transforms, which run two circuits or more
    for each angle (a few in all for "spsa") and hold the Jacobian of a row, P x 2**N numbers. "best" is the first of
    "backprop", "adjoint" and "parameter-shift" that there is: "backprop" on `default.qubit`, "adjoint" on
    `lightning.qubit`, "parameter-shift" on `default.mixed` and with shots, be it those of the gradient alone.

    Args:
        device: Name of a device, of a plugin too: one of `qml.plugin_devices`.
        shots: Measurements of each circuit, e.g. 4096 or "10x" (10 * 2**N); None for exact probabilities.
        diff_method: One of `DIFF_METHODS`. With shots, "spsa" and "finite-diff" take steps of 0.1, which lift the
            difference above the shot noise; a device of single precision takes 0.01 in "finite-diff".
        gradient_shots: Measurements of each circuit of a gradient; `shots` if None.
        seed: Decides every sample together with the number of the call. A device that takes no `seed` (most hardware)
            draws as it likes.
        **device_options: What else `qml.device` gets. Copies of the engine share them: some hold a connection.

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

    def __deepcopy__(self, memo: dict[int, Any]) -> PennyLaneEngine:
        other = memo[id(self)] = type(self).__new__(type(self))
        state = self.__getstate__() | {"device_options": None}
        other.__dict__ = copy.deepcopy(state, memo) | {"device_options": dict(self.device_options)}
        return other

    @untraced
    def probabilities(self, circuit: Circuit, angles: Tensor) -> Tensor:
        """See `Engine.probabilities`."""
        check_angles(circuit, angles)
        self.check(circuit, angles.dtype, angles.device)
        plain = unshared(circuit)
        if self._method(circuit) != "backprop" or not angles.numel() or not plain.circuit.num_parameters:
            estimated: Tensor = super().probabilities(circuit, angles)
            return estimated
        rows = math.prod(angles.shape[:-1])
        self._require_memory(circuit, rows, keep_all=True)
        phi = plain.expand(angles.reshape(rows, -1).to("cpu", torch.float64))
        tape = self._tape(plain.circuit, phi, None)
        values: Tensor = self._execute([tape], self._device(circuit.num_qubits, None), "backprop")[0]
        return values.reshape(*angles.shape[:-1], -1).to(angles)

    def evaluate(self, circuit: Circuit, angles: Tensor, shots: int | None, stream: Stream) -> Iterator[Tensor]:
        """See `BlackBoxEngine.evaluate`."""
        device = self._device(circuit.num_qubits, None if shots is None else stream)
        for part in angles.to("cpu", torch.float64).split(max(1, BLOCK_NUMBERS >> circuit.num_qubits)):
            whole = circuit.num_parameters and self.device in _BROADCASTING
            tapes = [self._tape(circuit, rows, shots) for rows in (part[None] if whole else part).numpy()]
            results = np.stack(self._execute(tapes, device))
            yield torch.from_numpy(results.reshape(len(part), -1))

    def _vjp(self, circuit: Circuit, angles: Tensor, cotangent: Tensor, call: int) -> Tensor:
        plain = unshared(decompose(circuit, "pennylane"))
        turning = [o for o in plain.circuit.operations if o.angle is not None]
        trainable = [place for place, o in enumerate(turning) if o.angle and o.angle.index is not None]
        gradient = torch.zeros(len(angles), len(trainable), dtype=torch.float64)
        if not gradient.numel():
            return torch.zeros_like(angles)
        phi, upstream = plain.expand(angles.to("cpu", torch.float64)).numpy(), cotangent.to("cpu", torch.float64)
        differentiate = self._adjoint if self._method(circuit) == "adjoint" else self._transformed(circuit, call)
        for row, out in enumerate(gradient):
            try:
                derivative = differentiate(plain.circuit, phi[row], upstream[row].numpy(), trainable)
            except EngineError:
                raise
            except Exception as error:  # whatever a transform raises
                raise self._refused(error) from error
            out.copy_(torch.as_tensor(derivative, dtype=torch.float64))
        scales = [foreign_gate(turning[place].gate, "pennylane").scale for place in trainable]
        in_our_angles = gradient * torch.tensor(scales, dtype=torch.float64)
        return plain.gather(in_our_angles, circuit.num_parameters).to(angles)

    def _adjoint(self, circuit: Circuit, phi: Any, cotangent: Any, trainable: list[int]) -> Any:
        """The gradient in the parameters of the tape, by the device's adjoint method."""
        qml, device = self._qml, self._device(circuit.num_qubits, None)
        sparse: Any = require("scipy.sparse", "pennylane", "the adjoint method")
        observable = qml.SparseHamiltonian(sparse.diags(cotangent).tocsr(), wires=range(circuit.num_qubits))
        template = self._tape(circuit, phi, None, qml.expval(observable))

        def value(parameters: Any) -> Any:
            tape = template.bind_new_parameters([parameters[i] for i in range(len(trainable))], trainable)
            tape.trainable_params = trainable
            return self._execute([tape], device, "adjoint")[0]

        # Autograd's arrays: PennyLane makes some gates of single torch numbers in single precision.
        start = [template.get_parameters(trainable_only=False)[place] for place in trainable]
        return qml.grad(value)(qml.numpy.array(start, requires_grad=True))

    def _transformed(self, circuit: Circuit, call: int) -> Callable[..., Any]:
        """Computes the gradient in the parameters of a tape, by one of PennyLane's transforms."""
        method, shots = self._method(circuit), self._number(self.gradient_shots, circuit)
        wires = circuit.num_qubits + (method == "hadamard")
        device = self._device(wires, None if shots is None else self.draws.stream(call, Purpose.GRADIENT))
        single = np.finfo(getattr(device, "c_dtype", np.complex128)).bits == 32
        transform, options = self._transform(method, shots, wires, self.draws.stream(call, Purpose.DIRECTION), single)

        def differentiate(plain: Circuit, phi: Any, cotangent: Any, trainable: list[int]) -> Any:
            tape = self._tape(plain, phi, shots)
            tape.trainable_params = trainable
            tapes, contract = self._qml.gradients.vjp(tape, cotangent, transform, options)
            return contract(self._execute(tapes, device))

        return differentiate

    def _transform(
        self, method: str, shots: int | None, num_wires: int, stream: Stream, single: bool
    ) -> tuple[Any, dict[str, Any]]:  # fmt: skip
        """PennyLane's transform of a tape into those of its gradient, and its options."""
        gradients = self._qml.gradients
        if method == "hadamard":
            return gradients.hadamard_grad, {
                "aux_wire": num_wires - 1, "device_wires": self._qml.wires.Wires(range(num_wires))
            }  # fmt: skip
        step = SPSA_STEP_EXACT if shots is None else SPSA_STEP_SAMPLED
        if method == "spsa":
            return gradients.spsa_grad, {"h": step, "sampler_rng": stream.generator()}
        if method == "finite-diff":
            # PennyLane's own step of 1e-7 is for exact values in double precision.
            wide = {"h": step, "approx_order": 2, "strategy": "center"}
            return gradients.finite_diff, wide if single or shots is not None else {}
        return gradients.param_shift, {}

    def _tape(self, circuit: Circuit, angles: Any, shots: int | None, measurement: Any = None) -> Any:
        """A tape that measures all qubits, whose parameters are the angles of the gates in order."""
        qml = self._qml
        with qml.queuing.AnnotatedQueue() as queue:
            _function(circuit)(angles)
        measured = measurement or qml.probs(wires=range(circuit.num_qubits))
        return qml.tape.QuantumScript(queue.queue, [measured], shots=shots)

    def _execute(self, tapes: Any, device: Any, method: str | None = None) -> Any:
        # Without its cache, which answers equal circuits with one and the same sample.
        try:
            return self._qml.execute(tapes, device, diff_method=method, cache=False)
        except Exception as error:  # whatever a plugin raises
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> EngineError:
        return EngineError(f"PennyLane device {self.device!r} cannot run the circuit: {error}")

    def _device(self, num_wires: int, stream: Stream | None) -> Any:
        """A device; one whose samples are the stream's if there is one."""
        if stream is None:
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
        shots, zeros = self._number(self.shots, circuit), np.zeros(circuit.num_parameters)
        tape = self._tape(circuit, zeros, shots)

        def supports(method: str) -> bool:
            config = qml.devices.ExecutionConfig(gradient_method=method)
            measured = qml.expval(qml.Z(0)) if method == "adjoint" else None
            possible = method == "adjoint" or self.device in _BROADCASTING
            return (
                self.gradient_shots is None  # so there are no shots either
                and possible
                and bool(device.supports_derivatives(config, self._tape(circuit, zeros, None, measured)))
            )

        try:
            config = device.setup_execution_config(circuit=tape)
            device.preprocess_transforms(config)([tape])
        except Exception as error:  # whatever a plugin raises
            raise self._refused(error) from error
        available = (*filter(supports, OF_THE_DEVICE), *OF_ANY_DEVICE)
        if self.diff_method == "best":
            return available[0]
        if self.diff_method not in available:
            measured = "exact probabilities" if self.shots is None else f"{self.shots} shots"
            if self.gradient_shots != self.shots:
                measured += f" and gradient_shots={self.gradient_shots}"
            raise EngineError(
                f"PennyLane device {self.device!r} does not support diff_method {self.diff_method!r} with {measured}; "
                f"available: best, {', '.join(available)}"
            )
        return self.diff_method

    def describe(self) -> dict[str, Any]:
        plain = (str, int, float, bool, type(None))
        options = {name: x if isinstance(x, plain) else str(x) for name, x in self.device_options.items()}
        return super().describe() | {"device": self.device, "device_options": options}
