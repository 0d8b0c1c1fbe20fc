from datetime import date
from itertools import pairwise

import pytest

from qpeft.noise import survey as module
from qpeft.noise.device import Device
from qpeft.noise.devices import snapshot
from qpeft.noise.survey import line_fidelity, stale, survey


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(module, "snapshot_names", lambda: ["ibm_kyoto", "ibm_manila", "ibm_torino"])


def test_rows_say_what_the_calibration_says(few):
    kyoto, manila, torino = survey(4)
    assert (torino.num_qubits, torino.gate, torino.calibrated, torino.line) == (
        133,
        "cz",
        "2025-02-26",
        (81, 80, 92, 99),
    )
    assert (manila.num_qubits, manila.gate) == (5, "cx")
    assert (kyoto.pair_error, kyoto.line, kyoto.fidelity) == (None, None, None)  # its snapshot states no such errors
    target = snapshot("ibm_torino").target
    expected = 1.0
    for pair in pairwise(torino.line):
        stated = [target["cz"][p].error for p in (pair, pair[::-1]) if p in target["cz"]]
        expected *= 1 - min(stated)
    for qubit in torino.line:
        expected *= (1 - target["measure"][(qubit,)].error) * (1 - target["sx"][(qubit,)].error)
    assert torino.fidelity == pytest.approx(expected)
    assert torino.fidelity == line_fidelity(Device(snapshot("ibm_torino")), torino.line)


def test_a_device_too_small_has_no_line(few):
    assert [row.line is None for row in survey(6)] == [True, True, False]


@pytest.mark.parametrize(
    ("calibrated", "told"),
    [(None, None), ("2026-01-01", None), ("2025-12-01", "the calibration is of 2025-12-01, 121 days ago")],
)
def test_old_calibrations_are_told(calibrated, told):
    found = stale(calibrated, today=date(2026, 4, 1))
    assert found is told if told is None else found.startswith(told)
