"""What `qpeft.adapters.peft_internals` takes for granted about peft 0.21, one test each."""

import inspect
import json
import warnings
from functools import partial

import peft
import peft.mapping
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer, LoraModel
from peft.tuners.tuners_utils import (
    BaseTuner,
    BaseTunerLayer,
    _maybe_include_all_linear_layers,
    check_target_module_exists,
)
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import nn
from transformers import GPT2ForSequenceClassification

import qpeft.adapters
from qpeft.adapters import QPAConfig, QPAModel
from qpeft.adapters.peft_internals import GeneratedLoraModel, GeneratedTuner, QpeftType
from qpeft.adapters.peft_internals.tied import UntyingLoraModel
from tests.tiny_models import IDS, gpt2, llama, logits

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning", "ignore:fan_in_fan_out is set to"
)


def plain(base=None, **options):
    options = {"r": 2, "target_modules": ["lm_head"], "task_type": "CAUSAL_LM", "init_lora_weights": False, **options}
    torch.manual_seed(0)
    return get_peft_model(gpt2() if base is None else base, LoraConfig(**options)).eval()


def test_version():
    assert peft.__version__.startswith("0.21.")


# ---- registration


def test_methods_are_looked_up_in_three_dicts_by_string():
    assert peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING["LORA"] is LoraConfig
    assert peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING["LORA"] is LoraModel
    assert peft.mapping.PEFT_TYPE_TO_PREFIX_MAPPING["LORA"] == LoraModel.prefix == "lora_"
    assert peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING["QPA"] is QPAConfig
    assert peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING["QPA"] is QPAModel
    assert hash(QpeftType.QPA) == hash("QPA")


def test_the_dicts_are_the_ones_peft_reads_elsewhere():
    from peft.utils import constants, save_and_load

    assert save_and_load.PEFT_TYPE_TO_TUNER_MAPPING is peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING
    assert peft.peft_model.PEFT_TYPE_TO_PREFIX_MAPPING is peft.mapping.PEFT_TYPE_TO_PREFIX_MAPPING
    assert constants is not None


def test_a_string_enum_of_our_own_is_written_as_its_value(tmp_path):
    QPAConfig(target_modules=["lm_head"]).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "QPA"


def test_qpa_is_not_a_method_of_pefts_own():
    assert "QPA" not in peft.PeftType.__members__


# ---- layers


def test_lora_layers_only_read_weight_or_call_the_factor():
    """Forward, update and merge of a layer whose factors own no parameter."""

    class Fixed(nn.Module):
        bias = None

        def __init__(self, value):
            super().__init__()
            self.__dict__["value"] = value

        @property
        def weight(self):
            return self.value

        def forward(self, x):
            return nn.functional.linear(x, self.value)

    model = plain(gpt2(tied=False))
    layer = model.base_model.model.lm_head
    expected, update = logits(model), layer.get_delta_weight("default").clone()
    for factors in (layer.lora_A, layer.lora_B):
        factors["default"] = Fixed(factors["default"].weight.detach().clone())
    assert torch.equal(logits(model), expected)
    assert torch.equal(layer.get_delta_weight("default"), update)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, rtol=1e-4, atol=1e-4)


def test_where_factors_scale_and_rank_stand():
    model = plain(lora_alpha=6)
    layer = model.base_model.model.lm_head
    assert isinstance(layer, LoraLinear | LoraLayer)
    assert isinstance(layer, BaseTunerLayer)
    assert layer.lora_A["default"].weight.shape == (2, 32)
    assert layer.lora_B["default"].weight.shape == (100, 2)
    assert (layer.scaling["default"], layer.r["default"], layer.merged, layer.lora_bias["default"]) == (
        3,
        2,
        False,
        False,
    )
    assert layer.lora_variant == {}
    assert type(layer.get_base_layer()) is nn.Linear
    assert LoraLayer.adapter_layer_names[:2] == ("lora_A", "lora_B")


def test_a_conv1d_layer_gets_fan_in_fan_out_and_a_transposed_update():
    layer = plain(target_modules=["c_attn"]).base_model.model.transformer.h[0].attn.c_attn
    assert layer.fan_in_fan_out
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(layer.get_delta_weight("default"), (B @ A).T * layer.scaling["default"])


def test_the_warning_about_conv1d_begins_as_we_filter_it():
    with pytest.warns(UserWarning, match="^fan_in_fan_out is set to"):
        plain(target_modules=["c_attn"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        get_peft_model(gpt2(), QPAConfig(r=2, target_modules=["c_attn"]))


# ---- targets


def test_all_linear_is_expanded_in_place_and_leaves_out_the_head():
    config = _maybe_include_all_linear_layers(LoraConfig(target_modules="all-linear"), llama())
    kinds = {name.rsplit(".", 1)[-1] for name in config.target_modules}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_all_linear_knows_layers_that_are_already_wrapped():
    model = plain(llama(), target_modules=["q_proj"]).base_model.model
    config = _maybe_include_all_linear_layers(LoraConfig(target_modules="all-linear"), model)
    again = _maybe_include_all_linear_layers(LoraConfig(target_modules="all-linear"), llama())
    assert set(config.target_modules) == set(again.target_modules)


def test_an_excluded_module_is_false():
    config = LoraConfig(target_modules=["q_proj"], exclude_modules=["layers.0.self_attn.q_proj"])
    assert not check_target_module_exists(config, "model.layers.0.self_attn.q_proj")
    assert check_target_module_exists(config, "model.layers.1.self_attn.q_proj")
    assert not check_target_module_exists(config, "model.layers.1.self_attn.k_proj")


# ---- hooks into the tuner


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("inject_adapter", ["model", "adapter_name"]),
        ("_check_tied_modules", ["model", "peft_config"]),
        ("_get_tied_target_modules", ["model"]),
        ("_cast_adapter_dtype", ["adapter_name", "autocast_adapter_dtype"]),
        ("_remove_adapter_name_from_key", ["key", "adapter_name"]),
        ("set_adapter", ["adapter_name", "inference_mode"]),
        ("set_requires_grad", ["adapter_names", "requires_grad"]),
        ("delete_adapter", ["adapter_name"]),
        ("add_weighted_adapter", ["adapters", "weights", "adapter_name"]),
        ("merge_adapter", ["adapter_names", "safe_merge"]),
        ("unmerge_adapter", []),
        ("_unload_and_optionally_merge", ["merge", "progressbar", "safe_merge", "adapter_names"]),
    ],
)
def test_what_we_override_exists_with_these_parameters(name, parameters):
    given = [p for p in inspect.signature(getattr(LoraModel, name)).parameters if p != "self"]
    assert given[: len(parameters)] == parameters
    assert name in overridden()


def overridden():
    ours = {*vars(GeneratedLoraModel), *vars(GeneratedTuner), *vars(UntyingLoraModel)}
    callables = {name for name in ours if callable(getattr(GeneratedLoraModel, name)) and not name.startswith("__")}
    return {name for name in callables if hasattr(LoraModel, name)}


def test_we_override_nothing_else_of_pefts():
    assert overridden() == {
        "inject_adapter", "_check_tied_modules", "_get_tied_target_modules", "_cast_adapter_dtype",
        "_remove_adapter_name_from_key", "set_adapter", "set_requires_grad", "delete_adapter", "add_weighted_adapter",
        "merge_adapter", "unmerge_adapter", "_unload_and_optionally_merge",
    }  # fmt: skip


def test_merge_and_unload_and_unload_go_through_the_one_method(monkeypatch):
    calls = []
    monkeypatch.setattr(LoraModel, "_unload_and_optionally_merge", lambda self, *a, **k: calls.append((a, k)))
    plain().merge_and_unload()
    plain().unload()
    assert len(calls) == 2
    assert calls[1][1].get("merge", calls[1][0][0] if calls[1][0] else None) is False


def test_the_active_adapter_is_set_before_injection(monkeypatch):
    seen = []
    inject = BaseTuner.inject_adapter

    def recording(self, model, adapter_name, *args, **kwargs):
        seen.append((self.active_adapters, adapter_name in self.peft_config))
        return inject(self, model, adapter_name, *args, **kwargs)

    monkeypatch.setattr(BaseTuner, "inject_adapter", recording)
    plain()
    assert seen == [(["default"], True)]


def test_an_adapter_that_cannot_be_added_is_rolled_back():
    model = plain()
    with pytest.raises(ValueError, match="not found"):
        model.add_adapter("two", LoraConfig(target_modules=["nothing"]))
    assert list(model.peft_config) == ["default"]


def test_loading_with_little_memory_moves_every_module_that_can_be(monkeypatch, tmp_path):
    """The hook by which a bank reaches its device after its weights were assigned."""
    get_peft_model(gpt2(), QPAConfig(r=2, target_modules=["lm_head"])).save_pretrained(tmp_path)
    moved = []
    monkeypatch.setattr(
        GeneratedLoraModel, "_move_adapter_to_device_of_base_layer", lambda self, name, device=None: moved.append(name)
    )
    model = PeftModel.from_pretrained(gpt2(), tmp_path)
    by_us = len(moved)
    model.load_adapter(tmp_path, "two", low_cpu_mem_usage=True)
    assert by_us == 1
    assert moved.count("two") > 1  # our own call at injection, then peft's


def test_little_memory_leaves_buffers_real_and_parameters_without_values(monkeypatch, tmp_path):
    get_peft_model(gpt2(), QPAConfig(r=2, target_modules=["lm_head"])).save_pretrained(tmp_path)
    seen = {}
    build = QPAModel.build_bank

    def recording(self, *args):
        bank = build(self, *args)
        seen.update(parameters={p.is_meta for p in bank.parameters()}, buffers={b.is_meta for b in bank.buffers()})
        return bank

    monkeypatch.setattr(QPAModel, "build_bank", recording)
    PeftModel.from_pretrained(gpt2(), tmp_path, low_cpu_mem_usage=True)
    assert seen == {"parameters": {True}, "buffers": {False}}


# ---- saving


def test_what_belongs_to_the_tuner_is_saved_under_its_prefix(tmp_path):
    """A module of the tuner (not of a layer) whose name has the prefix."""
    model = get_peft_model(gpt2(), QPAConfig(r=2, target_modules=["lm_head"]))
    assert [n for n, _ in model.base_model.named_children()] == ["model", "lora_bank"]
    model.save_pretrained(tmp_path)
    keys = load_file(tmp_path / "adapter_model.safetensors")
    assert keys
    assert all(key.startswith("base_model.lora_bank.generators.0.") for key in keys)


def test_peft_leaves_out_keys_that_contain_another_adapters_name(tmp_path):
    """Why some adapter names are refused."""
    from peft.utils.save_and_load import _filter_state_dict_for_adapter_name

    state = {"base_model.lora_bank.default.generators.0.mapping.x": 1, "base_model.lora_bank.mapping.generator.y": 2}
    assert _filter_state_dict_for_adapter_name(state, ["mapping"]) == {}


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:Model has `tie_word")
def test_a_targeted_head_drags_the_embedding_along_unless_token_rows_are_listed(tmp_path):
    plain().save_pretrained(tmp_path / "all")
    plain(trainable_token_indices={}).save_pretrained(tmp_path / "some")
    base_keys = [key for key in load_file(tmp_path / "all" / "adapter_model.safetensors") if "lora_" not in key]
    assert base_keys  # when this fails the workaround in QPAConfig can go
    assert all("lora_" in key for key in load_file(tmp_path / "some" / "adapter_model.safetensors"))


def test_modules_to_save_are_wrapped_and_found_by_their_names():
    base = gpt2(model_class=GPT2ForSequenceClassification, num_labels=3)
    model = plain(base, target_modules=["c_attn"], task_type="SEQ_CLS")
    wrapped = [name for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    assert wrapped == ["base_model.model.score"]
    state = peft.get_peft_model_state_dict(model)
    assert [key for key in state if key.startswith("base_model.model.score.")] == ["base_model.model.score.weight"]


# ---- merging


@pytest.mark.filterwarnings("ignore:Model has `tie_word", "ignore:Model with `tie_word")
def test_peft_itself_merges_into_the_input_embedding_of_a_tied_model():
    base = gpt2()
    before = base.transformer.wte.weight.detach().clone()
    plain(base).merge_adapter()
    assert not torch.equal(base.transformer.wte.weight, before)  # when this fails `_untie` can go


def test_merging_adds_to_the_weight_the_layer_has_at_that_time():
    """So that a head that was given a weight of its own keeps the embedding out of it."""
    base = gpt2()
    model = plain(base)
    before = base.transformer.wte.weight.detach().clone()
    own = nn.Parameter(before.clone())
    base.lm_head.get_base_layer().weight = own
    model.merge_adapter()
    assert base.lm_head.get_base_layer().weight is own
    assert torch.equal(base.transformer.wte.weight, before)


def test_deleting_a_merged_adapter_is_refused():
    model = get_peft_model(gpt2(), QPAConfig(r=2, target_modules=["lm_head"]))
    model.merge_adapter()
    with pytest.raises(ValueError, match="merged"):
        model.delete_adapter("default")
    assert list(model.base_model.lora_bank) == ["default"]


# ---- transformers


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("reentrant", [True, False])
def test_where_transformers_keeps_the_kind_of_checkpointing(make, reentrant):
    base = make()
    before = [m for m in base.modules() if hasattr(m, "gradient_checkpointing")]
    assert before  # known at injection, before checkpointing is turned on
    assert not any(m.gradient_checkpointing for m in before)
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    on = [m for m in before if m.gradient_checkpointing]
    assert on
    for module in on:
        assert isinstance(module._gradient_checkpointing_func, partial)
        assert module._gradient_checkpointing_func.keywords["use_reentrant"] is reentrant


def test_generate_bypasses_the_tuners_forward_but_not_the_inner_models_hooks(monkeypatch):
    model = get_peft_model(gpt2(), QPAConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM")).eval()
    tuner, inner = [], []
    monkeypatch.setattr(QPAModel, "forward", lambda self, *a, **k: tuner.append(1))
    model.base_model.model.register_forward_pre_hook(lambda *a: inner.append(1))
    model.generate(input_ids=IDS[:1], max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert (len(tuner), len(inner)) == (0, 3)


def test_transformers_own_add_adapter_refuses_a_shared_state():
    assert qpeft.adapters.QPAModel.uses_shared_state
    with pytest.raises(ValueError, match="shared state"):
        gpt2().add_adapter(QPAConfig(r=2, target_modules=["lm_head"]))


def test_input_and_output_embeddings_have_getters():
    base = gpt2()
    assert base.get_output_embeddings() is base.lm_head
    assert base.get_input_embeddings() is base.transformer.wte
    assert base.lm_head.weight is base.transformer.wte.weight
