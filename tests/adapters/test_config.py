import dataclasses
import json
import pickle

import pytest
from peft import LoraConfig, PeftConfig, get_peft_model

from qpeft.adapters import PRESETS, QPAConfig, SoRAConfig
from qpeft.adapters.lora import lora_pieces
from qpeft.errors import ConfigError
from qpeft.generators import QPASpec
from qpeft.qcircuits import ansatz
from tests.tiny_models import gpt2

GPT2_HEAD, GEMMA_HEAD = (50257, 768), (256000, 2048)  # (out_features, in_features), arXiv 2410.09846, Table 1


def spec_of(config, *shapes):
    targets = {f"layer{place}": shape for place, shape in enumerate(shapes)}
    (spec,) = config.specs(lora_pieces(config, targets))
    return spec


def lora_size(config, shapes):
    return spec_of(config, *shapes).target_size


@pytest.mark.parametrize("rank", [1, 2, 4, 8, 16, 32])
def test_target_size_is_the_published_size_of_lora(rank):
    config = QPAConfig(r=rank, chunk_size=2048)
    assert lora_size(config, [GPT2_HEAD]) == {1: 51025, 32: 1632800}.get(rank, rank * 51025)
    assert lora_size(config, [GEMMA_HEAD]) == {1: 258048, 32: 8257536}.get(rank, rank * 258048)
    assert lora_size(config, [GPT2_HEAD, GEMMA_HEAD]) == rank * (51025 + 258048)


@pytest.mark.parametrize(("chunk_size", "count"), [(256, 47248), (2048, 106264), (8192, 308936)])
def test_paper_preset_has_the_published_counts(chunk_size, count):
    assert spec_of(QPAConfig(r=4, preset="paper", chunk_size=chunk_size), GPT2_HEAD).num_parameters == count


def test_default_preset():
    config = QPAConfig()
    assert (config.hidden, config.activation, config.transform, config.start) == ([16], "gelu", "scaled", "identity")
    assert (config.r, config.lora_alpha, config.reps, config.ansatz) == (4, 8, 8, "ry_cnot")
    assert spec_of(config, (100, 32)).zero_last


def test_a_preset_fills_only_what_is_not_given():
    config = QPAConfig(preset="paper", activation="relu", hidden=[])
    assert (config.hidden, config.activation, config.transform, config.start) == ([], "relu", "identity", "paper")
    assert not spec_of(config, (100, 32)).zero_last


def test_configs_share_no_lists():
    first = QPAConfig()
    first.hidden.append(99)
    first.trainable_token_indices["x"] = [1]
    assert QPAConfig().hidden == [16]
    assert PRESETS["default"]["hidden"] == [16]
    assert QPAConfig().trainable_token_indices == {}


def test_without_chunk_size_and_budget_it_trains_at_most_half_of_rank_1():
    shapes = [(1000, 300), (300, 1000)]
    spec = spec_of(QPAConfig(r=4), *shapes)
    assert spec.num_parameters <= 2600 // 2
    assert QPASpec(spec.target_size, spec.chunk_size + 1).num_parameters > 2600 // 2


def test_a_model_too_small_for_that_gets_the_smallest_generator():
    assert spec_of(QPAConfig(r=1), (3, 3)) == QPASpec.smallest(6)


def test_budget_chooses_the_chunk_size():
    spec = spec_of(QPAConfig(budget=900), (1000, 300))
    assert spec == QPASpec.within_budget(4 * 1300, 900)
    with pytest.raises(ConfigError, match="a budget of 90 parameters is too small"):
        spec_of(QPAConfig(budget=90), (1000, 300))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r": 0}, "rank r is 0"),
        ({"r": 2.0}, r"rank r is 2\.0"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"chunk_size": 1.5}, r"chunk_size is 1\.5"),
        ({"budget": -3}, "budget is -3"),
        ({"chunk_size": 4, "budget": 100}, "chunk_size or budget, not both"),
        ({"start": "papr"}, "'papr' is not one of identity, paper"),
        ({"preset": "papr"}, r"unknown preset 'papr'. Did you mean 'paper'\?"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"format_version": 2}, "format 2; this qpeft reads up to 1"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ConfigError, match=message):
        QPAConfig(**arguments)


REFUSED = {
    "lora_bias": True, "bias": "all", "layer_replication": [(0, 1)], "target_parameters": ["w"],
    "rank_pattern": {"lm_head": 8}, "alpha_pattern": {"lm_head": 8}, "init_lora_weights": "gaussian",
    "ensure_weight_tying": True, "trainable_token_indices": [1, 2], "alora_invocation_tokens": [1], "use_qalora": True,
    "megatron_config": {"a": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_lora_variants_are_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"^{name}="):
        QPAConfig(**{name: REFUSED[name]})


def test_every_variant_that_peft_declares_but_dora_is_refused():
    variants = [f.name for f in dataclasses.fields(LoraConfig) if f.metadata.get("is_lora_variant")]
    assert "use_dora" in variants
    for name in set(variants) - {"use_dora"}:
        config = QPAConfig()
        setattr(config, name, True)
        with pytest.raises(ConfigError, match=f"^{name}="):
            dataclasses.replace(config)


def test_an_uninitialised_lora_is_refused_too():
    with pytest.raises(ConfigError, match=r"^init_lora_weights=False"):
        QPAConfig(init_lora_weights=False)


@pytest.mark.parametrize("start", ["pissa", "olora", "eva", "loftq", "gaussian", "orthogonal", "pissa_niter_4", False])
@pytest.mark.parametrize("make", [QPAConfig, SoRAConfig])
def test_other_initialisations_of_lora_are_refused(make, start):
    with pytest.raises(ConfigError, match=rf"^init_lora_weights={start!r} is not .* init_lora_weights=True; leave"):
        make(init_lora_weights=start)


def test_sora_has_scales_of_single_layers_and_no_dora():
    assert SoRAConfig(alpha_pattern={"lm_head": 3}).alpha_pattern == {"lm_head": 3}
    for name in set(REFUSED) - {"alpha_pattern"} | {"use_dora"}:
        with pytest.raises(ConfigError, match=f"^{name}="):
            SoRAConfig(**{name: REFUSED.get(name, True)})


def test_defaults_and_empty_values_of_variants_are_accepted():
    config = QPAConfig(
        rank_pattern={}, target_parameters=[], use_dora=None, init_lora_weights=True, trainable_token_indices=None
    )
    assert config.trainable_token_indices == {}  # or peft would save the embedding matrix


def test_pickling_and_the_copies_of_dataclasses():
    circuit = ansatz("rxrz_cnot", 2, 1)
    for config in (QPAConfig(target_modules=["lm_head"]), QPAConfig(ansatz=circuit)):
        assert pickle.loads(pickle.dumps(config)) == config
        assert dataclasses.replace(config) == config


def test_to_dict_is_json_and_leaves_the_config_alone():
    circuit = ansatz("rxrz_cnot", 2, 1)
    config = QPAConfig(ansatz=circuit)
    assert json.loads(json.dumps(config.to_dict(), default=list))["ansatz"] == "custom"
    assert config.ansatz is circuit


def test_saved_and_loaded_config_is_ours(tmp_path):
    config = QPAConfig(r=3, target_modules=["lm_head"], budget=400, hidden=[8, 4], seed=7)
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is QPAConfig
    assert {**loaded.to_dict(), "target_modules": None} == {**config.to_dict(), "target_modules": None}
    assert set(loaded.target_modules) == {"lm_head"}


def bank_of(config):
    return get_peft_model(gpt2(), config).base_model.bank()


@pytest.mark.parametrize(
    "change",
    [
        {"reps": 2}, {"chunk_size": 64, "budget": None}, {"budget": 300, "chunk_size": None}, {"ansatz": "rxrz_cnot"},
        {"ansatz": ansatz("rx_cnot", 5, 1)}, {"seed": 5}, {"start": "paper"}, {"hidden": [3]}, {"source": "mlp"},
    ],
    ids=str,
)  # fmt: skip
def test_a_used_config_can_be_changed_and_used_again(change):
    used = QPAConfig(target_modules=["lm_head"], chunk_size=24)
    bank_of(used)
    changed = {"target_modules": ["lm_head"], "chunk_size": 24, **change}
    assert (
        bank_of(dataclasses.replace(used, **change)).generators[0].spec
        == bank_of(QPAConfig(**changed)).generators[0].spec
    )


def test_a_used_circuit_can_be_replaced_by_another():
    used = QPAConfig(target_modules=["lm_head"], ansatz=ansatz("rx_cnot", 5, 1))
    bank_of(used)
    other = ansatz("ry_cnot", 5, 2)
    assert bank_of(dataclasses.replace(used, ansatz=other)).generators[0].spec.circuit == other


@pytest.mark.parametrize(
    "damage",
    [{"resolved": {}}, {"resolved": "x"}, {"format_version": "2"}, {"hidden": ["a"]}, {"reps": 2.5},
     {"lora_alpha": float("nan")}, {"hidden": [True]}, {"seed": "x"}],
)  # fmt: skip
def test_a_damaged_config_is_named(damage):
    (name,) = damage
    with pytest.raises(ConfigError, match=rf"^{name} is "):
        QPAConfig(target_modules=["lm_head"], **damage)
