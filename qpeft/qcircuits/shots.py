"""How many times a circuit is measured: an absolute number, or one that grows with the number of basis states."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qpeft.errors import ConfigError

MOST = 10**12
GRAMMAR = "a number of shots (4096), or shots for each basis state (10x, which is 10 * 2**N)"


@dataclass(frozen=True)
class Shots:
    """`count` shots, or `count * 2**N` with `per_state` (Quantum Parameter Adaptation, arXiv 2410.09846, section 4.4).

    Example:
        >>> Shots.of("10x").number(num_qubits=8)
        2560
        >>> print(Shots.of(4096), Shots.of("10x"))
        4096 10x
    """

    count: int
    per_state: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or not 1 <= self.count <= MOST:
            raise ConfigError(f"shots are {self}; they must be a whole number from 1 to {MOST:,}: {GRAMMAR}")

    @classmethod
    def of(cls, given: Shots | int | str) -> Shots:
        """Reads 4096, "4096" or "10x"; raises `ConfigError` for anything else."""
        if isinstance(given, Shots):
            return given
        found = re.fullmatch(r"(-?\d+)(x?)", str(given).strip())
        if isinstance(given, bool) or found is None:
            raise ConfigError(f"shots are {given!r}; expected {GRAMMAR}")
        return cls(int(found[1]), found[2] == "x")

    def number(self, num_qubits: int) -> int:
        """The shots of one circuit on `num_qubits` qubits."""
        return self.count << num_qubits if self.per_state else self.count

    def __str__(self) -> str:
        return f"{self.count}x" if self.per_state else str(self.count)
