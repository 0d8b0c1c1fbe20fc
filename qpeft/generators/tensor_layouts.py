"""Which tensor networks there are: the indices of each one's frames and of the diagonal between them.

Quantum-PEFT (arXiv 2503.05431, Fig 5) reads an update as a tensor of D modes joined by bonds of rank K. Written in
canonical form, all nodes of a network but one are frames: matrices with orthonormal columns. The modes have two halves,
where possible those of the matrix's rows and those of its columns. Counts below are for D modes of size n (the paper's
N**(2/D)) and frames of n K - K (K + 1) / 2 numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import opt_einsum

from qpeft.generators.folding import border, fold
from qpeft.registry import Registry


class Layout(NamedTuple):
    """The indices of a network's nodes, one symbol each.

    A frame is given by the indices its rows stand for, first the slowest, and the index of its columns.

    Attributes:
        left: The frames of the left half of the modes.
        right: The frames of the right half.
        centre: The indices of the node of trained numbers: one for a diagonal, more for a core.
    """

    left: list[tuple[str, str]]
    right: list[tuple[str, str]]
    centre: str

    @property
    def frames(self) -> list[tuple[str, str]]:
        """All of them, left before right."""
        return self.left + self.right


LayoutRule = Callable[[str, str, Iterator[str]], Layout]  # (the modes' symbols left and right, fresh ones for bonds)


def cp(left: str, right: str, bonds: Iterator[str]) -> Layout:
    """Canonical polyadic: W_ij.. = sum_r Lambda_r Q1_ir Q2_jr ..

    D (n K - K (K + 1) / 2) + K numbers. Two modes make the singular value decomposition U diag(Lambda) V^T of
    2 N K - K**2 numbers, the printed formula; so do a train and a tree of two modes.
    """
    rank = next(bonds)
    return Layout([(mode, rank) for mode in left], [(mode, rank) for mode in right], rank)


def tensor_train(left: str, right: str, bonds: Iterator[str]) -> Layout:
    """Tensor train, or matrix product state: frames face the diagonal between the halves from both sides.

    n K (2 + (D - 2) K) - K (D (K + 1) / 2 - 1) numbers, the printed formula.
    """
    before = [next(bonds) for _ in left]
    after = [before[-1], *(next(bonds) for _ in right[1:])]
    return Layout(
        [(link + mode, out) for link, mode, out in zip(["", *before], left, before, strict=False)],
        [(mode + link, out) for mode, link, out in zip(right, [*after[1:], ""], after, strict=True)],
        before[-1],
    )


def tucker(left: str, right: str, bonds: Iterator[str]) -> Layout:
    """Tucker: a frame for each mode and a core of K**D trained numbers, which may be signs too.

    D n K + K**D - D K (K + 1) / 2 numbers, the printed formula.
    """
    ranks = [next(bonds) for _ in left + right]
    frames = list(zip(left + right, ranks, strict=True))
    return Layout(frames[: len(left)], frames[len(left) :], "".join(ranks))


def tensor_ring(left: str, right: str, bonds: Iterator[str]) -> Layout:
    """Tensor ring: a train whose ends are joined, with the diagonal on the bond before the last mode (Fig 8).

    D n K**2 - K (D (K + 1) / 2 - 1) numbers. The printed D n K**2 - K (D K + 1) / 2 is the same at D = 3 alone.
    """
    modes = left + right
    links = [next(bonds) for _ in modes]
    frames = [(before + mode, after) for before, mode, after in zip([links[-1], *links], modes, links, strict=False)]
    return Layout(frames[: len(left)], frames[len(left) :], links[-2])


def hierarchical_tucker(left: str, right: str, bonds: Iterator[str]) -> Layout:
    """Hierarchical Tucker, or tree tensor network: a binary tree of frames with the diagonal at its root.

    D n K + (D - 2) K**3 - (D - 1) K (K + 1) + K numbers; none is printed.
    """

    def tree(below: str, out: str) -> list[tuple[str, str]]:
        if len(below) == 1:
            return [(below, out)]
        first, second = next(bonds), next(bonds)
        half = len(below) // 2
        return [(first + second, out), *tree(below[:half], first), *tree(below[half:], second)]

    root = next(bonds)
    return Layout(tree(left, root), tree(right, root), root)


NETWORKS: Registry[LayoutRule] = Registry(
    "tensor network",
    {
        "cp": cp,
        "tensor_train": tensor_train,
        "tucker": tucker,
        "tensor_ring": tensor_ring,
        "hierarchical_tucker": hierarchical_tucker,
    },
)


@dataclass(frozen=True)
class SizedLayout:
    """The layout of a network that makes a (rows, columns) matrix, with the size of every index.

    Attributes:
        layout: The indices of the nodes that have something to train.
        left: The modes of the left half.
        right: The modes of the right half.
        sizes: Of each index.
        apart: Whether the left half folds the rows and the right half the columns.
    """

    layout: Layout
    left: str
    right: str
    sizes: dict[str, int]
    apart: bool

    @classmethod
    def of(cls, kind: str, rows: int, columns: int, modes: int | Sequence[int], rank: int) -> SizedLayout:
        """The layout of a network: halves of rows and columns where the fold has them, else of D // 2 modes.

        Args:
            kind: A name of `NETWORKS`.
            rows: Rows of the matrix.
            columns: Its columns.
            modes: D, or the sizes of the modes: see `fold`.
            rank: K, the size of every bond.

        Raises:
            ConfigError: An unknown network, or a fold that does not divide.

        Example:
            >>> SizedLayout.of("tensor_train", 16, 16, modes=4, rank=2).heights
            [4, 8, 8, 4]
        """
        rule = NETWORKS[kind]
        folded = fold(rows, columns, modes)
        of_rows = border(rows, folded)
        symbols = map(opt_einsum.get_symbol, itertools.count(1))  # the first is left for the axis of several networks
        letters = "".join(itertools.islice(symbols, len(folded)))
        half = of_rows or len(folded) // 2
        left, right = letters[:half], letters[half:]
        layout = rule(left, right, symbols)
        bonds = {index for above, out in layout.frames for index in above + out}
        sizes = dict.fromkeys(bonds, rank) | dict(zip(letters, folded, strict=True))

        def trained(frames: list[tuple[str, str]]) -> list[tuple[str, str]]:
            """Without bonds of size 1 between bonds of size 1."""
            return [frame for frame in frames if any(sizes[index] > 1 for index in frame[0])]

        layout = Layout(trained(layout.left), trained(layout.right), layout.centre)
        return cls(layout, left, right, sizes, of_rows is not None)

    @property
    def modes(self) -> tuple[int, ...]:
        """The sizes of the modes."""
        return self.shape(self.left + self.right)

    @property
    def heights(self) -> list[int]:
        """The rows of each frame."""
        return [math.prod(self.shape(above)) for above, _ in self.layout.frames]

    @property
    def centre(self) -> int:
        """The trained numbers of the centre."""
        return math.prod(self.shape(self.layout.centre))

    def shape(self, indices: str) -> tuple[int, ...]:
        """The sizes of some indices."""
        return tuple(self.sizes[index] for index in indices)
