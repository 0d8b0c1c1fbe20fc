"""Randomness that repeats: every call of a sampling engine draws from a stream of its own.

The streams are those of a counter-based generator (Philox; Salmon et al., SC 2011): a seed, the number of the call and
the purpose address a stream directly, so that the draws of one call depend on no other call.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from qpeft.errors import ConfigError


class Purpose(IntEnum):
    """What the numbers of a stream are for."""

    FORWARD = 1  # not 0: the streams of 0 belong to frozen random factors
    GRADIENT = 2
    DIRECTION = 3  # of SPSA


@dataclass(frozen=True)
class Stream:
    """The random numbers of one purpose in one call."""

    seed: int
    call: int
    purpose: Purpose

    def generator(self) -> np.random.Generator:
        """A fresh generator at the stream's start."""
        counter = np.array([0, 0, self.purpose, self.call], dtype=np.uint64)  # a list would pass through float64
        return np.random.Generator(np.random.Philox(key=self.seed, counter=counter))

    def integer(self) -> int:
        """A seed below 2**31 for a simulator of another library."""
        return int(self.generator().integers(2**31))


@dataclass
class Draws:
    """Counts the calls of an engine.

    Set `call` to choose the next call's stream: equal seed, call and angles give equal samples.

    Args:
        seed: The run's seed; parallel processes that must draw alike share it.
        call: Number of the next call, below 2**64.
    """

    seed: int = 0
    call: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**64:
            raise ConfigError(f"seed is {self.seed!r}; it must be a whole number of at least 0, below 2**64")

    def next(self) -> int:
        """This call's number."""
        self.call, call = (self.call + 1) % 2**64, self.call
        return call

    def stream(self, call: int, purpose: Purpose) -> Stream:
        return Stream(self.seed, call, purpose)
