import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from qpeft.cli import app
from qpeft.errors import ConfigError
from qpeft.training.compare import compare
from qpeft.training.config import DataOptions, ModelOptions, TrainConfig, TrainingOptions
from qpeft.training.finetune import add_adapter, prepare, train
from qpeft.training.tasks import classification, task_for
from qpeft.training.tasks.classification import Classification, total_loss
from qpeft.training.tasks.examples import outputs_of
from qpeft.training.vary import plan
from tests.settings import adapter_settings
from tests.training.tasks.glue_files import MODELS, TARGETS, write_model, write_sst2


@pytest.fixture(scope="module")
def folders(tmp_path_factory, model_folder):
    root = tmp_path_factory.mktemp("models")
    return {name: write_model(root / name, make(), model_folder) for name, make in MODELS.items()}


@pytest.fixture
def make(make_config, folders, tmp_path):
    """A configuration on SST-2's form; a tiny model and its layers by name."""

    def build(model="llama", method="lora", data=None, steps=3, training=None, **run):
        folder = data.pop("data", None) if data else None
        config = make_config(
            adapter_settings(
                method=method, rank=2, targets=TARGETS[model], virtual_tokens=2, bottleneck=2
            ), model=folders[model],
            training=training or TrainingOptions(steps=steps, batch_size=4, warmup_steps=1), **run,
        )  # fmt: skip
        options = DataOptions(
            data=str(folder or write_sst2(tmp_path / "sst2")), task="classification", context=16, **(data or {})
        )
        return replace(config, data=options)

    return build


def base(folder, seed=0, **kind):
    """As the report tells to load it: what is missing of the embedding comes from the language model."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(folder, **kind)
    if "Llama" in type(model).__name__:
        model.set_input_embeddings(AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings())
    return model.eval()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["lora", "qpa"])
def test_the_files_hold_adapter_and_head_and_give_the_reported_metrics(make, folders, model, method):
    config = make(model, method)
    result = train(config)
    metrics, prepared = result.metrics, prepare(config)
    pad = prepared.tokenizer.pad_token_id
    saved = load_file(result.folder / "adapter" / "adapter_model.safetensors")
    counts = metrics["parameters"]
    assert sum(tensor.numel() for tensor in saved.values()) == counts["trained"]
    head = {"gpt2": 2 * 32, "llama": 2 * 32, "bert": 2 * 32 + 2 + 32 * 32 + 32}[model]  # BERT's has a pooler and biases
    assert counts["head"] == head
    own = sum(
        tensor.numel() for name, tensor in saved.items() if "score" in name or "classifier" in name or "pooler" in name
    )
    assert own == head
    for part in ("adapter", "lora"):  # on bases whose heads were drawn from another seed
        fresh = base(folders[model], seed=5, num_labels=2, pad_token_id=pad)
        loaded = PeftModel.from_pretrained(fresh, result.folder / part)
        found = task_for(config).measure(loaded, prepared)
        assert found == pytest.approx(metrics["after"], abs=1e-5)


@pytest.mark.parametrize("method", ["lora", "qpa", "loha"])
def test_the_cards_lines_load_the_base_and_a_merged_export_keeps_the_labels(make, folders, tmp_path, method):
    config = make("llama", method)
    result = train(config)
    assert main_export(result.folder / "adapter", tmp_path / "merged", "--form", "merged") == 0
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.id2label == {0: "0", 1: "1"} and merged.config.label2id == {"0": 0, "1": 1}
    parts = ["adapter"]
    if method != "loha":
        assert main_export(result.folder / "adapter", result.folder / "again") == 0
        parts += ["lora", "again"]
    for part in parts:
        card = (result.folder / part / "README.md").read_text()
        assert "classifier, score" not in card
        assert ("Trained in full beside it: score." in card) == (method == "qpa" and part == "adapter")
        section = card.split("## Base model")[1].split("```")[1].removeprefix("python")
        names = {}
        exec(section, names)
        loaded = PeftModel.from_pretrained(names["base_model"], result.folder / part)
        found = task_for(config).measure(loaded, prepare(config))
        assert found == pytest.approx(result.metrics["after"], abs=1e-5)


def main_export(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)]).exit_code


CARRIERS = {
    "qpa": "lora", "qpa-dora": "lora", "qpa-ffa": "stored", "qpa-prefix": "prefix", "prefix": "prefix", "ffa": "stored",
    "sora": "lora",
}  # fmt: skip


@pytest.mark.parametrize("method", CARRIERS)
def test_every_carrier_classifies(make, folders, method):
    config = make("llama", method, steps=2)
    result = train(config)
    metrics, prepared = result.metrics, prepare(config)
    assert metrics["after"]["nats_per_example"] != metrics["before"]["nats_per_example"]
    torch.manual_seed(config.training.seed)
    drawn = torch.empty(2, 32).normal_(std=0.02)
    prepared.model.score.weight = torch.nn.Parameter(drawn)
    assert task_for(config).measure(prepared.model, prepared) == metrics["before"]  # the base model and the fresh head
    assert metrics["parameters"]["head"] == 2 * 32
    prefix = method.endswith("prefix")
    assert metrics["parameters"]["lora_rank_1"] == (None if prefix else 2 * (32 + 32 + 32 + 16))
    page = (result.folder / "report.md").read_text(encoding="utf8")
    assert ("| plain LoRA of rank 1 would train | – |" in page) == prefix
    assert metrics["export"]["form"] == CARRIERS[method]
    for part in ("adapter", CARRIERS[method]):
        fresh = base(folders["llama"], seed=5, num_labels=2, pad_token_id=prepared.tokenizer.pad_token_id)
        loaded = PeftModel.from_pretrained(fresh, result.folder / part)
        assert task_for(config).measure(loaded, prepared) == pytest.approx(metrics["after"], abs=1e-5), part


def test_the_embedding_of_a_tied_checkpoint_is_the_language_models(make, folders):
    """Its file holds the embedding as the head alone, which a classifier has no place for."""
    found = prepare(make("llama"))
    source = AutoModelForCausalLM.from_pretrained(folders["llama"])
    assert torch.equal(found.model.get_input_embeddings().weight, source.get_input_embeddings().weight)
    assert found.resolved["copied_embedding"] and found.fresh == ["score"]
    assert not any(p.requires_grad for p in found.model.parameters())
    bert = prepare(make("bert"))
    assert not bert.resolved["copied_embedding"] and bert.fresh == ["bert.pooler.dense", "classifier"]


def test_a_body_that_lacks_weights_is_refused(make, folders, tmp_path, model_folder):
    from safetensors.torch import save_file

    folder = write_model(tmp_path / "damaged", AutoModelForCausalLM.from_pretrained(folders["llama"]), model_folder)
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = make("llama")
    with pytest.raises(ConfigError, match=r"lacks weights of the model's body \(model.layers.0.mlp.up_proj.weight"):
        prepare(replace(config, model=ModelOptions(model=str(folder))))


def test_the_head_comes_from_the_seed_and_the_shared_model_stays(make):
    config = make()
    prepared = prepare(config)
    before = prepared.model.score.weight
    kept = before.clone()

    def head(seed):
        from qpeft.adapters.regenerate import share_weights

        fresh = replace(prepared, model=share_weights(prepared.model))
        model = add_adapter(fresh, replace(config, training=replace(config.training, seed=seed)))
        weights = [tensor for name, tensor in model.named_parameters() if ".score." in name]
        assert len(weights) == 2 and torch.equal(*weights)  # the frozen original and the trained copy
        return weights[0]

    assert torch.equal(head(0), head(0)) and not torch.equal(head(0), head(1))
    assert float(head(3).detach().std()) == pytest.approx(0.02, rel=0.3)
    assert torch.equal(before, kept)


def test_labels_and_padding_are_in_the_models_config(make, tmp_path):
    folder = tmp_path / "rte"
    folder.mkdir()
    text = "sentence1\tsentence2\tlabel\nthe cat sat\tthe dog\tno\nthe fox\ta dog\tyes\n"
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_text(text, encoding="utf8")
    prepared = prepare(make("gpt2", data={"data": folder}))
    config = prepared.model.config
    assert config.id2label == {0: "no", 1: "yes"} and config.label2id == {"no": 0, "yes": 1}
    assert prepared.tokenizer.pad_token == "<end>" and config.pad_token_id == prepared.tokenizer.eos_token_id
    batch = prepared.collate([prepared.train[0], prepared.train[1]])
    ids = prepared.tokenizer("the cat sat", "the dog")["input_ids"]
    assert batch["input_ids"][0].tolist() == ids and batch["labels"].tolist() == [0, 1]
    short = len(prepared.tokenizer("the fox", "a dog")["input_ids"])
    assert short < len(ids) and batch["attention_mask"][1].tolist() == [1] * short + [0] * (len(ids) - short)
    assert prepared.resolved["text_columns"] == ["sentence1", "sentence2"] and prepared.resolved["labels"] == [
        "no",
        "yes",
    ]


def test_a_tokeniser_without_any_token_to_pad_with_is_refused(make, folders, tmp_path):
    import shutil

    folder = shutil.copytree(folders["llama"], tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match="neither a padding token nor an end-of-text token"):
        prepare(replace(make(), model=ModelOptions(model=str(folder))))


@pytest.mark.parametrize("model", MODELS)
def test_batches_of_any_size_give_the_same_outputs_in_order(make, model):
    prepared = prepare(make(model))
    one, many = (outputs_of(prepared.model, prepared.test, prepared.collate, size) for size in (1, 5))
    assert torch.allclose(one, many, atol=1e-6)
    with torch.no_grad():
        first = prepared.tokenizer(
            "the dog sat on the roof and saw 1 birds", truncation=True, max_length=16, return_tensors="pt"
        )
        assert torch.allclose(prepared.model.eval()(**first).logits[0], one[1], atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_the_logged_loss_is_the_mean_over_all_accumulated_examples(make, model):
    options = TrainingOptions(steps=1, batch_size=2, accumulation=3, warmup_steps=0)
    config = make(model, training=options, data={"max_train_examples": 6})
    prepared = prepare(config)
    start = add_adapter(replace(prepared, model=prepare(config).model), config)
    outputs = outputs_of(start, prepared.train, prepared.collate, 6)
    expected = float(F.cross_entropy(outputs, prepared.train.labels))
    ((_, logged),) = train(config, prepared=prepared).curve
    assert logged == pytest.approx(expected, rel=1e-4)


def test_the_losses_by_hand():
    assert float(total_loss(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))) == pytest.approx(
        2 * 0.6931472
    )
    assert float(total_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0]))) == 1 + 4


def test_a_separable_text_is_learned(make):
    metrics = train(make(steps=60, data={"metric": "matthews"})).metrics
    assert metrics["primary"] == "matthews" and metrics["after"]["majority_accuracy"] == pytest.approx(8 / 12)
    assert metrics["after"]["accuracy"] == 1 and metrics["after"]["matthews"] == 1
    assert metrics["after"]["nats_per_example"] < 0.3


def test_real_labels_are_regressed(make, tmp_path):
    folder = tmp_path / "sts"
    folder.mkdir()
    lines = [f"the cat saw {i} birds\tthe cat saw {i % 4} birds\t{i / 2:.2f}\n" for i in range(10)]
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_text("sentence1\tsentence2\tscore\n" + "".join(lines), encoding="utf8")
    config = make(data={"data": folder}, steps=80)
    result = train(config)
    metrics = result.metrics
    assert metrics["primary"] == "pearson" and metrics["resolved"]["labels"] == "real numbers"
    assert result.model.base_model.model.config.num_labels == 1
    assert metrics["after"]["pearson"] > 0.5 > metrics["before"]["pearson"]
    assert metrics["after"]["mean_squared_error"] < metrics["before"]["mean_squared_error"]
    page = (result.folder / "report.md").read_text(encoding="utf8")
    assert "| Pearson correlation |" in page and "num_labels=1" in page
    with pytest.raises(ConfigError, match="metric 'f1' does not go with these labels; choose pearson or spearman"):
        prepare(replace(config, data=replace(config.data, metric="f1")))


def test_the_folder_says_what_was_found_and_what_to_mind(make):
    config = make()
    result = train(config)
    page = (result.folder / "report.md").read_text(encoding="utf8")
    assert "12 test examples (accuracy of the majority class: 0.667)" in page
    assert "no weights for score: they were drawn from the seed" in page
    assert "base_model.set_input_embeddings(language_model.get_input_embeddings())" in page
    assert "of these, the head and other layers trained in full | 64" in page
    manifest = json.loads((result.folder / "run.json").read_text(encoding="utf8"))
    assert manifest["resolved"]["label_column"] == "label" and manifest["resolved"]["truncated_examples"] == 0


class Interrupted(Exception):
    pass


def test_an_interrupted_run_resumes_to_the_same_result(make, tmp_path, monkeypatch):
    whole = train(make(steps=6, output=str(tmp_path / "whole")))
    config, steps = make(steps=6, output=str(tmp_path / "halves")), []

    def failing(outputs, labels):
        steps.append(1)
        if len(steps) == 1 + 5:  # the first is that of the measurement before
            raise Interrupted
        return total_loss(outputs, labels)

    monkeypatch.setattr(classification, "total_loss", failing)
    with pytest.raises(Interrupted):
        train(config)
    monkeypatch.undo()
    resumed = train(replace(config, run=replace(config.run, resume=True)))
    assert [loss for _, loss in resumed.curve] == pytest.approx([loss for _, loss in whole.curve], abs=1e-4)
    assert resumed.metrics["after"] == pytest.approx(whole.metrics["after"], abs=1e-5)


def test_comparisons_are_by_the_tasks_metric(folders, tmp_path):
    flags = {
        "model": str(folders["llama"]), "data": str(write_sst2(tmp_path / "sst2")), "task": "classification",
        "context": 16, "steps": 2, "batch_size": 4, "method": "lora", "rank": 1, "output": str(tmp_path / "cmp"),
        "metric": "f1",
    }  # fmt: skip
    found = compare(plan(["targets=q_proj,v_proj"], 2, {}, flags))
    assert not found.failed and found.primary.key == "f1"
    header = (found.folder / "table.csv").read_text(encoding="utf8").splitlines()[0]
    assert "f1_mean,f1_std,f1_ci95,difference_mean" in header and "exact_f1_mean" in header
    page = (found.folder / "report.md").read_text(encoding="utf8")
    assert "| targets | trained | F1 | difference |" in page and "F1 of the test data (more is better)" in page
    a, b = (outcome.metrics["before"]["nats_per_example"] for outcome in found.outcomes[:2])
    assert a != b  # heads of two seeds
    assert a == found.outcomes[2].metrics["before"]["nats_per_example"]


def test_what_does_not_go_together_is_said_first(make, folders, tmp_path):
    config = make()
    with pytest.raises(ConfigError, match="--paper-metric is of the task language-modelling"):
        prepare(replace(config, run=replace(config.run, paper_metric=True)))
    with pytest.raises(ConfigError, match="context 64 is more than the model's 32 positions"):
        prepare(replace(config, data=replace(config.data, context=64)))
    real = tmp_path / "real.tsv"
    real.write_text("text\tlabel\n" + "the cat\t0.5\nthe dog\t1.5\n" * 10, encoding="utf8")
    flags = {"model": str(folders["llama"]), "task": "classification", "context": 16, "method": "lora",
             "targets": ["q_proj"], "output": str(tmp_path / "cmp")}  # fmt: skip
    with pytest.raises(ConfigError, match="measured by accuracy and pearson; compare them apart"):
        compare(plan([f"data={tmp_path / 'sst2'},{real}"], 1, {}, flags))
    with pytest.raises(ConfigError, match="metric cannot be varied: it decides what is compared"):
        plan(["metric=f1,accuracy"], 1, {}, {**flags, "data": "x"})


def test_the_lines_that_load_the_embedded_model_run():
    config = TrainConfig(model=ModelOptions(model="embedded"), data=DataOptions(data="x", task="classification"))
    found = {"labels": ["no", "yes"], "copied_embedding": False, "pad_token_id": 0}
    names = {}
    exec("\n".join(Classification(config).loading(found)), names)
    assert names["base_model"].config.id2label == {0: "no", 1: "yes"}
