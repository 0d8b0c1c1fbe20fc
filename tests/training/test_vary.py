import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpeft.errors import ConfigError
from qpeft.options import leaves
from qpeft.training.config import TrainConfig
from qpeft.training.vary import plan, value_text

FLAGS = {"model": "embedded", "data": "embedded"}


def varied(*vary, seeds=1, sections=None, **flags):
    return plan(vary, seeds, sections or {}, {**FLAGS, **flags})


def test_every_combination_with_the_last_setting_changing_fastest():
    found = varied("engine=exact,exact:10x", "ansatz=ry_cnot,rx_cnot", seeds=3, seed=5)
    assert [c.label for c in found.combinations] == [
        "exact, ry_cnot", "exact, rx_cnot", "exact:10x, ry_cnot", "exact:10x, rx_cnot"
    ]  # fmt: skip
    assert found.combinations[2].assignments == "engine=exact:10x, ansatz=ry_cnot"
    assert found.seeds == [5, 6, 7]
    config = found.combinations[3].seeded(6)
    assert (config.generator.engine, config.generator.ansatz, config.training.seed) == ("exact:10x", "rx_cnot", 6)


@pytest.mark.parametrize(
    ("text", "section", "name", "values"),
    [
        ("rank=2,8", "adapter", "rank", [2, 8]),
        ("learning-rate=1e-3,0.5,default", "training", "learning_rate", [1e-3, 0.5, None]),
        ("hidden=16,32+8,default", "generator", "hidden", [[16], [32, 8], None]),
        ("targets=lm_head,q_proj + v_proj", "adapter", "targets", [["lm_head"], ["q_proj", "v_proj"]]),
        ("checkpointing=true,False", "training", "checkpointing", [True, False]),
        ("preset=default,paper", "generator", "preset", ["default", "paper"]),
        ("activation=none,relu", "generator", "activation", ["none", "relu"]),
        ("--engine = exact , exact:10x", "generator", "engine", ["exact", "exact:10x"]),
        ("model=a,b", "model", "model", ["a", "b"]),
    ],
)
def test_values_have_the_type_of_their_setting(text, section, name, values):
    flags = {} if name == "model" else {"model": "embedded"}
    found = plan([text], 1, {}, {"data": "embedded", **flags})
    assert [getattr(getattr(c.config, section), name) for c in found.combinations] == values


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=4, unique=True))
def test_a_written_value_is_read_as_it_was(values):
    found = varied("alpha=" + ",".join(map(value_text, values)))
    assert [c.config.adapter.alpha for c in found.combinations] == values


def test_any_setting_but_seed_and_place_can_be_named():
    for leaf in leaves(TrainConfig):
        if leaf.name in ("seed", "output", "resume", "overwrite", "task", "metric"):
            with pytest.raises(ConfigError, match=f"{leaf.name} cannot be varied"):
                varied(f"{leaf.name}=1")
        else:
            with pytest.raises(ConfigError, match="has an empty value"):  # known: the value is what is wrong
                varied(f"{leaf.name}=")


def test_a_varied_setting_wins_over_the_config_file():
    found = varied("learning_rate=default,0.1", sections={"training": {"learning_rate": 3.0, "steps": 7}})
    assert [c.config.training.learning_rate for c in found.combinations] == [None, 0.1]
    assert found.combinations[0].config.training.steps == 7


@pytest.mark.parametrize(
    ("vary", "options", "message"),
    [
        ((), {}, "nothing is varied; give --vary"),
        (("engin=exact",), {}, "unknown setting 'engin'. Did you mean 'engine'"),
        (("engine",), {}, "--vary 'engine' does not parse; expected KEY=VALUE"),
        (("=exact",), {}, "does not parse"),
        (("engine=",), {}, "'engine=' has an empty value; give at least one value"),
        (("engine=exact,,exact:10x",), {}, "has an empty value"),
        (("rank=2,four",), {}, "rank has the value 'four'; expected int"),
        (("rank=2.5",), {}, "rank has the value '2.5'; expected int"),
        (("rank=default",), {}, "rank has the value 'default'; expected int"),
        (("hidden=16+x",), {}, "hidden has the value '16+x'; expected ints joined by +"),
        (("by_line=maybe",), {}, "by_line has the value 'maybe'; expected true or false"),
        (("rank=2", "rank=4"), {}, "rank is varied twice"),
        (("chunk-size=2", "chunk_size=4"), {}, "chunk_size is varied twice"),
        (("rank=4,04",), {}, "rank has the value 4 twice"),
        (("seed=0,1",), {}, "seed cannot be varied: use --seeds"),
        (("engine=exact,exat",), {}, "the combination engine=exat is refused: unknown engine 'exat'"),
        (("rank=4,0", "reps=2,3"), {}, "the combination rank=0, reps=2 is refused: rank is 0"),
        (
            ("engine=exact,exact:10x", "diff_method=adjoint,spsa"), {},
            "the combination engine=exact, diff_method=spsa is refused: diff_method 'spsa' is not available",
        ),
        (("rank=2,4",), {"seeds": 0}, "seeds is 0; it must be at least 1"),
        (("rank=2,4",), {"seeds": 2, "seed": 2**32 - 1}, "seed is 4294967296; it must be below"),
        (("rank=2,4",), {"rank": 3}, "rank is both given and varied; leave out --rank"),
        (("rank=2,4",), {"steps": 0}, "^steps is 0; it must be at least 1"),
        (("rank=2,4",), {"model": None}, "^--model is required"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_message(vary, options, message):
    with pytest.raises(ConfigError) as caught:
        varied(*vary, **options)
    said = str(caught.value)
    assert said.startswith(message[1:]) if message.startswith("^") else message in said


def test_an_infinite_value_is_refused_by_the_configuration():
    with pytest.raises(ConfigError, match="the combination alpha=inf is refused: alpha is inf"):
        varied(f"alpha=1,{math.inf}")
