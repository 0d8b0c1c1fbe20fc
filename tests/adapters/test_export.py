import json

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2Model, ViTConfig, ViTModel

from qpeft.adapters import QPAConfig, SoRAConfig, export_lora
from qpeft.adapters.export import export_adapter, forms, lora
from qpeft.adapters.method_table import METHODS
from qpeft.errors import ConfigError
from qpeft.training.adapter_options import CountConfig
from tests.tiny_models import IDS, gpt2, llama, logits, moved, shake

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning", "ignore:fan_in_fan_out is set to", "ignore:Model has `tie_word",
    "ignore:Failed to load the CUDA extension", "ignore:Setting boft_n_butterfly_factor",
)  # fmt: skip
TARGETS = ["c_attn", "lm_head"]
FILES = ["adapter_config.json", "adapter_model.safetensors", "qpeft_export.json"]


def trained(base=None, targets=TARGETS, **options):
    base = gpt2() if base is None else base
    options = {"r": 3, "lora_alpha": 7, "chunk_size": 32, "task_type": "CAUSAL_LM", **options}
    torch.manual_seed(0)
    return shake(get_peft_model(base, QPAConfig(target_modules=targets, **options)).eval())


def plain_lora(base=None, targets=TARGETS, **options):
    torch.manual_seed(0)
    base = gpt2() if base is None else base
    options = {"r": 3, "lora_alpha": 7, "init_lora_weights": False, "task_type": "CAUSAL_LM", **options}
    return get_peft_model(base, LoraConfig(target_modules=targets, **options)).eval()


def sora(**options):
    torch.manual_seed(0)
    config = SoRAConfig(r=4, lora_alpha=6, target_modules=TARGETS, task_type="CAUSAL_LM", **options)
    return moved(get_peft_model(gpt2(), config))


@torch.no_grad()
def pruned(model):
    """Gates as a soft threshold leaves them: two layers of other ranks, one without any."""
    gates = {name: layer.lora_A["default"].gate for name, layer in lora_layers(model).items()}
    gates["transformer.h.0.attn.c_attn"][1:3] = 0
    gates["lm_head"][:] = 0
    return model


def adalora():
    torch.manual_seed(0)
    config = AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=6, tinit=1, tfinal=1, total_step=9, target_modules=TARGETS,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    model = moved(get_peft_model(gpt2(), config))
    with torch.no_grad():  # as its rank allocation masks singular values
        lora_layers(model)["lm_head"].lora_E["default"][[0, 2]] = 0
    return model


def lora_layers(model):
    return {name: layer for name, layer in model.get_base_model().named_modules() if isinstance(layer, LoraLayer)}


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_are_a_plain_lora(tmp_path):
    model = trained()
    report = export_lora(model, tmp_path / "out")
    assert files(tmp_path / "out") == FILES
    data = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (data["peft_type"], data["r"], data["lora_alpha"], data["bias"]) == ("LORA", 3, 3, "none")
    assert sorted(data["target_modules"]) == ["lm_head", "transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]
    assert set(data) <= set(LoraConfig().to_dict())
    assert "qpeft" not in json.dumps(data).lower()

    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    expected = {}
    for name, factors in model.base_model.bank()().items():
        A, B = factors["lora_A"], factors["lora_B"]
        expected[f"base_model.model.{name}.lora_A.weight"] = A
        expected[f"base_model.model.{name}.lora_B.weight"] = B * (7 / 3)
    assert sorted(tensors) == sorted(expected)
    for key, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[key].detach())
    assert report.folder == tmp_path / "out"
    assert report.num_parameters == 3 * (2 * (32 + 96) + 32 + 100) == sum(t.numel() for t in tensors.values())
    assert 0 <= report.max_difference < 1e-3


CASES = {
    "paper": lambda: trained(start="paper"),
    "untied": lambda: trained(gpt2(tied=False)),
    "llama": lambda: trained(llama(), "all-linear"),
    "llama 4 layers": lambda: trained(llama(layers=4), "all-linear"),
    "rank-stabilised": lambda: trained(use_rslora=True, lora_dropout=0.3),
    "plain": plain_lora,
    "plain rslora": lambda: plain_lora(use_rslora=True),
    "dora": lambda: trained(use_dora=True),
    "dora, the paper's start": lambda: trained(use_dora=True, start="paper"),
    "a generator a layer": lambda: trained(scope="layer"),
    "sora": sora,
    "sora, pruned": lambda: pruned(sora()),
    "adalora": adalora,
    "plain dora": lambda: moved(plain_lora(use_dora=True, use_rslora=True)),
    "plain ranks": lambda: plain_lora(rank_pattern={"c_attn": 5}, alpha_pattern={"lm_head": 11}),
}


@pytest.mark.parametrize("case", CASES)
def test_round_trip_on_plain_peft(tmp_path, case):
    model = CASES[case]()
    base = {"untied": lambda: gpt2(tied=False), "llama": llama, "llama 4 layers": lambda: llama(layers=4)}.get(
        case, gpt2
    )
    before, state = logits(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_lora(model, tmp_path)
    loaded = PeftModel.from_pretrained(base(), tmp_path).eval()
    assert type(loaded.peft_config["default"]) is LoraConfig
    same(logits(loaded), logits(model))
    assert torch.equal(logits(model), before)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert (logits(model) - logits(base())).abs().max() > 1e-2


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("llama") and case != "untied"])
def test_transformers_loads_it_by_itself(tmp_path, case):
    model = CASES[case]()
    export_lora(model, tmp_path)
    loaded = gpt2()
    loaded.load_adapter(str(tmp_path))
    same(logits(loaded), logits(model))


@torch.no_grad()
def test_zero_gates_and_singular_values_leave_ranks_out(tmp_path):
    gated, masked = pruned(sora()), adalora()
    ranks = {"transformer.h.0.attn.c_attn": (2, 4), "transformer.h.1.attn.c_attn": (4, 4), "lm_head": (1, 2)}
    for folder, model in (("sora", gated), ("adalora", masked)):
        report = export_lora(model, tmp_path / folder)
        tensors = load_file(tmp_path / folder / "adapter_model.safetensors")
        for name, layer in lora_layers(model).items():
            A, B = (tensors[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "AB")
            assert A.shape[0] == B.shape[1] == ranks[name][folder == "adalora"]
            update = layer.get_delta_weight("default")  # peft's own, of all ranks
            torch.testing.assert_close(B @ A, update.T if layer.fan_in_fan_out else update, rtol=1e-5, atol=1e-6)
        assert report.num_parameters == sum(tensor.numel() for tensor in tensors.values())
    data = json.loads((tmp_path / "sora" / "adapter_config.json").read_text())
    assert data["rank_pattern"] == data["alpha_pattern"]
    assert sorted([data["r"], *data["rank_pattern"].values()]) == [1, 2, 4]


@torch.no_grad()
def test_dora_is_written_with_its_magnitudes(tmp_path):
    model = trained(use_dora=True)
    export_lora(model, tmp_path)
    data = json.loads((tmp_path / "adapter_config.json").read_text())
    assert data["use_dora"] and data["lora_alpha"] == data["r"] == 3
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    for name, weights in model.base_model.bank()().items():
        base = gpt2().get_submodule(name).weight
        norm = torch.linalg.norm(base, dim=0 if "c_attn" in name else 1)  # Conv1D's weight is (in, out)
        expected = norm * (1 + weights["lora_magnitude_vector"])
        torch.testing.assert_close(tensors[f"base_model.model.{name}.lora_magnitude_vector.weight"], expected)


def test_dora_of_the_inputs_is_merged_instead(tmp_path):
    model = trained(use_dora=True, dora_magnitude_size="in")
    with pytest.raises(ConfigError, match=r"a variant of LoRA that plain peft has not.*; use export_merged"):
        export_lora(model, tmp_path / "out")
    report = export_adapter(model, tmp_path / "out")
    assert report.form == "merged"
    same(logits(GPT2LMHeadModel.from_pretrained(tmp_path / "out")), logits(model))


def test_the_usual_form_and_a_given_one(tmp_path):
    model = trained()
    assert forms(model) == ("lora", "merged")
    assert export_adapter(model, tmp_path / "lora").form == "lora"
    assert export_adapter(model, tmp_path / "merged", "merged").form == "merged"
    for call in (
        lambda: export_adapter(model, tmp_path / "out", "loar"),
        lambda: export_adapter(model, tmp_path / "out", "stored"),
    ):
        with pytest.raises(ConfigError, match=r"Did you mean 'lora'|cannot be exported as the same adapter"):
            call()
    with pytest.raises(ConfigError, match="no adapter 'other'; the model has default"):
        export_adapter(model, tmp_path / "out", adapter_name="other")
    assert files(tmp_path) == ["lora", "merged"]


@pytest.mark.parametrize("name", METHODS)
def test_the_registry_of_methods_names_the_usual_form_of_each(name):
    method = METHODS[name]
    settings = CountConfig().settings | {"targets": ["q_proj"], "block_size": 4}
    usual, *others = forms(get_peft_model(llama(), method.peft_config(settings, "CAUSAL_LM")))
    assert usual == method.export
    assert ("merged" in (usual, *others)) == method.merges


@pytest.mark.parametrize("make", [trained, plain_lora])
def test_a_named_adapter_and_the_model_left_as_it_was(tmp_path, make):
    model = make()
    config = type(model.peft_config["default"])
    model.add_adapter("second", config(r=2, lora_alpha=3, target_modules=["c_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".second." in name:
                p.add_(0.1)
    model.train()
    before = logits(model.eval())
    model.train()
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    assert any(flags.values())
    export_lora(model, tmp_path, adapter_name="second")
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert model.training
    assert model.active_adapter == "default"
    assert torch.equal(logits(model.eval()), before)

    loaded = PeftModel.from_pretrained(gpt2(), tmp_path)
    model.set_adapter("second")
    same(logits(loaded), logits(model))


def test_a_model_in_training_exports_what_it_evaluates_to(tmp_path):
    model = trained(lora_dropout=0.5).train()
    model(input_ids=IDS, labels=IDS).loss.backward()
    export_lora(model, tmp_path)
    same(logits(PeftModel.from_pretrained(gpt2(), tmp_path)), logits(model.eval()))
    model(input_ids=IDS, labels=IDS).loss.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [trained, plain_lora])
def test_a_base_in_half_precision(tmp_path, make, dtype):
    model = make(gpt2().to(dtype))
    export_lora(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    layer = model.base_model.model.lm_head
    update = tensors["base_model.model.lm_head.lora_B.weight"] @ tensors["base_model.model.lm_head.lora_A.weight"]
    torch.testing.assert_close(update, layer.get_delta_weight("default").float())


def test_a_model_that_is_no_transformers_model(tmp_path):
    def base():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    model = shake(get_peft_model(base(), QPAConfig(r=2, target_modules=["0", "2"])))
    report = export_lora(model, tmp_path)
    assert report.max_difference < 1e-5
    x = torch.randn(4, 6)
    torch.testing.assert_close(PeftModel.from_pretrained(base(), tmp_path)(x), model(x))


def test_transformers_models_without_logits_or_without_tokens(tmp_path):
    text = trained(gpt2(model_class=GPT2Model), ["c_attn"], task_type=None)
    export_lora(text, tmp_path / "text")
    loaded = PeftModel.from_pretrained(gpt2(model_class=GPT2Model), tmp_path / "text")
    with torch.no_grad():
        same(loaded(IDS).last_hidden_state, text(IDS).last_hidden_state)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    image = trained(ViTModel(config), "all-linear", task_type=None)
    export_lora(image, tmp_path / "image")
    assert files(tmp_path / "image") == FILES


@pytest.mark.parametrize("make", [trained, plain_lora])
def test_a_classifiers_head_travels_along(tmp_path, make):
    def classifier():
        return gpt2(model_class=GPT2ForSequenceClassification, num_labels=3)

    model = make(classifier(), ["c_attn"], task_type="SEQ_CLS")
    with torch.no_grad():
        model.base_model.model.score.modules_to_save["default"].weight.add_(1)
    export_lora(model, tmp_path)
    loaded = PeftModel.from_pretrained(classifier(), tmp_path)
    same(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), logits(classifier()))


def test_a_merged_adapter_is_refused_until_unmerged(tmp_path):
    model = trained()
    model.merge_adapter()
    with pytest.raises(ConfigError, match=r"merged into the base weights; call model.unmerge_adapter\(\)"):
        export_lora(model, tmp_path / "out")
    assert files(tmp_path) == []
    model.unmerge_adapter()
    export_lora(model, tmp_path / "out")


def test_what_is_no_lora_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"takes the PeftModel .* given a GPT2LMHeadModel"):
        export_lora(gpt2(), tmp_path / "out")
    with pytest.raises(ConfigError, match="no adapter 'other'; the model has default"):
        export_lora(trained(), tmp_path / "out", adapter_name="other")
    ia3 = get_peft_model(gpt2(), IA3Config(target_modules=["c_attn"], feedforward_modules=[], task_type="CAUSAL_LM"))
    with pytest.raises(
        ConfigError, match=r"'default' of type IA3 cannot be exported as a plain PEFT LoRA .*; use export_merged"
    ):
        export_lora(ia3, tmp_path / "out")
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"use_dora": True, "targets": ["wte", "c_attn"]}, "an adapted Embedding"),
        ({"init_lora_weights": "olora", "targets": ["c_attn"]}, "init_lora_weights='olora', which changed the base"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True, "targets": ["c_attn"]}, "lora_bias"),
        ({"targets": ["wte", "c_attn"]}, "an adapted Embedding"),
        ({"targets": ["c_attn"], "trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    ],
    ids=str,
)
def test_more_than_a_plain_lora_is_refused(tmp_path, options, named):
    with pytest.raises(ConfigError, match=f"more than a plain LoRA, it uses .*{named}.*; use export_merged"):
        export_lora(plain_lora(**options), tmp_path / "out")
    assert files(tmp_path) == []


def damaged(monkeypatch):
    save_file = lora.save_file

    def wrong(tensors, *args, **kwargs):
        key = sorted(tensors)[-1]
        save_file({**tensors, key: tensors[key] + 0.1}, *args, **kwargs)

    monkeypatch.setattr(lora, "save_file", wrong)


@pytest.mark.parametrize("make", [trained, plain_lora, lambda: trained(gpt2().to(torch.bfloat16))])
def test_a_failed_comparison_leaves_nothing(tmp_path, monkeypatch, make):
    damaged(monkeypatch)
    with pytest.raises(RuntimeError, match=r"differ by .* nothing was written"):
        export_lora(make(), tmp_path / "out")
    assert files(tmp_path) == []


def test_a_failed_comparison_leaves_the_last_export(tmp_path, monkeypatch):
    model = trained()
    export_lora(model, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    shake(model, seed=5)
    with monkeypatch.context() as patched:
        damaged(patched)
        with pytest.raises(RuntimeError, match="nothing was written"):
            export_lora(model, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert files(tmp_path) == ["out"]
    export_lora(model, tmp_path / "out")
    same(logits(PeftModel.from_pretrained(gpt2(), tmp_path / "out")), logits(model))
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_weights_that_are_not_finite_are_not_exported(tmp_path):
    model = trained()
    with torch.no_grad():
        model.base_model.bank().generators[0].mapping.last.bias[0] = float("nan")
    with pytest.raises(
        RuntimeError, match=r"numbers are not finite .*file is damaged, or its training diverged; nothing"
    ):
        export_lora(model, tmp_path / "out")
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named_as_it_was_given(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as refused:
        export_lora(plain_lora(), tmp_path / "file" / "out")
    assert str(refused.value).startswith(f"the output folder {tmp_path / 'file' / 'out'} cannot be written: ")
    assert str(refused.value).endswith("; give another folder")


def test_an_untrained_adapter_exports_as_the_identity(tmp_path):
    model = get_peft_model(gpt2(), QPAConfig(r=2, target_modules=TARGETS, task_type="CAUSAL_LM")).eval()
    assert export_lora(model, tmp_path).max_difference == 0
    assert torch.equal(logits(PeftModel.from_pretrained(gpt2(), tmp_path)), logits(gpt2()))


def loaded(folder):
    return PeftModel.from_pretrained(gpt2(), folder).eval()


def stated(folder):
    return json.loads((folder / "qpeft_export.json").read_text(encoding="utf8"))


def test_the_choice_between_the_last_sample_and_the_exact_weights(tmp_path):
    model, exact = trained(engine="exact:10x"), trained(engine="exact")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = logits(model)
    reports = {weights: export_lora(model, tmp_path / str(weights), weights=weights)
               for weights in (None, "last_sample", "exact")}  # fmt: skip
    assert [report.weights for report in reports.values()] == ["last_sample", "last_sample", "exact"]
    same(logits(loaded(tmp_path / "None")), before)
    same(logits(loaded(tmp_path / "last_sample")), before)
    same(logits(loaded(tmp_path / "exact")), logits(exact))  # the same numbers on the exact engine
    assert (logits(exact) - before).abs().max() > 1e-2  # or the two could not be told apart
    assert stated(tmp_path / "exact") == {
        "form": "lora",
        "weights": "exact",
        "engine": exact.peft_config["default"].build_engine().describe(),
    }
    assert stated(tmp_path / "None")["engine"]["shots"] == "10x"
    assert torch.equal(logits(model), before)  # the model still runs on its own engine
    assert model.base_model.bank().generators[0].engine.describe()["shots"] == "10x"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])


@pytest.mark.parametrize("weights", [None, "last_sample", "exact"])
def test_exact_engines_and_adapters_without_a_circuit_export_exact_weights(tmp_path, weights):
    for name, model in (
        ("exact", trained()), ("backprop", trained(diff_method="backprop")),
        ("pennylane", trained(engine="pennylane", diff_method="backprop")),
        ("free", trained(engine="exact:10x", source="free")), ("lora", plain_lora()),
    ):  # fmt: skip
        report = export_lora(model, tmp_path / name, weights=weights)
        assert report.weights == stated(tmp_path / name)["weights"] == "exact"
        same(logits(loaded(tmp_path / name)), logits(model))
    assert stated(tmp_path / "lora")["engine"] is None


def test_another_word_for_the_weights_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="weights 'sampled' is not one of 'last_sample', 'exact'"):
        export_lora(trained(), tmp_path / "out", weights="sampled")
    assert files(tmp_path) == []
