"""The bank of Quantum-PEFT: frames and diagonals that make the factors of all target layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from qpeft.adapters.generated import Bank, Weights
from qpeft.adapters.peft_internals import Shape
from qpeft.generators.diagonal import DiagonalNode
from qpeft.generators.frames import FramePool
from qpeft.generators.frames.base import FrameFactory
from qpeft.generators.frames.pool import Pack
from qpeft.generators.one_draw import OneDraw
from qpeft.generators.subtraction import factors_less_start


class FrameBank(Bank):
    """A = V^T (K x in) and B = U diag(l) (out x K) of every layer, dW = B A (Quantum-PEFT, arXiv 2503.05431).

    The frames of equal size of all layers, U and V alike, come from one call. With a diagonal that does not start at 0,
    the frozen update of the start is subtracted, which makes the rank 2K at most.

    Args:
        targets: Layer name to (out_features, in_features).
        rank: K.
        frame: Makes the frames of one size: (size, columns, count) -> Frame.
        diagonal: Makes the diagonals: (size, count) -> DiagonalNode.
        pack: Quantises the frames' numbers and packs them on save, if given; the diagonals stay in full precision.
    """

    def __init__(
        self, targets: Mapping[str, Shape], rank: int, frame: FrameFactory,
        diagonal: Callable[[int, int], DiagonalNode], pack: Pack | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._names = list(targets)
        self.diagonal = diagonal(rank, len(targets))
        self._diagonals = OneDraw(self.diagonal)
        sizes = [size for shape in targets.values() for size in shape]
        self.frames = FramePool(
            sizes, rank, frame, pack=pack, keep_initial=not self.diagonal.starts_at_zero
        )  # fmt: skip

    @property
    def draws(self) -> bool:
        return self.diagonal.draws

    @property
    def layers(self) -> list[str]:
        return self._names

    @property
    def num_frozen(self) -> int:
        return self.frames.num_kept

    def forward(self) -> dict[str, Weights]:
        factors = _factors(self.frames(), self._diagonals(list(self.frames.parameters())))
        if not self.diagonal.starts_at_zero:
            with torch.no_grad():
                start = _factors(self.frames.initial(), self.diagonal.initial())
            factors = [factors_less_start(*now, *then) for now, then in zip(factors, start, strict=True)]
        return {name: {"lora_A": A, "lora_B": B} for name, (B, A) in zip(self._names, factors, strict=True)}


def _factors(frames: list[Tensor], diagonals: Tensor) -> list[tuple[Tensor, Tensor]]:
    """U diag(l) and V^T of each layer, from (1, N, K) frames in the order U, V, U, V, ... and (layers, K) diagonals."""
    pairs = zip(frames[::2], frames[1::2], diagonals, strict=True)
    return [(U[0] * diagonal, V[0].mT) for U, V, diagonal in pairs]
