"""Jobs timed in turns, so that whatever else the machine does meets all of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from circuit_speed import median_seconds

Name = TypeVar("Name", bound=Hashable)


def in_turns(work: Mapping[Name, Callable[[], object]], rounds: int, at_least: float) -> dict[Name, list[float]]:
    """Seconds of every job, one figure a round, each the median of `at_least` seconds of repetitions."""
    seconds: dict[Name, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, job in work.items():
            seconds[name].append(median_seconds(job, at_least))
    return seconds
