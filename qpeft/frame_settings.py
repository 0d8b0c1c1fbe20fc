"""The settings of the frames of Quantum-PEFT, once for PEFT configs, TOML files and the command line."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from qpeft.errors import ConfigError
from qpeft.generators.diagonal import DIAGONALS, DiagonalNode
from qpeft.generators.frames import FRAMES, OTHER_SIZES, ActingFrame, Frame
from qpeft.generators.frames.base import FrameFactory
from qpeft.generators.frames.counts import is_power
from qpeft.generators.quantization import check_quantization
from qpeft.generators.tensor_layouts import NETWORKS
from qpeft.options import check_whole, is_whole, option

# What stands for None.
OTHER_SIZE = "single"
GROUP_SIZE = 128  # arXiv 2503.05431, section 4.2
KAPPA = 0.0
MODES = 2
_OF_FRAMES = ("intrinsic_rank", "order", "triangle", "init_scale", "truncate", "node_size", "sublayers")
_OF_DIAGONALS = ("measurement", "tau")
_OF_QUANTIZATION = ("group_size", "kappa")
_WHOLE = {"intrinsic_rank": 1, "order": 1, "node_size": 2, "group_size": 1}  # and the least that is allowed
_NUMBERS = ("init_scale", "tau", "kappa")


@dataclass
class FrameSettings:
    """How the frames U, V and the diagonal l of an update U diag(l) V^T are made (arXiv 2503.05431).

    A setting left None is the frame's own; one that the parametrization does not have is refused.

    Raises:
        ConfigError: A value that is not allowed.
    """

    parametrization: str = option("pauli", f"what makes the frames: {', '.join(FRAMES)}")
    intrinsic_rank: int | None = option(None, "K', columns of a triangle that train, at most the rank (the rank)")
    order: int | None = option(None, "taylor, neumann: order P of the series (18)")
    triangle: str | None = option(None, "exponential to givens: strict, or diagonal to train that too (strict)")
    init_scale: float | None = option(None, "exponential to givens: size of the numbers at the start (the map's own)")
    truncate: str | None = option(None, "pauli, householder, givens: columns, or rows as in the paper (columns)")
    node_size: int | None = option(None, "node: size N' of a node; required")
    sublayers: str | None = option(None, "node: two a layer (eq2) or one (fig7) (eq2)")
    other_sizes: str | None = option(
        None, "pauli, node: how sizes that are no power are made: by a cosine-sine decomposition with one angle "
        "(single) or N2 (full), or cut from the next power (pad) (single)",
    )  # fmt: skip
    diagonal: str = option("real", f"numbers between the frames: {' or '.join(DIAGONALS)}")
    measurement: str | None = option(None, "real: identity, square or log_softmax_square of the numbers (identity)")
    tau: float | None = option(None, "rademacher: temperature of ReinMax, at least 1 (1)")
    bits: int | None = option(None, "quantise the frames' numbers to 1 to 8 bits, in training and in files")
    group_size: int | None = option(None, f"numbers that share a scale, with --bits ({GROUP_SIZE})")
    kappa: float | None = option(None, "above 0, adaptive bits: more for groups of wide range, with --bits (0)")
    network: str | None = option(None, f"make updates as a tensor network of frames: {', '.join(NETWORKS)}")
    modes: int | list[int] | None = option(
        None, "network: modes of a layer's matrix, of which half fold its rows and half its columns, in equal sizes (2)"
    )

    def __post_init__(self) -> None:
        kind, diagonal = FRAMES[self.parametrization], DIAGONALS[self.diagonal]
        self._refuse_unused(kind, "parametrization", self.parametrization, _OF_FRAMES)
        self._refuse_unused(diagonal, "diagonal", self.diagonal, _OF_DIAGONALS)
        self._check_numbers()
        if self.other_sizes is not None:
            OTHER_SIZES[self.other_sizes]
            if not issubclass(kind, ActingFrame):
                raise ConfigError(
                    f"other_sizes is no setting of {self.parametrization}, which has any size: leave other_sizes out"
                )
        if "node_size" in _parameters(kind) and self.node_size is None:
            raise ConfigError(
                f"parametrization {self.parametrization!r} needs node_size, the size N' of a node, e.g. 2"
            )
        with torch.device("meta"):  # where nothing is drawn
            given = {name: value for name, value in self._of_frames().items() if name != "intrinsic_rank"}
            kind(self.node_size or 2, 1, **given)  # raises for what no frame can be, whatever its size
            self.new_diagonal(2, 1)
        self._check_network()
        unused = [name for name in _OF_QUANTIZATION if getattr(self, name) is not None]
        if self.bits is not None:
            check_quantization(self.bits, **self.quantization())
        elif unused:
            raise ConfigError(f"{unused[0]} needs bits, which are not given; set bits to 1 to 8, or leave it out")

    def _check_numbers(self) -> None:
        for name, least in _WHOLE.items():
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), least)
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None and not (type(value) in (int, float) and math.isfinite(value)):
                raise ConfigError(f"{name} is {value!r}; it must be a finite number")

    def _check_network(self) -> None:
        if self.network is None:
            if self.modes is not None:
                raise ConfigError(f"modes needs a network; set network to {' or '.join(NETWORKS)}, or leave it out")
            return
        NETWORKS[self.network]
        if isinstance(self.modes, tuple):
            self.modes = list(self.modes)  # as a file gives it back
        sizes = self.folds if isinstance(self.folds, list) else [self.folds]
        if not all(is_whole(size) and size >= 2 for size in sizes):
            raise ConfigError(
                f"modes is {self.modes!r}; it must be a whole number of at least 2, or the size of each mode in a list"
            )

    @property
    def folds(self) -> int | list[int]:
        """How many modes a network has, or the size of each."""
        return MODES if self.modes is None else self.modes

    def _refuse_unused(self, kind: type, setting: str, name: str, settings: tuple[str, ...]) -> None:
        taken = [other for other in settings if other in _parameters(kind)]
        for other in settings:
            if getattr(self, other) is not None and other not in taken:
                has = f"; it takes {', '.join(taken)}" if taken else ""
                raise ConfigError(f"{other} is no setting of {setting} {name!r}: leave {other} out{has}")

    def usual(self) -> dict[str, Any]:
        """Settings that no frame knows, with the value that stands for None."""
        found: dict[str, Any] = {}
        if issubclass(FRAMES[self.parametrization], ActingFrame):
            found["other_sizes"] = OTHER_SIZE
        if self.bits is not None:
            found |= {"group_size": GROUP_SIZE, "kappa": KAPPA}
        if self.network is not None:
            found["modes"] = MODES
        return found

    def quantization(self) -> dict[str, Any]:
        """Group and kappa, as the functions of quantisation take them."""
        return {
            "group": GROUP_SIZE if self.group_size is None else self.group_size,
            "kappa": KAPPA if self.kappa is None else self.kappa,
        }

    def new_frame(self, size: int, columns: int, count: int, **circuit: Any) -> Frame:
        """`count` frames of one size.

        Args:
            size: N.
            columns: K.
            count: How many.
            circuit: `ansatz` and `reps`, if they are not the frame's own.

        Raises:
            ConfigError: Settings that do not allow such frames.
        """
        kind = FRAMES[self.parametrization]
        make: FrameFactory = partial(kind, **self._of_frames(), **circuit)
        if not issubclass(kind, ActingFrame) or is_power(size, self.node_size or 2):
            return make(size, columns, count)
        self._check_parts(size)
        return OTHER_SIZES[self.other_sizes or OTHER_SIZE](size, columns, count, node=make)

    def _of_frames(self) -> dict[str, Any]:
        """The settings of frames that are given."""
        return {name: getattr(self, name) for name in _OF_FRAMES if getattr(self, name) is not None}

    def _check_parts(self, size: int) -> None:
        """Raises `ConfigError` unless nodes can make the powers of two that another size is put together from."""
        node_size = self.node_size or 2
        binary = [1 << bit for bit in reversed(range(1, size.bit_length())) if size >> bit & 1]
        parts = [1 << (size - 1).bit_length()] if self.other_sizes == "pad" else binary
        wrong = [part for part in parts if not is_power(part, node_size)]
        if wrong:
            raise ConfigError(
                f"they are put together from frames of size {', '.join(map(str, parts))}, and node_size={node_size} "
                f"makes powers of {node_size} alone, not {wrong[0]}; use node_size=2, a node_size of which the layers' "
                "sizes are powers, or a parametrization of any size such as 'cayley'"
            )

    def new_diagonal(self, size: int, count: int) -> DiagonalNode:
        """`count` diagonals of `size` numbers."""
        given = {name: getattr(self, name) for name in _OF_DIAGONALS if getattr(self, name) is not None}
        return DIAGONALS[self.diagonal](size, count, **given)

    def takes(self, name: str) -> bool:
        """Whether the parametrization has a setting of this name."""
        return name in _parameters(FRAMES[self.parametrization])


def _parameters(kind: type) -> tuple[str, ...]:
    return tuple(inspect.signature(kind).parameters)
