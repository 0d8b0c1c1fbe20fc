"""Frames: matrices with orthonormal columns, each family in its own short file."""

from collections.abc import Callable
from functools import partial

from qpeft.generators.frames.acting import ActingFrame
from qpeft.generators.frames.base import Frame
from qpeft.generators.frames.cayley import CayleyFrame
from qpeft.generators.frames.exponential import ExponentialFrame
from qpeft.generators.frames.givens import GivensFrame
from qpeft.generators.frames.householder import HouseholderFrame
from qpeft.generators.frames.neumann import NeumannFrame
from qpeft.generators.frames.node import NodeFrame
from qpeft.generators.frames.padding import PaddedFrame
from qpeft.generators.frames.pauli import PauliFrame
from qpeft.generators.frames.pool import FramePool
from qpeft.generators.frames.shannon import ShannonFrame
from qpeft.generators.frames.taylor import TaylorFrame
from qpeft.generators.frames.triangle import triangle_parameters
from qpeft.registry import Registry

__all__ = [
    "FRAMES",
    "OTHER_SIZES",
    "ActingFrame",
    "CayleyFrame",
    "ExponentialFrame",
    "Frame",
    "FramePool",
    "GivensFrame",
    "HouseholderFrame",
    "NeumannFrame",
    "NodeFrame",
    "PaddedFrame",
    "PauliFrame",
    "ShannonFrame",
    "TaylorFrame",
    "triangle_parameters",
]

FRAMES: Registry[type[Frame]] = Registry(
    "frame",
    {
        "pauli": PauliFrame,
        "node": NodeFrame,
        "exponential": ExponentialFrame,
        "taylor": TaylorFrame,
        "cayley": CayleyFrame,
        "neumann": NeumannFrame,
        "householder": HouseholderFrame,
        "givens": GivensFrame,
    },
)
"""The maps from trained numbers to frames."""

OTHER_SIZES: Registry[Callable[..., Frame]] = Registry(
    "way to make other sizes",
    {
        "single": partial(ShannonFrame, angles="single", whole=False),
        "full": partial(ShannonFrame, angles="full", whole=False),
        "pad": PaddedFrame,
    },
)
"""How frames whose size is no power of two are put together from those whose size is: (size, columns, count, node)."""
