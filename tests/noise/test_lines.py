import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpeft.errors import NoiseError
from qpeft.noise.devices import snapshot
from qpeft.noise.lines import best_line, coupler_errors, qubit_errors, require_line


def fidelity(line, couplers, qubits):
    edges = math.prod(1 - couplers[min(a, b), max(a, b)] for a, b in itertools.pairwise(line))
    return edges * math.prod(1 - qubits[q] for q in line)


@given(st.data())
def test_no_line_is_better(data):
    """Against all orderings of all qubits, on random graphs."""
    n = data.draw(st.integers(2, 6))
    error = st.floats(0, 0.4)
    qubits = {q: data.draw(error) for q in range(n)}
    pairs = data.draw(st.sets(st.sampled_from(list(itertools.combinations(range(n), 2)))))
    couplers = {pair: data.draw(error) for pair in sorted(pairs)}
    length = data.draw(st.integers(1, n))
    lines = [
        line
        for line in itertools.permutations(range(n), length)
        if all((min(a, b), max(a, b)) in couplers for a, b in itertools.pairwise(line))
    ]
    if not lines:
        told = f"the device has no line of {length} working qubits" if couplers else "the device is incomplete"
        with pytest.raises(NoiseError, match=told):
            best_line(length, couplers, qubits)
        return
    found = best_line(length, couplers, qubits)
    assert found in lines and found <= found[::-1]
    assert fidelity(found, couplers, qubits) == pytest.approx(max(fidelity(x, couplers, qubits) for x in lines))


def test_of_equals_the_first_is_taken():
    pairs = dict.fromkeys([(0, 1), (1, 2), (2, 3)], 0.01)
    assert best_line(2, pairs, dict.fromkeys(range(4), 0.0)) == (0, 1)


@pytest.mark.parametrize("name", ["ibm_torino", "ibm_fez", "ibm_nighthawk"])
def test_a_devices_line(name):
    target = snapshot(name).target
    couplers, qubits = coupler_errors(target), qubit_errors(target)
    assert max(couplers.values()) < 0.5
    line = best_line(8, couplers, qubits, name)
    assert len(set(line)) == 8
    require_line(line, target.num_qubits, couplers, name)


def test_broken_couplers_and_qubits_are_left_out():
    target = snapshot("ibm_torino").target
    stated = {pair: p.error for pair, p in target["cz"].items()}
    broken = {tuple(sorted(pair)) for pair, error in stated.items() if error >= 0.5}
    assert broken  # the snapshot has some
    assert broken.isdisjoint(coupler_errors(target))


def test_a_line_by_hand_must_be_connected():
    with pytest.raises(NoiseError, match=r"qubits 1 and 3 of the line \[0, 1, 3\] are not coupled on here"):
        require_line([0, 1, 3], 4, {(0, 1): 0.0, (1, 2): 0.0, (2, 3): 0.0}, "here")


@pytest.mark.parametrize("line", [[0, 1, 0], [-1], [0, 4]], ids=str)
def test_a_line_by_hand_names_distinct_qubits_that_exist(line):
    with pytest.raises(NoiseError, match=r"must name distinct qubits of here, which are 0 to 3"):
        require_line(line, 4, {(0, 1): 0.0}, "here")


def test_very_long_lines_are_not_searched():
    with pytest.raises(NoiseError, match=r"lines are searched up to 16 qubits.*by hand"):
        best_line(200, {}, {})
