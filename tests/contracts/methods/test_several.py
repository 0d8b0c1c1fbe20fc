"""Several adapters on one model: what is active and what trains is what peft's own LoRA would have."""

import pytest
import torch
from peft import PeftModel

from qpeft.errors import ConfigError
from tests.contracts.methods.cases import adapter_parameters, differ, every, moved


def switched(case, model, name):
    model.set_adapter(name)
    return case.logits(model)


@every()
def test_a_further_adapter_changes_nothing_until_it_is_chosen(case):
    model = case.trained()
    first = case.logits(model)
    model.add_adapter("two", case.config())
    assert torch.equal(case.logits(model.eval()), first)
    moved(model, "two", seed=2)
    assert torch.equal(case.logits(model), first)
    second = switched(case, model, "two")
    assert differ(second, first)
    assert torch.equal(switched(case, model, "default"), first)


@every()
def test_each_adapter_is_saved_alone_and_loads_beside_the_other(case, tmp_path):
    model = case.two()
    outputs = {name: switched(case, model, name) for name in ("two", "default")}
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(case.model.make(), tmp_path)
    loaded.load_adapter(tmp_path / "two", "two")
    for name, expected in outputs.items():
        assert torch.equal(switched(case, loaded, name), expected)
    renamed = PeftModel.from_pretrained(case.model.make(), tmp_path / "two", adapter_name="another")
    assert torch.equal(case.logits(renamed), outputs["two"])


@every()
def test_only_what_is_chosen_has_gradients(case):
    model = case.two()
    model.set_adapter("two")
    assert case.gradients(model).keys() == adapter_parameters(model, "two").keys()


@every()
def test_deleting_the_other_or_the_active_adapter(case):
    model = case.two()
    second, first = (switched(case, model, name) for name in ("two", "default"))
    model.delete_adapter("two")
    assert torch.equal(case.logits(model), first)
    assert not adapter_parameters(model, "two")
    with pytest.raises(ValueError, match="two does not exist"):
        model.delete_adapter("two")
    model = case.two()
    model.delete_adapter("default")
    assert model.active_adapters == ["two"]
    assert torch.equal(case.logits(model), second)
    assert case.gradients(model).keys() == adapter_parameters(model, "two").keys()


@every(lambda case: case.method.adds and not case.model.fully_trained)  # peft allows one classifier at a time
def test_two_active_adapters_act_together(case):
    model = case.trained()
    first = case.logits(model)
    model.add_adapter("two", case.config())
    model.base_model.set_adapter(["default", "two"])
    if case.method.identity:
        assert torch.equal(case.logits(model.eval()), first)
    moved(model, "two", seed=2).eval()
    together = case.logits(model)
    assert differ(together, first)
    assert differ(together, switched(case, model, "two"))
    model.base_model.set_adapter(["default", "two"])
    both = {**adapter_parameters(model), **adapter_parameters(model, "two")}
    assert case.gradients(model).keys() == both.keys()
    if case.method.merges:
        model.eval().merge_adapter()
        torch.testing.assert_close(case.logits(model), together, rtol=1e-3, atol=1e-4)


@every(lambda case: case.method.mixes)
def test_rows_of_a_batch_go_through_different_adapters(case):
    model = case.two()
    second, first = (switched(case, model, name) for name in ("two", "default"))
    base = case.logits(case.model.make())
    for names, expected in {
        ("default", "two"): (first[0], second[1]),
        ("two", "__base__"): (second[0], base[1]),
    }.items():
        mixed = case.logits(model, adapter_names=list(names))
        torch.testing.assert_close(mixed, torch.stack(expected), rtol=1e-4, atol=1e-4)


@every(lambda case: case.method.adds and not case.method.mixes)
def test_what_cannot_take_a_mixed_batch_says_so(case):
    with pytest.raises((ConfigError, ValueError), match="adapter_names"):
        case.logits(case.two(), adapter_names=["default", "two"])
