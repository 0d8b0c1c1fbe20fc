"""The Gram matrix of tall blocks, as accurate as their columns are long."""

from __future__ import annotations

from torch import Tensor

ROWS = 128  # summed at a time


def gram(block: Tensor) -> Tensor:
    """B^T B of (count, N, K'), (count, K', K').

    Float32 sums over all N rows at once would lose up to two digits at N = 16384, and the frames made from them their
    orthonormality: sums of 128 rows, then of those sums, lose none.
    """
    whole = block.shape[1] - block.shape[1] % ROWS
    pieces, rest = block[:, :whole].unflatten(1, (-1, ROWS)), block[:, whole:]
    products: Tensor = pieces.mT @ pieces
    return products.sum(1) + rest.mT @ rest
