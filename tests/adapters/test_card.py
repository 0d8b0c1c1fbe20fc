import importlib.metadata
import json
import re
import warnings

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments

from qpeft.adapters import (
    FeedForwardConfig,
    QPAAdditivePrefixConfig,
    QPAConfig,
    QPAFeedForwardConfig,
    QPAPrefixConfig,
    QuantumPEFTConfig,
    SoRAConfig,
)
from qpeft.adapters import card as card_module
from qpeft.qcircuits import ansatz
from tests.tiny_models import IDS, gpt2, logits

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

HEAD = ["lm_head"]  # 100 x 32


def named(**options):
    """A base model that says where it comes from."""
    base = gpt2(**options)
    base.name_or_path = base.config._name_or_path = "someone/small-gpt2"
    return base


def saved(config, folder, base=None):
    model = get_peft_model(base or named(), config)
    model.save_pretrained(folder)
    return model


def text_of(folder):
    return (folder / "README.md").read_text()


def trained(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_it_says_what_generates_the_weights(tmp_path):
    circuit = ansatz("ry_cnot", 3, 2)  # 2 layers of 3 angles; the staircases of CNOTs overlap
    model = saved(QPAConfig(r=2, target_modules=HEAD, chunk_size=40, ansatz=circuit, seed=11), tmp_path)
    text = text_of(tmp_path)
    # 2 * (100 + 32) weights in chunks of 40 are 7 chunks: 3 qubits.
    assert "generate 264 weights; LoRA of rank 1 trains 132 on the same layers" in text
    assert f"trained numbers: {trained(model):,}," in text
    assert "frozen numbers: 64, not saved but rebuilt from the seed" in text  # A, 2 x 32
    assert "seed: 11" in text
    assert "generators: 1 (chunk sizes: 40)" in text
    assert "engine: exact" in text
    assert f"Circuit 1 of 1: 3 qubits, depth {circuit.depth}, 6 angles." in text
    assert f"```text\n{circuit.draw()}\n```" in text
    assert "No quantum advantage is claimed" in text
    assert "`qpeft export` writes the adapter as a plain LoRA" in text
    assert "Base model: someone/small-gpt2" in text
    for package in ("torch", "peft", "transformers", "numpy", "qpeft"):
        assert f"{package} {importlib.metadata.version(package)}" in text


def test_its_python_lines_load_the_adapter(tmp_path):
    model = saved(QPAConfig(r=2, target_modules=HEAD), tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", text_of(tmp_path), re.DOTALL)
    assert code.startswith("import qpeft.adapters")
    names = {"base_model": gpt2()}
    exec(code.replace("path/to/this/folder", str(tmp_path)), names)
    assert isinstance(names["model"], PeftModel)
    assert torch.equal(logits(names["model"]), logits(model))


def test_front_matter_is_valid_and_keeps_what_peft_wrote(tmp_path):
    saved(QPAConfig(r=2, target_modules=HEAD, task_type="CAUSAL_LM"), tmp_path)
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.library_name == "peft"
    assert data.base_model == "someone/small-gpt2"
    assert data.pipeline_tag == "text-generation"
    assert {"qpeft", "transformers", "base_model:adapter:someone/small-gpt2"} <= set(data.tags)
    assert "### Framework versions" in text_of(tmp_path)  # peft's own part


def test_a_base_model_without_a_name_leaves_no_empty_one(tmp_path):
    saved(QPAConfig(r=2, target_modules=HEAD), tmp_path, gpt2())
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.base_model is None
    assert "base_model" not in text_of(tmp_path).split("---")[1]
    assert data.tags == ["qpeft", "transformers"]


def test_saving_again_changes_nothing_and_keeps_what_others_wrote(tmp_path):
    model = saved(QPAConfig(r=2, target_modules=HEAD), tmp_path)
    first = text_of(tmp_path)
    model.save_pretrained(tmp_path)
    assert text_of(tmp_path) == first

    path = tmp_path / "README.md"
    path.write_text(first.replace("# Model Card for Model ID", "# My model\n\nIt speaks of ducks."))
    model.peft_config["default"].seed = 12
    model.save_pretrained(tmp_path)
    assert "It speaks of ducks." in text_of(tmp_path)
    assert "seed: 12" in text_of(tmp_path)
    assert "seed: 0" not in text_of(tmp_path)
    assert text_of(tmp_path).count("# QPA adapter") == 1


def test_each_adapter_has_one_in_its_folder(tmp_path):
    model = get_peft_model(named(), QPAConfig(r=2, target_modules=HEAD, seed=1))
    model.add_adapter("two", QPAConfig(r=2, target_modules=HEAD, seed=2, source="mlp"))
    model.save_pretrained(tmp_path)
    assert "seed: 1" in text_of(tmp_path)
    two = text_of(tmp_path / "two")
    assert "seed: 2" in two
    assert "the classical control 'mlp': no circuit runs" in two
    assert "```text" not in two
    data = ModelCard.load(tmp_path / "two" / "README.md").data
    assert (data.library_name, data.base_model, data.tags) == ("peft", "someone/small-gpt2", ["qpeft"])


def test_the_trainers_checkpoints_have_one(tmp_path):
    model = get_peft_model(named(), QPAConfig(r=2, target_modules=HEAD))
    arguments = TrainingArguments(
        tmp_path, max_steps=1, save_steps=1, per_device_train_batch_size=2, report_to=[], disable_tqdm=True,
        use_cpu=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=[{"input_ids": ids, "labels": ids} for ids in IDS]).train()
    assert "## What generates the weights" in text_of(tmp_path / "checkpoint-1")


@pytest.mark.parametrize(
    ("config", "facts"),
    [
        (QPAConfig(r=2, target_modules=["c_attn"], scope="layer", use_dora=True),
         ["# QPA adapter", "generators: 2", "LoRA of rank 1 trains 256 on"]),  # 2 layers of 96 x 32
        (QPAConfig(r=2, target_modules=HEAD, source="frozen"), ["angles, frozen at their random start."]),
        (QPAConfig(r=2, target_modules=HEAD, source="free"), ["the classical control 'free': no circuit runs"]),
        (QPAConfig(r=2, target_modules=HEAD, start="paper"), ["frozen numbers: 0,"]),
        (QPAConfig(r=2, target_modules=HEAD, engine="exact:10x", diff_method="spsa"),
         ["engine: exact:10x, differentiated by spsa"]),
        (QPAConfig(r=2, target_modules=HEAD, modules_to_save=["ln_f"]), ["Trained in full beside it: ln_f."]),
        (QPAFeedForwardConfig(target_modules=HEAD), ["# QPA_FEED_FORWARD adapter", "with stored weights"]),
        (QPAAdditivePrefixConfig(target_modules=HEAD, length=8), ["# QPA_ADDITIVE_PREFIX adapter", "256 weights"]),
        (QPAPrefixConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
         ["# QPA_PREFIX adapter", "KeyError: 'QPA_PREFIX'", "as a plain prefix"]),
        (FeedForwardConfig(target_modules=HEAD), ["# FEED_FORWARD adapter", "import qpeft.adapters"]),
        # 128 and 32 rows, 5 q - 4 angles each
        (QuantumPEFTConfig(r=2, target_modules=HEAD, reps=2, other_sizes="pad"),
         ["trained numbers: 54; LoRA of rank 1 trains 132", "Circuit 2 of 2: 7 qubits", "- reps: 2", "as a plain LoRA",
          "- other_sizes: pad"]),
        (QuantumPEFTConfig(r=2, target_modules=HEAD, parametrization="cayley", diagonal="rademacher"),
         ["frozen numbers, saved with them: 258", "parametrization of the frames: cayley",  # 2 (100 + 32) - 6
          "is lora_alpha / r = 16 times U diag(l) V^T, less its frozen value at the start;",
          "layers: 1; rank of each update, at most: 4"]),
        (QuantumPEFTConfig(r=4, lora_alpha=6, target_modules=HEAD, use_rslora=True),
         ["is lora_alpha / sqrt(r) = 3 times U diag(l) V^T; U and V have K = 4", "rank of each update, at most: 4"]),
        (SoRAConfig(r=2, target_modules=HEAD), ["# SORA adapter", "import qpeft.adapters"]),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_every_method_has_one(tmp_path, config, facts):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the model card")
        saved(config, tmp_path)
    text = text_of(tmp_path)
    assert [fact for fact in facts if fact not in text] == []
    generated = "resolved" in json.loads((tmp_path / "adapter_config.json").read_text())
    assert ("## What generates the weights" in text) == generated


def test_a_large_circuit_is_drawn_in_part(tmp_path):
    saved(QPAConfig(r=2, target_modules=HEAD, chunk_size=1, reps=40), tmp_path)
    text = text_of(tmp_path)
    assert "adapter_config.json holds the whole circuit" in text
    assert len(text.splitlines()) < 600
    assert max(map(len, text.split("```text")[1].split("```")[0].splitlines())) < 120


def test_a_card_that_cannot_be_written_does_not_fail_the_saving(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError("no space left")

    monkeypatch.setattr(card_module, "write_text", full)
    with pytest.warns(UserWarning, match=r"model card in .* was not written: no space left"):
        model = saved(QPAConfig(r=2, target_modules=HEAD), tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(gpt2(), tmp_path)), logits(model))
    assert not list(tmp_path.glob(".*"))
