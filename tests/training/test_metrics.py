import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qpeft.training.data import TokenChunks
from qpeft.training.metrics import evaluate, paper_perplexity
from tests.tiny_models import gpt2


def test_masked_cross_entropy_equals_transformers_own_loss():
    model = gpt2()
    ids = torch.randint(0, 100, (30,), generator=torch.Generator().manual_seed(1))
    found = evaluate(model, TokenChunks(ids, 29, num_bytes=90), batch_size=4)
    with torch.no_grad():
        expected = float(model(input_ids=ids[None], labels=ids[None]).loss)  # shifts the labels itself
    assert found.nats_per_token == pytest.approx(expected, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(expected), rel=1e-6)
    assert found.bits_per_byte == pytest.approx(expected / math.log(2) / 3, rel=1e-6)
    assert found.tokens == 29


def test_padding_and_batching_change_nothing():
    model = gpt2()
    ids = torch.randint(0, 100, (30,), generator=torch.Generator().manual_seed(2))
    chunks = TokenChunks(ids, 8, num_bytes=30)  # the last of four examples is padded
    with torch.no_grad():
        total = sum(
            float(F.cross_entropy(model(input_ids=ids[None, a : a + 8][:, : 29 - a]).logits[0], ids[a + 1 : a + 9],
                                  reduction="sum")) for a in range(0, 29, 8)
        )  # fmt: skip
    for batch_size in (1, 3, 16):
        assert evaluate(model, chunks, batch_size).nats_per_token == pytest.approx(total / 29, rel=1e-5)


def test_a_model_in_training_mode_is_evaluated_without_dropout_and_left_in_training_mode():
    model = gpt2()
    chunks = TokenChunks(torch.arange(20), 8, num_bytes=20)
    expected = evaluate(model, chunks, 4)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    assert evaluate(model, chunks, 4) == expected
    assert model.training


def test_the_papers_metric_counts_the_padding():
    """Two lines of different length, against the sum written out by hand."""

    class Tokenizer:
        eos_token_id = 9

        def __call__(self, lines, **options):
            assert options["truncation"]
            return {"input_ids": [[int(c) for c in line][: options["max_length"]] for line in lines]}

    model = gpt2()
    rows = torch.tensor([[1, 2, 3, 9, 9, 9], [4, 9, 9, 9, 9, 9]])
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        logits = model(input_ids=rows, attention_mask=mask).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())
    assert paper_perplexity(model, Tokenizer(), "123\n4", 6) == pytest.approx(math.exp(float(loss)), rel=1e-6)
