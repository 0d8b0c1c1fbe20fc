"""What the file of a Quantum-PEFT adapter holds, by arithmetic from the sizes of its layers."""

import math
from collections import Counter
from dataclasses import dataclass

Numbers = dict[str, int | None]  # how many numbers each tensor has; None where that depends on the numbers


@dataclass(frozen=True)
class Frames:
    """Frames of K = 2 columns.

    Attributes:
        kind: "shannon" or "pad" of one-layer two-designs (arXiv 2503.05431, eq. 2 and 4), or "triangle".
        intrinsic_rank: K' of a triangle.
        keeps_initial: Whether the numbers of the start are saved too.
        bits: Of quantised numbers.
        group: Quantised numbers that share a scale.
        adaptive: Whether groups have bits of their own.
    """

    kind: str = "shannon"
    intrinsic_rank: int = 2
    keeps_initial: bool = False
    bits: int | None = None
    group: int = 8
    adaptive: bool = False

    def in_file(self, shapes: list[tuple[int, int]]) -> Numbers:
        """The tensors of a bank of layers of these shapes."""
        numbers: Numbers = {"diagonal.weight": 2 * len(shapes)}
        for size, frames in Counter(size for shape in shapes for size in shape).items():
            for name, number in self._frame(size).items():
                numbers |= self._stored(f"frames.by_size.{size}.{name}", frames * number)
                if self.keeps_initial:
                    numbers[f"frames.initial_{size}_{name.replace('.', '_')}"] = frames * number
        return numbers

    def calls(self, shapes: list[tuple[int, int]]) -> int:
        """How often frames are generated for one pass: once a size, and again as they were at the start."""
        return len({size for shape in shapes for size in shape}) * (2 if self.keeps_initial else 1)

    def _frame(self, size: int) -> dict[str, int]:
        if self.kind == "triangle":
            return {"entries": sum(size - 1 - column for column in range(self.intrinsic_rank))}
        if self.kind == "pad" and not math.log2(size).is_integer():
            return {f"padded.{name}": number for name, number in _two_design(2 ** math.ceil(math.log2(size))).items()}
        return _shannon(size, whole=False)

    def _stored(self, name: str, number: int) -> Numbers:
        if self.bits is None:
            return {name: number}
        groups = math.ceil(number / self.group)
        codes, bits = (None, groups) if self.adaptive else (math.ceil(number * self.bits / 8), 1)
        return {f"{name}.codes": codes, f"{name}.scale": groups, f"{name}.zero": groups, f"{name}.bits": bits}


@dataclass(frozen=True)
class Rings(Frames):
    """Tensor rings of two modes, rows and columns, and bonds of 2: one network for each shape, (out, in).

    Its frames have two rows for each of the matrix's rows and columns.
    """

    def in_file(self, shapes: list[tuple[int, int]]) -> Numbers:
        return {
            f"networks.{rows}x{columns}.{name}": number
            for (rows, columns), layers in Counter(shapes).items()
            for name, number in Frames.in_file(self, [(2 * rows, 2 * columns)] * layers).items()
        }

    def calls(self, shapes: list[tuple[int, int]]) -> int:
        return sum(Frames.calls(self, [shape]) for shape in set(shapes))


def _two_design(size: int) -> dict[str, int]:
    return {"angles": 3 * int(math.log2(size)) - 2}


def _shannon(size: int, whole: bool) -> dict[str, int]:
    if size == 1:
        return {}
    if math.log2(size).is_integer():
        return _two_design(size)
    larger = 2 ** int(math.log2(size))
    smaller = size - larger
    whole = whole or smaller < 2  # V2 acts on what is zero in the first N2 columns
    parts = {"u1": _shannon(larger, True), "u2": _shannon(smaller, True), "v1": _shannon(smaller, whole)}
    if whole:
        parts["v2"] = _shannon(larger, True)
    return {"angles": 1} | {f"{part}.{name}": n for part, names in parts.items() for name, n in names.items()}
