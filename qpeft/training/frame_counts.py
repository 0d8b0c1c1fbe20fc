"""What an adapter of Quantum-PEFT trains: by the paper's formula, by each way of counting, and beside LoRA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from qpeft.adapters.peft_internals import Shape
from qpeft.adapters.quantum_peft import QuantumPEFTConfig
from qpeft.generators.frames.counts import (
    CONVENTIONS,
    Convention,
    adalora,
    ceil_qubits,
    floor_qubits,
    is_power,
    lora,
    node_convention,
    tensor_ring,
    tensor_train,
    tucker,
)
from qpeft.generators.frames.triangle import triangle_parameters
from qpeft.generators.tensor_layouts import SizedLayout

OTHERS: dict[str, tuple[Callable[..., int], str, str]] = {
    "LoRA": (lora, "r (in + out)", "Tables 1, 2, 3, 5, 6"),
    "AdaLoRA": (adalora, "r (in + out + 1)", "Table 5: 3.54M"),
}
NETWORK_FORMULAS: dict[str, tuple[Callable[[int, int, int], float], str]] = {  # of n, D, K; what Fig. 5 prints
    "tensor_train": (tensor_train, "n K (2 + (D - 2) K) - K (D (K + 1) / 2 - 1)"),
    "tucker": (tucker, "D n K + K^D - D K (K + 1) / 2"),
    "tensor_ring": (tensor_ring, "D n K^2 - K (D K + 1) / 2"),
}


@dataclass(frozen=True)
class Count:
    """The numbers of all layers, counted in one way.

    Attributes:
        name: Of the convention, or of the method and its rank.
        counts: What is counted.
        numbers: Of all layers.
        published: The published counts that need it.
        trains: Whether this is what trains.
    """

    name: str
    counts: str
    numbers: float
    published: str
    trains: bool = False


class FrameCounts:
    """The counts of one adapter.

    Args:
        config: Its config.
        shapes: (out_features, in_features) of its layers.

    Attributes:
        rank: K.
        intrinsic_rank: K'; K if it is not given.
        reps: L; 1, as in the paper, if it is not given.
        name: Of the convention that counts what trains; "" for a circuit that is not the paper's.
    """

    def __init__(self, config: QuantumPEFTConfig, shapes: Iterable[Shape]) -> None:
        self.rank: int = config.r
        self.intrinsic_rank = config.intrinsic_rank or config.r
        self.reps = 1 if config.reps is None else config.reps
        self._config = config
        self._layers = Counter(shapes)
        self._networks = {} if config.network is None else {
            shape: SizedLayout.of(config.network, *shape, config.folds, self.rank) for shape in self._layers
        }  # fmt: skip
        self._conventions = dict(CONVENTIONS)
        other_sizes, sublayers = config.other_sizes or "single", config.sublayers or "eq2"
        self.name = ""
        if config.takes("triangle"):
            self.name = f"triangle-{config.triangle or 'strict'}"
        elif config.node_size is not None:
            self.name = f"node-{sublayers}"
            self._conventions[self.name] = node_convention(config.node_size, sublayers, other_sizes)
        elif config.ansatz in (None, "simplified_two_design"):
            self.name = f"eq2-{other_sizes}"

    @property
    def formula(self) -> str:
        """Numbers of one frame of N rows, of what trains."""
        return self._conventions[self.name].formula

    @property
    def conventions(self) -> list[Count]:
        """The layers by every convention; of a network, which no table counts, by its own and the paper's formula."""
        if self._networks:
            return [*self._of_network(), *self._printed()]
        return [
            Count(name, way.counts, self._total(self._layer(way)), way.published, name == self.name)
            for name, way in self._conventions.items()
        ]

    @property
    def others(self) -> list[Count]:
        """LoRA and AdaLoRA on these layers, of this rank and of rank 1."""
        return [
            Count(f"{method} r={rank}", counts, self._total(partial(of, rank=rank)), published)
            for method, (of, counts, published) in OTHERS.items()
            for rank in sorted({self.rank, 1}, reverse=True)
        ]

    def working(self) -> Iterator[str]:
        """The formula with the numbers put in: a line for each size of a frame, and for each shape of a layer."""
        if not self.name:
            return
        way = self._conventions[self.name]
        for size in sorted({size for shape in self._layers for size in self._sizes(shape)}):
            yield f"N = {size:,}: {self._put_in(way, size)} = {self._frame(way, size):,}"
        for shape, times in self._layers.items():
            layer = self._layer(way)(*shape)
            yield f"{times} layer(s) {shape[0]:,} x {shape[1]:,}: {self._parts(way, shape)} = {layer:,}"

    def _of_network(self) -> Iterator[Count]:
        if self.name:
            way = self._conventions[self.name]
            counts = f"frames ({way.counts}) + centre"
            yield Count(self.name, counts, self._total(self._layer(way)), "none", trains=True)

    def _printed(self) -> Iterator[Count]:
        """The paper's formula, of D equal modes, where it prints one."""
        modes = {shape: network.modes for shape, network in self._networks.items()}
        if self._config.network in NETWORK_FORMULAS and all(len(set(sizes)) == 1 for sizes in modes.values()):
            formula, text = NETWORK_FORMULAS[self._config.network]
            numbers = self._total(lambda *shape: formula(modes[shape][0], len(modes[shape]), self.rank))
            yield Count("printed", text, numbers if numbers % 1 else int(numbers), "none")

    def _sizes(self, shape: Shape) -> Sequence[int]:
        """The rows of each frame of a layer."""
        return self._networks[shape].heights if self._networks else shape

    def _parts(self, way: Convention, shape: Shape) -> str:
        """What a layer is made of, with the numbers of each part."""
        numbers = [f"{self._frame(way, size):,}" for size in self._sizes(shape)]
        if not self._networks:
            return f"U {numbers[0]} + V {numbers[1]} + diagonal {self.rank}"
        modes = " x ".join(map(str, self._networks[shape].modes))
        return f"modes {modes}, frames {' + '.join(numbers)} + centre {self._networks[shape].centre:,}"

    def _frame(self, way: Convention, size: int) -> int:
        return way.frame(size, self.rank, self.intrinsic_rank, self.reps)

    def _whole(self, way: Convention, size: int) -> int:
        """Numbers of all N columns, where a decomposition has none that are idle."""
        return way.frame(size, size, self.intrinsic_rank, self.reps)

    def _layer(self, way: Convention) -> Callable[[int, int], int]:
        if not self._networks:
            return lambda rows, columns: way.layer(rows, columns, self.rank, self.intrinsic_rank, self.reps)
        return lambda *shape: sum(self._frame(way, size) for size in self._sizes(shape)) + self._networks[shape].centre

    def _total(self, layer: Callable[[int, int], float]) -> float:
        return sum(times * layer(*shape) for shape, times in self._layers.items())

    def _put_in(self, way: Convention, size: int) -> str:
        """The formula of one frame with its numbers."""
        numbers, node_size = self._frame(way, size), self._config.node_size
        if self._config.takes("triangle"):
            product = size * self.intrinsic_rank
            return f"{size:,} * {self.intrinsic_rank} - {product - numbers:,}"
        if self._config.other_sizes != "pad" and not is_power(size, node_size or 2):
            larger = 1 << floor_qubits(size)
            whole, first, second = (self._whole(way, part) for part in (size, larger, size - larger))
            less = f" - {whole - numbers:,}" if whole > numbers else ""
            return f"2 * {first:,} + 2 * {second:,} + {whole - 2 * (first + second):,}{less}"
        if node_size:
            each = triangle_parameters(node_size, node_size)
            return f"{numbers // each} * {each}"
        return f"{2 * self.reps + 1} * {ceil_qubits(size)} - {2 * self.reps}"
