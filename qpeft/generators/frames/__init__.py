"""Frames: matrices with orthonormal columns, each family in its own short file."""

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
from qpeft.generators.frames.shannon import ShannonFrame
from qpeft.generators.frames.taylor import TaylorFrame
from qpeft.generators.frames.triangle import triangle_parameters
from qpeft.registry import Registry

__all__ = [
    "FRAMES",
    "ActingFrame",
    "CayleyFrame",
    "ExponentialFrame",
    "Frame",
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
        "exponential": ExponentialFrame,
        "taylor": TaylorFrame,
        "cayley": CayleyFrame,
        "neumann": NeumannFrame,
        "householder": HouseholderFrame,
        "givens": GivensFrame,
        "pauli": PauliFrame,
        "node": NodeFrame,
        "shannon": ShannonFrame,
        "pad": PaddedFrame,
    },
)
