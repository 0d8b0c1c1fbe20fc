"""Feed-forward adapters and additive prefixes with their weights stored."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from qpeft.adapters import (
    AdditivePrefixConfig,
    FeedForwardConfig,
    HoulsbyConfig,
    QPAAdditivePrefixConfig,
    QPAFeedForwardConfig,
)
from qpeft.adapters.export import ExportError, export_stored, stored
from qpeft.errors import ConfigError
from qpeft.qcircuits import StatevectorEngine
from tests.tiny_models import bert, gpt2, llama, logits

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
CAUSAL = {"task_type": "CAUSAL_LM"}


def adapted(config, base=None):
    torch.manual_seed(0)
    model = get_peft_model(gpt2() if base is None else base, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


FFA_KEYS = ["base_model.model.lm_head.ffa_down.weight", "base_model.model.lm_head.ffa_up.weight"]
CASES = {
    "qpa-ffa": (gpt2, lambda: QPAFeedForwardConfig(chunk_size=64, **CAUSAL), FeedForwardConfig, 2 * 32 * 8),
    "qpa-ffa after": (
        llama, lambda: QPAFeedForwardConfig(chunk_size=64, target_modules=["o_proj"], placement="after", **CAUSAL),
        FeedForwardConfig, 2 * 2 * 32 * 8,
    ),
    "qpa-additive-prefix": (
        gpt2, lambda: QPAAdditivePrefixConfig(length=4, chunk_size=32, **CAUSAL), AdditivePrefixConfig, 4 * 32,
    ),
    "qpa-ffa of a classifier": (
        bert, lambda: QPAFeedForwardConfig(chunk_size=64, target_modules=["query"], task_type="SEQ_CLS"),
        FeedForwardConfig, 2 * 32 * 8 + 32 * 3 + 3,
    ),
    "ffa": (gpt2, lambda: FeedForwardConfig(**CAUSAL), FeedForwardConfig, 2 * 32 * 8),
    "houlsby": (llama, lambda: HoulsbyConfig(**CAUSAL), FeedForwardConfig, 2 * 2 * (2 * 32 * 2 + 32 + 2)),
    "additive-prefix": (gpt2, lambda: AdditivePrefixConfig(length=4, **CAUSAL), AdditivePrefixConfig, 4 * 32),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_stored_adapter_gives_the_same_logits_without_a_circuit(tmp_path, monkeypatch, case):
    base, config, kind, size = CASES[case]
    model = adapted(config(), base())
    before, state = logits(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    report = export_stored(model, tmp_path / "out")
    assert (report.form, report.weights, report.num_parameters) == ("stored", "exact", size)
    assert report.max_difference < 1e-5

    with monkeypatch.context() as patched:
        patched.setattr(StatevectorEngine, "probabilities", lambda *args: pytest.fail("a circuit was run"))
        loaded = PeftModel.from_pretrained(base(), tmp_path / "out").eval()
        after = logits(loaded)
    assert type(loaded.peft_config["default"]) is kind
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    assert (before - logits(base())).abs().max() > 1e-3
    assert "generators" not in (tmp_path / "out" / "adapter_config.json").read_text()
    assert torch.equal(logits(model), before)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_the_file_holds_what_the_bank_generates(tmp_path):
    model = adapted(QPAFeedForwardConfig(chunk_size=64, bottleneck=5, nonlinearity="relu", **CAUSAL))
    export_stored(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert sorted(tensors) == FFA_KEYS
    for role, tensor in model.base_model.bank()()["lm_head"].items():
        assert torch.equal(tensors[f"base_model.model.lm_head.{role}.weight"], tensor.detach())
    data = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (data["peft_type"], data["bottleneck"], data["nonlinearity"]) == ("FEED_FORWARD", 5, "relu")
    assert data["target_modules"] == ["lm_head"]
    assert set(data) == set(FeedForwardConfig().to_dict())


def test_one_of_several_adapters(tmp_path):
    model = adapted(QPAFeedForwardConfig(chunk_size=64, **CAUSAL))
    model.add_adapter("second", QPAFeedForwardConfig(chunk_size=64, target_modules=["c_attn"], seed=3, **CAUSAL))
    with torch.no_grad():
        for parameter in model.base_model.bank("second").parameters():
            parameter.add_(0.1)
    model.set_adapter("second")
    second = logits(model)
    model.set_adapter("default")
    export_stored(model, tmp_path, adapter_name="second")
    torch.testing.assert_close(logits(PeftModel.from_pretrained(gpt2(), tmp_path).eval()), second)
    assert not any("lm_head" in key for key in load_file(tmp_path / "adapter_model.safetensors"))


def test_the_choice_of_weights(tmp_path):
    def model(engine):
        return adapted(QPAAdditivePrefixConfig(length=4, chunk_size=32, engine=engine, **CAUSAL))

    sampled, exact = model("exact:5x"), model("exact")
    for weights, expected in (("last_sample", sampled), ("exact", exact)):
        assert export_stored(sampled, tmp_path / weights, weights=weights).weights == weights
        loaded = PeftModel.from_pretrained(gpt2(), tmp_path / weights).eval()
        torch.testing.assert_close(logits(loaded), logits(expected), rtol=1e-5, atol=1e-5)
    assert (logits(sampled) - logits(exact)).abs().max() > 1e-3  # or the two could not be told apart


def test_a_model_that_takes_no_tokens(tmp_path):
    def base():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))

    model = adapted(QPAFeedForwardConfig(chunk_size=8, target_modules=["1"]), base())
    assert export_stored(model, tmp_path).max_difference == 0
    x = torch.randn(4, 6)
    torch.testing.assert_close(PeftModel.from_pretrained(base(), tmp_path)(x), model(x))


def test_files_that_differ_are_not_written(tmp_path, monkeypatch):
    save_file = stored.save_file
    monkeypatch.setattr(
        stored, "save_file",
        lambda tensors, *args, **kwargs: save_file({k: t + 0.1 for k, t in tensors.items()}, *args, **kwargs),
    )  # fmt: skip
    with pytest.raises(ExportError, match=r"differ by 0\.1 .* nothing was written"):
        export_stored(adapted(FeedForwardConfig(**CAUSAL)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_merges_is_not_stored(tmp_path):
    lora = adapted(LoraConfig(target_modules=["c_attn"], **CAUSAL))
    with pytest.raises(
        ConfigError, match=r"cannot be exported as the same adapter .*; use export_lora .* or export_merged"
    ):
        export_stored(lora, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
