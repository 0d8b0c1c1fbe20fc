"""Generators: what turns a circuit's output into the numbers of an adapter."""

from qpeft.generators.base_rounding import round_weights_
from qpeft.generators.diagonal import (
    DIAGONALS,
    MEASUREMENTS,
    DiagonalNode,
    RademacherDiagonal,
    RealDiagonal,
    reinmax,
)
from qpeft.generators.frames import FRAMES, OTHER_SIZES, Frame
from qpeft.generators.mapping import ACTIVATIONS, MappingNetwork
from qpeft.generators.qpa import QPAGenerator
from qpeft.generators.quantization import QuantizationAware
from qpeft.generators.spec import SOURCES, QPASpec
from qpeft.generators.tensor_layouts import NETWORKS
from qpeft.generators.tensor_network import TensorNetwork
from qpeft.generators.transforms import TRANSFORMS

__all__ = [
    "ACTIVATIONS", "DIAGONALS", "FRAMES", "MEASUREMENTS", "NETWORKS", "OTHER_SIZES", "SOURCES", "TRANSFORMS",
    "DiagonalNode", "Frame", "MappingNetwork", "QPAGenerator", "QPASpec", "QuantizationAware", "RademacherDiagonal",
    "RealDiagonal", "TensorNetwork", "reinmax", "round_weights_",
]  # fmt: skip
