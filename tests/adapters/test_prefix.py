import json

import pytest
import torch
from peft import (
    AutoPeftModelForCausalLM,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixEncoder,
    PrefixTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, DynamicCache, GPT2ForSequenceClassification

from qpeft.adapters.prefix import QPAPrefixConfig, prefix_embeddings, prefix_pieces, standard_config
from qpeft.errors import ConfigError
from qpeft.generators.philox import uniform
from qpeft.qcircuits import ansatz
from tests.tiny_models import IDS, gpt2, llama, logits

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TOKENS = 3
KEYS = [f"prompt_encoder.bank.generators.0.{name}" for name in (
    "mapping.layers.0.bias", "mapping.layers.0.weight", "mapping.layers.1.bias", "mapping.layers.1.weight",
    "source.angles",
)]  # fmt: skip


def config(**options):
    options = {"num_virtual_tokens": TOKENS, "reps": 2, "chunk_size": 16, "task_type": "CAUSAL_LM", **options}
    return QPAPrefixConfig(**options)


def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    return BertForSequenceClassification(BertConfig(vocab_size=100, max_position_embeddings=40, **sizes)).eval()


def gpt2_classifier():
    return gpt2(model_class=GPT2ForSequenceClassification)


def adapted(base=None, seed=0, **options):
    base = gpt2() if base is None else base
    torch.manual_seed(seed)
    return get_peft_model(base, config(**options)).eval()


@torch.no_grad()
def shake(model, adapter="default", by=0.1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.prompt_encoder[adapter].parameters():
        parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return model


def trained_alike(base=None, seed=1, **options):
    return shake(adapted(base, **options), seed=seed)


def plain_twin(model, base):
    """A plain peft prefix on `base` with the embeddings of `model`."""
    twin = get_peft_model(base, standard_config(model.peft_config["default"])).eval()
    with torch.no_grad():
        twin.prompt_encoder["default"].embedding.weight.copy_(prefix_embeddings(model))
    return twin


def loss(model, ids=IDS):
    return model(input_ids=ids, labels=ids).loss


# ---- what is generated


@pytest.mark.parametrize(("make", "kv_dim"), [(gpt2, 32), (llama, 16)])
def test_vector_is_cut_into_each_layers_keys_then_values_row_major(make, kv_dim):
    model = adapted(make(), start="paper")
    bank = model.prompt_encoder["default"].bank
    vector = bank.generators[0]().view(2, 2, TOKENS, kv_dim)  # layer, key or value, token, number
    rows = prefix_embeddings(model)
    assert rows.shape == (TOKENS, 2 * 2 * kv_dim)
    assert torch.equal(rows, vector.permute(2, 0, 1, 3).reshape(TOKENS, -1))
    assert torch.equal(bank()["layers.1"]["value"], vector[1, 1])
    assert rows.abs().min() > 0


def test_identity_start_is_frozen_uniform_numbers_from_the_seed():
    model = adapted(seed=5)
    frozen = uniform(0, TOKENS * 2 * 2 * 32).view(2, 2, TOKENS, 32)
    assert torch.equal(prefix_embeddings(model), frozen.permute(2, 0, 1, 3).reshape(TOKENS, -1))
    assert model.prompt_encoder["default"].bank.num_frozen == frozen.numel()
    assert adapted(start="paper").prompt_encoder["default"].bank.num_frozen == 0


@pytest.mark.parametrize("make", [gpt2, llama])
def test_logits_are_those_of_the_base_model_with_the_generated_cache(make):
    model, base = trained_alike(make(), start="paper", seed=2), make()
    heads = 2  # of keys and values, in both models
    states = [
        tuple(weights[role].detach().view(TOKENS, heads, -1).transpose(0, 1).expand(2, -1, -1, -1) for role in weights)
        for weights in model.prompt_encoder["default"].bank().values()
    ]
    reference = logits(base, input_ids=IDS, past_key_values=DynamicCache(states))
    torch.testing.assert_close(logits(model), reference, rtol=1e-5, atol=1e-5)
    assert (reference - logits(base)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("make", "task"),
    [(gpt2, "CAUSAL_LM"), (llama, "CAUSAL_LM"), (gpt2_classifier, "SEQ_CLS"), (bert, "SEQ_CLS")],
)
def test_logits_and_gradients_are_those_of_a_plain_prefix_with_the_same_embeddings(make, task):
    model = trained_alike(make(), task_type=task)
    twin = plain_twin(model, make())
    if task == "SEQ_CLS":
        wrapped = [n for n, p in model.named_parameters() if "modules_to_save" in n]
        twin.load_state_dict({n: model.get_parameter(n).detach() for n in wrapped}, strict=False)
        answers = {"labels": torch.tensor([0, 1])}
    else:
        answers = {"labels": IDS}
    mask = torch.ones_like(IDS)
    mask[1, :2] = 0
    inputs = {"input_ids": IDS, "attention_mask": mask, **answers}
    assert torch.equal(logits(model, **inputs), logits(twin, **inputs))

    model(**inputs).loss.backward()
    twin(**inputs).loss.backward()
    plain = twin.prompt_encoder["default"].embedding.weight.grad
    assert (plain.view(TOKENS, 4, -1).norm(dim=(0, 2)) > 0).all()  # the keys and values of both layers
    parameters = list(model.prompt_encoder["default"].bank.parameters())
    rows = model.prompt_encoder["default"].embedding.weight
    for parameter, pulled in zip(parameters, torch.autograd.grad(rows, parameters, plain), strict=True):
        torch.testing.assert_close(parameter.grad, pulled, rtol=1e-4, atol=1e-7)
    assert all(p.grad.abs().max() > 0 for p in parameters)


# ---- training


def test_the_count_is_the_specs():
    model = adapted()
    (spec,) = model.prompt_encoder["default"].bank.specs
    assert model.get_nb_trainable_parameters()[0] == spec.num_parameters
    assert spec.target_size == TOKENS * 2 * 2 * 32


def test_usual_budget_is_half_of_a_prefix_of_one_token():
    sizes = {"num_layers": 24, "token_dim": 1024, "num_attention_heads": 16}
    generated = config(chunk_size=None, num_virtual_tokens=20, **sizes)
    pieces = prefix_pieces(generated)
    assert sum(piece.size for piece in pieces) == 20 * 2 * 24 * 1024
    (spec,) = generated.specs(pieces)
    assert 0.5 * 24 * 1024 < spec.num_parameters <= 24 * 1024


def test_each_of_two_forward_passes_before_the_backward_ones_runs_the_circuit_once(engine_calls):
    model = adapted().train()
    one, two = loss(model), loss(model, IDS.flip(0))  # two graphs, walked back one after the other
    one.backward()
    two.backward()
    assert len(engine_calls) == 2


def test_a_direct_call_never_uses_stale_embeddings():
    model = adapted()
    encoder = model.prompt_encoder["default"]
    stale = encoder.embedding.weight
    shake(model)
    rows = encoder(torch.arange(TOKENS))
    assert (rows - stale).abs().max() > 1e-3
    with torch.no_grad():
        assert not encoder.embedding.weight.requires_grad
    assert encoder(torch.arange(TOKENS)).requires_grad


# ---- generation


@pytest.mark.parametrize("make", [gpt2, llama])
def test_generate_with_cache_runs_the_circuit_once_and_is_the_plain_prefixs(make, engine_calls):
    model = trained_alike(make(), start="paper", seed=3)
    engine_calls.clear()
    options = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 6, "do_sample": False}
    found = model.generate(input_ids=IDS, **options)
    model.generate(input_ids=IDS, **options)
    assert len(engine_calls) == 1
    assert torch.equal(found, plain_twin(model, make()).generate(input_ids=IDS, **options))


# ---- files


@pytest.mark.parametrize("name", ["default", "bank", "layers", "0", "generators"])
def test_a_saved_adapter_is_the_compact_generator_and_loads(tmp_path, name):
    model = shake(get_peft_model(llama(), config(), adapter_name=name).eval(), name)
    model.save_pretrained(tmp_path)
    folder = tmp_path if name == "default" else tmp_path / name
    state = load_file(folder / "adapter_model.safetensors")
    assert sorted(state) == KEYS
    assert sum(t.numel() for t in state.values()) == model.get_nb_trainable_parameters()[0]
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "QPA_PREFIX"

    loaded = PeftModel.from_pretrained(llama(), folder, adapter_name="other")
    assert isinstance(loaded.peft_config["other"], QPAPrefixConfig)
    assert torch.equal(logits(loaded), logits(model))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_loaded_adapter_runs_the_circuit_once_for_all_forward_passes(tmp_path, engine_calls):
    trained_alike().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(gpt2(), tmp_path)
    engine_calls.clear()
    assert torch.equal(loaded(input_ids=IDS).logits, loaded(input_ids=IDS).logits)
    assert len(engine_calls) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"start": "paper"}, {"scope": "layer"}, {"chunk_size": None, "budget": 500}, {"source": "none"},
        {"source": "frozen"}, {"engine": "exact:10x", "seed": 4}, {"preset": "paper"},
            {"ansatz": ansatz("ry_cnot", 5, 1)},
    ],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_every_setting_survives_saving(tmp_path, options):
    model = trained_alike(**options)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(gpt2(), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(prefix_embeddings(loaded), prefix_embeddings(model))
    assert torch.equal(logits(loaded), logits(model))


def test_auto_class_loads_base_and_adapter(tmp_path):
    gpt2().save_pretrained(tmp_path / "base")
    model = trained_alike(type(gpt2()).from_pretrained(tmp_path / "base"))
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(loaded), logits(model))


def test_saving_takes_the_state_dict_it_is_given(tmp_path):
    model = adapted()
    state = {key: tensor + 1 for key, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=state)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert torch.equal(saved[KEYS[-1]], model.prompt_encoder["default"].bank.generators[0].source.angles + 1)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_standard_config_and_embeddings_are_a_plain_checkpoint(tmp_path, make):
    model = trained_alike(make())
    standard_config(model.peft_config["default"]).save_pretrained(tmp_path)
    save_file({"prompt_embeddings": prefix_embeddings(model)}, tmp_path / "adapter_model.safetensors")
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["peft_type"] == "PREFIX_TUNING"
    assert written.keys() == PrefixTuningConfig().to_dict().keys()
    loaded = PeftModel.from_pretrained(make(), tmp_path)
    assert type(loaded.peft_config["default"]) is PrefixTuningConfig
    assert torch.equal(logits(loaded), logits(model))


# ---- several adapters


def test_adapters_are_added_switched_and_deleted():
    model = trained_alike()
    first = logits(model)
    model.add_adapter("second", config(num_virtual_tokens=5, start="paper"))
    assert torch.equal(logits(model), first)
    model.set_adapter("second")
    second = logits(model)
    assert (second - first).abs().max() > 0.01
    assert prefix_embeddings(model, "second").shape[0] == 5
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    with pytest.warns(UserWarning, match="was active"):
        model.delete_adapter("default")
    assert torch.equal(logits(model), second)
    assert list(model.prompt_encoder) == ["second"]


def test_a_plain_prefix_may_stand_beside_a_generated_one(tmp_path):
    model = trained_alike()
    model.add_adapter("plain", PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    model.set_adapter("plain")
    before = logits(model)
    model.save_pretrained(tmp_path)
    assert list(load_file(tmp_path / "plain" / "adapter_model.safetensors")) == ["prompt_embeddings"]
    assert sorted(load_file(tmp_path / "adapter_model.safetensors")) == KEYS
    assert torch.equal(logits(PeftModel.from_pretrained(gpt2(), tmp_path / "plain")), before)


def test_a_model_in_half_precision_keeps_the_generator_in_single():
    model = trained_alike(llama().bfloat16()).to(torch.bfloat16)
    assert all(p.dtype == torch.float32 for p in model.prompt_encoder.parameters())
    assert logits(model).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        loss(model).backward()
    assert all(p.grad.isfinite().all() for p in model.prompt_encoder.parameters())


# ---- plain prefix tuning


@pytest.mark.parametrize("projection", [False, True])
def test_plain_prefix_tuning_is_as_before(tmp_path, projection):
    plain = PrefixTuningConfig(
        num_virtual_tokens=4, task_type="CAUSAL_LM", prefix_projection=projection, encoder_hidden_size=6
    )
    base = gpt2()
    torch.manual_seed(3)
    model = get_peft_model(base, plain).eval()
    torch.manual_seed(3)
    reference = PrefixEncoder(plain)
    found = model.prompt_encoder["default"]
    assert isinstance(found, PrefixEncoder)
    assert found.state_dict().keys() == reference.state_dict().keys()
    assert torch.equal(found(torch.arange(4)), reference(torch.arange(4)))
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    assert list(state) == ["prompt_embeddings"]
    torch.testing.assert_close(state["prompt_embeddings"], reference(torch.arange(4)))
    assert type(PeftConfig.from_pretrained(tmp_path)) is PrefixTuningConfig
    assert torch.equal(prefix_embeddings(model), state["prompt_embeddings"])
    torch.testing.assert_close(logits(PeftModel.from_pretrained(gpt2(), tmp_path)), logits(model))
    if not projection:
        found.load_prompt_embeddings(torch.ones_like(state["prompt_embeddings"]))
        assert (prefix_embeddings(model) == 1).all()


# ---- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix_projection": True}, "prefix_projection=True is not available"),
        ({"init_weights": "zero"}, "init_weights='zero' is not available"),
        ({"num_virtual_tokens": 0}, "num_virtual_tokens is 0"),
        ({"num_virtual_tokens": None}, "num_virtual_tokens is None"),
        ({"num_virtual_tokens": 2.5}, r"num_virtual_tokens is 2\.5"),
        ({"task_type": None}, "needs a task_type"),
        ({"start": "zero"}, "start 'zero' is not one of identity, paper"),
        ({"chunk_size": 8, "budget": 100}, "chunk_size or budget, not both"),
        ({"engine": "exat"}, "exact"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        config(**options)


def test_what_fails_leaves_no_adapter_behind():
    model = trained_alike()
    before = logits(model)
    with pytest.raises(ConfigError, match="budget"):
        model.add_adapter("second", config(chunk_size=None, budget=3))
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model), before)


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path)
    save_file({"prompt_embeddings": prefix_embeddings(model)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"holds none; .*source\.angles"):
        PeftModel.from_pretrained(gpt2(), tmp_path)
    state = {key: torch.zeros(2) for key in KEYS}
    save_file(state, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"holds .*source\.angles \(2,\)"):
        PeftModel.from_pretrained(gpt2(), tmp_path)


def test_a_generated_prefix_cannot_be_set():
    model = adapted()
    with pytest.raises(ConfigError, match="cannot be set"):
        model.prompt_encoder["default"].load_prompt_embeddings(prefix_embeddings(model))


def test_embeddings_are_asked_of_a_prefix():
    with pytest.raises(ConfigError, match="no adapter 'other'; the model has default"):
        prefix_embeddings(adapted(), "other")
    lora = get_peft_model(llama(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(ConfigError, match="no key-value prefix but LoraConfig"):
        prefix_embeddings(lora)
