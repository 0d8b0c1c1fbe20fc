"""Classification of texts and pairs of texts, and regression where the labels are real numbers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qpeft.errors import ConfigError
from qpeft.training import embedded
from qpeft.training.models import load_tokenizer
from qpeft.training.tasks.base import Metric, Prepared, Task, check_vocabulary
from qpeft.training.tasks.classifier import load_classifier
from qpeft.training.tasks.examples import LabelledExamples, outputs_of
from qpeft.training.tasks.labelled import Labelled, load_labelled
from qpeft.training.tasks.scores import class_scores, real_scores

CLASS_METRICS = (
    Metric("accuracy", "accuracy", "accuracy", higher_is_better=True),
    Metric("f1", "F1", "F1", higher_is_better=True),
    Metric("matthews", "Matthews", "Matthews correlation", higher_is_better=True),
)
REAL_METRICS = (
    Metric("pearson", "Pearson", "Pearson correlation", higher_is_better=True),
    Metric("spearman", "Spearman", "Spearman correlation", higher_is_better=True),
)
CROSS_ENTROPY = Metric("nats_per_example", "loss", "cross entropy (nats per example)", 4)
SQUARED_ERROR = Metric("mean_squared_error", "loss", "mean squared error", 4)
MAJORITY = "majority_accuracy"


class Classification(Task):
    """A model with a classification head and labelled texts."""

    peft_task = "SEQ_CLS"
    learning_rate_scale = 1 / 3  # as short searches on SST-2 with inner layers suggest

    def prepare(self) -> Prepared:
        options = self.config.data
        if self.config.run.paper_metric:
            raise ConfigError("--paper-metric is of the task language-modelling. Leave it out")
        data = load_labelled(options)
        primary = self._primary(CLASS_METRICS if data.names is not None else REAL_METRICS)
        tokenizer = load_tokenizer(self.config.model.model)
        if tokenizer.pad_token_id is None:
            if tokenizer.eos_token is None:
                raise ConfigError("the tokeniser has neither a padding token nor an end-of-text token to pad with")
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        train, test = (LabelledExamples(rows, tokenizer, options.context) for rows in (data.train, data.test))
        loaded = load_classifier(self.config.model, data.names, tokenizer.pad_token_id)
        self.check_context(loaded.model)
        check_vocabulary(max(train.largest_token, test.largest_token), loaded.model)
        resolved = {
            "text_columns": list(data.text_columns), "label_column": data.label_column,
            "labels": data.names or "real numbers", "training_examples": len(train), "test_examples": len(test),
            "truncated_examples": train.truncated + test.truncated, "pad_token_id": tokenizer.pad_token_id,
            "fresh": loaded.fresh, "copied_embedding": loaded.copied_embedding,
        }  # fmt: skip
        from transformers import DataCollatorWithPadding

        return Prepared(
            loaded.model, tokenizer, train, test, primary, DataCollatorWithPadding(tokenizer), loaded.fresh, resolved,
            _notes(data, resolved),
        )  # fmt: skip

    def _primary(self, known: tuple[Metric, ...]) -> str:
        keys = [metric.key for metric in known]
        asked = self.config.data.metric
        if asked is not None and asked not in keys:
            raise ConfigError(f"metric {asked!r} does not go with these labels; choose {' or '.join(keys)}")
        return asked or keys[0]

    def training_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        total = total_loss(outputs.logits, labels)
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def measure(self, model: nn.Module, prepared: Prepared) -> dict[str, Any]:
        assert prepared.collate is not None
        outputs = outputs_of(model, prepared.test, prepared.collate, self.config.run.test_batch_size)
        labels = prepared.test.labels
        loss = float(total_loss(outputs, labels)) / len(labels)
        measured: dict[str, float] = {"examples": len(labels)}
        if labels.is_floating_point():
            return {**measured, SQUARED_ERROR.key: loss, **real_scores(outputs[:, 0].numpy(), labels.numpy())}
        majority = int(torch.mode(prepared.train.labels).values)
        found = class_scores(outputs.argmax(1).numpy(), labels.numpy(), outputs.shape[1])
        measured[MAJORITY] = float((labels == majority).double().mean())
        return {**measured, CROSS_ENTROPY.key: loss, **found}

    def metrics(self, measured: dict[str, Any]) -> list[Metric]:
        known = [metric for metric in (*CLASS_METRICS, *REAL_METRICS) if metric.key in measured]
        primary = self.config.data.metric or (known or CLASS_METRICS)[0].key
        if not measured:
            return [metric for metric in (*CLASS_METRICS, *REAL_METRICS) if metric.key == primary]
        return sorted(known, key=lambda metric: metric.key != primary)

    def loss(self, measured: dict[str, Any]) -> Metric:
        return SQUARED_ERROR if SQUARED_ERROR.key in measured else CROSS_ENTROPY

    def facts(self, measured: dict[str, Any]) -> dict[str, str]:
        return {"majority": f"{measured[MAJORITY]:.3f}"} if MAJORITY in measured else {}

    def description(self, measured: dict[str, Any]) -> str:
        majority = f" (accuracy of the majority class: {measured[MAJORITY]:.3f})" if MAJORITY in measured else ""
        return f"{measured['examples']:,} test examples{majority}"

    def warnings(self, metrics: dict[str, Any]) -> list[str]:
        after, found = metrics["after"], []
        if MAJORITY in after and after["accuracy"] <= after[MAJORITY]:
            found.append(
                f"always answering the most frequent class would reach the accuracy {after[MAJORITY]:.3f}; this "
                f"model reaches {after['accuracy']:.3f}"
            )
        if metrics["resolved"]["fresh"]:
            found.append(
                f"the checkpoint has no weights for {', '.join(metrics['resolved']['fresh'])}: they were drawn from "
                "the seed, so that the metrics before training are chance, and trained in full"
            )
        return found

    def loading(self, resolved: dict[str, Any]) -> list[str]:
        labels, given = resolved["labels"], self.config.model.model
        model = "MODEL_FOLDER" if given == embedded.NAME else repr(given)
        count = len(labels) if isinstance(labels, list) else 1
        names = f", id2label={dict(enumerate(labels))}" if isinstance(labels, list) else ""
        needed = ("AutoModelForCausalLM", "AutoModelForSequenceClassification")
        lines = [
            f"from transformers import {', '.join(needed[0 if resolved['copied_embedding'] else 1 :])}",
            *(["", "from qpeft.training.embedded import MODEL_FOLDER"] if given == embedded.NAME else []),
            "",
            "base_model = AutoModelForSequenceClassification.from_pretrained(",
            f"    {model}, num_labels={count}, pad_token_id={resolved['pad_token_id']}{names}",
            ")",
        ]
        if resolved["copied_embedding"]:
            lines += [
                "# This checkpoint holds the embedding only as the language model's head:",
                f"language_model = AutoModelForCausalLM.from_pretrained({model})",
                "base_model.set_input_embeddings(language_model.get_input_embeddings())",
            ]
        return lines


def total_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Sum over examples of the cross entropy, or of the squared error for real labels.

    Args:
        outputs: (n, classes), or (n, 1) for real labels.
        labels: (n,) integers, or real numbers.
    """
    outputs = outputs.float()
    if labels.is_floating_point():
        return F.mse_loss(outputs[:, 0], labels, reduction="sum")
    return F.cross_entropy(outputs, labels, reduction="sum")


def _notes(data: Labelled, resolved: dict[str, Any]) -> list[str]:
    labels = "real numbers" if data.names is None else ", ".join(data.names)
    notes = [
        f"Texts: {' and '.join(data.text_columns)}; labels: {data.label_column} ({labels}); "
        f"{resolved['training_examples']:,} training and {resolved['test_examples']:,} test examples, "
        f"{resolved['truncated_examples']:,} of them cut at the context."
    ]
    if resolved["fresh"]:
        notes.append(
            f"The checkpoint has no weights for {', '.join(resolved['fresh'])}: drawn from the seed and trained in "
            "full. The metrics before training are chance."
        )
    return notes
