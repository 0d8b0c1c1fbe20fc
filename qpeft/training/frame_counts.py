"""What an adapter of Quantum-PEFT trains: by the paper's formula, by each way of counting, and beside LoRA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
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
)
from qpeft.generators.frames.triangle import triangle_parameters

OTHERS: dict[str, tuple[Callable[..., int], str, str]] = {
    "LoRA": (lora, "r (in + out)", "Tables 1, 2, 3, 5, 6"),
    "AdaLoRA": (adalora, "r (in + out + 1)", "Table 5: 3.54M"),
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
    numbers: int
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
        """The layers by every convention."""
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
        for size in sorted({size for shape in self._layers for size in shape}):
            yield f"N = {size:,}: {self._put_in(way, size)} = {self._frame(way, size):,}"
        for shape, times in self._layers.items():
            U, V = (self._frame(way, size) for size in shape)
            layer = self._layer(way)(*shape)
            yield f"{times} layer(s) {shape[0]:,} x {shape[1]:,}: U {U:,} + V {V:,} + diagonal {self.rank} = {layer:,}"

    def _frame(self, way: Convention, size: int) -> int:
        return way.frame(size, self.rank, self.intrinsic_rank, self.reps)

    def _whole(self, way: Convention, size: int) -> int:
        """Numbers of all N columns, where a decomposition has none that are idle."""
        return way.frame(size, size, self.intrinsic_rank, self.reps)

    def _layer(self, way: Convention) -> Callable[[int, int], int]:
        return lambda rows, columns: way.layer(rows, columns, self.rank, self.intrinsic_rank, self.reps)

    def _total(self, layer: Callable[[int, int], int]) -> int:
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
