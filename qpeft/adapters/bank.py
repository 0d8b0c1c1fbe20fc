"""The bank of QPA: circuits and mapping networks that generate the tensors of all target layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from qpeft.adapters.generated import Bank, Weights
from qpeft.generators import QPAGenerator, QPASpec
from qpeft.generators.philox import uniform
from qpeft.qcircuits import Engine


@dataclass(frozen=True)
class Piece:
    """One tensor to generate.

    Attributes:
        layer: Name of the layer it belongs to.
        role: What it is there, e.g. "lora_A".
        shape: Its shape.
        fan_in: Under the identity start a frozen random tensor U(-1/sqrt(fan_in), 1/sqrt(fan_in)) is added; 0: none.
    """

    layer: str
    role: str
    shape: tuple[int, ...]
    fan_in: int = 0

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def by_scope(pieces: Sequence[Piece], scope: str) -> list[list[Piece]]:
    """The pieces of each generator: all together ("model"), or layer by layer ("layer")."""
    if scope == "model":
        return [list(pieces)]
    return [list(group) for _, group in groupby(pieces, key=lambda piece: piece.layer)]


class QPABank(Bank):
    """Generates every piece: the generators' vectors, end to end, are cut into the pieces in their order, row-major.

    With the start "identity" a frozen random tensor is added to the pieces that ask for one (LoRA's A), while the
    others (LoRA's B) are generated alone: the generator's zero last layer then makes every update zero at the start,
    and B has a gradient at once. The frozen numbers are not saved; they are rebuilt from their seed.

    Args:
        specs: One for each generator; their target sizes add up to the pieces' sizes.
        pieces: What to generate, in order.
        engine: Runs the circuits.
        frozen_seed: Seed of the frozen numbers; None for none (the paper's start).
    """

    frozen: Tensor

    def __init__(
        self, specs: Sequence[QPASpec], pieces: Sequence[Piece], engine: Engine, frozen_seed: int | None
    ) -> None:
        super().__init__()
        self.pieces = list(pieces)
        self.generators = nn.ModuleList(QPAGenerator(spec, engine) for spec in specs)
        # A single zero broadcasts.
        frozen = torch.zeros(1) if frozen_seed is None else frozen_numbers(self.pieces, frozen_seed)
        self.register_buffer("frozen", frozen, persistent=False)

    @property
    def engine(self) -> Engine:
        """Runs the circuits of all generators."""
        return self._generators[0].engine

    @property
    def specs(self) -> list[QPASpec]:
        """Sizes of each generator."""
        return [generator.spec for generator in self._generators]

    @property
    def layers(self) -> list[str]:
        return list(dict.fromkeys(piece.layer for piece in self.pieces))

    @property
    def num_frozen(self) -> int:
        """Numbers that do not train but are needed: the frozen random ones, and a frozen circuit's angles."""
        random = sum(piece.size for piece in self.pieces if piece.fan_in) if self.frozen.numel() > 1 else 0
        return random + sum(buffer.numel() for name, buffer in self.named_buffers() if name.endswith("angles"))

    @property
    def _generators(self) -> list[QPAGenerator]:
        return [generator for generator in self.generators if isinstance(generator, QPAGenerator)]

    def forward(self) -> dict[str, Weights]:
        vector = torch.cat([generator() for generator in self.generators])
        parts = (vector + self.frozen.to(vector.dtype)).split([piece.size for piece in self.pieces])
        weights: dict[str, dict[str, Tensor]] = {}
        for piece, part in zip(self.pieces, parts, strict=True):
            weights.setdefault(piece.layer, {})[piece.role] = part.view(piece.shape)
        return dict(weights)


def frozen_numbers(pieces: Sequence[Piece], seed: int) -> Tensor:
    """The frozen tensors in the bank's layout, zeros where a piece asks for none."""
    draws = uniform(seed, sum(piece.size for piece in pieces if piece.fan_in))
    parts, place = [], 0
    for piece in pieces:
        if piece.fan_in:
            parts.append(draws[place : place + piece.size] / math.sqrt(piece.fan_in))
            place += piece.size
        else:
            parts.append(torch.zeros(piece.size))
    return torch.cat(parts)
