"""Language modelling: predict the next token of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from qpeft.errors import ConfigError
from qpeft.training.data import IGNORED, load_corpus, tokenise
from qpeft.training.metrics import evaluate, paper_perplexity
from qpeft.training.models import load_model, load_tokenizer, num_positions
from qpeft.training.tasks.base import Metric, Prepared, Task, check_vocabulary

BITS = Metric("bits_per_byte", "bits/byte", "bits per byte")
PERPLEXITY = Metric("perplexity", "perplexity", "perplexity per token, padding masked", 2)
PAPER = Metric("paper_perplexity", "padded metric", "the paper's padded perplexity (not a perplexity of the text)", 4)
LOSS = Metric("nats_per_token", "loss", "cross entropy (nats per token)", 4)


@dataclass(frozen=True)
class PreparedText(Prepared):
    """With the test text itself, for the papers' metric."""

    test_text: str = ""


class LanguageModelling(Task):
    """A causal language model and a text."""

    peft_task = "CAUSAL_LM"

    def prepare(self) -> PreparedText:
        options = self.config.data
        tokenizer = load_tokenizer(self.config.model.model)
        corpus = load_corpus(options)
        train, test = (
            tokenise(text, tokenizer, options.context, options.by_line) for text in (corpus.train, corpus.test)
        )
        model = load_model(self.config.model)
        self.check_context(model)
        check_vocabulary(int(max(train.inputs.max(), test.inputs.max())), model)
        if self.config.run.paper_metric and tokenizer.eos_token_id is None:
            raise ConfigError("--paper-metric pads with the end-of-text token; this tokeniser has none. Leave it out")
        train = train.for_training(options.max_train_chunks)
        return PreparedText(model, tokenizer, train, test, BITS.key, test_text=corpus.test)

    def training_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        return mean_token_loss(outputs, labels, num_items_in_batch)

    def measure(self, model: nn.Module, prepared: Prepared) -> dict[str, Any]:
        assert isinstance(prepared, PreparedText)
        found = evaluate(model, prepared.test, self.config.run.test_batch_size).as_dict()
        if self.config.run.paper_metric:
            positions = num_positions(model.config) or 512
            found[PAPER.key] = paper_perplexity(model, prepared.tokenizer, prepared.test_text, positions)
        return found

    def metrics(self, measured: dict[str, Any]) -> list[Metric]:
        return [BITS, *(metric for metric in (PERPLEXITY, PAPER) if metric.key in measured)]

    def loss(self, measured: dict[str, Any]) -> Metric:
        return LOSS

    def facts(self, measured: dict[str, Any]) -> dict[str, str]:
        return {"unknown": f"{measured['unknown_share']:.1%}"}

    def description(self, measured: dict[str, Any]) -> str:
        return (
            f"{measured['tokens']:,} test tokens ({measured['bytes_per_token']:.2f} bytes each, "
            f"{measured['unknown_share']:.1%} unknown)"
        )

    def warnings(self, metrics: dict[str, Any]) -> list[str]:
        found = []
        if metrics["after"]["unknown_share"] > 0:
            found.append(
                f"{metrics['after']['unknown_share']:.1%} of the test tokens are unknown to the tokeniser; bits per "
                "byte then compare only between runs with this tokeniser"
            )
        if LOSS.is_worse(metrics["after"], metrics["before"]):
            found.append("the adapted model predicts the test text worse than before; try a lower learning rate")
        return found


def mean_token_loss(outputs: Any, targets: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Cross entropy per predicted token; the labels are those of `TokenChunks`."""
    logits, targets = outputs.logits.float().flatten(0, 1), targets[:, 1:]
    if num_items_in_batch is None:
        return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED)
    total = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / num_items_in_batch
