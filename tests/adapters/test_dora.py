"""QPA over DoRA against peft's DoRA, arithmetic, and the two lengths of its magnitudes."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from qpeft.adapters import QPAConfig
from qpeft.errors import ConfigError
from tests.tiny_models import gpt2, llama, logits, shake

TARGETS = {gpt2: ["c_attn", "lm_head"], llama: ["q_proj", "down_proj", "lm_head"]}
MODELS = pytest.mark.parametrize("make", [gpt2, llama])
KINDS = pytest.mark.parametrize("kind", [
    {}, {"dora_magnitude_size": "in"}, {"dora_magnitude": "absolute"},
    {"dora_magnitude": "absolute", "dora_magnitude_size": "in"}, {"preset": "paper"},
    {"preset": "paper", "dora_magnitude": "relative", "dora_magnitude_size": "in"},
], ids=["relative-out", "relative-in", "absolute-out", "absolute-in", "paper-out", "paper-relative-in"])  # fmt: skip


def adapted(make, targets=None, **options):
    config = QPAConfig(
        r=2, lora_alpha=6, target_modules=targets or TARGETS[make], use_dora=True, chunk_size=32, reps=1,
        task_type="CAUSAL_LM", **options,
    )  # fmt: skip
    torch.manual_seed(0)
    return get_peft_model(make(), config).eval()


def updated_weights(model, base):
    """W' of every target by the formula, in float64: m (W0 + s B A) / n."""
    config, found = model.peft_config["default"], {}
    for name, tensors in model.base_model.bank()().items():
        weight = base.get_submodule(name).weight.detach().double()
        weight = weight.T if "c_attn" in name else weight
        A, B, m = (tensors[role].detach().double() for role in ("lora_A", "lora_B", "lora_magnitude_vector"))
        axis = 1 if config.dora_magnitude_size == "out" else 0
        norm = weight.norm(dim=axis)
        m = norm * (1 + m) if config.dora_magnitude == "relative" else norm + m if config.start == "identity" else m
        changed = weight + 3 * B @ A
        factor = (m / changed.norm(dim=axis)).unsqueeze(axis)
        found[name] = factor * changed
    return found


@MODELS
@pytest.mark.parametrize("size", ["out", "in"])
@pytest.mark.parametrize("magnitude", ["relative", "absolute"])
def test_it_starts_as_the_identity(make, size, magnitude):
    model = adapted(make, dora_magnitude_size=size, dora_magnitude=magnitude)
    torch.testing.assert_close(logits(model), logits(make()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", ["out", "in"])
def test_weights_that_are_zero_stay_zero(size):
    base = gpt2(tied=False)
    with torch.no_grad():
        base.lm_head.weight[3], base.lm_head.weight[:, 5] = 0, 0
    expected = logits(base)
    model = adapted(lambda: base, dora_magnitude_size=size, targets=["lm_head"])
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-6)
    assert torch.isfinite(logits(shake(model, by=0.3))).all()


@MODELS
@KINDS
def test_logits_and_merged_weights_are_the_formulas(make, kind):
    model = shake(adapted(make, **kind), by=0.3)
    expected = updated_weights(model, make())
    reference = make(tied=False) if make is llama else gpt2(tied=False)
    reference.load_state_dict(make().state_dict())
    for name, weight in expected.items():
        reference.get_submodule(name).weight.data = (weight.T if "c_attn" in name else weight).float().contiguous()
    torch.testing.assert_close(logits(model), logits(reference), rtol=1e-4, atol=1e-4)
    before = logits(model)
    model.merge_adapter(safe_merge=True)
    for name, weight in expected.items():
        merged = model.base_model.model.get_submodule(name).get_base_layer().weight.detach()
        torch.testing.assert_close((merged.T if "c_attn" in name else merged).double(), weight, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)


@MODELS
def test_it_is_pefts_dora_with_the_generated_numbers_and_gradients(make):
    model = shake(adapted(make), by=0.3)
    bank = model.base_model.bank()
    plain = get_peft_model(
        make(), LoraConfig(r=2, lora_alpha=6, target_modules=TARGETS[make], use_dora=True, task_type="CAUSAL_LM")
    ).eval()
    generated = bank()
    theirs, made = [], []
    for name, tensors in generated.items():
        ours, layer = model.base_model.model.get_submodule(name), plain.base_model.model.get_submodule(name)
        for role in ("lora_A", "lora_B"):
            getattr(layer, role)["default"].weight.data.copy_(tensors[role])
            theirs.append(getattr(layer, role)["default"].weight)
            made.append(tensors[role])
        magnitude = ours.lora_magnitude_vector["default"]
        layer.lora_magnitude_vector["default"].weight.data.copy_(magnitude.weight)
        theirs.append(layer.lora_magnitude_vector["default"].weight)
        made.append(magnitude.start * (1 + tensors["lora_magnitude_vector"]))
    assert torch.equal(logits(model), logits(plain))
    for one in (model, plain):
        one(input_ids=torch.arange(6)[None], use_cache=False).logits.square().mean().backward()
    expected = torch.autograd.grad(made, list(bank.parameters()), [tensor.grad for tensor in theirs])
    for parameter, gradient in zip(bank.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


@KINDS
def test_saved_and_loaded(kind, tmp_path):
    model = shake(adapted(gpt2, **kind), by=0.3)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(gpt2(), tmp_path)), logits(model))


def test_the_magnitudes_are_as_many_as_outputs_or_inputs():
    def size(**options):
        (spec,) = adapted(gpt2, **options).base_model.bank().specs
        return spec.target_size

    factors = 2 * (2 * (96 + 32) + (100 + 32))
    assert size() == factors + 2 * 96 + 100
    assert size(dora_magnitude_size="in") == factors + 3 * 32


def test_the_papers_preset_generates_the_magnitudes_themselves():
    assert QPAConfig(use_dora=True, preset="paper").dora_magnitude == "absolute"
    assert QPAConfig(use_dora=True).dora_magnitude == "relative"


@pytest.mark.parametrize("wrong", [{"dora_magnitude": "big"}, {"dora_magnitude_size": "both"}])
def test_bad_settings(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigError, match=f"{name} '{value}' is not one of"):
        QPAConfig(use_dora=True, **wrong)


def test_magnitudes_without_dora_are_refused():
    with pytest.raises(ConfigError, match="dora_magnitude='absolute' needs use_dora=True"):
        QPAConfig(dora_magnitude="absolute")
    with pytest.raises(ConfigError, match="use_dora is 'yes'; it must be true or false"):
        QPAConfig(use_dora="yes")


def test_one_generator_a_layer():
    one, each = adapted(gpt2), adapted(gpt2, scope="layer")
    assert len(one.base_model.bank().specs) == 1
    assert [spec.target_size for spec in each.base_model.bank().specs] == [2 * 128 + 96, 2 * 128 + 96, 2 * 132 + 100]
    shake(each, by=0.3)
    assert not torch.allclose(logits(each), logits(gpt2()), atol=1e-2)
