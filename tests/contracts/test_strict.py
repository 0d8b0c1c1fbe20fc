"""What `qpeft.adapters.peft_internals.strict` and `loading` assume of peft."""

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import _filter_state_dict_by_key_prefixes, _get_tuner_state_dict_key_prefixes
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from qpeft.adapters import QPAConfig
from qpeft.adapters.peft_internals.strict import StrictTuner
from tests.tiny_models import gpt2

pytestmark = pytest.mark.filterwarnings("ignore:.*(second time|peft_config. attribute|is_gradient_checkpointing)")


def config():
    return LoraConfig(r=2, target_modules=["lm_head"])


def test_peft_only_warns_of_tensors_that_a_file_lacks(tmp_path):
    get_peft_model(gpt2(), config()).save_pretrained(tmp_path)
    path = tmp_path / SAFETENSORS_WEIGHTS_NAME
    tensors = load_file(path)
    save_file({name: tensor for name, tensor in tensors.items() if "lora_B" in name}, path)
    with pytest.warns(UserWarning, match="Found missing adapter keys"):
        PeftModel.from_pretrained(gpt2(), tmp_path)


def test_a_tuners_prefixes_are_those_of_one_adapters_tensors():
    model = get_peft_model(gpt2(), config())
    model.add_adapter("two", config())
    prefixes = _get_tuner_state_dict_key_prefixes(model, adapter_name="two")
    assert sorted(_filter_state_dict_by_key_prefixes(model.state_dict(), prefixes)) == [
        "base_model.model.lm_head.lora_A.two.weight",
        "base_model.model.lm_head.lora_B.two.weight",
    ]


def test_every_way_to_load_goes_through_the_check(tmp_path, monkeypatch):
    seen = []
    method = StrictTuner.__dict__["_remap_adapter_state_dict_for_load"].__func__

    def noted(cls, model, config, adapter_name, state_dict):
        seen.append(adapter_name)
        return method(cls, model, config, adapter_name, state_dict)

    monkeypatch.setattr(StrictTuner, "_remap_adapter_state_dict_for_load", classmethod(noted))
    get_peft_model(gpt2(), QPAConfig(r=2, target_modules=["lm_head"])).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(gpt2(), tmp_path)
    model.load_adapter(tmp_path, "two")
    assert seen == ["default", "two"]


def test_the_card_is_written_before_the_config_is_saved(tmp_path, monkeypatch):
    found = []
    save = LoraConfig.save_pretrained
    monkeypatch.setattr(
        LoraConfig,
        "save_pretrained",
        lambda self, folder, **kwargs: found.append((tmp_path / "README.md").is_file()) or save(self, folder, **kwargs),
    )
    get_peft_model(gpt2(), config()).save_pretrained(tmp_path)
    assert found == [True]


def test_peft_writes_a_new_config_over_those_of_an_adapted_model():
    model = get_peft_model(gpt2(), config())
    get_peft_model(model, IA3Config(target_modules=["c_attn"], feedforward_modules=[]))
    assert type(model.peft_config["default"]) is IA3Config


def test_a_rank_pattern_is_matched_against_the_end_of_a_name():
    assert get_pattern_key(["c_attn", "lm_head"], "transformer.h.0.attn.c_attn") == "c_attn"
    assert get_pattern_key(["c_attn"], "lm_head") == "lm_head"
    model = get_peft_model(gpt2(), LoraConfig(r=2, target_modules=["c_attn"], rank_pattern={"0.attn.c_attn": 3}))
    ranks = [layer.attn.c_attn.r["default"] for layer in model.base_model.model.transformer.h]
    assert ranks == [3, 2]


def test_a_weights_shape_of_lora_on_an_embedding():
    model = get_peft_model(gpt2(), LoraConfig(r=2, target_modules=["wte"]))
    layer = model.base_model.model.transformer.wte
    assert layer.lora_embedding_A["default"].shape == (2, 100)
    assert layer.lora_embedding_B["default"].shape == (32, 2)
    assert layer.get_delta_weight("default").shape == torch.Size([100, 32])
