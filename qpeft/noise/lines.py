"""The best line of qubits on a device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qpeft.errors import NoiseError

if TYPE_CHECKING:
    from qiskit.transpiler import InstructionProperties, Target

LONGEST = 16  # qubits of a line that is searched for
USELESS = 0.5  # a coupler with at least this error is never chosen: such entries mark broken ones

Pair = tuple[int, int]


def coupler_errors(target: Target) -> dict[Pair, float]:
    """Error of each working pair of qubits (ascending), the smaller where both directions are stated."""
    found: dict[Pair, float] = {}
    for name in target.operation_names:
        for qubits, stated in (target[name] or {}).items():
            if qubits is not None and len(qubits) == 2 and is_working(stated):
                pair = (min(qubits), max(qubits))
                found[pair] = min(stated.error, found.get(pair, 1.0))
    return found


def is_working(stated: InstructionProperties | None) -> bool:
    """Whether a gate in one direction has an error below `USELESS`."""
    return stated is not None and stated.error is not None and stated.error < USELESS


def require_native(target: Target, name: str) -> None:
    """Raises `NoiseError` unless our gate table has the device's single-qubit gates."""
    if not ("rz" in target.operation_names and {"sx", "rx"} & {*target.operation_names}):
        gates = [g for g in target.operation_names if any(q is not None and len(q) == 1 for q in target[g] or {})]
        raise NoiseError(
            f"{name} runs {', '.join(sorted(gates))}; only devices with rz and sx (or rx) can be simulated. Use a "
            "newer device (qpeft devices)"
        )


def qubit_errors(target: Target) -> dict[int, float]:
    """For each qubit whose calibration is complete, 1 - (readout fidelity) (sx fidelity)."""
    readout = {q[0]: s.error for q, s in target["measure"].items() if s is not None and s.error is not None}
    single = target["sx"] if "sx" in target.operation_names else {}
    times = target.qubit_properties
    found = {}
    for qubit, error in readout.items():
        stated = single.get((qubit,))
        relaxes = times is None or (times[qubit].t1 is not None and times[qubit].t2 is not None)
        if error < USELESS and stated is not None and is_working(stated) and relaxes:
            found[qubit] = 1 - (1 - error) * (1 - stated.error)
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
    if num_qubits > LONGEST:
        raise NoiseError(
            f"a line of {num_qubits} qubits was asked for; lines are searched up to {LONGEST} qubits, more than can be "
            "simulated under noise. Give the device's qubits by hand"
        )
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


def require_line(line: Sequence[int], num_qubits: int, couplers: Mapping[Pair, float], name: str) -> None:
    """Raises `NoiseError` unless the qubits are distinct ones of the device and neighbours in `line` are coupled."""
    if len(set(line)) != len(line) or not all(0 <= qubit < num_qubits for qubit in line):
        raise NoiseError(f"the line {list(line)} must name distinct qubits of {name}, which are 0 to {num_qubits - 1}")
    for a, b in itertools.pairwise(line):
        if (min(a, b), max(a, b)) not in couplers:
            raise NoiseError(
                f"qubits {a} and {b} of the line {list(line)} are not coupled on {name} (or their coupler's error is "
                f"{USELESS} or more); neighbours in a line must be"
            )
