"""Frames: matrices with orthonormal columns, each family in its own short file."""

from qpeft.generators.frames.base import Frame
from qpeft.registry import Registry

__all__ = ["FRAMES", "Frame"]

FRAMES: Registry[type[Frame]] = Registry("frame")
