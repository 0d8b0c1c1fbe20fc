"""Start, forward and backward: only the adapter trains, however the batch is split or recomputed."""

import pytest
import torch

from qpeft.errors import ConfigError
from tests.contracts.methods.cases import GPT2, adapter_parameters, differ, every, gradients

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{name}:FutureWarning")
    for name in ("is_gradient_checkpointing", "gradient_checkpointing_enable")
]


@every()
def test_the_start_is_the_base_model_bit_for_bit_unless_the_method_cannot(case):
    model, base = case.adapted(), case.model.make()
    assert torch.equal(case.logits(model), case.logits(base)) is case.method.identity
    assert differ(case.logits(case.trained()), case.logits(base))


@every(lambda case: case.method.identity)
def test_the_start_of_a_model_in_half_precision_is_the_identity_too(case):
    model, base = case.adapted(case.model.make().bfloat16()), case.model.make().bfloat16()
    pixels = {name: t.bfloat16() for name, t in case.model.inputs.items() if t.is_floating_point()}
    assert torch.equal(case.logits(model, **pixels), case.logits(base, **pixels))


@every()
def test_only_the_adapter_trains(case):
    model = case.trained().train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() == adapter_parameters(model).keys()
    first = case.loss(model)
    first.backward()
    assert gradients(model).keys() == trained.keys()
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in gradients(model).values())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    if case.method.name != "quantum-rademacher":  # whose signs are others after the step
        assert case.loss(model) < first
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trained.keys()


@every()
def test_the_head_of_a_classifier_trains_beside_the_adapter(case):
    trained = {name for name, p in case.adapted().named_parameters() if p.requires_grad}
    head = {name for name in trained if "modules_to_save" in name}
    assert len(head) == len(case.model.fully_trained)
    assert trained > head


@every()
def test_accumulated_gradients_are_the_full_batchs(case):
    model = case.trained()
    full = case.gradients(model)
    model.zero_grad()
    for row in range(2):
        (case.loss(model, slice(row, row + 1)) / 2).backward()
    torch.testing.assert_close(gradients(model), full, rtol=1e-3, atol=1e-5)


@every(lambda case: case.method.wraps_layers)
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_checkpointing_gives_the_same_gradients_or_is_refused(case, use_reentrant):
    model = case.trained()
    expected = case.gradients(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    assert model.is_gradient_checkpointing
    if use_reentrant and case.method.generates:
        with pytest.raises(ConfigError, match="use_reentrant"):
            case.gradients(model)
    else:
        torch.testing.assert_close(case.gradients(model), expected, rtol=1e-3, atol=1e-5)


@every(lambda case: case.method.wraps_layers)
def test_checkpointing_holds_two_passes_before_one_backward_and_one_without_gradients_in_between(case):
    def both(model):
        model.zero_grad()
        total = case.loss(model.train(), slice(0, 1)) + case.loss(model, slice(1, 2))
        with torch.no_grad():
            case.loss(model)
        total.backward()
        return gradients(model)

    model = case.trained()
    expected = both(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    torch.testing.assert_close(both(model), expected, rtol=1e-3, atol=1e-5)


@every(lambda case: case.method.wraps_layers and case.model is GPT2)
def test_an_inner_model_trains_the_adapter_too(case):
    def inner(model, ids):
        return model.get_base_model().transformer(ids).last_hidden_state

    def whole(model, ids):
        return model(ids, output_hidden_states=True).hidden_states[-1]

    model, found = case.trained().train(), []
    for call in (whole, inner):
        model.zero_grad()
        torch.manual_seed(0)
        call(model, case.model.inputs["input_ids"]).square().sum().backward()
        found.append({name: gradient for name, gradient in gradients(model).items() if gradient.any()})
    assert found[0]
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)


@every(lambda case: case.method.name == "quantum-rademacher")
def test_signs_follow_the_mode_of_the_inner_model(case):
    model = case.trained()
    signs = dict(model.named_parameters())["base_model.lora_bank.default.diagonal.weight"]
    drawn = []
    for state in range(20):  # in each the signs are drawn evenly, and in evaluation all of them are +1
        signs.data.fill_(1e-4 * (state + 1))
        evaluated = case.logits(model.eval())
        drawn.append(differ(case.logits(model.train()), evaluated))
        model.get_base_model().eval()
        assert torch.equal(case.logits(model), evaluated)
    assert any(drawn)


@every(lambda case: not case.method.wraps_layers)
def test_prefixes_are_refused_with_checkpointing_by_peft(case):
    base = case.model.make()
    base.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="does not work with gradient checkpointing"):
        case.adapted(base)


@every()
def test_autocast_keeps_the_adapter_in_single_precision(case):
    model = case.trained()
    exact, precise = case.logits(model), case.gradients(model)
    with torch.autocast("cpu", torch.bfloat16):
        rough = case.logits(model.eval())
        low = case.gradients(model)
    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.05 * exact.abs().max().item())
    assert {p.dtype for p in adapter_parameters(model).values()} == {torch.float32}
    for name, gradient in low.items():
        assert gradient.dtype == torch.float32
        assert torch.cosine_similarity(gradient.flatten(), precise[name].flatten(), dim=0) > 0.9, name
