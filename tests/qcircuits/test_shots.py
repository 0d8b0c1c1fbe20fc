import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpeft.errors import ConfigError
from qpeft.qcircuits import SampledEngine, Shots, StatevectorEngine


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4096", Shots(4096)),
        (4096, Shots(4096)),
        ("10x", Shots(10, True)),
        (" 7x ", Shots(7, True)),
        (Shots(3), Shots(3)),
    ],
    ids=str,
)
def test_shots_are_read(text, expected):
    assert Shots.of(text) == expected


@given(st.integers(1, 10**9), st.booleans())
def test_what_is_printed_is_read_back(count, per_state):
    shots = Shots(count, per_state)
    assert Shots.of(str(shots)) == shots


@pytest.mark.parametrize("num_qubits", [1, 4, 8])
def test_shots_per_state_grow_with_the_number_of_basis_states(num_qubits):
    assert Shots.of("10x").number(num_qubits) == 10 * 2**num_qubits
    assert Shots.of(10).number(num_qubits) == 10


@pytest.mark.parametrize("given", [0, -1, "0", "-5", "0x", "-10x"], ids=repr)
def test_fewer_than_one_shot_is_refused(given):
    with pytest.raises(
        ConfigError,
        match=rf"shots are {given}; they must be a whole number from 1 to [\d,]+: a number of shots \(4096\)",
    ):
        Shots.of(given)


@pytest.mark.parametrize(
    "given", ["10y", "x", "", "1.5", 1.5, "1e3", "10 x", "10xx", "١٠y", None, True, [10]], ids=repr
)
def test_what_is_no_number_of_shots_is_refused(given):
    with pytest.raises(ConfigError, match=r"expected a number of shots \(4096\), or shots for each basis state \(10x"):
        Shots.of(given)


@pytest.mark.parametrize("count", [True, 1.0, "3"], ids=repr)
def test_a_count_is_a_whole_number(count):
    with pytest.raises(ConfigError, match="they must be a whole number from 1"):
        Shots(count)


@pytest.mark.parametrize("field", ["shots", "gradient_shots"])
@pytest.mark.parametrize("given", [0, -3, "10y", "0x"])
def test_an_engine_refuses_them_too(field, given):
    options = {"shots": 10, "diff_method": "parameter-shift"} | {field: given}
    with pytest.raises(ConfigError, match="shots are"):
        SampledEngine(StatevectorEngine(), **options)
