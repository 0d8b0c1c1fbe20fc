"""Frames that multiply a block of columns without ever holding their N x N matrix."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from qpeft.generators.frames.base import Frame


class ActingFrame(Frame):
    """A frame given by how its orthogonal N x N matrix Q acts: the frame is Q times the first K columns of I.

    Larger frames are put together from such ones at the cost and memory of their products with K columns.
    """

    @abstractmethod
    def act_on(self, block: Tensor) -> Tensor:
        """Q @ block, for any block (count, N, k) of columns; returns (count, N, k)."""

    def forward(self) -> Tensor:
        like = next(self.parameters())
        identity = torch.eye(self.size, self.columns, dtype=like.dtype, device=like.device)
        return self.act_on(identity.expand(self.count, -1, -1))
