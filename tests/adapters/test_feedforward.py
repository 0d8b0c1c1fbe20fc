import dataclasses
import json

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModel

from qpeft.adapters.feedforward import OUTPUT_PROJECTIONS, FeedForwardConfig, HoulsbyConfig, PfeifferConfig
from qpeft.errors import ConfigError
from tests.tiny_models import IDS, gpt2, llama, logits

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 40,
    "n_embd": 32, "n_head": 2, "dim": 32, "hidden_dim": 48, "n_heads": 2, "ffn_dim": 48, "word_embed_proj_dim": 32,
    "image_size": 32, "patch_size": 16, "pad_token_id": 0, "head_dim": 16, "rotary_dim": 4,
}  # fmt: skip
DEPTH = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


class OneLayer(nn.Module):
    def __init__(self, fan_in=8, fan_out=5):
        super().__init__()
        torch.manual_seed(0)
        self.dense = nn.Linear(fan_in, fan_out)

    def forward(self, x):
        return self.dense(x)


def shaken(model, adapter="default", seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f".{adapter}." in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    return model


def one_layer(**options):
    return shaken(get_peft_model(OneLayer(), FeedForwardConfig(target_modules=["dense"], **options)))


def parts(model, adapter="default"):
    layer = model.base_model.model.dense
    return layer.ffa_down[adapter], layer.ffa_up[adapter]


# ---- what it computes


FUNCTIONS = {"gelu": nn.functional.gelu, "relu": torch.relu, "tanh": torch.tanh, "silu": nn.functional.silu}


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("nonlinearity", FUNCTIONS)
@pytest.mark.parametrize("placement", ["before", "after"])
def test_outputs_and_gradients_are_those_of_the_equation(placement, nonlinearity, use_bias):
    model = one_layer(placement=placement, nonlinearity=nonlinearity, use_bias=use_bias, bottleneck=3)
    x = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(2))
    out = model(x)
    out.square().sum().backward()

    down, up = parts(model)
    leaves = {name: p.detach().clone().requires_grad_() for part in (down, up) for name, p in [
        (f"{id(part)}.{n}", q) for n, q in part.named_parameters()]}  # fmt: skip
    get = lambda part, name: leaves.get(f"{id(part)}.{name}", torch.tensor(0.0))  # noqa: E731

    def adapter(h):
        inner = FUNCTIONS[nonlinearity](h @ get(down, "weight").T + get(down, "bias"))
        return h + inner @ get(up, "weight").T + get(up, "bias")

    base = OneLayer().dense
    expected = base(adapter(x)) if placement == "before" else adapter(base(x))
    torch.testing.assert_close(out, expected)
    expected.square().sum().backward()
    assert len(leaves) == (4 if use_bias else 2)
    for part in (down, up):
        for name, parameter in part.named_parameters():
            torch.testing.assert_close(parameter.grad, get(part, name).grad, rtol=1e-4, atol=1e-4)


def test_start_is_a_zero_up_projection_and_torchs_own_down_projection():
    torch.manual_seed(5)
    model = get_peft_model(OneLayer(), FeedForwardConfig(target_modules=["dense"], bottleneck=3))
    torch.manual_seed(0)
    nn.Linear(8, 5)  # the base layer's draws
    reference = nn.Linear(8, 3, bias=False)
    down, up = parts(model)
    assert torch.equal(down.weight, reference.weight)
    assert torch.equal(up.weight, torch.zeros(8, 3))


def test_only_the_up_projection_has_a_gradient_at_the_start():
    model = get_peft_model(OneLayer(), FeedForwardConfig(target_modules=["dense"]))
    model(torch.ones(1, 8)).sum().backward()
    down, up = parts(model)
    assert down.weight.grad.abs().max() == 0
    assert up.weight.grad.abs().max() > 0


def test_active_adapters_act_one_after_another():
    model = one_layer(bottleneck=3)
    model.add_adapter("two", FeedForwardConfig(target_modules=["dense"], bottleneck=2, nonlinearity="tanh"))
    model.add_adapter("three", FeedForwardConfig(target_modules=["dense"], bottleneck=2, placement="after"))
    shaken(model, "two", seed=3)
    shaken(model, "three", seed=4)
    h = x = torch.randn(4, 8)
    for name, act in (("two", torch.tanh), ("default", nn.functional.gelu)):
        down, up = parts(model, name)
        h = h + up(act(down(h)))
    h = OneLayer().dense(h)
    down, up = parts(model, "three")
    h = h + up(nn.functional.gelu(down(h)))
    model.base_model.set_adapter(["two", "default", "three"])
    torch.testing.assert_close(model(x), h)


def test_modules_that_compute_their_weight_can_stand_in():
    class Halved(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.twice = nn.Parameter(2 * weight.detach())

        @property
        def weight(self):
            return self.twice / 2

        def forward(self, x):
            return x @ self.weight.T

    model, x = one_layer(), torch.randn(3, 8)
    expected = model(x)
    layer = model.base_model.model.dense
    for part in (layer.ffa_down, layer.ffa_up):
        part["default"] = Halved(part["default"].weight)
    torch.testing.assert_close(model(x), expected)


def test_decoding_with_a_cache_is_decoding_without():
    for make in (gpt2, llama):
        model = get_peft_model(make(), FeedForwardConfig(target_modules="all-linear", task_type="CAUSAL_LM")).eval()
        shaken(model)
        options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
        cached = model.generate(input_ids=IDS, use_cache=True, **options)
        assert torch.equal(cached, model.generate(input_ids=IDS, use_cache=False, **options))
        plain = make().generate(input_ids=IDS, **options)
        assert cached.shape != plain.shape or not torch.equal(cached, plain)


# ---- counts


@pytest.mark.parametrize(
    ("hidden", "vocabulary", "count"), [(768, 50257, 294_912), (2048, 256_000, 2_097_152)], ids=["GPT-2", "Gemma"]
)
def test_published_counts_of_an_output_head(hidden, vocabulary, count):
    """arXiv 2410.09846, Table 2: 0.764 % and 0.40 % of the head."""
    with torch.device("meta"):
        base = nn.ModuleDict({"lm_head": nn.Linear(hidden, vocabulary, bias=False)})
    model = get_peft_model(base, FeedForwardConfig(target_modules=["lm_head"]))
    assert model.get_nb_trainable_parameters() == (count, count + hidden * vocabulary)


def test_width_follows_the_adapted_side():
    for placement, features in (("before", 8), ("after", 5)):
        down, up = parts(one_layer(placement=placement, reduction_factor=2))
        assert down.weight.shape == (features // 2, features)
        assert up.weight.shape == (features, features // 2)
    down, _ = parts(one_layer(reduction_factor=100))
    assert down.weight.shape == (1, 8)


def test_presets_of_bert_count_as_published():
    """arXiv 1902.00751, Section 2.1: 2md + d + m numbers an adapter, two adapters a layer."""
    with torch.device("meta"):
        base = AutoModel.from_config(AutoConfig.for_model("bert"))
        model = get_peft_model(base, HoulsbyConfig(bottleneck=64))
    assert model.get_nb_trainable_parameters()[0] == 12 * 2 * (2 * 64 * 768 + 768 + 64)
    with torch.device("meta"):
        base = AutoModel.from_config(AutoConfig.for_model("bert"))
        model = get_peft_model(base, PfeifferConfig())
    assert model.get_nb_trainable_parameters()[0] == 12 * (2 * 48 * 768 + 768 + 48)


# ---- presets


def tiny(model_type):
    config = AutoConfig.for_model(model_type)
    settings = {name: value for name, value in TINY.items() if hasattr(config, name)}
    settings |= {name: 2 for name in DEPTH if hasattr(config, name)}
    if model_type == "gpt_neo":
        settings |= {"attention_types": [[["global", "local"], 1]]}
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(model_type, **settings)).eval()


@pytest.mark.parametrize("model_type", OUTPUT_PROJECTIONS)
def test_presets_find_the_projections_that_end_a_block(model_type):
    attention, feed_forward = OUTPUT_PROJECTIONS[model_type]
    base = tiny(model_type)
    blocks = sorted({name.split(f".{feed_forward}")[0] for name, _ in base.named_modules()
                     if name.endswith(f".{feed_forward}") and not name.endswith(f".{attention}")})  # fmt: skip
    assert len(blocks) == 2
    assert all(block[-1].isdigit() for block in blocks)
    houlsby = get_peft_model(base, HoulsbyConfig())
    found = houlsby.base_model.targeted_module_names
    assert sorted(found) == sorted(f"{b}.{path}" for b in blocks for path in (attention, feed_forward))
    pfeiffer = get_peft_model(tiny(model_type), PfeifferConfig())
    assert sorted(pfeiffer.base_model.targeted_module_names) == [f"{b}.{feed_forward}" for b in blocks]
    for name in found:  # they write into the residual stream, whose width is the model's
        assert houlsby.base_model.model.get_submodule(name).out_features == 32

    inputs = {"pixel_values": torch.ones(1, 3, 32, 32)} if "vit" in model_type or model_type == "deit" else {
        "input_ids": IDS % 40}  # fmt: skip
    with torch.no_grad():
        expected = tiny(model_type)(**inputs).last_hidden_state
        assert torch.equal(houlsby.eval()(**inputs).last_hidden_state, expected)
        changed = shaken(houlsby)(**inputs).last_hidden_state
    assert (changed - expected).abs().max() > 1e-2


def test_presets_work_on_models_with_a_head():
    model = get_peft_model(gpt2(), PfeifferConfig(task_type="CAUSAL_LM", layers_to_transform=[1]))
    assert model.base_model.targeted_module_names == ["transformer.h.1.mlp.c_proj"]


@pytest.mark.parametrize(
    ("kind", "nonlinearity"), [(HoulsbyConfig, "gelu"), (PfeifferConfig, "relu")], ids=["houlsby", "pfeiffer"]
)
def test_presets_are_saved_with_explicit_settings(kind, nonlinearity, tmp_path):
    model = shaken(get_peft_model(gpt2(), kind(task_type="CAUSAL_LM"))).eval()
    model.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "adapter_config.json").read_text())
    assert data["peft_type"] == "FEED_FORWARD"
    expected = {"placement": "after", "reduction_factor": 16, "nonlinearity": nonlinearity, "use_bias": True}
    assert {name: data[name] for name in expected} == expected
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is FeedForwardConfig
    again = PeftModel.from_pretrained(gpt2(), tmp_path).eval()
    assert torch.equal(logits(again), logits(model))


def test_presets_leave_given_targets_alone():
    model = get_peft_model(OneLayer(), HoulsbyConfig(target_modules=["dense"]))
    assert model.base_model.targeted_module_names == ["dense"]


def test_unknown_architectures_are_told_their_layers():
    with pytest.raises(ConfigError, match=r"HoulsbyConfig does not know .* model type None.*target_modules.*dense"):
        get_peft_model(OneLayer(), HoulsbyConfig())
    base = gpt2()
    base.config.model_type = "novel"
    with pytest.raises(ConfigError, match=r"'novel'.*c_attn, c_fc, c_proj, lm_head.*Known: gpt2"):
        get_peft_model(base, PfeifferConfig())


# ---- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bottleneck": 0}, "bottleneck is 0; it must be a whole number of at least 1"),
        ({"bottleneck": 2.5}, "bottleneck is 2.5"),
        ({"bottleneck": True}, "bottleneck is True"),
        ({"reduction_factor": 0}, "reduction_factor is 0"),
        ({"placement": "around"}, "placement 'around' is not one of before, after"),
        ({"nonlinearity": "gleu"}, r"unknown activation 'gleu'\. Did you mean 'gelu'"),
        ({"use_bias": "yes"}, "use_bias is 'yes'"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FeedForwardConfig(**options)


def test_a_changed_copy_is_checked_too():
    with pytest.raises(ConfigError, match="placement"):
        dataclasses.replace(FeedForwardConfig(), placement="nowhere")
