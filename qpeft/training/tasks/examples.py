"""Labelled texts as token examples, and what a model gives for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from qpeft.errors import ConfigError
from qpeft.training.tasks.labelled import Rows

Collate = Callable[[list[dict[str, Any]]], dict[str, Tensor]]


class LabelledExamples(Dataset[dict[str, Any]]):
    """Rows tokenised one by one, with the tokeniser's special tokens, cut to `context` tokens.

    Args:
        rows: The texts and their labels; pairs are cut at the longer text.
        tokenizer: A transformers tokeniser.
        context: Most tokens an example.

    Attributes:
        labels: (n,) ids of classes as integers, or real numbers.
        truncated: How many examples were cut.

    Raises:
        ConfigError: A text without any token.
    """

    def __init__(self, rows: Rows, tokenizer: Any, context: int) -> None:
        self._encoded = tokenizer(*rows.texts, truncation=True, max_length=context, verbose=False)
        lengths = [len(ids) for ids in self._encoded["input_ids"]]
        if 0 in lengths:
            raise ConfigError(f"the tokeniser gives no token for the text {rows.texts[0][lengths.index(0)]!r}")
        whole = tokenizer(*rows.texts, verbose=False)["input_ids"]
        self.truncated = sum(len(ids) > length for ids, length in zip(whole, lengths, strict=True))
        self.lengths, self.labels = lengths, torch.tensor(rows.labels)

    @property
    def largest_token(self) -> int:
        return max(int(max(ids)) for ids in self._encoded["input_ids"])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`input_ids` and what else the model takes, of this example's own length, and its label."""
        return {**{name: values[index] for name, values in self._encoded.items()}, "labels": self.labels[index].item()}


@torch.no_grad()
def outputs_of(model: nn.Module, examples: LabelledExamples, collate: Collate, batch_size: int) -> Tensor:
    """The model's outputs (n, labels) in float32, for examples in order."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    order = sorted(range(len(examples)), key=lambda index: examples.lengths[index])  # little padding in a batch
    found = []
    for start in range(0, len(order), batch_size):
        batch = collate([examples[index] for index in order[start : start + batch_size]])
        inputs = {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
        found.append(model(**inputs).logits.float().cpu())
    model.train(was_training)
    return torch.cat(found)[torch.argsort(torch.tensor(order))]
