"""The circuit as one operator in a graph of `torch.compile`.

A compiler cannot look into an engine: it may be another library, draw at random, or ask a device. Two operators hide
it: `qpeft::probabilities`, and `qpeft::probabilities_vjp`, which differentiates whatever the engine computes. Both run
the engine as it runs without a compiler, so that the numbers are the same; the second runs the circuit once more, as
nothing but tensors can be kept from the first. Operators take no Python object; they find theirs by a number, its
handle.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from qpeft.errors import EngineError
from qpeft.qcircuits.engine import full_precision


class RunsCircuit(Protocol):
    """What a handle stands for."""

    def run(self, angles: Tensor, state: Sequence[Tensor]) -> Tensor:
        """Probabilities (2**N,) at angles (P,), in the sample that belongs to `state`; differentiable in `angles`."""


_numbers = itertools.count()
_registered: WeakValueDictionary[int, RunsCircuit] = WeakValueDictionary()  # weak: a handle keeps no engine alive


def register(circuit: RunsCircuit) -> Tensor:
    """A handle for `circuit`, (), valid as long as it lives; a copy needs one of its own.

    It is a tensor because compilers take a module's integers for constants: a graph would serve one layer only.
    """
    number = next(_numbers)
    _registered[number] = circuit
    return torch.tensor(number, device="cpu")


def traced_probabilities(handle: Tensor, num_qubits: int, angles: Tensor, state: Sequence[Tensor]) -> Tensor:
    """`run(angles, state)` of the registered circuit, as one operator that a compiler leaves whole.

    Args:
        handle: What `register` gave.
        num_qubits: N.
        angles: (P,); the gradient reaches them alone.
        state: The tensors that decide which sample is drawn.

    Returns:
        (2**N,)
    """
    found: Tensor = _probabilities(angles, [tensor.detach() for tensor in state], handle, num_qubits)
    return found


def _find(handle: Tensor) -> RunsCircuit:
    circuit = _registered.get(int(handle))
    if circuit is None:
        raise EngineError("a compiled graph asks for a circuit whose module is gone; compile the model again")
    return circuit


@contextmanager
def _recording() -> Iterator[None]:
    """Autograd as it is outside of operators: torch turns it off within them, and `enable_grad` alone is too little."""
    keys = torch._C.DispatchKey
    with (
        torch._C._SetExcludeDispatchKeyGuard(keys.AutogradFunctionality, False),
        torch._C._SetExcludeDispatchKeyGuard(keys.ADInplaceOrView, False),
        torch.enable_grad(),
    ):
        yield


@torch.library.custom_op("qpeft::probabilities", mutates_args=())
def _probabilities(angles: Tensor, state: Sequence[Tensor], handle: Tensor, num_qubits: int) -> Tensor:
    with torch.no_grad(), full_precision(angles.device):
        return _find(handle).run(angles.detach(), state)


@torch.library.custom_op("qpeft::probabilities_vjp", mutates_args=())
def _vjp(angles: Tensor, state: Sequence[Tensor], handle: Tensor, cotangent: Tensor) -> Tensor:
    with _recording(), full_precision(angles.device):
        theta = angles.detach().requires_grad_()
        values = _find(handle).run(theta, state)
        if not values.requires_grad:
            return torch.zeros_like(angles)
        return torch.autograd.grad(values, theta, cotangent, materialize_grads=True)[0]


@_probabilities.register_fake
def _(angles: Tensor, state: Sequence[Tensor], handle: Tensor, num_qubits: int) -> Tensor:
    return angles.new_empty(2**num_qubits)


@_vjp.register_fake
def _(angles: Tensor, state: Sequence[Tensor], handle: Tensor, cotangent: Tensor) -> Tensor:
    return torch.empty_like(angles)


def _keep(ctx: Any, inputs: tuple[Tensor, Sequence[Tensor], Tensor, int], output: Tensor) -> None:
    angles, state, handle, _ = inputs
    ctx.save_for_backward(angles, handle, *state)


def _backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, list[None], None, None]:
    angles, handle, *state = ctx.saved_tensors
    return _vjp(angles, state, handle, cotangent), [None] * len(state), None, None


def _refuse(ctx: Any, cotangent: Tensor) -> Any:
    raise EngineError("compiled circuits are differentiable once; for second derivatives do not compile the generator")


_probabilities.register_autograd(_backward, setup_context=_keep)
_vjp.register_autograd(_refuse)
