"""Functions that `torch.compile` calls as they are instead of tracing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch._compile import _disable_dynamo

P = ParamSpec("P")
T = TypeVar("T")


def untraced(function: Callable[P, T]) -> Callable[P, T]:
    """Does what `torch.compiler.disable` does, which loads the compiler when it decorates.

    This one loads it at the first call: decorating must not slow down a command that only shows its help.

    Example:
        >>> untraced(lambda x: -x)(2)
        -2
    """
    return _disable_dynamo(function)
