"""Prefixes as standard files of peft."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptEncoderConfig, get_peft_model
from safetensors.torch import load_file
from transformers import GPT2ForSequenceClassification

from qpeft.adapters import QPAPrefixConfig
from qpeft.adapters.export import ExportError, export_adapter, export_prefix, prefix
from qpeft.errors import ConfigError
from tests.tiny_models import gpt2, llama, logits

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
TOKENS = 3
FILES = ["adapter_config.json", "adapter_model.safetensors", "qpeft_export.json"]


def classifier():
    return gpt2(model_class=GPT2ForSequenceClassification, num_labels=3)


def adapted(base, kind=QPAPrefixConfig, seed=1, **options):
    torch.manual_seed(0)
    options = {"num_virtual_tokens": TOKENS, "task_type": "CAUSAL_LM", **options}
    model = get_peft_model(base, kind(**options, **({"chunk_size": 16} if kind is QPAPrefixConfig else {})))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


CASES = {
    "generated": (gpt2, {}),
    "generated, grouped queries": (llama, {}),
    "generated, the paper's start": (gpt2, {"start": "paper"}),
    "generated, a classifier": (classifier, {"task_type": "SEQ_CLS"}),
    "plain": (llama, {"kind": PrefixTuningConfig}),
    "plain, projected": (llama, {"kind": PrefixTuningConfig, "prefix_projection": True, "encoder_hidden_size": 8}),
}


@pytest.mark.parametrize("case", CASES)
def test_plain_peft_gives_the_adapters_logits_and_the_model_stays(tmp_path, case):
    base, options = CASES[case]
    model = adapted(base(), **options)
    before, state = logits(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    report = export_prefix(model, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == FILES
    data = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert data["peft_type"] == "PREFIX_TUNING" and set(data) <= set(PrefixTuningConfig().to_dict())
    assert not data["prefix_projection"] and "qpeft" not in json.dumps(data).lower()
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    kv_dim = 16 if base is llama else 32
    assert tensors["prompt_embeddings"].shape == (TOKENS, 2 * 2 * kv_dim)
    assert report.num_parameters == sum(tensor.numel() for tensor in tensors.values())
    assert (report.form, report.weights) == ("prefix", "exact") and report.max_difference < 1e-5

    loaded = PeftModel.from_pretrained(base(), tmp_path / "out").eval()
    assert type(loaded.peft_config["default"]) is PrefixTuningConfig
    same(logits(loaded), before)
    assert (before - logits(base())).abs().max() > 1e-2
    assert torch.equal(logits(model), before)
    assert list(model.peft_config) == ["default"]
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert model.state_dict().keys() == state.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_one_of_several_prefixes(tmp_path):
    model = adapted(gpt2())
    model.add_adapter("second", PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    model.set_adapter("second")
    second = logits(model)
    model.set_adapter("default")
    export_prefix(model, tmp_path, adapter_name="second")
    same(logits(PeftModel.from_pretrained(gpt2(), tmp_path).eval()), second)
    assert model.active_adapter == "default"


def test_the_choice_of_weights(tmp_path):
    sampled, exact = adapted(gpt2(), engine="exact:5x"), adapted(gpt2(), engine="exact")
    for weights, expected in (("last_sample", sampled), ("exact", exact)):
        assert export_prefix(sampled, tmp_path / weights, weights=weights).weights == weights
        same(logits(PeftModel.from_pretrained(gpt2(), tmp_path / weights).eval()), logits(expected))
    assert (logits(sampled) - logits(exact)).abs().max() > 1e-3  # or the two could not be told apart


def test_files_that_differ_are_not_written(tmp_path, monkeypatch):
    save_file = prefix.save_file
    monkeypatch.setattr(
        prefix, "save_file",
        lambda tensors, *args, **kwargs: save_file({k: t + 0.1 for k, t in tensors.items()}, *args, **kwargs),
    )  # fmt: skip
    with pytest.raises(ExportError, match=r"differ by 0\.1 .* nothing was written"):
        export_prefix(adapted(gpt2()), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_prefix_is_refused(tmp_path):
    lora = get_peft_model(gpt2(), LoraConfig(target_modules=["c_attn"], task_type="CAUSAL_LM"))
    with pytest.raises(ConfigError, match="LORA cannot be exported as a plain PEFT prefix"):
        export_prefix(lora, tmp_path / "out")
    with pytest.raises(ConfigError, match="'default' of type PREFIX_TUNING cannot be exported as a plain PEFT LoRA"):
        export_adapter(adapted(gpt2()), tmp_path / "out", "lora")
    prompt = get_peft_model(gpt2(), PromptEncoderConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    with pytest.raises(ConfigError, match="no export of PromptEncoderConfig; save_pretrained writes"):
        export_adapter(prompt, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"P_TUNING cannot be exported as a plain PEFT prefix.*; use save_pretrained"):
        export_prefix(prompt, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
