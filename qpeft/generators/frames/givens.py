"""Chains of Givens rotations."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from qpeft.generators.frames.recurrence import linear_recurrence
from qpeft.generators.frames.truncation import TruncatedFrame


class GivensFrame(TruncatedFrame):
    """Products of rotations of neighbouring axes, one an entry of B (Quantum-PEFT, arXiv 2503.05431, Q_G).

    G_j(t) turns axes j and j + 1 by RY(t), that is by the angle t / 2. The paper's product,

        prod_{k=1..K'} prod_{n=k+1..N} G_{n-k}(B_nk)                          truncate="rows"

    moves its first K rows in as many directions as it has angles, but its first K columns in fewer. Columns need each
    chain to run the other way, and to leave the axes of earlier chains alone:

        prod_{k=1..K'} prod_{n=N..k+1} G_{n-1}(B_nk)                          truncate="columns"

    Orthonormal for every B, up to rounding, which grows about as sqrt(N): 2e-5 in float32 at N = 16384. It trains
    NK' - K'(K'+1)/2 numbers; triangle="diagonal" counts K' more, which no rotation reads. B = 0 gives the first K
    columns of the identity.

    That is O(N K') rotations, each waiting for the one before. A chain, however, is one linear recurrence in what it
    carries from axis to axis, so its rotations are done in 2 log2(N) rounds, and the K' chains one after another.
    Time is O(N K K'), and memory too when gradients are needed.

    `init_scale` multiplies the angles at the start. At 1 they are those of uniformly random chains, which reach all N
    axes; small ones reach only the next few, and leave the other angles without a gradient.

    Example:
        >>> frame = GivensFrame(size=12, columns=3).double()
        >>> frame.num_parameters
        30
        >>> bool(frame.orthogonality_error() < 1e-12)
        True
    """

    default_init_scale: ClassVar[float] = 1.0

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the angles anew: those of chain k turn axis k into a direction uniform among axes k to N."""
        offset = 0 if self.triangle == "diagonal" else -1
        row, column = torch.tril_indices(self.size, self.intrinsic_rank, offset, device=self.entries.device)
        direction = torch.randn(self.count, self.size, self.intrinsic_rank, device=self.entries.device)
        beyond = direction.square().flip(1).cumsum(1).flip(1).sqrt()[:, 1:]
        beyond[:, -1] = direction[:, -1]  # the last angle also chooses the sign of the last axis
        angles = pad(2 * torch.atan2(beyond, direction[:, :-1]), (0, 0, 1, 0))
        self.entries.copy_(self.init_scale * angles[:, row, column])

    def forward(self) -> Tensor:
        """Returns the frames, (count, size, columns)."""
        return self._columns(self.block()) if self.truncate == "columns" else self._rows(self.block())

    def _columns(self, angles: Tensor) -> Tensor:
        rank = self.intrinsic_rank
        # Chain k leaves axes 1 to k - 1 alone: what remains of the identity there is added when a chain needs it.
        frame = torch.eye(self.size - rank, self.columns - rank, dtype=angles.dtype, device=angles.device)
        frame = frame.expand(self.count, -1, -1)
        for k in range(rank - 1, -1, -1):
            frame = pad(frame, (1, 0, 1, 0))
            frame[:, 0, 0] = 1
            frame = turn(angles[:, k + 1 :, k], frame)
        return frame

    def _rows(self, angles: Tensor) -> Tensor:
        frame = torch.eye(self.size, self.columns, dtype=angles.dtype, device=angles.device)
        frame = frame.expand(self.count, -1, -1)
        for k in range(self.intrinsic_rank):  # transposed, the first chain comes first and turns backwards
            turned = turn(-angles[:, k + 1 :, k], frame[:, : self.size - k])
            frame = torch.cat([turned, frame[:, self.size - k :]], dim=1)
        return frame


def turn(angles: Tensor, rows: Tensor) -> Tensor:
    """Rotates rows 1 and 2, then 2 and 3, and so on: angles (count, n - 1), rows (count, n, K) -> (count, n, K)."""
    cos, sin = torch.cos(angles / 2), torch.sin(angles / 2)
    # Rotation j gives row j its final value and hands on to the next sin_j * (what it got) + cos_j * row_{j+1}.
    carried = linear_recurrence(pad(sin, (1, 0)), pad(cos, (1, 0), value=1)[..., None] * rows)
    final = cos[..., None] * carried[:, :-1] - sin[..., None] * rows[:, 1:]
    return torch.cat([final, carried[:, -1:]], dim=1)
