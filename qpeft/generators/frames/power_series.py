"""What the two maps that cut a power series short share: their order."""

from __future__ import annotations

from qpeft.errors import ConfigError
from qpeft.generators.frames.lie import LieFrame
from qpeft.generators.frames.triangle import Triangle


class PowerSeriesFrame(LieFrame):
    """A map whose series ends at order P, `order`.

    Args:
        size: Rows N of a frame, at least 2.
        columns: Columns K of a frame, from 1 to N.
        count: How many frames are generated in one call.
        intrinsic_rank: Columns K' of B that train, from 1 to K; K if not given.
        triangle: "strict" or "diagonal", as in `TriangularFrame`.
        init_scale: Scale of B at the start, as in `TriangularFrame`.
        order: P, at least 1.

    Raises:
        ConfigError: If a number or `triangle` is outside what is allowed.
    """

    def __init__(
        self,
        size: int,
        columns: int,
        count: int = 1,
        intrinsic_rank: int | None = None,
        *,
        triangle: Triangle = "strict",
        init_scale: float | None = None,
        order: int = 18,
    ) -> None:
        super().__init__(size, columns, count, intrinsic_rank, triangle=triangle, init_scale=init_scale)
        if order < 1:
            raise ConfigError(f"order P must be at least 1, got {order}; order 0 is the identity whatever is trained")
        self.order = order

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, order={self.order}"
