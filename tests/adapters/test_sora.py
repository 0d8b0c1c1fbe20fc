import json
import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainingArguments

from qpeft.adapters.proximal import (
    ProximalGates,
    gate_penalty,
    parameter_groups,
    proximal_step,
    soft_threshold,
)
from qpeft.adapters.sora import GatedLinear, SoRAConfig
from qpeft.errors import ConfigError
from tests.tiny_models import IDS, gpt2, llama, logits

TARGETS = ["c_attn", "lm_head"]  # Conv1D layers and a Linear
HEAD = "base_model.model.lm_head"

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning", "ignore:fan_in_fan_out is set to"
)


def adapted(base=None, seed=0, **options):
    options = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **options}
    base = gpt2(tied=False) if base is None else base
    torch.manual_seed(seed)
    return get_peft_model(base, SoRAConfig(**options)).eval()


def gated_layers(model, adapter="default"):
    return {n: m for n, m in model.named_modules() if isinstance(m, GatedLinear) and n.endswith(f".{adapter}")}


def gates(model):
    return torch.cat([layer.gate.detach().flatten() for layer in gated_layers(model).values()])


@torch.no_grad()
def trained_alike(base=None, **options):
    """An adapter away from its start; the second gate of every layer is zero."""
    model = adapted(base, **options)
    generator = torch.Generator().manual_seed(1)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    for layer in gated_layers(model).values():
        layer.gate[1] = 0.0
    return model


def loss(model, ids=IDS):
    return model(input_ids=ids, labels=ids, use_cache=False).loss


# ---- the soft threshold


@pytest.mark.parametrize("xi", [0.0, 0.3, 1.5])
def test_soft_threshold_is_the_minimiser(xi):
    for u in torch.linspace(-2, 2, 17, dtype=torch.float64):
        # The objective is strictly convex: bisect for the sign change of its subgradient, v - u + xi sign(v).
        low, high = -4.0, 4.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if middle - u + xi * math.copysign(1, middle) < 0 else (low, middle)
        assert soft_threshold(u, xi).item() == pytest.approx((low + high) / 2, abs=1e-12)


def test_soft_threshold_of_known_values():
    given = torch.tensor([-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 2.0])
    assert soft_threshold(given, 0.5).tolist() == [-0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 1.5]


def test_a_gate_that_is_not_a_number_is_not_hidden():
    assert soft_threshold(torch.tensor([math.nan]), 0.1).isnan().all()


# ---- the adapter


def test_with_gates_of_one_it_starts_as_the_identity_too():
    assert torch.equal(logits(adapted(gate_start="ones")), logits(gpt2(tied=False)))


def test_starts_of_the_three_tensors():
    ones = adapted(gate_start="ones", r=16)
    assert torch.equal(gates(ones), torch.ones(48))
    drawn = gates(adapted(r=30))
    assert len(drawn) == 90
    assert abs(drawn.mean()) < 3 / 90**0.5  # of N(0, 1)
    assert 0.7 < drawn.std() < 1.3
    head = ones.base_model.model.lm_head
    matrix = head.lora_A["default"].ungated
    bound = 1 / math.sqrt(32)  # kaiming_uniform(a = sqrt 5): sqrt(6 / ((1 + 5) fan_in))
    assert matrix.abs().max() <= bound
    assert matrix.abs().max() > 0.95 * bound
    assert head.lora_B["default"].weight.abs().max() == 0


def test_the_count_is_of_factors_and_gates():
    r, layers = 4, [(96, 32), (96, 32), (100, 32)]
    assert adapted().get_nb_trainable_parameters()[0] == sum(r * (out + fan_in + 1) for out, fan_in in layers)


def test_with_gates_of_one_it_is_a_lora():
    model = trained_alike()
    plain = get_peft_model(gpt2(tied=False), LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS)).eval()
    for name, layer in gated_layers(model).items():
        layer.gate.data.fill_(1.0)
        plain.get_submodule(name).weight.data.copy_(layer.ungated)
        up = name.replace("lora_A", "lora_B")
        plain.get_submodule(up).weight.data.copy_(model.get_submodule(up).weight)
    torch.testing.assert_close(logits(model), logits(plain))


def test_update_and_gradients_are_those_of_the_formula():
    torch.manual_seed(2)
    base = nn.Sequential(nn.Linear(5, 3))
    model = get_peft_model(base, SoRAConfig(r=2, lora_alpha=6, target_modules=["0"]))
    layer = model.base_model.model[0]
    nn.init.normal_(layer.lora_B["default"].weight)
    x, target = torch.randn(7, 5), torch.randn(7, 3)
    ((model(x) - target) ** 2).sum().backward()

    down = layer.lora_A["default"]
    A, g, B = down.ungated.detach(), down.gate.detach(), layer.lora_B["default"].weight.detach()
    W, b = base[0].base_layer.weight.detach(), base[0].base_layer.bias.detach()
    out = x @ W.T + b + 3 * (g * (x @ A.T)) @ B.T
    torch.testing.assert_close(model(x), out)
    torch.testing.assert_close(layer.get_delta_weight("default"), 3 * B @ torch.diag(g) @ A)
    residual = 2 * (out - target)  # (7, 3)
    back = 3 * residual @ B  # (7, 2), the gradient of g * (A x)
    torch.testing.assert_close(down.gate.grad, (back * (x @ A.T)).sum(0))
    torch.testing.assert_close(down.ungated.grad, (back * g).T @ x)
    torch.testing.assert_close(layer.lora_B["default"].weight.grad, 3 * residual.T @ (g * (x @ A.T)))
    assert base[0].base_layer.weight.grad is None


def test_gates_are_float32_on_a_bfloat16_base():
    model = adapted(gpt2(tied=False).bfloat16())
    assert gates(model).dtype == torch.float32
    assert loss(model).isfinite()
    model.bfloat16()
    with pytest.raises(ConfigError, match="autocast_adapter_dtype=True"):
        proximal_step(model)


def test_transformers_own_add_adapter():
    base = gpt2(tied=False)
    torch.manual_seed(0)
    base.add_adapter(SoRAConfig(r=4, target_modules=["c_attn"], threshold=100.0))
    assert len(gated_layers(base)) == 2
    proximal_step(base)
    assert gates(base).abs().max() == 0


# ---- files


def test_saves_factors_and_gates_only_and_reads_them_back(tmp_path):
    model = trained_alike(threshold=0.01, gate_l1=0.5, gate_start="ones")
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    layers = [
        f"base_model.model.{n}" for n in ("transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn", "lm_head")
    ]
    assert sorted(state) == sorted(
        f"{layer}.{part}" for layer in layers for part in ("lora_A.gate", "lora_A.ungated", "lora_B.weight")
    )
    assert state[f"{HEAD}.lora_A.gate"].shape == (4,)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (saved["peft_type"], saved["threshold"], saved["gate_l1"], saved["gate_start"]) == (
        "SORA",
        0.01,
        0.5,
        "ones",
    )

    for options in ({}, {"low_cpu_mem_usage": True}):
        loaded = PeftModel.from_pretrained(gpt2(tied=False), tmp_path, is_trainable=True, **options).eval()
        assert torch.equal(logits(loaded), logits(model))
        assert {layer.threshold for layer in gated_layers(loaded).values()} == {0.01}
    loaded.load_adapter(tmp_path, "gate")  # named as a part of the keys
    assert torch.equal(gates(loaded), gates(model))
    loaded.set_adapter("gate")
    assert torch.equal(logits(loaded), logits(model))


def test_a_module_called_gate_is_not_mistaken_for_the_gates(tmp_path):
    model = trained_alike(llama(), target_modules=["gate_proj"])
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(llama(), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))


def test_a_config_is_its_dict():
    config = SoRAConfig(r=4, target_modules=["c_attn"], threshold=0.1)
    assert SoRAConfig(**config.to_dict()).to_dict() == config.to_dict()
    assert SoRAConfig(trainable_token_indices=None).trainable_token_indices == {}  # else heads drag embeddings along


def test_a_frozen_factor_gets_frozen_gates():
    down = nn.Linear(3, 2, bias=False).requires_grad_(False)
    assert not GatedLinear(down, SoRAConfig()).gate.requires_grad


# ---- pruning


def test_pruned_factors_give_the_same_outputs():
    model = trained_alike()
    expected = logits(model)
    pruned = model.base_model.pruned_factors()
    assert {name: len(A) for name, (A, _) in pruned.items()} == model.base_model.ranks()
    assert set(model.base_model.ranks().values()) == {3}
    plain = get_peft_model(gpt2(tied=False), LoraConfig(r=3, lora_alpha=3, target_modules=TARGETS)).eval()
    for name, (A, B) in pruned.items():
        layer = plain.base_model.model.get_submodule(name)
        layer.lora_A["default"].weight.data.copy_(A)
        layer.lora_B["default"].weight.data.copy_(6 / 4 * B)
    torch.testing.assert_close(logits(plain), expected, rtol=1e-6, atol=1e-6)


def test_layers_may_be_left_with_different_ranks_and_at_least_one():
    model = trained_alike()
    first, _, head = gated_layers(model).values()
    first.gate.data.zero_()
    head.gate.data[[0, 3]] = torch.tensor([0.0, -0.0])
    assert list(model.base_model.ranks().values()) == [0, 3, 1]
    pruned = list(model.base_model.pruned_factors().values())
    assert [(tuple(A.shape), tuple(B.shape)) for A, B in pruned] == [
        ((1, 32), (96, 1)), ((3, 32), (96, 3)), ((1, 32), (100, 1)),
    ]  # fmt: skip
    assert pruned[0][1].abs().max() == 0
    torch.testing.assert_close(pruned[2][0][0], head.ungated[2])
    assert model.base_model.effective_parameters() == 1 * 128 + 3 * 128 + 1 * 132
    assert not any(tensor.requires_grad for pair in pruned for tensor in pair)
    with pytest.raises(ConfigError, match="no adapter 'other'"):
        model.base_model.pruned_factors("other")


# ---- training with torch


def test_a_step_is_the_gradient_step_then_the_threshold():
    model = trained_alike(threshold=0.02).train()
    optimizer = torch.optim.SGD(parameter_groups(model, 0.0), lr=0.5)
    loss(model).backward()
    layers = gated_layers(model)
    expected = {}
    for name, layer in layers.items():
        moved = (layer.gate - 0.5 * layer.gate.grad).detach()
        expected[name] = moved.sign() * (moved.abs() - 0.02).clamp(min=0)
    optimizer.step()
    proximal_step(model)
    for name, layer in layers.items():
        torch.testing.assert_close(layer.gate.detach(), expected[name], rtol=0, atol=1e-7)


def test_a_zero_gate_comes_back_if_a_step_moves_it_further_than_the_threshold():
    for factor, comes_back in ((0.9, True), (1.1, False)):
        model = trained_alike()
        layer = gated_layers(model)[f"{HEAD}.lora_A.default"]
        loss(model).backward()
        assert layer.ungated.grad[1].abs().max() == 0  # behind a closed gate nothing else learns
        step = 0.1 * layer.gate.grad[1].abs().item()
        assert step > 0
        layer.threshold = factor * step
        torch.optim.SGD([layer.gate], lr=0.1).step()
        proximal_step(model)
        assert (layer.gate[1] != 0).item() is comes_back


def test_gates_have_no_weight_decay_in_the_groups():
    model = adapted()
    decayed, others = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in others["params"]} == {id(layer.gate) for layer in gated_layers(model).values()}
    assert len(decayed["params"]) == 6
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in decayed["params"] + others["params"]} == trainable


def test_only_the_active_adapters_gates_shrink():
    model = adapted()
    model.add_adapter("two", SoRAConfig(r=2, target_modules=["c_attn"], threshold=100.0))
    proximal_step(model)
    assert all(layer.gate.abs().min() > 0 for layer in gated_layers(model, "two").values())
    model.set_adapter("two")
    before = gates(model)
    proximal_step(model)
    assert torch.equal(gates(model), before)
    assert all(layer.gate.abs().max() == 0 for layer in gated_layers(model, "two").values())


def test_penalty_is_the_weighted_mean_of_the_absolute_gates():
    model = adapted(gate_l1=10.0)
    assert gate_penalty(model).item() == pytest.approx(10 * gates(model).abs().mean().item())
    assert gate_penalty(adapted()).item() == 0
    assert gate_penalty(gpt2()).item() == 0


def test_a_strong_threshold_lowers_the_rank_while_the_loss_falls():
    model = adapted(r=8, threshold=0.02).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-2)
    start = loss(model).item()
    assert set(model.base_model.ranks().values()) == {8}
    full = model.base_model.effective_parameters()
    for _ in range(25):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
        proximal_step(model)
    assert loss(model).item() < start - 0.1
    assert 0 < sum(model.base_model.ranks().values()) < 24 - 3
    assert model.base_model.effective_parameters() < full


# ---- training with transformers

DATA = Dataset.from_dict({name: [[(7 * i + j) % 100 for j in range(6)] for i in range(16)] for name in
                          ("input_ids", "labels")})  # fmt: skip


def trainer(model, folder, steps=2, callbacks=None, **options):
    options = {
        "max_steps": steps, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "use_cpu": True,
        "report_to": [], "save_strategy": "no", "disable_tqdm": True, "learning_rate": 0.05, "weight_decay": 0.0,
        "lr_scheduler_type": "constant", "optim": "sgd", "max_grad_norm": 0.0, **options,
    }  # fmt: skip
    callbacks = [ProximalGates()] if callbacks is None else callbacks
    return Trainer(model, TrainingArguments(str(folder), **options), train_dataset=DATA, callbacks=callbacks)


def test_one_threshold_an_optimizer_step_under_accumulation_and_clipping(tmp_path):
    """The same batches by hand; with two thresholds a step or one before the gradient's, gates would differ."""
    plain, model = adapted(threshold=0.0), adapted(threshold=0.03)
    trainer(plain, tmp_path, steps=1, max_grad_norm=0.1).train()
    trainer(model, tmp_path, steps=1, max_grad_norm=0.1).train()
    torch.testing.assert_close(gates(model), soft_threshold(gates(plain), 0.03), rtol=0, atol=1e-6)
    without = adapted(threshold=0.03)
    trainer(without, tmp_path, steps=1, max_grad_norm=0.1, callbacks=[]).train()
    torch.testing.assert_close(gates(without), gates(plain), rtol=0, atol=1e-6)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_the_trainer_decays_the_factors_and_not_the_gates(tmp_path, optim):
    """A decay so strong that one step of it takes all of a factor away."""
    model = adapted(threshold=0.0)
    before = gates(model)
    options = {"optim": optim, "learning_rate": 1e-3, "weight_decay": 1e3}
    run = trainer(model, tmp_path, steps=1, **options)
    run.train()
    assert all(layer.ungated.abs().max() < 0.01 for layer in gated_layers(model).values())
    assert (gates(model) - before).abs().max() <= 1.01e-3  # Adam's first step is the learning rate at most
    assert [len(group["params"]) for group in run.optimizer.param_groups] == [9, 0]  # as the Trainer made them

    decayed = adapted(threshold=0.0)
    trainer(decayed, tmp_path, steps=1, callbacks=[], **options).train()
    assert gates(decayed).abs().max() < 0.01


def test_the_trainer_adds_the_penalty_once_a_step(tmp_path):
    plain, model = adapted(threshold=0.0), adapted(threshold=0.0, gate_l1=10.0)
    before = gates(model)
    trainer(plain, tmp_path, steps=1).train()
    trainer(model, tmp_path, steps=1).train()
    # SGD: learning rate times the gradient of 10 mean |g|.
    torch.testing.assert_close(gates(plain) - gates(model), 0.05 * 10 / 12 * before.sign(), rtol=1e-4, atol=1e-6)


def test_training_goes_on_from_a_checkpoint(tmp_path):
    options = {"optim": "adamw_torch", "weight_decay": 0.1, "save_strategy": "steps", "save_steps": 2}
    straight = adapted(threshold=0.1)
    trainer(straight, tmp_path / "straight", steps=4, **options).train()
    trainer(adapted(threshold=0.1), tmp_path, steps=2, **options).train()
    checkpoint = tmp_path / "checkpoint-2"
    saved = load_file(checkpoint / "adapter_model.safetensors")
    zeros = sum(int((saved[key] == 0).sum()) for key in saved if key.endswith("gate"))
    assert 0 < zeros < 12
    resumed = adapted(threshold=0.1, seed=9)
    trainer(resumed, tmp_path, steps=4, **options).train(resume_from_checkpoint=str(checkpoint))
    assert sum(straight.base_model.ranks().values()) < 12 - zeros
    torch.testing.assert_close(gates(resumed), gates(straight), rtol=0, atol=1e-6)
    torch.testing.assert_close(logits(resumed.eval()), logits(straight.eval()), rtol=1e-4, atol=1e-5)


def test_a_skipped_step_shrinks_nothing():
    class Skipping:
        def __init__(self, skipped):
            self.param_groups, self.step_was_skipped = [], skipped

    model = adapted(threshold=100.0)
    before = gates(model)
    ProximalGates().on_optimizer_step(None, None, None, model=model, optimizer=Skipping(True))
    assert torch.equal(gates(model), before)
    ProximalGates().on_optimizer_step(None, None, None, model=model, optimizer=Skipping(False))
    assert gates(model).abs().max() == 0


def test_the_callback_does_nothing_to_other_models(tmp_path):
    plain = get_peft_model(gpt2(tied=False), LoraConfig(target_modules=TARGETS))
    trainer(plain, tmp_path, steps=1, callbacks=[ProximalGates()], weight_decay=0.1).train()


def test_the_penalty_is_refused_with_fp16():
    model = adapted(gate_l1=1.0)
    arguments = TrainingArguments("unused", use_cpu=True, report_to=[])
    ProximalGates().on_train_begin(arguments, None, None, model=model)
    arguments.fp16 = True
    with pytest.raises(ConfigError, match="bf16"):
        ProximalGates().on_train_begin(arguments, None, None, model=model)
    ProximalGates().on_train_begin(arguments, None, None, model=adapted())


# ---- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -1e-4}, "threshold is -0.0001"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"threshold": math.inf}, "threshold is inf"),
        ({"threshold": "0.1"}, "threshold is '0.1'"),
        ({"threshold": True}, "threshold is True"),
        ({"gate_l1": -1.0}, "gate_l1 is -1.0"),
        ({"gate_start": "zeros"}, "gate_start 'zeros' is not one of normal, ones"),
        ({"r": 0}, "rank r is 0"),
        ({"r": 2.0}, "rank r is 2.0"),
        ({"use_dora": True}, "use_dora=True is not available"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"bias": "all"}, "bias='all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"init_lora_weights": False}, "init_lora_weights=False"),
        ({"rank_pattern": {"lm_head": 2}}, "rank_pattern="),
        ({"target_parameters": ["x"]}, "target_parameters="),
        ({"trainable_token_indices": [1]}, "trainable_token_indices="),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SoRAConfig(target_modules=["c_attn"], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["c_atn"]}, "Did you mean 'c_attn'"),
        ({"target_modules": ["wte"]}, "only Linear and Conv1D"),
        ({"r": 33}, r"rank 33 is above the size of .*c_attn \(96 x 32\)"),
    ],
)
def test_targets_that_cannot_be_are_refused_before_the_model_is_touched(options, message):
    base = gpt2(tied=False)
    names = [name for name, _ in base.named_parameters()]
    with pytest.raises(ConfigError, match=message):
        adapted(base, **options)
    assert [name for name, _ in base.named_parameters()] == names


def test_without_targets_the_architectures_usual_ones_are_adapted():
    assert list(adapted(target_modules=None).base_model.ranks()) == [f"transformer.h.{n}.attn.c_attn" for n in (0, 1)]


def test_a_weighted_mean_of_adapters_is_refused():
    model = adapted()
    model.add_adapter("two", SoRAConfig(r=2, target_modules=["c_attn"]))
    with pytest.raises(ConfigError, match="export_lora"):
        model.add_weighted_adapter(["default", "two"], [0.5, 0.5], "mean", combination_type="svd")
