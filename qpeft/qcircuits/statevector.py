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
from qpeft.qcircuits.kernels import run
from qpeft.qcircuits.layout import Layout
from qpeft.qcircuits.memory import require_memory
from qpeft.qcircuits.opening import opens
from qpeft.qcircuits.parts import run_back_in_parts, run_in_parts, start_from_basis
from qpeft.qcircuits.program import Program

DIFF_METHODS = ("adjoint", "backprop")


class _Adjoint(torch.autograd.Function):
    """Runs forward without a tape; the backward walks the program with the state and its cotangent.

    Memory is a few states whatever the depth (Jones and Gacon, arXiv 2009.02823); `memory` says how many.
    """

    @staticmethod
    def forward(
        ctx: Any, program: Program, columns: int, shape: tuple[int, ...], state: Tensor | None, *tables: Tensor
    ) -> Tensor:
        final = run_in_parts(program, shape, state, tables, columns)
        ctx.program, ctx.columns, ctx.from_basis = program, columns, state is None
        ctx.save_for_backward(final, *tables)
        return final

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        how = {"from_basis": ctx.from_basis, "need_initial": ctx.needs_input_grad[3]}
        given = (ctx.program, ctx.columns, how, cotangent, *ctx.saved_tensors)
        if torch.is_grad_enabled():  # under create_graph
            return None, None, None, *_AdjointBackward.apply(*given)  # type: ignore[no-untyped-call]
        return None, None, None, *_AdjointBackward.forward(None, *given)


class _AdjointBackward(torch.autograd.Function):
    """Refuses a second derivative.

    Torch's `once_differentiable` does not see that the gradient depends on the saved tensors, and then answers with
    part of the second derivative.
    """

    @staticmethod
    def forward(
        ctx: Any,
        program: Program,
        columns: int,
        how: dict[str, bool],
        cotangent: Tensor,
        final: Tensor,
        *tables: Tensor,
    ) -> tuple[Tensor | None, ...]:
        with full_precision(final.device):
            initial, gradients = run_back_in_parts(program, final, cotangent, tables, columns, **how)
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
            return self._run(circuit, angles, None, 1)[..., 0]
        check_angles(circuit, angles)
        if initial_state.shape[-1:] != (2**circuit.num_qubits,):
            raise EngineError(
                f"initial_state has shape {tuple(initial_state.shape)}; {circuit.num_qubits} qubits need "
                f"(..., {2**circuit.num_qubits})"
            )
        return self._broadcast(circuit, angles, initial_state[..., None], "initial_state", initial_state)[..., 0]

    def multiply(self, circuit: Circuit, angles: Tensor, block: Tensor) -> Tensor:
        """The circuit's unitary times a block of columns; the unitary itself is never made.

        Args:
            circuit: What to run.
            angles: (..., P) radians.
            block: (..., 2**N, k). Differentiable. Leading axes broadcast with those of `angles`.

        Returns:
            (..., 2**N, k), real if circuit and block are.

        Raises:
            EngineError: Wrong shape or dtype, or more memory than there is.
        """
        check_angles(circuit, angles)
        if block.ndim < 2 or block.shape[-2] != 2**circuit.num_qubits or not block.shape[-1]:
            raise EngineError(
                f"the block has shape {tuple(block.shape)}; {circuit.num_qubits} qubits need "
                f"(..., {2**circuit.num_qubits}, k) with k of 1 or more"
            )
        return self._broadcast(circuit, angles, block, "block", block)

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
        return self._run(circuit, angles, None, k)

    def _require_memory(
        self, circuit: Circuit, states: int, dtype: torch.dtype, device: torch.device, circuits: int = 1
    ) -> None:
        keep_all = self.diff_method == "backprop" and torch.is_grad_enabled()
        require_memory(circuit.num_qubits, states, dtype, device, footprint(circuit), keep_all, circuits)

    def _broadcast(self, circuit: Circuit, angles: Tensor, start: Tensor, name: str, given: Tensor) -> Tensor:
        """`_run` with leading axes of angles and start that broadcast; `given` of `name` is what the caller sees."""
        try:
            leading = torch.broadcast_shapes(angles.shape[:-1], start.shape[:-2])
        except RuntimeError as error:
            raise EngineError(
                f"{name} of shape {tuple(given.shape)} and angles of shape {tuple(angles.shape)} do not "
                "broadcast: their leading axes must agree"
            ) from error
        return self._run(circuit, angles.expand(*leading, angles.shape[-1]), start, start.shape[-1])

    def _run(self, circuit: Circuit, angles: Tensor, start: Tensor | None, columns: int) -> Tensor:
        """Angles (..., P), start (..., D, C) or (D, C), the first basis states if None -> (..., D, C)."""
        check_angles(circuit, angles)
        complex_run = not circuit.is_real or (start is not None and start.is_complex())
        dtype = angles.dtype.to_complex() if complex_run else angles.dtype
        leading, dim = angles.shape[:-1], 2**circuit.num_qubits
        flat = angles.reshape(math.prod(leading), angles.shape[-1])
        self._require_memory(circuit, len(flat) * columns, dtype, angles.device, len(flat))
        program = compile_circuit(circuit, dtype, angles.device)
        shape = (dim * columns,) if len(flat) == 1 else (len(flat), dim * columns)
        state: Tensor | None = None
        if start is not None:
            state = start.to(dtype).reshape(*start.shape[:-2], dim * columns).expand(*leading, -1).reshape(shape)
        elif columns == 1 or not opens(program):  # a single state is faster through the first layer than past it
            state = torch.eye(dim, columns, dtype=dtype, device=angles.device).view(-1).expand(shape)
        final: Tensor
        with full_precision(angles.device):
            tables = program.matrices(flat)
            if self.diff_method == "adjoint":
                final = _Adjoint.apply(program, columns, shape, state, *tables)  # type: ignore[no-untyped-call]
            elif state is None:
                state = start_from_basis(program, shape, tables, columns)
                final = run(program, state, tables, columns, reuse=False, done=1)
            else:
                final = run(program, state, tables, columns, reuse=False)
        first = Layout(circuit.num_qubits, columns, program.layers).first
        final = final.view(*leading, columns, dim).mT if first else final.view(*leading, dim, columns)
        if tables and circuit.num_parameters:
            return final
        return final + 0 * angles.sum(-1)[..., None, None]  # angles in no matrix get zero gradients
