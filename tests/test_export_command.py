"""`qpeft export`, on adapters of tiny models in temporary folders."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from peft import (
    LoHaConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig, BertForMaskedLM
from typer.testing import CliRunner

from qpeft.adapters import QPAConfig, QPAFeedForwardConfig, QPAPrefixConfig, SoRAConfig
from qpeft.adapters.export import FORMS
from qpeft.cli import app, main
from qpeft.errors import ConfigError
from tests.tiny_models import gpt2, llama, logits, moved

pytestmark = pytest.mark.filterwarnings("ignore")
RANK_1 = {"r": 1, "target_modules": ["c_attn", "lm_head"], "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    gpt2().save_pretrained(folder)
    return folder


@pytest.fixture
def saved(base, tmp_path):
    def save(config, auto_class=AutoModelForCausalLM, **options):
        model = moved(get_peft_model(auto_class.from_pretrained(base, **options), config))
        model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
        return model

    return save


def run(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=True)


def refused(*arguments):
    result = run(*arguments)
    assert isinstance(result.exception, ConfigError), result.exception
    return str(result.exception)


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_help_teaches():
    result = CliRunner().invoke(app, ["export", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for text in ("--form", "--weights", "--overwrite", "qpeft export runs/demo/qpa/adapter my-lora", "no circuit"):
        assert text in result.output


def test_a_lora_from_the_base_that_the_adapter_names(saved, base, tmp_path):
    model = saved(QPAConfig(chunk_size=32, **RANK_1))
    result = run(tmp_path / "adapter", tmp_path / "out")
    assert result.exit_code == 0, result.exception
    size = sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    assert f"Wrote a plain PEFT LoRA or DoRA, which peft and transformers load: 388 numbers, {size / 1000:.1f} kB." in (
        result.output
    )
    assert "differ by at most" in result.output and "Weights: exact." in result.output
    assert f"Load it: model = PeftModel.from_pretrained(base_model, {str(tmp_path / 'out')!r})" in result.output
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out")
    assert type(loaded.peft_config["default"]) is LoraConfig
    same(logits(loaded), logits(model))


@pytest.mark.parametrize(
    ("config", "form"),
    [
        (lambda: SoRAConfig(**RANK_1), "lora"),
        (lambda: LoHaConfig(r=1, target_modules=["lm_head"], task_type="CAUSAL_LM"), "merged"),
        (lambda: VeraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM"), "merged"),
        (lambda: QPAPrefixConfig(num_virtual_tokens=2, chunk_size=32, task_type="CAUSAL_LM"), "prefix"),
        (lambda: PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"), "prefix"),
        (lambda: QPAFeedForwardConfig(chunk_size=64, task_type="CAUSAL_LM"), "stored"),
    ],
)
def test_every_kind_goes_into_its_usual_form(saved, base, tmp_path, config, form):
    model = saved(config())
    result = run(tmp_path / "adapter", tmp_path / "out")
    assert result.exit_code == 0, result.exception
    assert json.loads((tmp_path / "out" / "qpeft_export.json").read_text())["form"] == form
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out" if form == "merged" else base)
    if form != "merged":
        again = PeftModel.from_pretrained(again, tmp_path / "out").eval()
    same(logits(again), logits(model))


def test_a_classifier_takes_its_classes_from_the_adapters_head(saved, tmp_path):
    model = saved(
        QPAConfig(r=1, target_modules=["c_attn"], chunk_size=32, task_type="SEQ_CLS"),
        AutoModelForSequenceClassification, num_labels=5,
    )  # fmt: skip
    result = run(tmp_path / "adapter", tmp_path / "out", "--form", "merged")
    assert result.exit_code == 0, result.exception
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert loaded.config.num_labels == 5
    same(logits(loaded), logits(model))


def test_the_choice_of_weights(saved, tmp_path):
    saved(QPAConfig(chunk_size=32, engine="exact:100", **RANK_1))
    assert "Weights: last_sample." in run(tmp_path / "adapter", tmp_path / "sampled").output
    assert "Weights: exact." in run(tmp_path / "adapter", tmp_path / "exact", "--weights", "exact").output
    assert "'sampled' is not one of 'last_sample', 'exact'" in refused(
        tmp_path / "adapter", tmp_path / "out", "--weights", "sampled"
    )


def test_overwriting(saved, tmp_path):
    saved(LoraConfig(**RANK_1))
    assert run(tmp_path / "adapter", tmp_path / "out").exit_code == 0
    before = (tmp_path / "out" / "qpeft_export.json").stat().st_mtime_ns
    assert "is not empty; give another, or --overwrite" in refused(tmp_path / "adapter", tmp_path / "out")
    assert (tmp_path / "out" / "qpeft_export.json").stat().st_mtime_ns == before
    assert run(tmp_path / "adapter", tmp_path / "out", "--overwrite").exit_code == 0
    assert (tmp_path / "out" / "qpeft_export.json").stat().st_mtime_ns > before
    message = refused(tmp_path / "adapter", tmp_path / "out", "--overwrite", "--form", "merged")
    assert "holds adapter_config.json, adapter_model.safetensors of another model or export" in message
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "qpeft_export.json",
    ]  # fmt: skip


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_the_adapters_own_folder_is_not_written_to(saved, tmp_path, monkeypatch, overwrite):
    saved(QPAConfig(chunk_size=32, **RANK_1))
    adapter = tmp_path / "adapter"
    before = {file: file.read_bytes() for file in adapter.iterdir()}
    monkeypatch.chdir(tmp_path)
    for source, output in ((adapter, "adapter"), ("adapter", adapter / "lora"), (adapter, "adapter/../adapter")):
        assert "give a folder of its own" in refused(source, output, *overwrite)
    assert "contains the adapter's folder" in refused(adapter, tmp_path, "--overwrite")
    assert {file: file.read_bytes() for file in adapter.iterdir()} == before
    assert list(tmp_path.iterdir()) == [adapter]


@pytest.mark.parametrize("config", [lambda: QPAConfig(chunk_size=32, **RANK_1), lambda: LoraConfig(**RANK_1)])
def test_numbers_that_are_not_finite(saved, tmp_path, config):
    saved(config())
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({key: tensor * float("nan") for key, tensor in load_file(path).items()}, path)
    result = run(tmp_path / "adapter", tmp_path / "out")
    assert "not finite" in str(result.exception) and "file is damaged" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_the_card_of_the_files_that_are_replaced_goes(saved, tmp_path):
    saved(QPAConfig(chunk_size=32, **RANK_1))
    for name, text in (("unfilled", ""), ("filled", "# Ducks\n\nIt speaks of ducks.")):
        shutil.copytree(tmp_path / "adapter", tmp_path / name)
        card = tmp_path / name / "README.md"
        assert "# QPA adapter" in card.read_text()
        if text:
            card.write_text(card.read_text().replace("# Model Card for Model ID", text))
        assert run(tmp_path / "adapter", tmp_path / name, "--overwrite").exit_code == 0
        left = card.read_text() if card.exists() else ""
        assert "QPA" not in left and "- qpeft" not in left
        assert text in left and bool(left) == bool(text)


def test_a_classifier_of_no_run_says_how_its_base_is_loaded(saved, tmp_path):
    config = LoraConfig(r=1, target_modules=["c_attn"], task_type="SEQ_CLS")
    saved(config, AutoModelForSequenceClassification, num_labels=3)
    assert run(tmp_path / "adapter", tmp_path / "out").exit_code == 0
    assert (
        "AutoModelForSequenceClassification.from_pretrained(..., num_labels="
        in (tmp_path / "out" / "README.md").read_text()
    )


def test_forms_that_are_none_or_not_the_adapters(saved, tmp_path):
    saved(LoraConfig(**RANK_1))
    assert "unknown form of export 'loar'. Did you mean 'lora'" in refused(
        tmp_path / "adapter", tmp_path / "out", "--form", "loar"
    )
    message = refused(tmp_path / "adapter", tmp_path / "out", "--form", "prefix")
    assert "type LORA cannot be exported as a plain PEFT prefix" in message
    assert 'use export_lora (form "lora") or export_merged (form "merged")' in message
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_has_no_export(saved, tmp_path):
    saved(PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    assert "there is no export of PromptTuningConfig" in refused(tmp_path / "adapter", tmp_path / "out")


def test_folders_that_hold_no_adapter(saved, tmp_path):
    saved(LoraConfig(**RANK_1))
    assert "nowhere holds no adapter_config.json" in refused(tmp_path / "nowhere", tmp_path / "out")
    message = refused(tmp_path, tmp_path / "out")
    assert f"did you mean {tmp_path / 'adapter'}?" in message
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    assert "only weights in the safetensors format are read" in refused(tmp_path / "adapter", tmp_path / "out")
    (tmp_path / "file").write_text("")
    assert "is a file; give a folder" in refused(tmp_path / "adapter", tmp_path / "file")


def test_damaged_files(saved, tmp_path):
    saved(QPAConfig(chunk_size=32, **RANK_1))
    weights, config = tmp_path / "adapter" / "adapter_model.safetensors", tmp_path / "adapter" / "adapter_config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    assert "adapter_model.safetensors is damaged" in refused(tmp_path / "adapter", tmp_path / "out")
    weights.write_bytes(whole)
    data = json.loads(config.read_text())
    for damage in ("{", "[]", json.dumps({**data, "peft_type": "SOON"}), json.dumps({**data, "peft_type": None})):
        config.write_text(damage)
        assert "adapter_config.json cannot be read" in refused(tmp_path / "adapter", tmp_path / "out")
    config.write_text(json.dumps({**data, "base_model_name_or_path": None}))
    assert "names no base model; give it as --model" in refused(tmp_path / "adapter", tmp_path / "out")
    config.write_text(json.dumps({**data, "task_type": "TOKEN_CLS"}))
    assert "CAUSAL_LM and SEQ_CLS; this one is of TOKEN_CLS" in refused(tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "value"), [("seed", 1), ("ansatz", "rx_cnot"), ("reps", 4), ("start", "paper")])
def test_a_config_whose_generator_was_edited(saved, tmp_path, name, value):
    saved(QPAConfig(chunk_size=32, **RANK_1))
    path = tmp_path / "adapter" / "adapter_config.json"
    data = json.loads(path.read_text())
    assert data[name] != value
    path.write_text(json.dumps({**data, name: value}))
    assert "does not fit the model" in refused(tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [QPAConfig, LoraConfig])
@pytest.mark.parametrize(
    ("trained_on", "other", "target"),
    [
        (llama, lambda: llama(layers=3), "q_proj"),
        (llama, lambda: llama(layers=1), "q_proj"),
        (gpt2, lambda: gpt2(vocabulary=120), "lm_head"),
        (gpt2, lambda: gpt2(vocabulary=99), "lm_head"),
        (gpt2, llama, "c_attn"),
    ],
    ids=["deeper", "shallower", "wider", "narrower", "of another kind"],
)
def test_a_base_of_another_size(tmp_path, kind, trained_on, other, target):
    options = {"chunk_size": 32} if kind is QPAConfig else {}
    config = kind(r=1, target_modules=[target], task_type="CAUSAL_LM", **options)
    get_peft_model(trained_on(), config).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    other().save_pretrained(tmp_path / "other")
    message = refused(tmp_path / "adapter", tmp_path / "out", "--model", tmp_path / "other")
    assert f"does not fit the model {tmp_path / 'other'}" in message
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_nowhere(saved, tmp_path):
    saved(LoraConfig(**RANK_1))
    assert "is no model folder" in refused(tmp_path / "adapter", tmp_path / "out", "--model", tmp_path / "nowhere")


def test_a_head_that_neither_base_nor_adapter_has(saved, tmp_path):
    saved(
        LoraConfig(r=1, target_modules=["c_attn"], task_type="SEQ_CLS"),
        AutoModelForSequenceClassification,
    )
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({key: tensor for key, tensor in load_file(path).items() if "score" not in key}, path)
    assert "does not fit the model" in refused(tmp_path / "adapter", tmp_path / "out")


def test_the_examples_of_the_page_run(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).resolve().parents[1] / "docs" / "how-to" / "export-and-serve.md").read_text(encoding="utf8")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "export-and-serve.md", "exec"), names)
    assert "form='lora'" in capsys.readouterr().out
    same(logits(names["plain"]), logits(names["merged"]))
    for form in FORMS:
        assert f"| `{form}` |" in page


def test_bad_input_is_one_message_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["qpeft", "export", str(tmp_path / "[red]none"), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 2
    assert "[red]none holds no adapter_config.json" in capsys.readouterr().err.replace("\n", " ")


def test_a_layer_that_neither_base_nor_adapter_has(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=50, pad_token_id=0, **sizes)).save_pretrained(tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    config = LoraConfig(r=1, target_modules=["query"], task_type="SEQ_CLS")
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    assert "has weights for bert.pooler.dense; it would be random" in refused(tmp_path / "adapter", tmp_path / "out")
