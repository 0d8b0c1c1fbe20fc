"""Files, configs and copies."""

import copy
import pickle

import pytest
import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from tests.contracts.methods.cases import adapter_parameters, differ, every, moved


@every()
def test_a_file_holds_the_adapter_alone_and_loads(case, tmp_path):
    model = case.trained()
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    expected = case.in_file()
    assert saved.keys() == expected.keys()
    assert all(saved[name].numel() == number for name, number in expected.items() if number is not None)
    if case.method.frames is None:
        assert sum(t.numel() for t in saved.values()) == sum(p.numel() for p in adapter_parameters(model).values())
    torch.manual_seed(5)
    loaded = PeftModel.from_pretrained(case.model.make(), tmp_path)
    assert torch.equal(case.logits(loaded), case.logits(model))
    assert not any(p.requires_grad for p in loaded.parameters())


@every(lambda case: case.method.wraps_layers)  # peft loads prefixes for inference only
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True], ids=["", "low-memory"])
def test_a_loaded_adapter_trains_on(case, tmp_path, low_cpu_mem_usage):
    model = case.trained()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(
        case.model.make(), tmp_path, is_trainable=True, low_cpu_mem_usage=low_cpu_mem_usage
    )
    assert torch.equal(case.logits(loaded.eval()), case.logits(model))
    torch.testing.assert_close(case.gradients(loaded), case.gradients(model), rtol=0, atol=0)


@every()
@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))], ids=["deepcopy", "pickle"]
)
def test_a_config_can_be_copied(case, again):
    for config in (case.config(), case.adapted().peft_config["default"]):  # new, and filled in
        twin = again(config)
        assert twin is not config
        assert (type(twin), twin.to_dict()) == (type(config), config.to_dict())


@every()
def test_a_config_file_gives_the_same_config(case, tmp_path):
    model = case.adapted()
    model.save_pretrained(tmp_path)
    read = PeftConfig.from_pretrained(tmp_path).to_dict()
    written = model.peft_config["default"].to_dict()
    for name in ("inference_mode", "auto_mapping"):  # which saving sets
        read[name] = written[name]
    assert read == written


@every()
def test_a_copied_model_is_independent(case):
    model = case.trained()
    case.gradients(model)  # a step leaves graphs behind, which cannot be copied
    twin = copy.deepcopy(model.eval())
    before = case.logits(model)
    assert torch.equal(case.logits(twin), before)
    torch.testing.assert_close(case.gradients(twin), case.gradients(model), rtol=0, atol=0)
    moved(twin.eval(), seed=3)
    assert differ(case.logits(twin), before)
    assert torch.equal(case.logits(model.eval()), before)
    if case.method.wraps_layers:
        hooks = [len(module._forward_pre_hooks) for module in model.modules()]
        bare = twin.unload()
        assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks
        assert not any(isinstance(module, BaseTunerLayer) for module in bare.modules())
        assert not any(module._forward_pre_hooks or module._forward_hooks for module in bare.modules())
        assert differ(case.logits(model), case.logits(case.model.make()))  # which still has its adapter
