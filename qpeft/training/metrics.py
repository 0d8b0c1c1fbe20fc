"""How well a language model predicts a text."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from qpeft.training.data import IGNORED, TokenChunks

LOGITS_AT_ONCE = 2**26  # numbers: 256 MiB in float32
PAPER_LENGTH = 512  # arXiv 2410.09846 pads every line to the tokeniser's 512


@dataclass(frozen=True)
class TextMetrics:
    """Metrics over the predicted tokens of a text; padding is masked.

    Attributes:
        nats_per_token: Mean cross entropy.
        perplexity: exp(nats_per_token); comparable only between models with the same tokeniser.
        bits_per_byte: nats_per_token / ln 2 / bytes_per_token; comparable between tokenisers that know every word.
        tokens: How many tokens were predicted.
        bytes_per_token: UTF-8 bytes of the text over its tokens.
        unknown_share: Share of the tokens the tokeniser does not know; with any, bits per byte flatters.
    """

    nats_per_token: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes_per_token: float
    unknown_share: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def evaluate(model: nn.Module, chunks: TokenChunks, batch_size: int) -> TextMetrics:
    """Cross entropy of every target token.

    Args:
        model: A causal language model that gives `.logits`.
        chunks: The text.
        batch_size: Examples at once; fewer if their logits would not fit comfortably.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    vocabulary = int(model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    rows = max(1, min(batch_size, LOGITS_AT_ONCE // (chunks.inputs.shape[1] * vocabulary)))
    total = 0.0
    for start in range(0, len(chunks), rows):
        logits = model(input_ids=chunks.inputs[start : start + rows].to(device)).logits
        targets = chunks.targets[start : start + rows].to(device)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        total += float(loss)
    model.train(was_training)
    nats = total / chunks.num_targets
    bytes_per_token = chunks.num_bytes / chunks.num_ids
    return TextMetrics(
        nats, math.exp(min(nats, 700)), nats / math.log(2) / bytes_per_token, chunks.num_targets, bytes_per_token,
        chunks.unknown_share,
    )  # fmt: skip


@torch.no_grad()
def paper_perplexity(model: nn.Module, tokenizer: Any, text: str, max_length: int) -> float:
    """The perplexity of Quantum Parameter Adaptation's tables, which counts padding.

    Every line, blank ones included, is padded to 512 tokens with the end-of-text token; the padding is predicted and
    counted; batches of two lines; exp of the mean over batches of the batch's mean loss. Padding is easy to predict, so
    this is far below a perplexity of the text. Use it only to compare with the paper.

    Args:
        model: A causal language model.
        tokenizer: Its tokeniser.
        text: The test text.
        max_length: The model's number of positions, if below 512.
    """
    was_training = model.training
    model.eval()
    device, length = next(model.parameters()).device, min(PAPER_LENGTH, max_length)
    pad = tokenizer.eos_token_id
    encoded = tokenizer(text.splitlines(), truncation=True, max_length=length, verbose=False)["input_ids"]
    losses = []
    for start in range(0, len(encoded), 2):
        rows = [ids + [pad] * (length - len(ids)) for ids in encoded[start : start + 2]]
        mask = [[1] * len(ids) + [0] * (length - len(ids)) for ids in encoded[start : start + 2]]
        batch = torch.tensor(rows, device=device)
        logits = model(input_ids=batch, attention_mask=torch.tensor(mask, device=device)).logits
        losses.append(float(F.cross_entropy(logits[:, :-1].float().flatten(0, 1), batch[:, 1:].flatten())))
    model.train(was_training)
    return math.exp(min(sum(losses) / len(losses), 700))
