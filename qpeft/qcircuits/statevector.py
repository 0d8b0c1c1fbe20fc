"""The exact engine: a statevector in torch, differentiable, batched, on any device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from qpeft.errors import ConfigError, EngineError, unknown_name
from qpeft.qcircuits.circuit import Circuit
from qpeft.qcircuits.engine import Engine, check_angles, full_precision
from qpeft.qcircuits.fusion import compile_circuit, footprint
from qpeft.qcircuits.kernels import run, run_back
from qpeft.qcircuits.memory import require_memory
from qpeft.qcircuits.program import Program

DIFF_METHODS = ("adjoint", "backprop")


class _Adjoint(torch.autograd.Function):
    """Runs forward without a tape; the backward walks the program with the state and its cotangent.

    Memory is a few states whatever the depth (Jones and Gacon, arXiv 2009.02823); `memory` says how many.
    """

    @staticmethod
    def forward(ctx: Any, program: Program, state: Tensor, *tables: Tensor) -> Tensor:
        final = run(program, state, tables, reuse=True)
        ctx.program = program
        ctx.save_for_backward(final, *tables)
        return final

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        final, *tables = ctx.saved_tensors
        if torch.is_grad_enabled():  # under create_graph
            return None, *_AdjointBackward.apply(ctx.program, cotangent, final, *tables)  # type: ignore[no-untyped-call]
        return None, *_AdjointBackward.forward(None, ctx.program, cotangent, final, *tables)


class _AdjointBackward(torch.autograd.Function):
    """Refuses a second derivative.

    Torch's `once_differentiable` does not see that the gradient depends on the saved tensors, and then answers with
    part of the second derivative.
    """

    @staticmethod
    def forward(ctx: Any, program: Program, cotangent: Tensor, final: Tensor, *tables: Tensor) -> tuple[Tensor, ...]:
        with full_precision(final.device):
            initial, gradients = run_back(program, final, cotangent, tables)
        return initial, *gradients

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise EngineError("'adjoint' is differentiable once; for second derivatives use StatevectorEngine('backprop')")


@dataclass(frozen=True)
class StatevectorEngine(Engine):
    """Exact simulation.

    Real circuits run in the dtype of the angles (float32 or float64), others in complex64 or complex128.

    Args:
        diff_method: "adjoint" keeps a few states whatever the depth; "backprop" keeps one state a step, and can be
            differentiated twice.

    Example:
        >>> import torch
        >>> from qpeft.qcircuits import ansatz
        >>> circuit = ansatz("ry_cnot", num_qubits=3, reps=2)
        >>> angles = torch.zeros(circuit.num_parameters)
        >>> StatevectorEngine().probabilities(circuit, angles)
        tensor([1., 0., 0., 0., 0., 0., 0., 0.])
    """

    diff_method: Literal["adjoint", "backprop"] = "adjoint"

    def __post_init__(self) -> None:
        if self.diff_method not in DIFF_METHODS:
            raise ConfigError(unknown_name("diff_method of StatevectorEngine", self.diff_method, DIFF_METHODS))

    def check(self, circuit: Circuit, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        """Raises `EngineError` if the state does not fit into memory."""
        self._require_memory(circuit, 1, dtype if circuit.is_real else dtype.to_complex(), torch.device(device))

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"diff_method": self.diff_method}

    def probabilities(self, circuit: Circuit, angles: Tensor) -> Tensor:
        """See `Engine.probabilities`."""
        amplitudes = self.state(circuit, angles)
        if amplitudes.is_complex():
            return amplitudes.real.square() + amplitudes.imag.square()
        return amplitudes.square()

    def state(self, circuit: Circuit, angles: Tensor, initial_state: Tensor | None = None) -> Tensor:
        """The final state.

        Args:
            circuit: What to run.
            angles: (..., P) radians.
            initial_state: (..., 2**N); |0...0> if None. Differentiable. Leading axes broadcast with those of `angles`.

        Returns:
            (..., 2**N), real if circuit and initial state are.

        Raises:
            EngineError: Wrong shape or dtype, or more memory than there is.
        """
        if initial_state is None:
            return self._run(circuit, angles, None)
        check_angles(circuit, angles)
        if initial_state.shape[-1:] != (2**circuit.num_qubits,):
            raise EngineError(
                f"initial_state has shape {tuple(initial_state.shape)}; {circuit.num_qubits} qubits need "
                f"(..., {2**circuit.num_qubits})"
            )
        try:
            leading = torch.broadcast_shapes(angles.shape[:-1], initial_state.shape[:-1])
        except RuntimeError as error:
            raise EngineError(
                f"initial_state of shape {tuple(initial_state.shape)} and angles of shape {tuple(angles.shape)} do not "
                "broadcast: their leading axes must agree"
            ) from error
        angles = angles.expand(*leading, angles.shape[-1])
        return self._run(circuit, angles, initial_state.expand(*leading, -1))

    def columns(self, circuit: Circuit, angles: Tensor, k: int) -> Tensor:
        """The first `k` columns of the circuit's unitary: an orthonormal frame.

        Args:
            circuit: What to run.
            angles: (..., P) radians.
            k: Number of columns, 1 to 2**N.

        Returns:
            (..., 2**N, k); column j is the final state that starts from basis state j.
        """
        dim = 2**circuit.num_qubits
        if not 1 <= k <= dim:
            raise EngineError(f"a circuit on {circuit.num_qubits} qubits has 1 to {dim} columns; given k={k}")
        check_angles(circuit, angles)
        self._require_memory(circuit, k, angles.dtype, angles.device)  # before the identity below
        start = torch.eye(k, dim, dtype=angles.dtype, device=angles.device)
        return self._run(circuit, angles, start, (k,)).mT

    def _require_memory(self, circuit: Circuit, states: int, dtype: torch.dtype, device: torch.device) -> None:
        keep_all = self.diff_method == "backprop" and torch.is_grad_enabled()
        require_memory(circuit.num_qubits, states, dtype, device, footprint(circuit), keep_all)

    def _run(self, circuit: Circuit, angles: Tensor, start: Tensor | None, inner: tuple[int, ...] = ()) -> Tensor:
        """Angles (..., P), start (..., *inner, D) or (*inner, D) -> (..., *inner, D)."""
        check_angles(circuit, angles)
        complex_run = not circuit.is_real or (start is not None and start.is_complex())
        dtype = angles.dtype.to_complex() if complex_run else angles.dtype
        leading, dim = angles.shape[:-1], 2**circuit.num_qubits
        flat = angles.reshape(math.prod(leading), angles.shape[-1])
        states = len(flat) * math.prod(inner)
        self._require_memory(circuit, states, dtype, angles.device)
        program = compile_circuit(circuit, dtype, angles.device)
        shape = (dim,) if states == 1 else (states, dim)
        if start is None:
            state = torch.zeros(shape, dtype=dtype, device=angles.device)
            state.select(-1, 0).fill_(1)
        else:
            state = start.to(dtype).expand(*leading, *inner, dim).reshape(shape)
        final: Tensor
        with full_precision(angles.device):
            tables = program.matrices(flat)
            if self.diff_method == "adjoint":
                final = _Adjoint.apply(program, state, *tables)  # type: ignore[no-untyped-call]
            else:
                final = run(program, state, tables, reuse=False)
        final = final.view(*leading, *inner, dim)
        if tables and circuit.num_parameters:
            return final
        return final + 0 * angles.sum(-1)[(..., *[None] * (1 + len(inner)))]  # angles in no matrix get zero gradients
