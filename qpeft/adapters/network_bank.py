"""The bank of Quantum-PEFT's tensor networks: the factors of all target layers, one network for each shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from qpeft.adapters.generated import Bank, Weights
from qpeft.adapters.peft_internals import Shape
from qpeft.errors import ConfigError
from qpeft.generators.frames.base import FrameFactory
from qpeft.generators.frames.pool import Pack
from qpeft.generators.tensor_network import DiagonalFactory, TensorNetwork


class NetworkBank(Bank):
    """A (R x in) and B (out x R) of every layer, whose product is a tensor network (Quantum-PEFT, arXiv 2503.05431).

    The layers of one shape, (out_features, in_features), come from one network. R is what `TensorNetwork` makes of the
    rank K; with a diagonal that does not start at 0 it is twice that.

    Args:
        targets: Layer name to (out_features, in_features).
        network: A name of `qpeft.generators.tensor_layouts.NETWORKS`.
        modes: D, or the sizes of the modes, of every layer.
        rank: K.
        frame: Makes the frames of one size: (size, columns, count) -> Frame.
        diagonal: Makes the centres: (size, count) -> DiagonalNode.
        pack: Quantises the frames' numbers and packs them on save, if given; the centres stay in full precision.

    Raises:
        ConfigError: Modes that do not fold a layer's rows and columns, a rank above a mode's size, or frames that
            cannot be; the message names the layer.
    """

    def __init__(
        self, targets: Mapping[str, Shape], network: str, modes: int | Sequence[int], rank: int, frame: FrameFactory,
        diagonal: DiagonalFactory, pack: Pack | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._by_shape: dict[Shape, list[str]] = {}
        for name, shape in targets.items():
            self._by_shape.setdefault(shape, []).append(name)
        self._names = list(targets)
        self.networks = nn.ModuleDict()
        for shape, names in self._by_shape.items():
            try:
                made = TensorNetwork(network, *shape, rank, frame, modes, diagonal, len(names), pack)
                made.check_factors()
            except ConfigError as error:
                raise type(error)(f"{names[0]}: {error}") from error
            self.networks["x".join(map(str, shape))] = made

    @property
    def draws(self) -> bool:
        return any(network.diagonal.draws for _, network in self._made())

    @property
    def layers(self) -> list[str]:
        return self._names

    @property
    def num_frozen(self) -> int:
        return sum(network.frames.num_kept for _, network in self._made())

    def forward(self) -> dict[str, Weights]:
        weights = {}
        for names, network in self._made():
            for name, b, a in zip(names, *network.factors(), strict=True):
                weights[name] = {"lora_A": a, "lora_B": b}
        return {name: weights[name] for name in self._names}

    def _made(self) -> Iterator[tuple[list[str], TensorNetwork]]:
        """The layers of each shape, and their network."""
        for names, network in zip(self._by_shape.values(), self.networks.values(), strict=True):
            assert isinstance(network, TensorNetwork)
            yield names, network
