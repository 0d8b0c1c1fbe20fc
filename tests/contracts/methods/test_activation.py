"""What is active and what trains, after any change, is what it would be with peft's own LoRA."""

from functools import partial

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from tests.contracts.methods.cases import GPT2, adapter_parameters, every, gradients, moved


def history(base, config, others, folder):
    """Which adapters are active and which train, after each of several changes."""

    def state(model):
        names = ("default", "two", "three")
        trains = [name for name in names if any(p.requires_grad for p in adapter_parameters(model, name).values())]
        return model.active_adapters, trains

    model = get_peft_model(base(), config())
    model.add_adapter("two", others())
    yield state(model)
    for change in (
        lambda: model.set_requires_grad("two"), lambda: model.set_requires_grad(["default", "two"], False),
        lambda: model.set_requires_grad("two"), lambda: model.add_adapter("three", config()),
        lambda: model.delete_adapter("three"), lambda: model.set_adapter("two"),
        lambda: model.set_adapter("default", inference_mode=True), lambda: model.set_adapter("default"),
        lambda: model.save_pretrained(folder), lambda: model.delete_adapter("default"),
    ):  # fmt: skip
        change()
        yield state(model)
    loaded = PeftModel.from_pretrained(base(), folder)
    yield state(loaded)
    loaded.add_adapter("three", config())
    yield state(loaded)
    loaded.load_adapter(folder / "two", "two", is_trainable=True)
    yield state(loaded)
    loaded.set_adapter("default")
    yield state(loaded)


# The same on any model.
TARGETED = every(lambda case: case.method.targeted and case.model is GPT2)


@TARGETED
def test_what_is_active_and_what_trains_is_as_in_pefts_lora(case, tmp_path):
    first, *others = case.model.targets
    for one, other in ((case.model.targets, case.model.targets), ([first], others), (others, [first])):
        configs = [case.config, partial(LoraConfig, **case.model.options)]
        ours, pefts = (
            list(history(
                case.model.make, partial(config, target_modules=list(one)), partial(config, target_modules=list(other)),
                tmp_path / str(number),
            )) for number, config in enumerate(configs)
        )  # fmt: skip
        assert ours == pefts


@TARGETED
def test_layers_go_on_with_what_they_have_when_the_active_adapter_is_deleted(case):
    first, *others = case.model.targets
    model = get_peft_model(case.model.make(), case.config(target_modules=[first]))
    model.add_adapter("two", case.config(target_modules=others))
    moved(model, "two", seed=2).eval()
    model.set_adapter("two")
    expected = case.logits(model)
    inner = model.get_base_model()  # of the whole, peft then says that nothing is active: it asks the first layer alone
    model.set_adapter("default")
    model.delete_adapter("default")
    assert torch.equal(case.logits(inner), expected)
    model.train()  # which reaches banks too
    case.loss(inner).backward()
    assert gradients(model).keys() == adapter_parameters(model, "two").keys()
