"""Updates that start at zero although their factors do not."""

from __future__ import annotations

import torch
from torch import Tensor


def factors_less_start(B: Tensor, A: Tensor, B0: Tensor, A0: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of B A - B0 A0, with twice the rank.

    Of the ways to write it the one whose products are exactly 0 at the start: (B - B0) A + B0 (A - A0).

    Args:
        B: (..., rows, R).
        A: (..., R, columns).
        B0: B as it was at the start.
        A0: A as it was at the start.

    Returns:
        (..., rows, 2 R) and (..., 2 R, columns).

    Example:
        >>> B, A = torch.randn(5, 2), torch.randn(2, 3)
        >>> left, right = factors_less_start(B, A, B, A)
        >>> left.shape, bool((left @ right).any())
        (torch.Size([5, 4]), False)
    """
    return torch.cat([B - B0, B0], dim=-1), torch.cat([A, A - A0], dim=-2)
