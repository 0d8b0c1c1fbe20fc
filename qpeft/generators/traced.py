"""What a compiler cannot look into, as one operator in a graph of `torch.compile`.

An engine may be another library, draw at random, or ask a device; a frame may keep tables in Python or look at its
numbers. Two operators hide them: `qpeft::traced`, and `qpeft::traced_vjp`, which differentiates whatever the first
computes. Both run the module as it runs without a compiler, so that the numbers are the same; the second runs it once
more, as nothing but tensors can be kept from the first. Operators take no Python object; they find theirs by a number,
its handle.
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


class Traceable(Protocol):
    """What a handle stands for."""

    def run(self, values: Tensor, state: Sequence[Tensor]) -> Tensor:
        """A new tensor made from the numbers `values`, one vector, and differentiable in them.

        What else decides the result, such as which sample is drawn, follows from `state`.
        """


_numbers = itertools.count()
_registered: WeakValueDictionary[int, Traceable] = WeakValueDictionary()  # weak: a handle keeps nothing alive


def register(owner: Traceable) -> Tensor:
    """A handle for `owner`, (), valid as long as it lives; a copy needs one of its own.

    It is a tensor because compilers take a module's integers for constants: a graph would serve one layer only.
    """
    number = next(_numbers)
    _registered[number] = owner
    return torch.tensor(number, device="cpu")


def traced_call(handle: Tensor, shape: Sequence[int], values: Tensor, state: Sequence[Tensor] = ()) -> Tensor:
    """`run(values, state)` of what is registered, as one operator that a compiler leaves whole.

    Args:
        handle: What `register` gave.
        shape: Of the result.
        values: (P,); the gradient reaches them alone.
        state: The tensors that decide which sample is drawn, if there are samples.

    Returns:
        A tensor of this shape, with the dtype and device of `values`.
    """
    found: Tensor = _traced(values, [tensor.detach() for tensor in state], handle, list(shape))
    return found


def _find(handle: Tensor) -> Traceable:
    owner = _registered.get(int(handle))
    if owner is None:
        raise EngineError("a compiled graph asks for a circuit or frame that is gone; compile the model again")
    return owner


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


@torch.library.custom_op("qpeft::traced", mutates_args=())
def _traced(values: Tensor, state: Sequence[Tensor], handle: Tensor, shape: Sequence[int]) -> Tensor:
    with torch.no_grad(), full_precision(values.device):
        return _find(handle).run(values.detach(), state).contiguous()  # as the graph was told


@torch.library.custom_op("qpeft::traced_vjp", mutates_args=())
def _vjp(values: Tensor, state: Sequence[Tensor], handle: Tensor, cotangent: Tensor) -> Tensor:
    with _recording(), full_precision(values.device):
        variables = values.detach().requires_grad_()
        result = _find(handle).run(variables, state)
        if not result.requires_grad:
            return torch.zeros_like(values)
        return torch.autograd.grad(result, variables, cotangent, materialize_grads=True)[0]


@_traced.register_fake
def _(values: Tensor, state: Sequence[Tensor], handle: Tensor, shape: Sequence[int]) -> Tensor:
    return values.new_empty(shape)


@_vjp.register_fake
def _(values: Tensor, state: Sequence[Tensor], handle: Tensor, cotangent: Tensor) -> Tensor:
    return torch.empty_like(values)


def _keep(ctx: Any, inputs: tuple[Tensor, Sequence[Tensor], Tensor, Sequence[int]], output: Tensor) -> None:
    values, state, handle, _ = inputs
    ctx.save_for_backward(values, handle, *state)


def _backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, list[None], None, None]:
    values, handle, *state = ctx.saved_tensors
    return _vjp(values, state, handle, cotangent), [None] * len(state), None, None


def _refuse(ctx: Any, cotangent: Tensor) -> Any:
    raise EngineError("what is compiled is differentiable once; for second derivatives do not compile the generator")


_traced.register_autograd(_backward, setup_context=_keep)
_vjp.register_autograd(_refuse)
