import io
from pathlib import Path

import pytest
from rich.console import Console

from qpeft.training.compare import Comparison, Outcome
from qpeft.training.compare_terminal import terminal_table
from qpeft.training.vary import plan

VARY = ("engine=exact,exact:10x,pauli@ibm_torino:20x", "ansatz=ry_cnot,rx_cnot")


def printed(width, weights="last_sample", failures=(), vary=VARY):
    asked = plan(vary, 2, {}, {"model": "embedded", "data": "embedded"})
    metrics = {
        "after": {"bits_per_byte": 2.0}, "parameters": {"trained": 12345}, "seconds_per_step": 0.05,
        "export": {"weights": weights},
        "against_exact": {"after": {"bits_per_byte": 1.9}, "total_variation": 0.05, "fidelity": 0.99},
    }  # fmt: skip
    outcomes = [
        Outcome(c, seed, Path("x"), None if seed in failures else metrics, [], "no" if seed in failures else None)
        for c in asked.combinations for seed in asked.seeds
    ]  # fmt: skip
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(terminal_table(Comparison(Path("folder"), asked, outcomes), console.width))
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (200, "engine ansatz trained bits/byte difference exact weights total variation fidelity ms/step"),
        (100, "engine ansatz trained bits/byte difference exact weights total variation fidelity"),
        (80, "engine ansatz trained bits/byte difference exact weights"),
        (78, "engine ansatz bits/byte difference exact weights"),
    ],
)
def test_columns_that_do_not_fit_are_left_out_and_no_name_is_broken(width, columns):
    lines = printed(width)
    rule = next(place for place, line in enumerate(lines) if "──" in line)
    assert sorted(" ".join(lines[:rule]).split()) == sorted(columns.split())
    assert max(map(len, lines)) <= width
    rows = lines[rule + 1 :]
    assert len(rows) == 6  # none takes a second line
    assert rows[-1].split()[:2] == ["pauli@ibm_torino:20x", "rx_cnot"]
    assert "2.0000 ± 0.0000" in rows[-1] and "1.9000" in rows[-1]


def test_engines_columns_are_not_shown_where_nothing_is_sampled():
    lines = printed(80, weights="exact")
    assert lines[0].split() == ["engine", "ansatz", "trained", "bits/byte", "difference", "ms/step"]


def test_the_number_of_runs_is_shown_only_where_some_failed():
    assert "runs" in " ".join(printed(100, weights="exact", failures=(1,), vary=("rank=2,4",)))
    assert "1 (1 failed)" in " ".join(printed(100, weights="exact", failures=(1,), vary=("rank=2,4",)))
    assert "runs" not in " ".join(printed(100, weights="exact", vary=("rank=2,4",)))
