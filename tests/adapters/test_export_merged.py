"""Merged weights: re-loaded with plain transformers, for every method that merges."""

import json

import pytest
import torch
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    FourierFTConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoModelForSequenceClassification

from qpeft.adapters import FeedForwardConfig, QPAConfig, SoRAConfig, export_lora
from qpeft.adapters.export import ExportError, export_merged
from qpeft.errors import ConfigError
from tests.tiny_models import PIXELS, bert, gpt2, llama, logits, moved, vit

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning",
    "ignore:fan_in_fan_out is set to",
    "ignore:Model has `tie_word",
    "ignore:Failed to load the CUDA extension",
    "ignore:Setting boft_n_butterfly_factor",
)


def adapted(config, base=None):
    torch.manual_seed(0)
    return moved(get_peft_model(gpt2() if base is None else base, config))


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


CAUSAL = {"task_type": "CAUSAL_LM"}
CONV = {"target_modules": ["c_attn"], **CAUSAL}  # Conv1D
BOTH = {"target_modules": ["c_attn", "lm_head"], **CAUSAL}  # and a head that shares its weight
HEAD = {"target_modules": ["lm_head"], **CAUSAL}
LINEAR = {"target_modules": ["q_proj", "down_proj"], **CAUSAL}
CASES = {
    "qpa": (gpt2, lambda: QPAConfig(r=2, chunk_size=32, **BOTH)),
    "qpa a layer": (gpt2, lambda: QPAConfig(r=2, chunk_size=32, scope="layer", **BOTH)),
    "qpa-dora": (gpt2, lambda: QPAConfig(r=2, chunk_size=32, use_dora=True, **BOTH)),
    "qpa-dora in": (gpt2, lambda: QPAConfig(r=2, chunk_size=32, use_dora=True, dora_magnitude_size="in", **BOTH)),
    "lora": (gpt2, lambda: LoraConfig(r=2, **BOTH)),
    "lora, an embedding": (gpt2, lambda: LoraConfig(r=2, target_modules=["wte"], **CAUSAL)),
    "lora, biases": (gpt2, lambda: LoraConfig(r=2, bias="lora_only", **CONV)),
    "lora, a changed base": (llama, lambda: LoraConfig(r=2, init_lora_weights="olora", **LINEAR)),
    "dora": (gpt2, lambda: LoraConfig(r=2, use_dora=True, **BOTH)),
    "sora": (gpt2, lambda: SoRAConfig(r=2, **BOTH)),
    "adalora": (gpt2, lambda: AdaLoraConfig(init_r=2, target_r=1, total_step=9, tinit=1, tfinal=1, **BOTH)),
    "loha": (lambda: llama(tied=True), lambda: LoHaConfig(r=2, **HEAD)),
    "lokr": (llama, lambda: LoKrConfig(r=2, **LINEAR)),
    "oft": (llama, lambda: OFTConfig(oft_block_size=4, **LINEAR)),
    "boft": (llama, lambda: BOFTConfig(boft_block_size=4, **LINEAR)),
    "vera": (lambda: llama(tied=True), lambda: VeraConfig(r=4, **HEAD)),
    "fourierft": (lambda: llama(tied=True), lambda: FourierFTConfig(n_frequency=20, scaling=30.0, **HEAD)),
    "ia3": (gpt2, lambda: IA3Config(feedforward_modules=[], **CONV)),
}


@pytest.mark.parametrize("case", CASES)
def test_plain_transformers_gives_the_adapters_logits_and_the_model_stays(tmp_path, case):
    base, config = CASES[case]
    model = adapted(config(), base())
    before, state = logits(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    tied = model.get_base_model().config.tie_word_embeddings
    report = export_merged(model, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "qpeft_export.json",
    ]  # fmt: skip
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    same(logits(loaded), before)
    assert (before - logits(base())).abs().max() > 1e-2  # or nothing would have been merged
    assert (report.form, report.weights) == ("merged", "exact")
    assert 0 <= report.max_difference < 1e-4
    assert report.num_parameters == sum(p.numel() for p in loaded.parameters())
    assert report.num_bytes == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())

    assert torch.equal(logits(model), before)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert model.get_base_model().config.tie_word_embeddings == tied
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])


@pytest.mark.parametrize("target", ["wte", "lm_head"])
def test_only_the_adapted_one_of_two_tied_layers_changes(tmp_path, target):
    model = adapted(LoraConfig(r=2, target_modules=[target], task_type="CAUSAL_LM"))
    export_merged(model, tmp_path)
    loaded, base = AutoModelForCausalLM.from_pretrained(tmp_path), gpt2()
    assert not loaded.config.tie_word_embeddings
    embedding, head = loaded.transformer.wte.weight, loaded.lm_head.weight
    kept, changed = (head, embedding) if target == "wte" else (embedding, head)
    assert torch.equal(kept, base.lm_head.weight)
    delta = model.get_submodule(f"base_model.model.{'transformer.wte' if target == 'wte' else target}")
    torch.testing.assert_close(changed, base.lm_head.weight + delta.get_delta_weight("default"))


def test_a_head_stays_tied_where_neither_end_is_adapted(tmp_path):
    export_merged(adapted(LoraConfig(r=2, **CONV)), tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.tie_word_embeddings and loaded.lm_head.weight is loaded.transformer.wte.weight
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("base", "auto_class", "options", "inputs"),
    [
        (bert, AutoModelForSequenceClassification, {"target_modules": ["query"], "task_type": "SEQ_CLS"}, {}),
        (
            vit, AutoModelForImageClassification, {"target_modules": ["q_proj"], "modules_to_save": ["classifier"]},
            {"pixel_values": PIXELS},
        ),
    ],
    ids=["bert", "vit"],
)  # fmt: skip
@pytest.mark.parametrize("kind", [QPAConfig, LoHaConfig])
def test_classifiers_with_the_heads_that_were_trained(tmp_path, base, auto_class, options, inputs, kind):
    model = adapted(kind(r=2, **options), base())
    report = export_merged(model, tmp_path)
    loaded = auto_class.from_pretrained(tmp_path).eval()
    same(logits(loaded, **inputs), logits(model, **inputs))
    assert not torch.allclose(loaded.classifier.weight, base().classifier.weight, atol=1e-2)
    assert report.max_difference < 1e-5


def test_what_is_not_adapted_is_not_copied(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        type(llama()), "save_pretrained",
        lambda self, folder: (saved.append(self), super(type(self), self).save_pretrained(folder)),
    )  # fmt: skip
    model = adapted(LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"), llama())
    export_merged(model, tmp_path)
    base = model.get_base_model()
    merged = dict(saved[0].named_parameters())
    for name, parameter in base.named_parameters():
        if "lora_" not in name:
            shared = merged[name.replace(".base_layer", "")] is parameter
            assert shared == ("q_proj" not in name), name


def test_one_of_several_adapters(tmp_path):
    model = adapted(LoraConfig(r=2, **CONV))
    model.add_adapter("second", LoraConfig(r=1, init_lora_weights=False, **HEAD))
    expected = {}
    for name in ("default", "second"):
        model.set_adapter(name)
        expected[name] = logits(model)
    model.set_adapter("default")
    for name, reference in expected.items():
        export_merged(model, tmp_path / name, adapter_name=name)
        same(logits(AutoModelForCausalLM.from_pretrained(tmp_path / name)), reference)
    assert model.active_adapter == "default"


def test_the_choice_of_weights(tmp_path):
    def model(engine):
        return adapted(QPAConfig(r=2, chunk_size=32, engine=engine, **BOTH))

    sampled, exact = model("exact:10x"), model("exact")
    for weights, expected in (("last_sample", sampled), ("exact", exact)):
        report = export_merged(sampled, tmp_path / weights, weights=weights)
        stated = json.loads((tmp_path / weights / "qpeft_export.json").read_text())
        assert report.weights == stated["weights"] == weights
        same(logits(AutoModelForCausalLM.from_pretrained(tmp_path / weights)), logits(expected))
    assert (logits(sampled) - logits(exact)).abs().max() > 1e-2  # or the two could not be told apart


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_in_half_precision_stays_in_it(tmp_path, dtype):
    model = adapted(LoraConfig(r=2, **BOTH), gpt2().to(dtype))
    export_merged(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    layer = model.get_base_model().lm_head
    expected = (layer.weight.float() + layer.get_delta_weight("default").float()).to(dtype)
    rounding = torch.finfo(dtype).eps * float(expected.detach().abs().max())
    torch.testing.assert_close(tensors["lm_head.weight"], expected, rtol=0, atol=rounding)
    assert (tensors["lm_head.weight"] - layer.weight).abs().max() > 4 * rounding


def test_a_layer_in_higher_precision_than_the_model(tmp_path):
    model = adapted(LoraConfig(r=2, **CONV), gpt2().to(torch.bfloat16))
    model.get_base_model().transformer.ln_f.float()
    export_merged(model, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0.1, atol=0.05)


def test_weights_that_are_not_finite_are_not_exported(tmp_path):
    model = adapted(LoraConfig(r=2, **CONV))
    with torch.no_grad():
        model.get_base_model().transformer.h[0].attn.c_attn.lora_B["default"].weight[0, 0] = float("inf")
    with pytest.raises(ExportError, match="nothing was written"):
        export_merged(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_reads_otherwise_is_not_written(tmp_path, monkeypatch):
    model = adapted(LoraConfig(r=2, **CONV))
    read = type(model.get_base_model()).from_pretrained

    def wrong(*args, **kwargs):
        loaded = read(*args, **kwargs)
        loaded.transformer.ln_f.weight.data += 0.1
        return loaded

    monkeypatch.setattr(type(model.get_base_model()), "from_pretrained", wrong)
    with pytest.raises(ExportError, match=r"transformer.ln_f.weight is not what was written .* nothing was written"):
        export_merged(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def merging_goes_wrong(monkeypatch, model, change):
    """Has `change` applied to each merged model."""
    merge = type(model.base_model).merge_and_unload

    def wrong(self, *args, **kwargs):
        merged = merge(self, *args, **kwargs)
        change(merged)
        return merged

    monkeypatch.setattr(type(model.base_model), "merge_and_unload", wrong)


@pytest.mark.parametrize(
    ("layer", "message"),
    [("transformer.h.0.attn.c_attn", "c_attn differs by"), ("transformer.ln_f", "files differ by")],
)
def test_merged_weights_unlike_the_adapter_are_not_written(tmp_path, monkeypatch, layer, message):
    def doubled(merged):
        changed = merged.get_submodule(layer)
        changed.weight = nn.Parameter(2 * changed.weight)  # a new one: the model shares what merging leaves alone

    model = adapted(LoraConfig(r=2, **CONV))
    merging_goes_wrong(monkeypatch, model, doubled)
    with pytest.raises(ExportError, match=f"{message} .* nothing was written"):
        export_merged(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


ADDED = [case for case in CASES if case not in ("oft", "boft", "ia3", "lora, biases")]


@pytest.mark.parametrize("case", ADDED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_a_weight_is_rounded_and_a_lost_update_is_found(tmp_path, monkeypatch, case, dtype):
    base, config = CASES[case]
    model = adapted(config(), base().to(dtype))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_merged(model, tmp_path / "out")
    name = model.base_model.targeted_module_names[-1]
    before = state[f"base_model.model.{name}.base_layer.weight"]
    merging_goes_wrong(monkeypatch, model, lambda merged: merged.get_submodule(name).weight.data.copy_(before))
    with pytest.raises(ExportError, match=f"merged weight of {name} differs"):
        export_merged(model, tmp_path / "lost")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_merged_is_refused(tmp_path):
    sequential = get_peft_model(nn.Sequential(nn.Linear(6, 8)), QPAConfig(r=2, target_modules=["0"]))
    with pytest.raises(ConfigError, match=r"only transformers models .* the base is a Sequential"):
        export_merged(sequential, tmp_path / "out")
    with pytest.raises(
        ConfigError, match=r"type FEED_FORWARD cannot be exported as the whole model .*; use export_stored"
    ):
        export_merged(adapted(FeedForwardConfig(**HEAD)), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"takes the PeftModel .* given a GPT2LMHeadModel"):
        export_merged(gpt2(), tmp_path / "out")
    merged = adapted(LoraConfig(r=2, **CONV))
    merged.merge_adapter()
    with pytest.raises(ConfigError, match=r"call model.unmerge_adapter\(\)"):
        export_merged(merged, tmp_path / "out")
    quantised = adapted(LoraConfig(r=2, **CONV))
    quantised.get_base_model().is_quantized = True
    with pytest.raises(ConfigError, match="quantised, and merged weights would be rounded anew"):
        export_merged(quantised, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_other_files_would_be_loaded_too_is_refused(tmp_path):
    model = adapted(LoraConfig(r=2, **CONV))
    export_lora(model, tmp_path / "out")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    with pytest.raises(ConfigError, match=r"holds adapter_config\.json, adapter_model.safetensors of another model"):
        export_merged(model, tmp_path / "out")
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    export_merged(model, tmp_path / "other")
    export_merged(model, tmp_path / "other")  # the same files again
    with pytest.raises(ConfigError, match=r"holds config\.json, model.safetensors of another model"):
        export_lora(model, tmp_path / "other")
