import pickle

import pytest

from qpeft.errors import CircuitError, ConfigError, EngineError, QpeftError, RunError, UnknownNameError, unknown_name
from qpeft.registry import Registry


@pytest.fixture
def colours():
    return Registry("colour", {"red": 1, "green": 2})


def test_is_a_mapping_in_order_of_registration(colours):
    assert colours.register("blue", 3) == 3
    assert dict(colours) == {"red": 1, "green": 2, "blue": 3}
    assert list(colours) == ["red", "green", "blue"]
    assert len(colours) == 3
    assert "blue" in colours
    assert "pink" not in colours
    assert colours.get("pink") is None


def test_registries_share_nothing():
    entries = {"red": 1}
    one, two = Registry("colour", entries), Registry("colour", entries)
    one.register("blue", 3)
    assert list(two) == list(entries) == ["red"]


def test_a_taken_name_keeps_its_entry(colours):
    with pytest.raises(ConfigError, match="colour 'red' is already registered; choose another name"):
        colours.register("red", 3)
    assert colours["red"] == 1


@pytest.mark.parametrize("catch", [UnknownNameError, ConfigError, KeyError, ValueError])
def test_a_missing_name_names_the_nearest(colours, catch):
    with pytest.raises(catch) as caught:
        colours["greeen"]
    assert str(caught.value) == "unknown colour 'greeen'. Did you mean 'green'? Available: red, green"


@pytest.mark.parametrize("name", [None, 3, ["red"]])
def test_a_name_that_is_no_string_is_missing(colours, name):
    with pytest.raises(UnknownNameError, match=r"unknown colour .* Available: red, green"):
        colours[name]


def test_without_a_near_name_there_is_no_guess():
    assert unknown_name("colour", "xyz", ["red"]) == "unknown colour 'xyz'. Available: red"


def test_several_near_names():
    assert "Did you mean 'rzz' or 'rz'?" in unknown_name("gate", "rzzz", ["h", "rz", "rzz"])


def test_a_long_list_is_cut():
    names = [f"name{index}" for index in range(25)]
    message = unknown_name("thing", "other", names)
    assert message.endswith("name18, name19, ... (25 in all)")


@pytest.mark.parametrize("error", [CircuitError, EngineError, ConfigError, UnknownNameError, RunError])
def test_errors_are_value_errors_and_travel(error):
    raised = error("what happened")
    assert isinstance(raised, QpeftError)
    assert isinstance(raised, ValueError)
    again = pickle.loads(pickle.dumps(raised))
    assert type(again) is error
    assert str(again) == "what happened"
