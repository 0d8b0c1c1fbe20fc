"""Engines that autograd cannot see through: other simulators, sampling, hardware."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from qpeft.errors import ConfigError, EngineError, unknown_name
from qpeft.qcircuits.circuit import Circuit
from qpeft.qcircuits.engine import Engine, check_angles
from qpeft.qcircuits.gradients import checked_blocks, parameter_shift_vjp, spsa_vjp, unshared
from qpeft.qcircuits.memory import require_bytes
from qpeft.qcircuits.seeding import Draws, Purpose, Stream
from qpeft.qcircuits.shots import Shots
from qpeft.qcircuits.untraced import untraced

DIFF_METHODS = ("parameter-shift", "spsa")
SPSA_STEP_EXACT, SPSA_STEP_SAMPLED = 0.01, 0.1  # radians; the larger one lifts the difference above the shot noise


class BlackBoxEngine(Engine):
    """An engine that gives probabilities for a batch of angles and no gradient of its own.

    A subclass implements `evaluate`; this class adds batches, randomness that repeats and gradients.

    Args:
        shots: Measurements of each circuit, e.g. 4096 or "10x" (10 * 2**N); None for exact probabilities.
        diff_method: "parameter-shift" (exact rule, two or more circuits an angle) or "spsa" (two circuits in all).
        gradient_shots: Measurements of each circuit of a gradient; `shots` if None.
        seed: Decides every sample together with the number of the call.

    Attributes:
        draws: Counts the calls; setting `draws.call` chooses the next call's sample.
    """

    diff_methods: tuple[str, ...] = DIFF_METHODS

    def __init__(
        self, shots: Shots | int | str | None = None, diff_method: str = "parameter-shift",
        gradient_shots: Shots | int | str | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.shots = None if shots is None else Shots.of(shots)
        self.gradient_shots = self.shots if gradient_shots is None else Shots.of(gradient_shots)
        if diff_method not in self.diff_methods:
            raise ConfigError(unknown_name(f"diff_method of {type(self).__name__}", diff_method, self.diff_methods))
        self.diff_method = diff_method
        self.draws = Draws(seed)

    @abstractmethod
    def evaluate(self, circuit: Circuit, angles: Tensor, shots: int | None, stream: Stream) -> Iterable[Tensor]:
        """Probabilities, or frequencies of `shots` measurements.

        Args:
            circuit: A circuit each of whose parameters stands at one place, with scale 1 and offset 0.
            angles: (B, P); all of them belong to one step, and to one job where there are jobs.
            shots: Measurements of each row; None for exact probabilities.
            stream: Random numbers, or a seed, for this call.

        Returns:
            Blocks (b, 2**N), b >= 1, whose rows answer those of `angles` in order; made one at a time if many.
        """

    @untraced
    def probabilities(self, circuit: Circuit, angles: Tensor) -> Tensor:
        """See `Engine.probabilities`."""
        check_angles(circuit, angles)
        if not angles.isfinite().all():  # simulators answer such angles with plausible numbers
            raise EngineError("the angles are not finite; if training made them so, lower the learning rate")
        self.check(circuit, angles.dtype, angles.device)
        call, plain = self.draws.next(), unshared(circuit)
        leading, dim = angles.shape[:-1], 2**circuit.num_qubits
        # A copy: an optimiser may change the angles before the backward pass.
        theta = angles.detach().reshape(math.prod(leading), circuit.num_parameters).clone()
        values = theta.new_zeros(0, dim)
        if len(theta):
            stream = self.draws.stream(call, Purpose.FORWARD)
            blocks = self.evaluate(plain.circuit, plain.expand(theta), self._number(self.shots, circuit), stream)
            values = torch.cat([block.to(values) for block in checked_blocks(blocks, len(theta), dim)])

        def vjp(cotangent: Tensor) -> Tensor:
            return self._vjp(circuit, theta, cotangent.reshape(len(theta), dim), call).view(angles.shape)

        out: Tensor = _Estimated.apply(angles, values.view(*leading, dim), vjp, self.diff_method)  # type: ignore[no-untyped-call]
        return out

    def check(self, circuit: Circuit, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        """Raises `EngineError` if one row of probabilities does not fit into memory."""
        require_bytes(
            dtype.itemsize << circuit.num_qubits, torch.device(device),
            f"2**{circuit.num_qubits} probabilities", "Use fewer qubits (for QPA: a larger chunk size)",
        )  # fmt: skip

    def _vjp(self, circuit: Circuit, angles: Tensor, cotangent: Tensor, call: int) -> Tensor:
        shots, stream = self._number(self.gradient_shots, circuit), self.draws.stream(call, Purpose.GRADIENT)

        def evaluate(plain: Circuit, points: Tensor) -> Iterable[Tensor]:
            return self.evaluate(plain, points, shots, stream)

        if self.diff_method == "spsa":
            step = SPSA_STEP_EXACT if shots is None else SPSA_STEP_SAMPLED
            directions = self.draws.stream(call, Purpose.DIRECTION).generator()
            return spsa_vjp(evaluate, circuit, angles, cotangent, directions, step)
        return parameter_shift_vjp(evaluate, circuit, angles, cotangent)

    @staticmethod
    def _number(shots: Shots | None, circuit: Circuit) -> int | None:
        return None if shots is None else shots.number(circuit.num_qubits)

    def describe(self) -> dict[str, Any]:
        shots = {name: None if s is None else str(s) for name, s in self._shots().items()}
        return super().describe() | shots | {"diff_method": self.diff_method, "seed": self.draws.seed}

    def _shots(self) -> dict[str, Shots | None]:
        return {"shots": self.shots, "gradient_shots": self.gradient_shots}


class _Estimated(torch.autograd.Function):
    """Values from outside, and a vector-Jacobian product that is evaluated when asked for."""

    @staticmethod
    def forward(ctx: Any, angles: Tensor, values: Tensor, vjp: Callable[[Tensor], Tensor], method: str) -> Tensor:
        ctx.vjp, ctx.method = vjp, method
        ctx.save_for_backward(angles)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        gradient = ctx.vjp(cotangent.detach())
        if torch.is_grad_enabled():  # under create_graph
            gradient = _Once.apply(gradient, ctx.method, cotangent, *ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return gradient, None, None, None


class _Once(torch.autograd.Function):
    """Refuses a second derivative, which would otherwise silently be zero."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, method: str, *depends_on: Tensor) -> Tensor:
        ctx.method = method
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise EngineError(
            f"{ctx.method!r} is differentiable once; for second derivatives use StatevectorEngine('backprop')"
        )
