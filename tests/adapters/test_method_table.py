"""Counts of every method against arithmetic on the layers' shapes, and against the published ones."""

import math
import re

import pytest
import torch
from torch import nn

from qpeft.adapters.attach import attach
from qpeft.adapters.method_table import METHODS
from qpeft.errors import ConfigError
from qpeft.training.adapter_options import CountConfig, method_settings
from tests.settings import adapter_settings
from tests.tiny_models import gpt2, llama

OUT, IN, RANK = 100, 32, 4  # llama's head
LAYERS = 2


def settings(**given):
    return method_settings(*adapter_settings(**given).values(), seed=0, steps=100)


def config(method, **given):
    return METHODS[method].peft_config(settings(method=method, **given), "CAUSAL_LM")


def trained(method, model=None, **given):
    return attach(model or llama(), config(method, **given)).get_nb_trainable_parameters()[0]


COUNTS = {
    "lora": RANK * (IN + OUT),
    "dora": RANK * (IN + OUT) + OUT,
    "adalora": 6 * (IN + OUT + 1),
    "sora": RANK * (IN + OUT + 1),
    "loha": 2 * RANK * (IN + OUT),
    "lokr": 10 * 4 + RANK * (10 + 8),  # 100 = 10 x 10, 32 = 4 x 8
    "oft": IN * (32 - 1) // 2,
    "boft": IN * 4 + OUT,
    "vera": RANK + OUT,
    "fourierft": 1000,
    "prefix": 2 * 20 * LAYERS * (2 * 8),  # 2 key-value heads of 8
    "ffa": 2 * (IN // 4) * IN,
    "houlsby": 4 * (2 * 2 * IN + 2 + IN),
    "pfeiffer": 2 * (2 * 2 * IN + 2 + IN),
    "additive-prefix": 512 * IN,
}


@pytest.mark.parametrize("method", COUNTS)
def test_counts_are_the_formulas(method):
    assert trained(method) == COUNTS[method]


NAMES = {"in": "IN", "out": "OUT", "layers": "LAYERS"}
LETTERS = {  # what the formulas' letters stand for here; b is a block's or a bottleneck's width
    "r": RANK, "R": 6, "n": 1000, "T": {"prefix": 20, "additive-prefix": 512}, "kv_dim": 16, "H": IN,
    "b": {"oft": 32, "boft": 4, "ffa": 8, "houlsby": 2, "pfeiffer": 2},
}  # fmt: skip
ADAPTERS = {"houlsby": 4, "pfeiffer": 2}  # layers that get one; the others adapt the head alone


@pytest.mark.parametrize("method", sorted(set(COUNTS) - {"lokr"}))
def test_the_printed_formula_gives_the_count(method):
    text = METHODS[method].count.split(",")[0]
    for word, name in NAMES.items():
        text = re.sub(rf"\b{word}\b", name, text)
    text = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", text)  # juxtaposed factors
    values = {name: value.get(method) if isinstance(value, dict) else value for name, value in LETTERS.items()}
    found = eval(text, {}, {**values, "IN": IN, "OUT": OUT, "LAYERS": LAYERS})
    assert ADAPTERS.get(method, 1) * found == COUNTS[method]


@pytest.mark.parametrize(("rank", "expected"), [(4, 10 * 4 + 4 * (10 + 8)), (5, 10 * 4 + 10 * 8)])
def test_lokr_stores_a_small_factor_whole(rank, expected):
    assert trained("lokr", rank=rank) == expected


def test_every_method_that_stores_its_numbers_is_counted():
    assert set(COUNTS) == {name for name, method in METHODS.items() if not method.generates}


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if "budget" in method.fields])
def test_a_budget_bounds_what_a_generated_method_trains(method):
    assert 900 < trained(method, budget=1000) <= 1000


def test_a_learning_rate_may_depend_on_a_setting():
    rates = {
        ("qpa", "preset", "default"): 3e-2,
        ("qpa", "preset", "paper"): 1e-2,
        ("quantum-peft", "parametrization", "pauli"): 1e-1,
        ("quantum-peft", "parametrization", "cayley"): 3e-2,
    }
    for (method, setting, value), rate in rates.items():
        settings = {**CountConfig().settings, setting: value}
        assert METHODS[method].usual_learning_rate(settings) == rate
    assert METHODS["dora"].usual_learning_rate(CountConfig().settings) == 1e-1


def test_the_defaults_change_what_the_other_methods_adapt_by_their_name_alone():
    """Every method adapts the output head if no targets are given; peft's own default differs from method to method."""
    for method in set(METHODS) - {"houlsby", "pfeiffer", "prefix", "qpa-prefix"}:
        model = attach(llama(), config(method))
        assert {name for name, _ in model.named_parameters() if ".base_layer" in name} == {
            "base_model.model.lm_head.base_layer.weight"
        }, method


GPT2, GEMMA = (50257, 768), (256000, 2048)  # out x in of the output heads, arXiv 2410.09846, Table 1
PAPER = {"preset": "paper"}


@pytest.mark.parametrize(
    ("method", "given", "head", "percent"),
    [
        ("lora", {}, GPT2, 0.52),
        ("qpa", {"chunk_size": 2048, **PAPER}, GPT2, 0.27),
        ("lora", {}, GEMMA, 0.19),
        ("qpa", {"chunk_size": 4096, **PAPER}, GEMMA, 0.03),
        ("dora", {"rank": 32}, GPT2, 4.36),
        ("qpa-dora", {"chunk_size": 2048, **PAPER}, GPT2, 0.27),
        ("qpa-dora", {"chunk_size": 2048, "dora_magnitude_size": "in", **PAPER}, GPT2, 0.27),
        ("dora", {"rank": 1}, GEMMA, 0.09),  # the rank that fits; the paper does not say it
        ("qpa-dora", {"chunk_size": 8192, **PAPER}, GEMMA, 0.05),
        ("qpa-dora", {"chunk_size": 8192, "dora_magnitude_size": "in", **PAPER}, GEMMA, 0.05),
        ("additive-prefix", {}, GPT2, 1.01),
        ("qpa-additive-prefix", {"chunk_size": 1024, **PAPER}, GPT2, 0.18),
        ("additive-prefix", {}, GEMMA, 0.20),
        ("qpa-additive-prefix", {"chunk_size": 1024, **PAPER}, GEMMA, 0.01),
        ("ffa", {}, GPT2, 0.76),
        ("qpa-ffa", {"chunk_size": 1024, **PAPER}, GPT2, 0.18),
        ("ffa", {}, GEMMA, 0.40),
        ("qpa-ffa", {"chunk_size": 1024, **PAPER}, GEMMA, 0.01),
    ],
)  # fmt: skip
def test_percentages_of_the_head_are_those_of_the_papers_table_2(method, given, head, percent):
    """arXiv 2410.09846, Table 2, which cuts its percentages after two digits."""
    fan_out, fan_in = head
    with torch.device("meta"):
        model = nn.ModuleDict({"lm_head": nn.Linear(fan_in, fan_out, bias=False)})
    given = settings(method=method, targets=["lm_head"], **given)
    adapted = attach(model, METHODS[method].peft_config(given, "FEATURE_EXTRACTION"))
    count = adapted.get_nb_trainable_parameters()[0]
    assert math.floor(10000 * count / (fan_out * fan_in)) / 100 == pytest.approx(percent)


def test_settings_of_other_methods_are_not_looked_at():
    assert config("lora", budget=100, bottleneck=3, threshold=0.1) == config("lora")


def test_what_peft_refuses_is_said_with_the_method():
    with pytest.raises(ConfigError, match=r"peft cannot put a BOFT adapter on this model: .*boft_block_size"):
        attach(gpt2(), config("boft", targets=["lm_head"], block_size=5))  # of 32 inputs
    with pytest.raises(ConfigError, match="Did you mean 'lm_head'"):
        attach(gpt2(), config("boft", targets=["lm_hed"]))
