"""Generators: what turns a circuit's output into the numbers of an adapter."""

from qpeft.generators.mapping import ACTIVATIONS, MappingNetwork
from qpeft.generators.qpa import QPAGenerator
from qpeft.generators.spec import SOURCES, QPASpec
from qpeft.generators.transforms import TRANSFORMS

__all__ = ["ACTIVATIONS", "SOURCES", "TRANSFORMS", "MappingNetwork", "QPAGenerator", "QPASpec"]
