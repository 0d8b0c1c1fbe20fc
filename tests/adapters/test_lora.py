import copy
import json
import math
import pickle
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import GPT2LMHeadModel, Trainer, TrainingArguments

from qpeft.adapters import QPABank, QPAConfig, export_lora
from qpeft.adapters.lora import lora_pieces
from qpeft.errors import ConfigError
from qpeft.generators import QPASpec
from qpeft.generators.philox import uniform
from qpeft.qcircuits import ANSATZE, CircuitBuilder, StatevectorEngine, ansatz, register_ansatz
from tests.tiny_models import IDS, gpt2, llama, logits, shake

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TARGETS = ["c_attn", "lm_head"]  # Conv1D layers and a tied Linear
KEYS = [f"base_model.lora_bank.generators.0.{name}" for name in (
    "mapping.layers.0.bias", "mapping.layers.0.weight", "mapping.layers.1.bias", "mapping.layers.1.weight",
    "source.angles",
)]  # fmt: skip


def config(targets=TARGETS, **options):
    options = {"r": 2, "lora_alpha": 6, "reps": 2, "chunk_size": 32, "task_type": "CAUSAL_LM", **options}
    return QPAConfig(target_modules=targets, **options)


def adapted(base=None, seed=0, **options):
    base = gpt2() if base is None else base
    torch.manual_seed(seed)
    return get_peft_model(base, config(**options)).eval()


def trained_alike(base=None, seed=1, **options):
    return shake(adapted(base, **options), seed=seed)


def loss(model, ids=IDS):
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def gradients(model):
    return [p.grad.clone() for p in model.base_model.lora_bank.parameters()]


# ---- the bank


def test_vector_is_cut_into_b_then_a_row_major():
    pieces = lora_pieces(QPAConfig(r=2), {"one": (3, 5), "two": (4, 2)})
    torch.manual_seed(0)
    bank = QPABank([QPASpec(2 * (3 + 5 + 4 + 2), 4, zero_last=False)], pieces, StatevectorEngine(), None)
    vector, factors = bank.generators[0]().tolist(), bank()
    assert [x for row in factors["one"]["lora_B"].tolist() for x in row] == vector[:6]  # 3 x 2
    assert [x for row in factors["one"]["lora_A"].tolist() for x in row] == vector[6:16]  # 2 x 5
    assert [x for row in factors["two"]["lora_B"].tolist() for x in row] == vector[16:24]
    assert [x for row in factors["two"]["lora_A"].tolist() for x in row] == vector[24:]
    assert factors["one"]["lora_B"].shape == (3, 2)
    assert factors["one"]["lora_A"].shape == (2, 5)


def test_identity_start_has_zero_b_and_a_uniform_a_from_the_seed():
    model = adapted(llama(), targets=["q_proj", "lm_head"], seed=3, **{"r": 3})
    bank = model.base_model.bank()
    draws, place = uniform(0, 10**4), 0
    assert bank.layers == ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "lm_head"]
    for factors in bank().values():
        assert torch.equal(factors["lora_B"], torch.zeros_like(factors["lora_B"]))
        expected = draws[place : place + 3 * 32].view(3, 32) / math.sqrt(32)
        assert torch.equal(factors["lora_A"], expected)
        place += 3 * 32
    assert bank.num_frozen == place


def test_the_papers_start_has_no_frozen_factor():
    model = adapted(start="paper")
    bank = model.base_model.bank()
    assert bank.num_frozen == 0
    weights = torch.cat([torch.cat([f["lora_B"].flatten(), f["lora_A"].flatten()]) for f in bank().values()])
    assert torch.equal(weights, bank.generators[0]())
    assert all(factor.abs().max() > 0 for factors in bank().values() for factor in factors.values())


def test_a_frozen_circuits_angles_count_as_frozen():
    assert (
        adapted(start="paper", source="frozen").base_model.bank().num_frozen == ansatz("ry_cnot", 5, 2).num_parameters
    )


def test_update_is_alpha_over_r_times_b_a():
    model = trained_alike(start="paper")
    bank = model.base_model.bank()
    for name, factors in bank().items():
        A, B = factors["lora_A"], factors["lora_B"]
        layer = model.base_model.model.get_submodule(name)
        update = layer.get_delta_weight("default")
        expected = 6 / 2 * (B @ A)
        torch.testing.assert_close(update, expected.T if "c_attn" in name else expected)


def test_logits_are_those_of_the_summed_weights():
    base = gpt2(tied=False)
    model = trained_alike(base, start="paper")
    reference = gpt2(tied=False)
    with torch.no_grad():
        for name, factors in model.base_model.bank()().items():
            A, B = factors["lora_A"], factors["lora_B"]
            update = 6 / 2 * (B @ A)
            reference.get_submodule(name).weight += update.T if "c_attn" in name else update
    torch.testing.assert_close(logits(model), logits(reference), rtol=1e-4, atol=1e-4)
    assert (logits(model) - logits(gpt2(tied=False))).abs().max() > 0.1


# ---- training


def test_the_count_is_the_specs():
    model = adapted()
    spec = model.base_model.bank().generators[0].spec
    trainable, total = model.get_nb_trainable_parameters()
    assert trainable == spec.num_parameters
    assert total == spec.num_parameters + sum(p.numel() for p in gpt2().parameters())
    assert spec.target_size == 2 * (2 * (32 + 96) + 32 + 100)


def test_published_count_of_gpt2s_head():
    with torch.device("meta"):
        base = nn.ModuleDict({"lm_head": nn.Linear(768, 50257, bias=False)})
    model = get_peft_model(base, QPAConfig(r=4, target_modules=["lm_head"], preset="paper", chunk_size=2048))
    assert model.get_nb_trainable_parameters()[0] == 106264


def test_gradient_is_that_of_a_plain_lora_pulled_back():
    model = trained_alike()
    loss(model).backward()
    bank = model.base_model.bank()

    plain = get_peft_model(gpt2(), LoraConfig(r=2, lora_alpha=6, target_modules=TARGETS)).eval()
    generated = bank()
    for name, factors in generated.items():
        A, B = factors["lora_A"], factors["lora_B"]
        layer = plain.base_model.model.get_submodule(name)
        layer.lora_A["default"].weight.data.copy_(A)
        layer.lora_B["default"].weight.data.copy_(B)
    loss(plain).backward()
    wanted = []
    for name in generated:
        layer = plain.base_model.model.get_submodule(name)
        wanted += [layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad]
    made = [generated[name][role] for name in generated for role in ("lora_A", "lora_B")]
    expected = torch.autograd.grad(made, list(bank.parameters()), wanted)
    for ours, theirs in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_non_reentrant_checkpointing_runs_the_circuit_once(engine_calls):
    model = trained_alike(targets=["c_attn"]).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    engine_calls.clear()
    loss(model).backward()
    assert len(engine_calls) == 1


def test_checkpointing_of_two_forward_passes_before_one_backward():
    model = trained_alike(targets=["c_attn"]).train()
    loss(model).backward()
    expected = gradients(model)
    model.zero_grad()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    (sum(loss(model, row) for row in IDS.split(1)) / 2).backward()
    for one, other in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_reentrant_checkpointing_is_refused_when_training_alone():
    model = trained_alike().train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(ConfigError, match=r'gradient_checkpointing_kwargs=\{"use_reentrant": False\}'):
        loss(model)
    with torch.no_grad():
        loss(model)
    loss(model.eval())


class Regression(nn.Module):
    """A model that is no transformers model, so that an Adam step can be checked with any loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def test_a_model_that_is_no_transformers_model():
    x = torch.randn(5, 6)
    base = Regression()
    before = base(x)
    model = get_peft_model(base, QPAConfig(r=2, target_modules=["first", "second"], chunk_size=5))
    assert torch.equal(model(x), before)
    shake(model)
    assert not torch.allclose(model(x), before)


def test_trainer_accumulates_checkpoints_and_resumes(tmp_path):
    rows = [[(7 * i + j) % 100 for j in range(6)] for i in range(8)]
    data = Dataset.from_dict({"input_ids": rows, "labels": rows})

    def trainer(model, steps):
        arguments = TrainingArguments(
            str(tmp_path), max_steps=steps, per_device_train_batch_size=2, gradient_accumulation_steps=2,
            gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False}, use_cpu=True,
            report_to=[], save_steps=2, disable_tqdm=True, learning_rate=1e-2, lr_scheduler_type="constant",
        )  # fmt: skip
        return Trainer(model, arguments, train_dataset=data)

    model = adapted()
    start = {name: p.clone() for name, p in model.base_model.lora_bank.named_parameters()}
    trainer(model, 2).train()
    # At step 0 the zero last layer is all that has a gradient; at step 1 everything has.
    assert all(not torch.equal(p, start[name]) for name, p in model.base_model.lora_bank.named_parameters())
    checkpoint = tmp_path / "checkpoint-2"
    assert sorted(load_file(checkpoint / "adapter_model.safetensors")) == KEYS
    reloaded = PeftModel.from_pretrained(gpt2(), checkpoint)
    assert torch.equal(logits(reloaded.eval()), logits(model.eval()))

    straight, resumed = adapted(), adapted(seed=9)
    trainer(straight, 4).train()
    trainer(resumed, 4).train(resume_from_checkpoint=str(checkpoint))
    torch.testing.assert_close(logits(resumed.eval()), logits(straight.eval()), rtol=1e-4, atol=1e-4)


# ---- freshness and speed


def test_weights_are_fresh_after_an_optimizer_step():
    model = adapted()
    layer = model.base_model.model.lm_head
    optimizer = torch.optim.SGD(model.base_model.lora_bank.parameters(), lr=0.1)
    loss(model).backward()
    before = layer.lora_B["default"].weight.detach().clone()
    optimizer.step()
    after = layer.lora_B["default"].weight.detach()
    assert not torch.equal(before, after)
    assert torch.equal(after, model.base_model.bank()()["lm_head"]["lora_B"])


def test_weights_are_fresh_after_loading_and_after_restoring():
    model = trained_alike()
    first = logits(model)
    state = copy.deepcopy(model.state_dict())
    shake(model, seed=5)
    assert not torch.allclose(logits(model), first)
    model.load_state_dict(state)
    assert torch.equal(logits(model), first)
    replaced = nn.Parameter(torch.zeros_like(model.base_model.bank().generators[0].mapping.last.weight))
    model.base_model.bank().generators[0].mapping.last.weight = replaced
    assert not torch.allclose(logits(model), first)


def test_inference_mode_does_not_spoil_later_gradients():
    model = trained_alike()
    with torch.inference_mode():
        expected = model(IDS).logits.clone()
    assert torch.equal(logits(model), expected)
    for p in model.parameters():
        p.requires_grad_(False)
    embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
    with torch.inference_mode():
        model(IDS)
    model(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad.abs().max() > 0


# ---- saving and loading


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("targets", [["lm_head"], TARGETS, ".*lm_head", None], ids=str)
def test_saved_file_holds_the_generator_and_nothing_else(tmp_path, tied, targets):
    model = trained_alike(gpt2(tied), targets=targets)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sorted(saved) == KEYS
    for key, tensor in saved.items():
        assert torch.equal(tensor, model.get_parameter(key.replace("lora_bank.", "lora_bank.default.")))


def test_a_frozen_circuits_angles_are_saved(tmp_path):
    model = trained_alike(source="frozen")
    model.save_pretrained(tmp_path)
    assert sorted(load_file(tmp_path / "adapter_model.safetensors")) == KEYS
    assert torch.equal(logits(PeftModel.from_pretrained(gpt2(), tmp_path)), logits(model))


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("source", ["free", "mlp", "none", "frozen"])
def test_controls_round_trip(tmp_path, source, low_cpu_mem_usage):
    model = trained_alike(source=source)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(gpt2(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(logits(loaded), logits(model))


def test_a_sampled_adapter_reloads_merges_and_exports_to_the_same_weights(tmp_path):
    model = trained_alike(engine="exact:10x")
    wanted = logits(model)
    assert torch.equal(logits(model), wanted)
    assert not torch.allclose(wanted, logits(trained_alike(engine="exact")), atol=1e-4)
    model.save_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(PeftModel.from_pretrained(gpt2(), tmp_path / "adapter")), wanted)
    assert export_lora(model, tmp_path / "lora").max_difference < 1e-5
    assert torch.allclose(logits(PeftModel.from_pretrained(gpt2(), tmp_path / "lora")), wanted, atol=1e-5)
    assert torch.allclose(logits(model.merge_and_unload()), wanted, atol=1e-5)


def test_a_fresh_process_loads_in_two_lines(tmp_path):
    base = gpt2()
    base.save_pretrained(tmp_path / "base")
    model = trained_alike(base)
    model.save_pretrained(tmp_path / "adapter")
    code = (
        "import sys, torch\n"
        "from transformers import GPT2LMHeadModel\n"
        "from peft import PeftModel\n"
        "base = GPT2LMHeadModel.from_pretrained(sys.argv[1] + '/base').eval()\n"
        "import qpeft.adapters\n"
        "model = PeftModel.from_pretrained(base, sys.argv[1] + '/adapter')\n"
        "with torch.no_grad(): torch.save(model(torch.load(sys.argv[1] + '/ids')).logits, sys.argv[1] + '/logits')\n"
    )
    torch.save(IDS, tmp_path / "ids")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    torch.testing.assert_close(torch.load(tmp_path / "logits"), logits(model), rtol=0, atol=1e-6)


def test_auto_class_loads_base_and_adapter(tmp_path):
    gpt2().save_pretrained(tmp_path / "base")
    base = GPT2LMHeadModel.from_pretrained(tmp_path / "base").eval()
    model = trained_alike(base)
    model.save_pretrained(tmp_path / "adapter")
    assert sorted(load_file(tmp_path / "adapter" / "adapter_model.safetensors")) == KEYS
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(logits(loaded), logits(model))


def edit_config(folder, change):
    path = folder / "adapter_config.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_the_circuit_is_saved_as_json(tmp_path):
    circuit = CircuitBuilder(5).h(0).ry(1).cx(0, 1).rz(4).cz(1, 4).ry(0).build()
    model = trained_alike(ansatz=circuit)
    model.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "adapter_config.json").read_text())
    assert data["ansatz"] == "custom"
    assert data["resolved"]["circuits"] == [circuit.to_dict()]
    loaded = PeftModel.from_pretrained(gpt2(), tmp_path)
    assert loaded.base_model.bank().generators[0].spec.circuit == circuit
    assert torch.equal(logits(loaded), logits(model))
    loaded.save_pretrained(tmp_path / "again")
    again = PeftModel.from_pretrained(gpt2(), tmp_path / "again")
    assert torch.equal(logits(again), logits(model))


def test_a_function_and_a_registered_name_are_saved_as_their_circuit(tmp_path, monkeypatch):
    monkeypatch.setattr(ANSATZE, "_entries", dict(ANSATZE))  # the name is gone afterwards

    def mine(num_qubits, reps):
        return ansatz("simplified_two_design", num_qubits, reps)

    register_ansatz("not_known_elsewhere", mine)
    for number, given in enumerate([mine, "not_known_elsewhere"]):
        folder = tmp_path / str(number)
        model = trained_alike(ansatz=given)
        model.save_pretrained(folder)
        edit_config(
            folder, lambda data: data["resolved"]["settings"].update(ansatz="gone") or data.update(ansatz="gone")
        )
        loaded = PeftModel.from_pretrained(gpt2(), folder)
        assert torch.equal(logits(loaded), logits(model))


def test_a_newer_format_is_refused(tmp_path):
    adapted().save_pretrained(tmp_path)
    edit_config(tmp_path, lambda data: data.update(format_version=2))
    with pytest.raises(ConfigError, match=r"format 2; this qpeft reads up to 1\. Install a newer qpeft"):
        PeftModel.from_pretrained(gpt2(), tmp_path)


def test_a_damaged_checksum_is_refused(tmp_path):
    adapted().save_pretrained(tmp_path)
    edit_config(tmp_path, lambda data: data["resolved"].update(frozen_checksum="0123456789abcdef"))
    base = gpt2()
    with pytest.raises(ConfigError, match=r"seed 0 have checksum .* trained with 0123456789abcdef"):
        PeftModel.from_pretrained(base, tmp_path)
    assert_untouched(base)


def test_a_model_of_another_size_is_refused(tmp_path):
    trained_alike(ansatz=ansatz("rx_cnot", 5, 1)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"made for 776 generated weights.* targets need 264"):
        edit_config(tmp_path, lambda data: data.update(target_modules=["lm_head"]))
        PeftModel.from_pretrained(gpt2(), tmp_path)


# ---- on, off and merged


def test_merging_without_the_head_leaves_it_tied():
    model = trained_alike(targets=["c_attn"])
    merged = model.merge_and_unload()
    assert merged.lm_head.weight is merged.transformer.wte.weight
    assert merged.config.tie_word_embeddings


def test_merging_then_unloading_saves_the_merged_head(tmp_path):
    model = trained_alike()
    expected = logits(model)
    model.merge_adapter()
    merged = model.unload()
    assert merged.config.tie_word_embeddings is False
    merged.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(GPT2LMHeadModel.from_pretrained(tmp_path).eval()), expected, rtol=1e-4, atol=1e-4)


def assert_untouched(base):
    assert not any("lora" in name for name, _ in base.named_modules())
    assert not any(module._forward_pre_hooks for module in base.modules())
    assert not hasattr(base, "peft_config")


# ---- several adapters


def two_adapters():
    model = trained_alike()
    torch.manual_seed(4)
    model.add_adapter("two", config(targets=["c_proj", "lm_head"], r=3, ansatz="rxrz_cnot"))
    shake(model, "two", seed=2)
    return model


def two_outputs(model):
    model.set_adapter("two")
    second = logits(model)
    model.set_adapter("default")
    return logits(model), second


def test_in_a_mixed_batch_the_other_adapters_weights_are_fresh_too():
    model = two_adapters()
    mixed = logits(model, input_ids=IDS, adapter_names=["default", "two"])
    shake(model, "two", seed=8)
    _, second = two_outputs(model)
    again = logits(model, input_ids=IDS, adapter_names=["default", "two"])
    torch.testing.assert_close(again[1], second[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(again[1], mixed[1])


def test_merging_one_of_two():
    model = two_adapters()
    _, second = two_outputs(model)
    merged = model.merge_and_unload(adapter_names=["two"])
    torch.testing.assert_close(logits(merged), second, rtol=1e-4, atol=1e-4)


def test_weighted_adapters_are_refused():
    model = two_adapters()
    with pytest.raises(ConfigError, match=r"cannot be averaged.*export_lora"):
        model.add_weighted_adapter(["default", "two"], [0.5, 0.5], "mix")
    assert list(model.peft_config) == ["default", "two"]


@pytest.mark.parametrize("name", ["generators", "0", "mapping", "source", "layers", "weight", "a.b"])
def test_adapter_names_that_would_lose_tensors_when_saving_are_refused(name):
    model = trained_alike()
    before = logits(model)
    with pytest.raises(ConfigError, match=f"'{name}' cannot name an adapter"):
        model.add_adapter(name, config())
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model), before)


def test_a_plain_lora_cannot_be_added():
    with pytest.raises(ValueError, match="Cannot combine adapters"):
        adapted().add_adapter("plain", LoraConfig(target_modules=["lm_head"]))


# ---- copies and types


def test_a_whole_model_pickles():
    model = trained_alike()
    loss(model).backward()
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(logits(again), logits(model))
    shake(again, seed=6)
    assert not torch.allclose(logits(again), logits(model))


@pytest.mark.parametrize("how", ["base", "model", "half"])
def test_half_precision_keeps_the_generator_in_float32(how):
    if how == "base":
        model = trained_alike(gpt2().to(torch.bfloat16))
    else:
        model = trained_alike()
        exact = [p.clone() for p in model.base_model.lora_bank.parameters()]
        model.to(torch.bfloat16 if how == "model" else torch.float16)
        assert all(torch.equal(p, q) for p, q in zip(model.base_model.lora_bank.parameters(), exact, strict=True))
    bank = model.base_model.bank()
    assert {t.dtype for t in [*bank.parameters(), *bank.buffers()]} == {torch.float32}
    assert model.base_model.model.transformer.wte.weight.dtype != torch.float32
    out = loss(model.train())
    out.backward()
    assert out.isfinite()
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in gradients(model))
    torch.testing.assert_close(logits(model.eval()).float(), logits(trained_alike()), rtol=0, atol=0.2)


@pytest.mark.parametrize("autocast_adapter_dtype", [True, False])
def test_a_default_dtype_of_half_precision_does_not_reach_the_generator(autocast_adapter_dtype):
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = get_peft_model(gpt2(), config(), autocast_adapter_dtype=autocast_adapter_dtype)
        assert {p.dtype for p in model.base_model.bank().parameters()} == {torch.float32}
        loss(model).backward()
    finally:
        torch.set_default_dtype(torch.float32)


def test_double_precision_is_followed():
    model = trained_alike().double()
    assert model.base_model.bank().generators[0].source.angles.dtype == torch.float64
    torch.testing.assert_close(logits(model).float(), logits(trained_alike()), rtol=1e-4, atol=1e-4)


def test_rank_stabilised_scale_and_dropout_are_pefts():
    model = trained_alike(use_rslora=True, lora_dropout=0.5)
    layer = model.base_model.model.lm_head
    factors = model.base_model.bank()()["lm_head"]
    A, B = factors["lora_A"], factors["lora_B"]
    torch.testing.assert_close(layer.get_delta_weight("default"), 6 / math.sqrt(2) * (B @ A))
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


class TestFreshness:
    """Weights read after an optimiser step are those of the new parameters, whichever way the step changed them."""

    @pytest.mark.parametrize("make", [gpt2, llama])
    def test_what_the_trainer_leaves_behind_merges_and_exports(self, make, tmp_path):
        model = get_peft_model(make(), QPAConfig(r=2, target_modules=["lm_head"], chunk_size=16, task_type="CAUSAL_LM"))
        examples = [{"input_ids": ids, "labels": ids} for ids in IDS]
        arguments = TrainingArguments(
            str(tmp_path / "trainer"),
            max_steps=3,
            learning_rate=0.1,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
        )  # fmt: skip  (the default optimiser is a fused one)
        Trainer(model, arguments, train_dataset=examples).train()
        delta = model.base_model.model.lm_head.get_delta_weight("default").detach()
        assert export_lora(model, tmp_path / "lora").max_difference < 1e-5
        model.eval()
        expected = logits(model)
        again = model.base_model.model.lm_head.get_delta_weight("default").detach()
        assert torch.equal(delta, again)
        assert torch.allclose(logits(model.merge_and_unload()), expected, atol=1e-5)

    @pytest.mark.parametrize("change", ["fused", "data"])
    def test_between_two_passes_without_gradients(self, change):
        model = get_peft_model(gpt2(), QPAConfig(r=2, target_modules=["lm_head"], chunk_size=16))
        shake(model)
        model(input_ids=IDS, labels=IDS).loss.backward()
        before = logits(model)
        if change == "fused":
            parameters = [p for p in model.parameters() if p.requires_grad]
            torch.optim.AdamW(parameters, lr=0.1, fused=True).step()
        else:
            for parameter in model.base_model.bank().parameters():
                parameter.data.add_(0.1)
        after = logits(model)
        assert not torch.allclose(before, after, atol=1e-3)
        assert torch.allclose(logits(copy.deepcopy(model)), after, atol=1e-6)  # a copy starts without kept weights

    def test_a_part_of_the_model_can_be_called_alone_and_repeatedly(self):
        model = get_peft_model(gpt2(), QPAConfig(r=2, target_modules=["c_attn"], chunk_size=16))
        shake(model)
        for _ in range(2):
            model.base_model.model.transformer(IDS).last_hidden_state.square().mean().backward()
        assert all(p.grad is not None for p in model.base_model.bank().parameters())

    def test_the_circuit_rests_while_nobody_needs_it(self, monkeypatch):
        model = get_peft_model(gpt2(tied=False), QPAConfig(r=2, target_modules=["lm_head"], chunk_size=16))
        shake(model)
        model.merge_adapter()
        calls = []
        bank = model.base_model.bank()
        monkeypatch.setattr(bank, "forward", lambda: calls.append(1))
        logits(model)
        assert calls == []

    def test_nor_while_adapters_are_disabled(self, monkeypatch):
        model = get_peft_model(gpt2(), QPAConfig(r=2, target_modules=["lm_head"], chunk_size=16))
        shake(model)
        calls = []
        monkeypatch.setattr(model.base_model.bank(), "forward", lambda: calls.append(1))
        with model.disable_adapter():
            logits(model)
        assert calls == []
