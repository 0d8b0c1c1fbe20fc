import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import qpeft.adapters  # noqa: F401  (registers QPA)
from qpeft.adapters.method_table import METHODS
from qpeft.errors import ConfigError, RunError
from qpeft.options import build, read_toml
from qpeft.training import finetune
from qpeft.training.config import TrainConfig, TrainingOptions
from qpeft.training.finetune import prepare, train
from qpeft.training.metrics import evaluate
from qpeft.training.runs import RunFolder, read_settings
from qpeft.training.tasks import language_modelling
from qpeft.training.tasks.language_modelling import LanguageModelling, mean_token_loss
from tests.settings import adapter_settings
from tests.tiny_models import IDS, gpt2, llama, logits


def base(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


EXPORTED = {
    "qpa": "lora", "lora": "lora", "dora": "lora", "qpa-dora": "lora", "sora": "lora", "adalora": "lora",
    "quantum-peft": "lora", "qpa-prefix": "prefix", "prefix": "prefix",
    "qpa-ffa": "stored", "ffa": "stored", "houlsby": "stored", "pfeiffer": "stored", "additive-prefix": "stored",
    "qpa-additive-prefix": "stored",
    "loha": None, "lokr": None, "oft": None, "boft": None, "vera": None, "fourierft": None,
}  # fmt: skip
PEFTS = {"lora", "dora", "adalora", "prefix", "loha", "lokr", "oft", "boft", "vera", "fourierft"}
# Not the head, by default or at all: bottlenecks after blocks, and prefixes.
ELSEWHERE = {"houlsby", "pfeiffer", "prefix", "qpa-prefix", "additive-prefix", "qpa-additive-prefix"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:Note that `r` is not used in AdaLora")
def test_every_method_is_trained_exported_and_reported(make_config, model_folder, method):
    targets = None if method in ELSEWHERE else ["lm_head"]
    settings = {"rank": 2, "virtual_tokens": 2, "prefix_length": 2, "bottleneck": 2, "frequencies": 20, "block_size": 4}
    adapter = adapter_settings(method=method, targets=targets, **settings)
    result = train(make_config(adapter, training=TrainingOptions(steps=3, batch_size=2, warmup_steps=0)))
    folder, form = result.folder, result.metrics["export"]["form"]
    assert form == EXPORTED[method]
    assert len({loss for _, loss in result.curve}) == 3
    trained = logits(result.model.eval())
    for part in ("adapter", *([form] if form else [])):
        loaded = PeftModel.from_pretrained(base(model_folder), folder / part).eval()
        assert torch.allclose(logits(loaded), trained, atol=1e-5), part
    report = (folder / "report.md").read_text(encoding="utf8")
    assert f"from_pretrained(base_model, {form!r})" in report if form else "`qpeft export adapter OUTPUT`" in report
    assert ("import qpeft.adapters" in report) == (method not in PEFTS)


@pytest.mark.parametrize("method", ["qpa", "lora"])
def test_the_folder_holds_all_that_is_promised(make_config, model_folder, method):
    config = make_config(adapter_settings(method=method, rank=2))
    config = replace(config, run=replace(config.run, paper_metric=True))
    weights = {name: tensor.clone() for name, tensor in base(model_folder).state_dict().items()}
    result = train(config)
    folder = result.folder
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "run.json", "config.toml", "metrics.json", "report.md", "loss.png", "adapter/README.md",
        "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "lora/adapter_config.json",
        "lora/adapter_model.safetensors", "lora/qpeft_export.json",
    }  # fmt: skip
    assert json.loads((folder / "metrics.json").read_text(encoding="utf8")) == result.metrics
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert len(result.curve) == 6
    assert result.metrics["after"]["nats_per_token"] < result.metrics["before"]["nats_per_token"]
    assert result.metrics["after"]["paper_perplexity"] > 1

    saved = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert sum(t.numel() for t in saved.values()) == result.metrics["parameters"]["trained"]
    state = result.model.base_model.model.state_dict()
    for name, tensor in weights.items():  # byte-identical base weights
        assert torch.equal(state.get(name, state.get(name.replace("lm_head.", "lm_head.base_layer."))), tensor), name

    trained = logits(result.model.eval())
    for part in ("adapter", "lora"):
        loaded = PeftModel.from_pretrained(base(model_folder), folder / part).eval()
        assert torch.allclose(logits(loaded), trained, atol=1e-5)
    report = (folder / "report.md").read_text(encoding="utf8")
    assert f"| trained | {result.metrics['parameters']['trained']:,} |" in report


def test_the_same_seed_gives_the_same_run(make_config, tmp_path):
    first, second = (train(make_config(output=str(tmp_path / name))) for name in "ab")
    assert first.curve == second.curve
    assert first.metrics["after"] == second.metrics["after"]
    other = train(make_config(training=TrainingOptions(steps=6, batch_size=2, seed=1), output=str(tmp_path / "c")))
    assert other.curve != first.curve


class Interrupted(Exception):
    pass


def interrupt(config, monkeypatch, batch):
    """Trains until the loss of this batch is asked for."""
    batches = []

    def failing(outputs, targets, num_items_in_batch=None):
        batches.append(1)
        if len(batches) == batch:
            raise Interrupted
        return mean_token_loss(outputs, targets, num_items_in_batch)

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(language_modelling, "mean_token_loss", failing)
        train(config)


def saved(run):
    """Bytes of what the run's adapter and export consist of."""
    names = ("adapter_config.json", "adapter_model.safetensors")
    return {f"{part}/{name}": (run.folder / part / name).read_bytes() for part in ("adapter", "lora") for name in names}


DRAWN_AND_QUANTISED = {"parametrization": "cayley", "diagonal": "rademacher", "bits": 4, "group_size": 32}


@pytest.mark.parametrize("batch", [2, 5, 10])
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.callbacks(None)])
def test_methods_with_callbacks_resume_bit_for_bit(make_config, tmp_path, monkeypatch, method, batch):
    """Before AdaLoRA takes any rank away, while it does, and when it has done so."""
    options = {"sora": {"gate_l1": 0.1}, "quantum-peft": DRAWN_AND_QUANTISED}.get(method, {})
    adapter = adapter_settings(method=method, rank=4, targets=["c_attn", "lm_head"], **options)
    training = TrainingOptions(steps=10, batch_size=2, warmup_steps=1, weight_decay=0.1)
    whole = train(make_config(adapter, training=training, output=str(tmp_path / "whole")))
    config = make_config(adapter, training=training, output=str(tmp_path / "halves"), save_every=1)
    interrupt(config, monkeypatch, batch)
    resumed = train(replace(config, run=replace(config.run, resume=True)))
    assert saved(resumed) == saved(whole)
    assert resumed.metrics["after"] == whole.metrics["after"]


@pytest.mark.parametrize("engine", ["exact", "exact:10x"])
def test_an_interrupted_run_resumes_to_the_same_result(make_config, tmp_path, monkeypatch, engine):
    adapter = adapter_settings(engine=engine, rank=2)
    whole = train(make_config(adapter, output=str(tmp_path / "whole")))
    config = make_config(adapter, output=str(tmp_path / "halves"))
    interrupt(config, monkeypatch, batch=5)
    with pytest.raises(RunError, match="--resume"):
        train(config)
    resumed = train(replace(config, run=replace(config.run, resume=True)))
    assert [step for step, _ in resumed.curve] == [1, 2, 3, 4, 5, 6]
    for (_, a), (_, b) in zip(resumed.curve, whole.curve, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    assert resumed.metrics["after"]["nats_per_token"] == pytest.approx(
        whole.metrics["after"]["nats_per_token"], abs=1e-5
    )
    again = train(replace(config, run=replace(config.run, resume=True)))
    assert again.model is None and again.metrics == resumed.metrics


@pytest.mark.parametrize(
    "adapter",
    [adapter_settings(engine="exact:10x", rank=2)]
    + [adapter_settings(method=method, rank=2) for method in ("lora", "adalora", "sora")],
    ids=["qpa", "lora", "adalora", "sora"],
)
def test_a_run_interrupted_behind_its_last_step_takes_no_other(make_config, tmp_path, monkeypatch, adapter):
    training = TrainingOptions(steps=4, batch_size=2, warmup_steps=1)
    whole = train(make_config(adapter, training=training, output=str(tmp_path / "whole")))
    config = make_config(adapter, training=training, output=str(tmp_path / "halves"))
    measure, calls = LanguageModelling.measure, []

    def failing(self, model, prepared):
        calls.append(1)
        if len(calls) == 2:  # the first is that of the model as it was
            raise Interrupted
        return measure(self, model, prepared)

    monkeypatch.setattr(LanguageModelling, "measure", failing)
    with pytest.raises(Interrupted):
        train(config)
    monkeypatch.undo()
    seconds = json.loads((tmp_path / "halves" / "run.json").read_text(encoding="utf8"))["seconds_per_step"]
    resumed = train(replace(config, run=replace(config.run, resume=True)))
    assert resumed.curve == whole.curve
    assert resumed.metrics.pop("seconds_per_step") == seconds > 0
    assert whole.metrics.pop("seconds_per_step") > 0
    assert resumed.metrics == whole.metrics
    for part in ("adapter", "lora"):
        ours, theirs = (load_file(run.folder / part / "adapter_model.safetensors") for run in (resumed, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_rank_that_fails_after_training_keeps_no_other_waiting(make_config, monkeypatch):
    waited = []

    def failing(model, folder):
        waited.clear()  # what came before training
        raise OSError("no space left")

    monkeypatch.setattr(finetune, "save_adapter", failing)
    monkeypatch.setattr(finetune, "wait_for_all", lambda: waited.append(1))
    config = make_config(training=TrainingOptions(steps=1, batch_size=2, warmup_steps=0))
    with pytest.raises(OSError, match="no space left"):
        train(config)
    assert waited == [1]
    resuming = replace(config, run=replace(config.run, resume=True))
    with pytest.raises(RunError, match=r"rank 0 failed before .* was finished; .*Go on by --resume"):
        RunFolder(Path(config.run.output), resuming).await_results()
    monkeypatch.undo()
    train(resuming)
    RunFolder(Path(config.run.output), resuming).await_results()


def test_accumulation_and_checkpointing_change_nothing_but_memory(make_config, tmp_path):
    plain = TrainingOptions(steps=3, batch_size=4, warmup_steps=1)
    pieces = TrainingOptions(steps=3, batch_size=2, accumulation=2, warmup_steps=1, checkpointing=True)
    a = train(make_config(training=plain, output=str(tmp_path / "a")))
    b = train(make_config(training=pieces, output=str(tmp_path / "b")))
    for (_, x), (_, y) in zip(a.curve, b.curve, strict=True):
        assert x == pytest.approx(y, abs=2e-4)


def test_the_exported_lora_needs_no_qpeft(make_config, model_folder):
    result = train(make_config())
    expected = logits(result.model.eval())
    torch.save(expected, result.folder / "logits.pt")
    program = f"""
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({str(model_folder)!r}), "lora").eval()
with torch.no_grad():
    found = model(input_ids=torch.tensor({IDS.tolist()})).logits
assert not any(name.startswith("qpeft") for name in sys.modules)
print(float((found - torch.load("logits.pt", weights_only=True)).abs().max()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=result.folder, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1e-5


def test_counts_and_generator_facts(make_config):
    result = train(make_config(adapter_settings(rank=2, targets=["lm_head"], chunk_size=16)))
    counts, generator = result.metrics["parameters"], result.metrics["generator"]
    assert result.metrics["frames"] is None
    assert counts["lora_rank_1"] == 100 + 32
    assert counts["lora_same_rank"] == 2 * 132
    assert counts["frozen"] == 2 * 32
    assert generator["chunks"] == -(-264 // 16) == 17 and generator["qubits"] == 5
    assert counts["trained"] == 8 * 5 + (6 + 1) * 16 + (16 + 1) * 16


def test_a_run_with_frames_says_how_orthonormal_they_are_at_the_end(make_config):
    adapter = adapter_settings(
        method="quantum-peft", rank=2, targets=["c_attn", "lm_head"], parametrization="taylor", order=3, init_scale=0.9
    )
    result = train(make_config(adapter))
    frames = {one["size"]: one for one in result.metrics["frames"]}
    assert {size: (one["frames"], one["numbers"]) for size, one in frames.items()} == {
        32: (3, 2 * 32 - 3), 96: (2, 2 * 96 - 3), 100: (1, 2 * 100 - 3)
    }  # fmt: skip
    # A series of order 3 is not orthonormal at such norms, and trained numbers are not those of the start.
    assert all(1e-4 < one["orthogonality_error"] < 1 for one in frames.values())
    report = (result.folder / "report.md").read_text(encoding="utf8")
    assert ("frames are not orthonormal any more" in report) == any(
        one["orthogonality_error"] > 1e-2 for one in frames.values()
    )
    assert "Settings: rank 2, parametrization taylor, order 3, init_scale 0.9, diagonal real." in report
    assert f"| 100 | 1 | 197 | {frames[100]['orthogonality_error']:.1e} |" in report


def test_a_sampling_run_is_measured_against_the_exact_weights_at_the_same_angles(make_config, model_folder):
    result = train(make_config(adapter_settings(engine="exact:3x", rank=2)))
    metrics = result.metrics
    found = metrics["against_exact"]
    assert metrics["export"]["weights"] == "last_sample"
    assert 0 < found["total_variation"] < 1 and 0 < found["fidelity"] < 1
    assert found["after"]["nats_per_token"] != metrics["after"]["nats_per_token"]

    test = prepare(make_config()).test
    lora = PeftModel.from_pretrained(base(model_folder), result.folder / "lora")  # what was reported was exported
    assert evaluate(lora, test, 16).nats_per_token == pytest.approx(metrics["after"]["nats_per_token"], abs=1e-5)
    settings = json.loads((result.folder / "adapter" / "adapter_config.json").read_text(encoding="utf8"))
    (result.folder / "adapter" / "adapter_config.json").write_text(json.dumps(settings | {"engine": "exact"}))
    exact = PeftModel.from_pretrained(base(model_folder), result.folder / "adapter")
    assert evaluate(exact, test, 16).nats_per_token == pytest.approx(found["after"]["nats_per_token"], abs=1e-5)
    report = (result.folder / "report.md").read_text(encoding="utf8")
    assert f"| bits per byte, weights regenerated exactly |  | {found['after']['bits_per_byte']:.3f} |" in report


def test_an_exact_run_is_its_own_exact_run(make_config, tmp_path):
    metrics = train(make_config()).metrics
    assert metrics["export"]["weights"] == "exact"
    assert metrics["against_exact"]["total_variation"] == 0
    assert metrics["against_exact"]["after"] == metrics["after"]
    lora = train(make_config(adapter_settings(method="lora"), output=str(tmp_path / "lora"))).metrics
    assert lora["export"]["weights"] == "exact" and lora["against_exact"] is None


def test_every_control_trains(make_config, tmp_path):
    for source in ("frozen", "free", "mlp", "none"):
        adapter = adapter_settings(source=source, chunk_size=8)
        result = train(make_config(adapter, training=TrainingOptions(steps=2), output=str(tmp_path / source)))
        assert result.metrics["generator"]["source"] == source


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter": adapter_settings(targets=["lm_heat"])}, "unknown target layer 'lm_heat'. Did you mean 'lm_head'"),
        ({"adapter": adapter_settings(method="lora", targets=["c_atn"])}, "Did you mean 'c_attn'"),
        ({"adapter": adapter_settings(method="lore")}, "unknown method 'lore'. Did you mean 'lora'"),
        ({"adapter": adapter_settings(ansatz="ry_cnott")}, "unknown ansatz 'ry_cnott'. Did you mean 'ry_cnot'"),
        ({"adapter": adapter_settings(chunk_size=10**6)}, "chunk size 1000000 is not in 1 to"),
        ({"adapter": adapter_settings(method="prefix", virtual_tokens=20)}, "16 and 20 virtual tokens are more"),
        ({"adapter": adapter_settings(budget=3)}, "a budget of 3 parameters is too small"),
    ],
)
def test_bad_settings_are_named_before_training(make_config, change, message):
    config = make_config(**change)
    with pytest.raises(ConfigError, match=message):
        train(config)
    assert not Path(config.run.output).exists()  # so that the corrected command runs as it stands


def test_a_context_beyond_the_model_is_refused(make_config):
    config = make_config()
    with pytest.raises(ConfigError, match="context 64 is more than the model's 32 positions"):
        prepare(replace(config, data=replace(config.data, context=64)))


@pytest.mark.parametrize("make", [gpt2, llama])
def test_the_logged_loss_is_the_loss_for_every_kind_of_model(make, make_config, model_folder, tmp_path):
    """Whether or not the model's own loss would shift the labels."""
    from transformers import AutoTokenizer

    folder = tmp_path / "model"
    make().save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    options = TrainingOptions(steps=1, batch_size=2, accumulation=2, warmup_steps=0)
    config = make_config(adapter_settings(rank=1), model=folder, training=options)
    config = replace(config, data=replace(config.data, max_train_chunks=4))
    prepared = prepare(config)
    expected = evaluate(prepared.model, prepared.train, 4).nats_per_token
    ((_, logged),) = train(config, prepared=prepared).curve
    assert logged == pytest.approx(expected, rel=1e-4)


def test_a_diverged_run_saves_nothing_and_says_so(make_config):
    config = make_config(training=TrainingOptions(steps=3, batch_size=2, warmup_steps=0, learning_rate=1e38))
    with pytest.raises(RunError, match=r"training diverged.*lower --learning-rate \(it was 1e\+38\)"):
        train(config)
    assert not (Path(config.run.output) / "adapter").exists()


def test_the_run_folder_says_what_was_resolved(make_config):
    result = train(make_config(adapter_settings(preset="paper", chunk_size=32)))
    written = read_toml(result.folder / "config.toml")
    assert written["resolved"]["learning_rate"] == 0.01
    assert written["resolved"]["targets"] == ["lm_head"]
    assert written["resolved"]["hidden"] == [32, 64, 128, 128, 64, 32, 32]
    assert written["versions"]["torch"] == torch.__version__
    assert build(TrainConfig, read_settings(result.folder / "config.toml"), {}).generator.preset == "paper"
