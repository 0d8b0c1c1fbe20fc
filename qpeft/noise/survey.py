"""What devices there are, and how good: the rows of `qpeft devices`."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import TYPE_CHECKING

from qpeft.errors import NoiseError
from qpeft.noise.device import Device
from qpeft.noise.devices import calibration_date, snapshot, snapshot_names
from qpeft.noise.lines import coupler_errors, qubit_errors

if TYPE_CHECKING:
    from qiskit.transpiler import Target

STALE_DAYS = 90  # devices are calibrated daily; after a season a snapshot describes another device


@dataclass(frozen=True)
class Surveyed:
    """A device at a glance.

    Attributes:
        name: Its name in an engine, e.g. ibm_torino.
        num_qubits: Its qubits.
        gate: Its two-qubit gate.
        pair_error: Median error of that gate over the working couplers; None if there are none.
        readout_error: Median error of a qubit's measurement and single-qubit gate.
        calibrated: Date of the calibration, or None.
        line: The best line of as many qubits as were asked for; None if there is none, or the device's gates are none
            of ours.
        fidelity: The product of the line's gate and readout fidelities.
    """

    name: str
    num_qubits: int
    gate: str
    pair_error: float | None
    readout_error: float | None
    calibrated: str | None
    line: tuple[int, ...] | None
    fidelity: float | None


def survey(num_qubits: int) -> Iterator[Surveyed]:
    """Every device whose calibration snapshot is at hand, with its best line of `num_qubits`."""
    for name in snapshot_names():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some snapshots warn that they are not typical
            backend = snapshot(name)
        couplers, qubits = coupler_errors(backend.target), qubit_errors(backend.target)
        try:
            line = Device(backend).line(num_qubits)
        except NoiseError:
            line = None
        yield Surveyed(
            name, int(backend.num_qubits), _pair_gate(backend.target),
            statistics.median(couplers.values()) if couplers else None,
            statistics.median(qubits.values()) if qubits else None, calibration_date(backend), line,
            None if line is None else line_fidelity(Device(backend), line),
        )  # fmt: skip


def line_fidelity(device: Device, line: tuple[int, ...]) -> float:
    """The product of the fidelities of a line's couplers (once each) and qubits."""
    couplers, qubits = coupler_errors(device.backend.target), qubit_errors(device.backend.target)
    edges = math.prod(1 - couplers[min(a, b), max(a, b)] for a, b in pairwise(line))
    return edges * math.prod(1 - qubits[qubit] for qubit in line)


def _pair_gate(target: Target) -> str:
    names = [n for n in target.operation_names if any(q is not None and len(q) == 2 for q in target[n] or {})]
    return ", ".join(sorted(names))


def stale(calibrated: str | None, today: date | None = None) -> str | None:
    """A warning if a calibration is older than `STALE_DAYS`; None if not, or if it has no date."""
    if calibrated is None:
        return None
    days = ((today or date.today()) - date.fromisoformat(calibrated)).days
    if days <= STALE_DAYS:
        return None
    return f"the calibration is of {calibrated}, {days} days ago; the device of today has other errors"
