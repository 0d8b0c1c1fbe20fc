"""Compiled, and decoding token by token."""

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

from qpeft.generators.frames.traced import TracedFrame
from tests.contracts.methods.cases import BERT, GPT2, LLAMA, every, gradients
from tests.tiny_models import IDS


@pytest.fixture
def backend():
    torch._dynamo.reset()
    yield CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()


@pytest.fixture
def generations(engine_calls, monkeypatch):
    """The circuits of generators and the families of frames that have run, in order."""
    generate = TracedFrame.__call__

    def counting(self, values=None):
        engine_calls.append(self.frame)
        return generate(self, values)

    monkeypatch.setattr(TracedFrame, "__call__", counting)
    return engine_calls


def outputs_and_gradients(case, model, call):
    model.zero_grad()
    out = case.call(call)
    F.cross_entropy(out.flatten(0, -2), torch.arange(out.shape[:-1].numel()) % out.shape[-1]).backward()
    return out.detach(), gradients(model)


@every(lambda case: case.model in (GPT2, LLAMA, BERT), slow=(GPT2, LLAMA))
def test_compiled_it_is_one_graph_with_the_same_outputs_and_gradients(case, backend):
    model = case.trained().train()
    expected = outputs_and_gradients(case, model, model)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(outputs_and_gradients(case, model, compiled), expected, rtol=1e-4, atol=1e-5)
    assert backend.frame_count == 1


@every(lambda case: case.method.wraps_layers and case.model is GPT2, slow=(GPT2,))
def test_compiled_with_checkpointing_it_has_the_same_gradients(case, backend):
    model = case.trained()
    expected = case.gradients(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    compiled = torch.compile(model, backend=backend)  # in several graphs: transformers' checkpointing divides it
    for _ in range(2):
        model.zero_grad()
        case.loss(compiled).backward()
        torch.testing.assert_close(gradients(model), expected, rtol=1e-4, atol=1e-5)


@every(lambda case: case.model in (GPT2, LLAMA))
def test_decoding_with_a_cache_is_decoding_without_and_generates_once(case, generations):
    model = case.trained()
    generations.clear()
    found = model.generate(**case.model.inputs, max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert len(generations) == case.generations()
    ids = IDS
    for _ in range(5):
        with torch.no_grad():
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(found, ids)


@every(lambda case: case.method.generates)
def test_a_training_step_generates_once(case, generations):
    model = case.trained()
    for _ in range(2):
        generations.clear()
        case.gradients(model)
        assert len(generations) == case.generations()
