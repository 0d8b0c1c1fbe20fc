"""Packages that only some engines and formats need, with an error that says how to install them."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from qpeft.errors import QpeftError


class MissingExtraError(QpeftError, ImportError):
    """A package that is not installed; the message says the command that installs it."""


def is_installed(*modules: str) -> bool:
    """Whether all of these can be found, without importing them."""
    return all(importlib.util.find_spec(module.partition(".")[0]) is not None for module in modules)


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports `module`, which comes with `pip install "qpeft[extra]"`.

    Raises:
        MissingExtraError: It is not installed.

    Example:
        >>> require("math", "aer", "nothing").pi > 3
        True
    """
    if not is_installed(module):
        package = module.partition(".")[0].replace("_", "-")
        raise MissingExtraError(f'{purpose} needs {package}, which is not installed: pip install "qpeft[{extra}]"')
    return importlib.import_module(module)
