"""What `qpeft.adapters.peft_internals.layer_tuner` takes for granted about peft 0.21, one test each."""

import inspect
from contextlib import contextmanager

import pytest
import torch
from peft import IA3Config, PeftModel, get_peft_model
from peft.tuners.ia3 import IA3Model
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _maybe_include_all_linear_layers
from safetensors.torch import load_file

from tests.tiny_models import IDS, gpt2, llama

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


class Stop(Exception):
    pass


def plain(base=None, targets=("q_proj",), **options):
    """A tuner of peft's that wraps layers, as ours do."""
    config = IA3Config(target_modules=list(targets), feedforward_modules=[], task_type="CAUSAL_LM", **options)
    return get_peft_model(llama() if base is None else base, config).eval()


def stop(*args, **kwargs):
    raise Stop


def test_the_hook_that_makes_a_layer_is_called_with_these_names():
    names = list(inspect.signature(BaseTuner._create_and_replace).parameters)
    assert names == [
        "self", "peft_config", "adapter_name", "target", "target_name", "parent", "current_key", "parameter_name"
    ]  # fmt: skip


@pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
def test_every_merge_of_a_model_asks_first_whether_it_is_allowed(merge, monkeypatch):
    model = plain()
    before = {name: p.clone() for name, p in model.named_parameters()}
    monkeypatch.setattr(IA3Model, "_check_merge_allowed", stop)
    with pytest.raises(Stop):
        getattr(model, merge)()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    model.unload()  # which does not ask


@pytest.mark.parametrize("call", ["__call__", "generate"])
def test_calls_enter_the_tuners_hook_with_adapter_names_and_the_model_never_sees_them(call, monkeypatch):
    seen = []

    @contextmanager
    def record(self, *args, **kwargs):
        seen.append(kwargs.get("adapter_names"))
        yield

    monkeypatch.setattr(IA3Model, "_enable_peft_forward_hooks", record, raising=False)
    options = {"max_new_tokens": 1} if call == "generate" else {}
    getattr(plain(), call)(input_ids=IDS, adapter_names=["default", "__base__"], **options)
    assert seen == [["default", "__base__"]]
    assert "adapter_names" in plain().special_peft_forward_args


def test_injecting_warns_of_tied_heads_through_one_hook(monkeypatch):
    with pytest.warns(UserWarning, match="no implementation exists to tie the adapters"):
        plain(gpt2(), ["lm_head"])
    monkeypatch.setattr(BaseTuner, "_check_tied_modules", stop)
    with pytest.raises(Stop):
        plain()


def test_a_class_without_linear_in_its_name_is_left_out_of_all_linear():
    model = plain()
    wrapped = [name for name, module in model.base_model.model.named_modules() if isinstance(module, BaseTunerLayer)]
    config = IA3Config(target_modules="all-linear", feedforward_modules=[])
    found = _maybe_include_all_linear_layers(config, model.base_model.model).target_modules
    assert set(wrapped) <= set(found)
    for name in wrapped:
        layer = model.base_model.model.get_submodule(name)
        layer.__class__ = type("Other", (type(layer),), {})
    config = IA3Config(target_modules="all-linear", feedforward_modules=[])
    found = _maybe_include_all_linear_layers(config, model.base_model.model).target_modules
    assert not set(wrapped) & set(found)


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings", "ignore:Setting `save_embedding_layers`")
def test_an_attribute_of_no_token_rows_keeps_the_embedding_out_of_the_file(tmp_path, monkeypatch):
    def keys():
        plain(gpt2(), ["lm_head"]).save_pretrained(tmp_path)
        return list(load_file(tmp_path / "adapter_model.safetensors"))

    assert "base_model.model.lm_head.base_layer.weight" in keys()
    monkeypatch.setattr(IA3Config, "trainable_token_indices", {}, raising=False)
    assert keys() == ["base_model.model.lm_head.ia3_l"]
    assert isinstance(PeftModel.from_pretrained(gpt2(), tmp_path), PeftModel)


def test_layers_have_these_helpers():
    names = {"_cast_input_dtype", "_move_adapter_to_device_of_base_layer", "set_adapter", "active_adapters"}
    assert names <= set(dir(BaseTunerLayer))
    layer = plain().base_model.model.model.layers[0].self_attn.q_proj
    x = torch.ones(2, dtype=torch.bfloat16)
    assert layer._cast_input_dtype(x, torch.float32).dtype == torch.float32
    layer.cast_input_dtype_enabled = False
    assert layer._cast_input_dtype(x, torch.float32).dtype == torch.bfloat16
