"""The best line of qubits on a device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qpeft.errors import NoiseError

if TYPE_CHECKING:
    from qiskit.transpiler import Target

USELESS = 0.5  # a coupler with at least this error is never chosen: such entries mark broken ones

Pair = tuple[int, int]


def coupler_errors(target: Target) -> dict[Pair, float]:
    """Error of each working pair of qubits (ascending), the smaller where both directions are stated."""
    found: dict[Pair, float] = {}
    for name in target.operation_names:
        for qubits, stated in (target[name] or {}).items():
            if qubits is None or len(qubits) != 2 or stated is None or stated.error is None:
                continue
            pair = (min(qubits), max(qubits))
            if stated.error < USELESS:
                found[pair] = min(stated.error, found.get(pair, 1.0))
    return found


def qubit_errors(target: Target) -> dict[int, float]:
    """For each qubit that can be measured, 1 - (readout fidelity) (sx fidelity)."""
    readout = {q[0]: s.error for q, s in target["measure"].items() if s is not None and s.error is not None}
    single = target["sx"] if "sx" in target.operation_names else {}
    found = {}
    for qubit, error in readout.items():
        stated = single.get((qubit,))
        gate = 0.0 if stated is None or stated.error is None else stated.error
        if error < USELESS and gate < USELESS:
            found[qubit] = 1 - (1 - error) * (1 - gate)
    return found


def best_line(
    num_qubits: int, couplers: Mapping[Pair, float], qubits: Mapping[int, float], name: str = "the device"
) -> tuple[int, ...]:
    """The line of neighbouring qubits with the largest product of fidelities of its couplers and qubits.

    The search is exhaustive, and of equally good lines the first in the order of numbers is taken: the answer depends
    on the calibration alone.

    Args:
        num_qubits: Length of the line.
        couplers: Error of each usable pair.
        qubits: Error of each usable qubit (readout and single-qubit gate).
        name: The device's, for messages.

    Raises:
        NoiseError: There is no such line.

    Example:
        >>> best_line(2, {(0, 1): 0.1, (1, 2): 0.01}, {0: 0.0, 1: 0.0, 2: 0.0})
        (1, 2)
    """
    node = {q: math.log1p(-error) for q, error in qubits.items()}
    edge: dict[int, list[tuple[float, int]]] = {q: [] for q in node}
    for (a, b), error in couplers.items():
        if a in node and b in node:
            edge[a].append((math.log1p(-error) + node[b], b))
            edge[b].append((math.log1p(-error) + node[a], a))
    for neighbours in edge.values():
        neighbours.sort(key=lambda step: (-step[0], step[1]))
    most = max((steps[0][0] for steps in edge.values() if steps), default=0.0)  # the best a step can add
    best: tuple[float, tuple[int, ...]] = (-math.inf, ())

    def extend(line: tuple[int, ...], score: float) -> None:
        nonlocal best
        if len(line) == num_qubits:
            forward = min(line, line[::-1])
            if score > best[0] + 1e-12 or (score > best[0] - 1e-12 and forward < best[1]):
                best = (score, forward)
            return
        if score + (num_qubits - len(line)) * most < best[0] - 1e-12:
            return
        for gain, neighbour in edge[line[-1]]:
            if neighbour not in line:
                extend((*line, neighbour), score + gain)

    for start in sorted(node):
        extend((start,), node[start])
    if not best[1] and num_qubits > 1 and not couplers:
        raise NoiseError(
            f"the calibration of {name} is incomplete: it states no two-qubit gate with an error below {USELESS}. Use "
            "another device (qpeft devices)"
        )
    if not best[1]:
        raise NoiseError(
            f"{name} has no line of {num_qubits} working qubits ({len(node)} qubits, {len(couplers)} couplers below an "
            f"error of {USELESS}). Use fewer qubits (for QPA: a larger chunk size) or a larger device"
        )
    return best[1]


def require_line(line: Sequence[int], couplers: Mapping[Pair, float], name: str) -> None:
    """Raises `NoiseError` unless neighbours in `line` are coupled."""
    for a, b in itertools.pairwise(line):
        if (min(a, b), max(a, b)) not in couplers:
            raise NoiseError(
                f"qubits {a} and {b} of the line {list(line)} are not coupled on {name} (or their coupler's error is "
                f"{USELESS} or more); neighbours in a line must be"
            )
