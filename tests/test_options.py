from dataclasses import MISSING, dataclass, field

import pytest

from qpeft.errors import ConfigError
from qpeft.options import build, check_whole, cli_parameters, leaves, option, read_toml, to_sections, whole_numbers


@dataclass(frozen=True)
class Shape:
    width: int = option(MISSING, "how wide")
    tags: list[str] = option([], "names")
    ratio: float | None = option(None, "aspect")


@dataclass(frozen=True)
class Paint:
    colour: str = option("red", "which colour")
    shiny: bool = option(False, "whether it shines")


@dataclass(frozen=True)
class Thing:
    shape: Shape
    paint: Paint = field(default_factory=Paint)


def test_leaves_carry_section_type_and_help():
    found = {leaf.name: leaf for leaf in leaves(Thing)}
    assert list(found) == ["width", "tags", "ratio", "colour", "shiny"]
    assert (found["colour"].section, found["colour"].type, found["colour"].help) == ("paint", str, "which colour")


def test_flags_win_over_toml_which_wins_over_defaults():
    sections = {"shape": {"width": 3, "ratio": 2}, "paint": {"colour": "blue"}}
    thing = build(Thing, sections, {"width": 5, "colour": None})
    assert thing == Thing(Shape(width=5, ratio=2.0), Paint(colour="blue", shiny=False))


def test_a_tree_survives_its_own_toml(tmp_path):
    import tomli_w

    thing = build(Thing, {}, {"width": 5, "tags": ["a", "b"], "shiny": True})
    path = tmp_path / "thing.toml"
    path.write_text(tomli_w.dumps(to_sections(thing)), encoding="utf8")
    assert build(Thing, read_toml(path), {}) == thing


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"shap": {}}, "unknown config section 'shap'. Did you mean 'shape'"),
        ({"shape": 3}, r"shape is 3; expected a section of settings, \[shape\]"),
        ({"shape": {"widht": 1}}, r"unknown setting in \[shape\] 'widht'. Did you mean 'width'"),
        ({"shape": {"width": "wide"}}, r"width is 'wide' \(str\); expected int"),
        ({"shape": {"width": True}}, r"width is True \(bool\); expected int"),
        ({"shape": {"width": 1, "tags": [1]}}, r"tags is \[1\] \(list\); expected list\[str\]"),
        ({}, r"--width is required \(how wide\)"),
    ],
)
def test_what_is_wrong_is_named(sections, message):
    with pytest.raises(ConfigError, match=message):
        build(Thing, sections, {})


def test_lists_are_not_shared_between_instances():
    assert Shape(width=1).tags is not Shape(width=1).tags


@pytest.mark.parametrize(("content", "message"), [(None, "there is no config file"), (b"= 3", "is not a TOML file")])
def test_unreadable_toml(tmp_path, content, message):
    path = tmp_path / "settings.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_toml(path)


def test_every_leaf_becomes_a_flag():
    parameters = {p.name: p for p in cli_parameters(Thing, required=("width",))}
    assert set(parameters) == {leaf.name for leaf in leaves(Thing)}
    assert all(p.default is None for p in parameters.values())
    assert "(required)" in parameters["width"].annotation.__metadata__[0].help
    assert "(default: red)" in parameters["colour"].annotation.__metadata__[0].help


def test_whole_numbers_from_the_least_on():
    check_whole("rank r", 1)
    check_whole("reps", 0, least=0)
    for value in (0, -1, True, 1.0, "1", None):
        with pytest.raises(ConfigError, match=rf"rank r is {value!r}; it must be a whole number of at least 1"):
            check_whole("rank r", value)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2-4", [2, 3, 4]), ("8, 2-4,3,2", [2, 3, 4, 8]), ("4,", [4]), ("5-5", [5]), ("007", [7])],
)
def test_numbers_and_ranges_come_in_order_each_once(text, numbers):
    assert whole_numbers("qubits", text) == numbers


def test_numbers_may_start_at_nought():
    assert whole_numbers("--reps", "0-2", 0) == [0, 1, 2]
    with pytest.raises(ConfigError, match=r"--reps is '0-2'; give numbers from 1 to 999,999"):
        whole_numbers("--reps", "0-2")


@pytest.mark.parametrize("text", ["", ",", "0", "3-2", "2;3", "x", "-2", "2--3", "1.5", "1234567"])
def test_numbers_that_do_not_parse(text):
    with pytest.raises(ConfigError, match=f"qubits is {text!r}; give "):
        whole_numbers("qubits", text)
