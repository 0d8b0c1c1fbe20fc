import pytest
import torch
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PrefixTuningConfig,
    VeraConfig,
    get_peft_model,
)
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2Model

from qpeft.adapters import FeedForwardConfig, QPAConfig, SoRAConfig
from qpeft.adapters.peft_internals import adapted_layers, head_name, linear_layers, resolve_targets
from qpeft.errors import ConfigError
from tests.tiny_models import gpt2, llama, logits, shake

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

ATTENTION = [f"model.layers.{i}.self_attn.{p}" for i in range(2) for p in ("q_proj", "k_proj", "v_proj", "o_proj")]


def config(targets, **options):
    return QPAConfig(r=2, target_modules=targets, **options)


def by_peft(model, **options):
    """What plain LoRA adapts."""
    adapted = get_peft_model(model, LoraConfig(r=2, **options))
    return list(adapted.base_model.targeted_module_names)


SELECTIONS = [
    {"target_modules": ["q_proj", "lm_head"]},
    {"target_modules": ["model.layers.1.mlp.down_proj"]},
    {"target_modules": "all-linear"},
    {"target_modules": r".*layers\.0.*(k|v)_proj"},
    {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
    {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": 0},
    {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]},
    {"target_modules": "all-linear", "exclude_modules": r".*mlp.*"},
]


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
def test_targets_are_plain_pefts(selection):
    expected = by_peft(llama(), **selection)
    assert expected
    model = get_peft_model(llama(), QPAConfig(r=2, **selection))
    assert list(model.base_model.bank().layers) == expected
    assert list(resolve_targets(llama(), QPAConfig(r=2, **selection))) == expected
    shake(model)
    assert not torch.allclose(logits(model), logits(llama()))


def test_many_targets_which_peft_shortens():
    expected = by_peft(llama(layers=4), target_modules="all-linear")
    assert len(expected) == 28
    assert list(get_peft_model(llama(layers=4), config("all-linear")).base_model.bank().layers) == expected


def test_shapes_are_out_by_in_for_both_kinds_of_layer():
    shapes = resolve_targets(gpt2(), config(["c_attn", "lm_head"]))
    assert shapes == {
        "transformer.h.0.attn.c_attn": (96, 32),
        "transformer.h.1.attn.c_attn": (96, 32),
        "lm_head": (100, 32),
    }
    # 4 query heads of 8 and 2 key heads
    shapes = resolve_targets(llama(), config(["q_proj", "k_proj"]))
    assert {(name.rsplit(".", 1)[-1], shape) for name, shape in shapes.items()} == {
        ("q_proj", (32, 32)),
        ("k_proj", (16, 32)),
    }


def test_targets_do_not_depend_on_the_order_they_are_named_in():
    one = get_peft_model(gpt2(), config(["lm_head", "c_attn"])).base_model.bank().layers
    other = get_peft_model(gpt2(), config(["c_attn", "lm_head"])).base_model.bank().layers
    assert list(one) == list(other)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_without_targets_it_is_the_head(make):
    assert head_name(make()) == "lm_head"
    unnamed = config(None)
    assert list(get_peft_model(make(), unnamed).base_model.bank().layers) == ["lm_head"]
    assert unnamed.target_modules == {"lm_head"}


def test_a_model_without_head_is_refused_by_name():
    base = GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=20, n_positions=8))
    with pytest.raises(ConfigError, match="GPT2Model has no output head that is a Linear layer; name the layers"):
        get_peft_model(base, config(None))
    with pytest.raises(ConfigError, match="Sequential has no output head"):
        get_peft_model(nn.Sequential(nn.Linear(2, 2)), config(None))


def test_a_head_that_is_no_linear_is_refused():
    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv1d(2, 2, 1)

        def get_output_embeddings(self):
            return self.head

    with pytest.raises(ConfigError, match="Tower has no output head that is a Linear"):
        get_peft_model(Tower(), config(None))


def test_the_head_of_a_model_that_is_already_adapted():
    model = get_peft_model(gpt2(), config(None))
    assert head_name(model.base_model.model) == "lm_head"
    assert linear_layers(model.base_model.model) == linear_layers(gpt2())


@pytest.mark.parametrize("targets", [None, "all-linear", r".*(c_attn|lm_head).*", ["lm_head"]], ids=str)
def test_a_second_adapter_sees_the_same_layers(targets):
    model = get_peft_model(gpt2(), config("all-linear"))
    model.add_adapter("two", config(targets))
    once = get_peft_model(gpt2(), config(targets))
    assert model.base_model.bank("two").layers == once.base_model.bank().layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["c_atn"]}, r"unknown target layer 'c_atn'. Did you mean 'c_attn'.*lm_head"),
        ({"target_modules": ["c_attn", "lm_hed"]}, r"'lm_hed'. Did you mean 'lm_head'\?"),
        ({"target_modules": "c_attn"}, "unknown target layer 'c_attn'"),  # a string is an expression for a whole name
        ({"target_modules": ["wte"]}, "'transformer.wte' is an Embedding; only Linear and Conv1D"),
        ({"target_modules": ["ln_1"]}, "'transformer.h.0.ln_1' is a LayerNorm; only Linear and Conv1D"),
        ({"target_modules": ["attn"]}, "'transformer.h.0.attn' is a GPT2Attention; only Linear"),
        ({"target_modules": []}, "no layer is left to adapt"),
        ({"target_modules": ["c_attn"], "exclude_modules": ["c_attn"]}, "no layer is left to adapt"),
        ({"target_modules": ["c_attn"], "layers_to_transform": [7]}, "no layer is left to adapt"),
        ({"target_modules": ["c_attn"], "chunk_size": 10**6}, "chunk size 1000000 is not in 1 to 512"),
        ({"target_modules": ["c_attn"], "budget": 3}, "a budget of 3 parameters is too small"),
        ({"target_modules": ["c_attn"], "engine": "exakt"}, r"unknown engine 'exakt'. Did you mean 'exact'\?"),
        ({"target_modules": ["c_attn"], "ansatz": "ry_cnto"}, "unknown ansatz 'ry_cnto'"),
        ({"target_modules": ["c_attn"], "activation": "gleu"}, "unknown activation 'gleu'"),
        ({"target_modules": ["c_attn"], "reps": -1}, "reps is -1"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_and_the_model_left_alone(options, message):
    base = gpt2()
    modules = [(name, id(module)) for name, module in base.named_modules()]
    flags = [p.requires_grad for p in base.parameters()]
    with pytest.raises(ConfigError, match=message):
        get_peft_model(base, QPAConfig(r=2, **options))
    assert [(name, id(module)) for name, module in base.named_modules()] == modules
    assert [p.requires_grad for p in base.parameters()] == flags
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in base.modules())
    assert not hasattr(base, "peft_config")

    model = shake(get_peft_model(base, config(["lm_head"])))
    before = logits(model)
    with pytest.raises(ConfigError, match=message):
        model.add_adapter("two", QPAConfig(r=2, **options))
    assert list(model.peft_config) == ["default"]
    assert list(model.base_model.lora_bank) == ["default"]
    assert torch.equal(logits(model), before)
    assert len(model.base_model.model._forward_pre_hooks) == 1


def test_a_config_is_used_on_models_of_other_sizes():
    shared = config(["lm_head"], budget=300)
    first = get_peft_model(gpt2(), shared)
    second = get_peft_model(gpt2(vocabulary=300), shared)
    assert first.base_model.bank().generators[0].spec.target_size == 2 * (100 + 32)
    assert second.base_model.bank().generators[0].spec.target_size == 2 * (300 + 32)
    assert torch.equal(logits(second), logits(gpt2(vocabulary=300)))


# ---- plain LoRA, which `resolve_targets` checks before training


def test_plain_lora_may_target_embeddings_as_in_peft():
    options = {"target_modules": ["wte", "c_attn"]}
    shapes = resolve_targets(gpt2(), LoraConfig(r=2, **options))
    assert list(shapes) == by_peft(gpt2(), **options)
    assert shapes["transformer.wte"] == (32, 100)  # as of a Linear that is given one-hot tokens
    trained = sum(p.numel() for p in get_peft_model(gpt2(), LoraConfig(r=2, **options)).parameters() if p.requires_grad)
    assert trained == 2 * sum(fan_out + fan_in for fan_out, fan_in in shapes.values())
    with pytest.raises(ConfigError, match="ln_1' is a LayerNorm; only Linear, Conv1D and Embedding"):
        resolve_targets(gpt2(), LoraConfig(target_modules=["ln_1"]))


def test_an_adapted_embedding_is_one_of_the_adapted_layers():
    model = get_peft_model(gpt2(), LoraConfig(r=2, target_modules=["wte"]))
    assert adapted_layers(model) == {"transformer.wte": (32, 100)}


def test_a_prefix_adapts_the_head_of_a_language_model_and_no_layer_of_a_classifier():
    language = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert adapted_layers(get_peft_model(gpt2(), language)) == {"lm_head": (100, 32)}
    classes = PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    assert adapted_layers(get_peft_model(gpt2(model_class=GPT2ForSequenceClassification), classes)) == {}


@pytest.mark.parametrize("make", [AdaLoraConfig, SoRAConfig, FeedForwardConfig, QPAConfig])
def test_other_methods_may_not(make):
    with pytest.raises(ConfigError, match="wte' is an Embedding; only Linear and Conv1D layers"):
        resolve_targets(gpt2(), make(target_modules=["wte"], **({"total_step": 9} if make is AdaLoraConfig else {})))


@pytest.mark.parametrize("make", [LoHaConfig, LoKrConfig, BOFTConfig, OFTConfig])
@pytest.mark.parametrize("target", ["c_attn", "wte"])
def test_layers_that_a_method_of_peft_cannot_adapt_are_neither_taken_nor_named_as_available(make, target):
    assert resolve_targets(gpt2(), make(target_modules=["lm_head"])) == {"lm_head": (100, 32)}
    with pytest.raises(
        ConfigError, match=rf"{target}' is an? \w+; only Linear layers can be adapted. Available: lm_head$"
    ):
        resolve_targets(gpt2(), make(target_modules=[target]))
    if target == "c_attn":
        with pytest.raises((TypeError, ValueError), match="not supported"):  # in the words of peft itself
            get_peft_model(gpt2(), make(target_modules=[target]))


@pytest.mark.parametrize(
    "too_much",
    [
        LoraConfig(r=33, target_modules=["lm_head"]),
        LoraConfig(r=33, target_modules=["lm_head"], use_dora=True),
        LoraConfig(r=2, rank_pattern={"lm_head": 33}, target_modules=["c_attn", "lm_head"]),
        AdaLoraConfig(init_r=33, target_r=8, total_step=9, target_modules=["lm_head"]),
        SoRAConfig(r=33, target_modules=["lm_head"]),
        QPAConfig(r=33, target_modules=["lm_head"]),
    ],
    ids=lambda config: type(config).__name__,
)
def test_a_rank_above_a_layers_size_is_refused(too_much):
    with pytest.raises(ConfigError, match=r"rank 33 is above the size of lm_head \(100 x 32\).* above 32\. Lower"):
        resolve_targets(gpt2(), too_much)


@pytest.mark.parametrize(
    "enough",
    [
        LoraConfig(r=32, target_modules=["lm_head"]),
        LoraConfig(r=33, rank_pattern={"lm_head": 2}, target_modules=["lm_head"]),
        AdaLoraConfig(init_r=12, r=99, total_step=9, target_modules=["lm_head"]),  # its r is not used
        VeraConfig(r=256, target_modules=["lm_head"]),  # a rank of random factors, which may be any
        SoRAConfig(r=32, target_modules=["lm_head"]),
        QPAConfig(r=32, target_modules=["lm_head"]),
    ],
    ids=lambda config: type(config).__name__,
)
def test_a_rank_up_to_a_layers_size_is_not(enough):
    assert resolve_targets(gpt2(), enough) == {"lm_head": (100, 32)}
