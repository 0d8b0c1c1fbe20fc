"""Disabled, merged and taken away."""

import copy
import math

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from qpeft.errors import ConfigError
from tests.contracts.methods.cases import BERT, adapter_parameters, differ, every


def same_state(model, before, **tolerance):
    torch.testing.assert_close(dict(model.state_dict()), before, **{"rtol": 0, "atol": 0, **tolerance})


@every(lambda case: case.method.wraps_layers or case.model is not BERT)  # peft disables prefixes of what generates
def test_disabled_it_is_the_base_model_bit_for_bit(case):
    model = case.trained()
    adapted, base = case.logits(model), case.logits(case.model.make())
    assert differ(adapted, base)
    with model.disable_adapter():
        assert torch.equal(case.logits(model), base)
    assert torch.equal(case.logits(model), adapted)


@every(lambda case: case.method.merges)
@pytest.mark.parametrize("safe_merge", [False, True], ids=["", "safe"])
def test_merged_weights_give_the_forward_and_unmerging_restores(case, safe_merge):
    model = case.trained()
    expected, before = case.logits(model), copy.deepcopy(dict(model.state_dict()))
    names = [name for name, _ in model.named_parameters()]
    for _ in range(2):
        model.merge_adapter(safe_merge=safe_merge)
        torch.testing.assert_close(case.logits(model), expected, rtol=1e-3, atol=1e-4)
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        # The targets and nothing else: not the input embedding that a tied head shares its weight with.
        assert changed == {f"base_model.model.{n}.base_layer.weight" for n in model.base_model.targeted_module_names}
        model.unmerge_adapter()
        assert [name for name, _ in model.named_parameters()] == names  # tied again
        same_state(model, before, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(case.logits(model), expected, rtol=1e-3, atol=1e-4)


@every(lambda case: case.method.merges)
def test_merging_for_good_leaves_a_model_without_adapters(case):
    model = case.trained()
    expected, base = case.logits(model), model.get_base_model()
    merged = model.merge_and_unload()
    assert merged is base
    assert_no_trace(merged)
    torch.testing.assert_close(case.logits(merged), expected, rtol=1e-3, atol=1e-4)


@every(lambda case: case.method.merges)
@pytest.mark.parametrize("how", ["merge_adapter", "merge_and_unload"])
def test_safe_merging_refuses_what_is_not_finite(case, how):
    model = case.trained()
    packed = ".frames." if case.method.frames is not None and case.method.frames.bits else None
    with torch.no_grad():
        for name, parameter in adapter_parameters(model).items():
            if not (name.endswith("source.angles") or (packed and packed in name)):  # which cannot be saved
                parameter.flatten()[0] = math.nan
    before, names = copy.deepcopy(dict(model.state_dict())), [name for name, _ in model.named_parameters()]
    with pytest.raises(ValueError, match="NaNs detected"):
        getattr(model, how)(safe_merge=True)
    assert [name for name, _ in model.named_parameters()] == names
    same_state(model, before, equal_nan=True)


@every(lambda case: not case.method.merges)
@pytest.mark.parametrize("how", ["merge_adapter", "merge_and_unload"])
def test_what_cannot_be_merged_says_so_and_stays(case, how):
    model = case.trained()
    before = case.logits(model)
    # A prefix is no tuner, so that peft's own has no such method either.
    with pytest.raises(ConfigError if case.method.wraps_layers else AttributeError, match=f"cannot be merged|{how}"):
        getattr(model, how)()
    assert torch.equal(case.logits(model), before)


@every(lambda case: case.method.wraps_layers)
def test_unloading_gives_the_base_model_back(case):
    model = case.trained()
    for name, parameter in adapter_parameters(model).items():  # what trained in full stays as it is, as in peft
        if "modules_to_save" in name:
            original = name.replace("modules_to_save.default", "original_module")
            parameter.data.copy_(model.get_parameter(original))
    base = model.unload()
    assert_no_trace(base)
    assert torch.equal(case.logits(base), case.logits(case.model.make()))
    assert torch.equal(case.logits(case.adapted(base)), case.logits(case.adapted()))  # and it can be adapted again


def assert_no_trace(base):
    modules = list(base.modules())
    assert not any(isinstance(module, BaseTunerLayer) for module in modules)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in modules)
    assert not adapter_parameters(base)
    assert not hasattr(base, "peft_config")
