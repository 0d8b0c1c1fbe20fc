"""How a budget of trained numbers is shared among several generators."""

from __future__ import annotations

from collections.abc import Sequence

from qpeft.errors import ConfigError


def shares(budget: int, least: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """The most numbers each generator may train: the least it can, and of what is left a part by its target's size.

    Args:
        budget: Most numbers of all together.
        least: What the smallest generator of each target trains.
        sizes: How many numbers each generates.

    Raises:
        ConfigError: The smallest generators together train more; a single one says so itself.

    Example:
        >>> shares(100, least=[10, 10], sizes=[300, 100])
        [70, 30]
    """
    if len(sizes) == 1:
        return [budget]
    spare = budget - sum(least)
    if spare < 0:
        raise ConfigError(
            f"a budget of {budget} parameters is too small: the smallest {len(sizes)} generators (one a layer) train "
            f"{sum(least)}. Raise the budget, or use scope='model'"
        )
    return [smallest + spare * size // sum(sizes) for smallest, size in zip(least, sizes, strict=True)]
