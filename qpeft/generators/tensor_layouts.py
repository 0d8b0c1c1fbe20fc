"""Which tensor networks there are: the indices of each one's frames and of the diagonal between them.

Quantum-PEFT (arXiv 2503.05431, Fig 5) reads an update as a tensor of D modes joined by bonds of rank K. Written in
canonical form, all nodes of a network but one are frames: matrices with orthonormal columns. Counts below are for
D modes of size n (the paper's N**(2/D)) and frames of n K - K (K + 1) / 2 numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from qpeft.registry import Registry


class Layout(NamedTuple):
    """The indices of a network's nodes, one symbol each.

    Attributes:
        frames: Of each frame the indices its rows stand for, first the slowest, and the index of its columns.
        centre: The indices of the node of trained numbers: one for a diagonal, more for a core.
    """

    frames: list[tuple[str, str]]
    centre: str


LayoutRule = Callable[[str, Iterator[str]], Layout]  # (the symbol of each mode, fresh symbols for bonds)


def cp(modes: str, bonds: Iterator[str]) -> Layout:
    """Canonical polyadic: W_ij.. = sum_r Lambda_r Q1_ir Q2_jr ..

    D (n K - K (K + 1) / 2) + K numbers. Two modes make the singular value decomposition U diag(Lambda) V^T of
    2 N K - K**2 numbers, the printed formula; so do a train and a tree of two modes.
    """
    rank = next(bonds)
    return Layout([(mode, rank) for mode in modes], rank)


def tensor_train(modes: str, bonds: Iterator[str]) -> Layout:
    """Tensor train, or matrix product state: frames face the diagonal on the middle bond from both sides.

    n K (2 + (D - 2) K) - K (D (K + 1) / 2 - 1) numbers, the printed formula.
    """
    links = [next(bonds) for _ in modes[1:]]
    middle = len(modes) // 2
    left = [(before + mode, after) for before, mode, after in zip(["", *links], modes[:middle], links, strict=False)]
    right = [
        (mode + after, before)
        for before, mode, after in zip(links[middle - 1 :], modes[middle:], [*links[middle:], ""], strict=True)
    ]
    return Layout(left + right, links[middle - 1])


def tucker(modes: str, bonds: Iterator[str]) -> Layout:
    """Tucker: a frame for each mode and a core of K**D trained numbers, which may be signs too.

    D n K + K**D - D K (K + 1) / 2 numbers, the printed formula.
    """
    ranks = [next(bonds) for _ in modes]
    return Layout(list(zip(modes, ranks, strict=True)), "".join(ranks))


def tensor_ring(modes: str, bonds: Iterator[str]) -> Layout:
    """Tensor ring: a train whose ends are joined, with the diagonal on the bond before the last mode (Fig 8).

    D n K**2 - K (D (K + 1) / 2 - 1) numbers. The printed D n K**2 - K (D K + 1) / 2 is the same at D = 3 alone.
    """
    links = [next(bonds) for _ in modes]
    frames = [(before + mode, after) for before, mode, after in zip([links[-1], *links], modes, links, strict=False)]
    return Layout(frames, links[-2])


def hierarchical_tucker(modes: str, bonds: Iterator[str]) -> Layout:
    """Hierarchical Tucker, or tree tensor network: a binary tree of frames with the diagonal at its root.

    D n K + (D - 2) K**3 - (D - 1) K (K + 1) + K numbers; none is printed.
    """

    def tree(below: str, out: str) -> list[tuple[str, str]]:
        if len(below) == 1:
            return [(below, out)]
        left, right = next(bonds), next(bonds)
        half = len(below) // 2
        return [(left + right, out), *tree(below[:half], left), *tree(below[half:], right)]

    root = next(bonds)
    half = len(modes) // 2
    return Layout(tree(modes[:half], root) + tree(modes[half:], root), root)


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
