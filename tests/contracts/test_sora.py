"""What SoRA assumes of peft's LoRA and of the transformers Trainer."""

import inspect

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraModel
from transformers import Trainer, TrainerCallback, TrainingArguments

from qpeft.adapters.peft_internals.sora import GatedLoraModel
from tests.tiny_models import gpt2

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def plain():
    return get_peft_model(gpt2(tied=False), LoraConfig(r=2, target_modules=["lm_head"]))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("inject_adapter", ["model", "adapter_name"]),
        ("_create_and_replace", ["lora_config", "adapter_name", "target", "target_name", "parent"]),
        ("add_weighted_adapter", ["adapters", "weights", "adapter_name"]),
    ],
)
def test_what_we_override_exists_with_these_parameters(name, parameters):
    given = [p for p in inspect.signature(getattr(LoraModel, name)).parameters if p != "self"]
    assert given[: len(parameters)] == parameters
    assert name in vars(GatedLoraModel)


def test_a_layer_is_in_its_parent_once_it_was_replaced_and_new_adapters_do_not_train(monkeypatch):
    seen = []
    create = LoraModel._create_and_replace

    def recording(self, config, adapter_name, target, target_name, parent, *args, **kwargs):
        create(self, config, adapter_name, target, target_name, parent, *args, **kwargs)
        down = getattr(parent, target_name).lora_A[adapter_name]
        seen.append((type(down), down.bias, down.weight.shape, down.weight.requires_grad))

    monkeypatch.setattr(LoraModel, "_create_and_replace", recording)
    model = plain()
    model.add_adapter("two", LoraConfig(r=3, target_modules=["lm_head"]))
    assert seen == [(torch.nn.Linear, None, (2, 32), True), (torch.nn.Linear, None, (3, 32), False)]


def test_the_trainer_calls_back_around_the_optimizers_step(tmp_path):
    events = []

    class Recorder(TrainerCallback):
        def _note(self, name, model, optimizer):
            head = model.base_model.model.lm_head.lora_B["default"].weight
            events.append((name, head.grad is not None, bool(head.abs().max() > 0)))
            assert head in {p for group in optimizer.param_groups for p in group["params"]}

        def on_step_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
            self._note("begin", model, optimizer)

        def on_substep_end(self, args, state, control, model=None, optimizer=None, **kwargs):
            self._note("substep", model, optimizer)

        def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
            self._note("before", model, optimizer)

        def on_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
            self._note("after", model, optimizer)

    rows = [[1, 2, 3, 4]] * 8
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=1, gradient_accumulation_steps=3, use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    data = Dataset.from_dict({"input_ids": rows, "labels": rows})
    Trainer(plain(), arguments, train_dataset=data, callbacks=[Recorder()]).train()
    # (event, is there a gradient?, has B left zero?): B is zero until the first step is made.
    first = [("begin", False), ("substep", True), ("substep", True), ("before", True), ("after", True)]
    moved = [False, False, False, False, True] + 5 * [True]
    assert events == [(name, gradient, has) for (name, gradient), has in zip(2 * first, moved, strict=True)]
