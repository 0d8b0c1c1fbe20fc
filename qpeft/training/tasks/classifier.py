"""A model with a classification head, from the checkpoint of any model of that architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qpeft.errors import ConfigError
from qpeft.training.config import ModelOptions
from qpeft.training.models import load_causal, load_weights

POOLER = "pooler"  # encoders' layer between body and head, which checkpoints of language models lack too


@dataclass(frozen=True)
class Classifier:
    """A loaded model.

    Attributes:
        model: With frozen weights, on the first GPU if there is one.
        fresh: Modules that the checkpoint has no weights for: the head, and perhaps a pooler.
        copied_embedding: Whether the input embedding was taken from the causal language model, because the checkpoint
            holds it only as that model's tied head.
    """

    model: Any
    fresh: list[str]
    copied_embedding: bool


def load_classifier(options: ModelOptions, names: list[str] | None, pad_token_id: int) -> Classifier:
    """The model with a head for these classes, or for one real number.

    Raises:
        ConfigError: No such model, an architecture without a classification head, or a checkpoint that lacks more than
            the head.
    """
    from transformers import AutoModelForSequenceClassification

    kind: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
    if names is not None:
        ids = dict(enumerate(names))
        kind = {
            "num_labels": len(names), "problem_type": "single_label_classification", "id2label": ids,
            "label2id": {name: i for i, name in ids.items()},
        }  # fmt: skip
    model, info = load_weights(
        AutoModelForSequenceClassification, options, "a sequence classifier", ignore_mismatched_sizes=True, **kind
    )
    lacking = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    embedding = f"{_name_of(model, model.get_input_embeddings())}.weight"
    copied = embedding in lacking and bool(getattr(model.config, "tie_word_embeddings", False))
    if copied:
        lacking.remove(embedding)
    body = f"{model.base_model_prefix}."
    damaged = sorted(key for key in lacking if key.startswith(body) and f".{POOLER}." not in key)
    if damaged:
        raise ConfigError(
            f"the checkpoint {options.model} lacks weights of the model's body ({', '.join(damaged[:3])}, ...); it is "
            "another kind of model, or damaged"
        )
    if copied:
        model.set_input_embeddings(load_causal(options).get_input_embeddings())  # type: ignore[operator]
    fresh = sorted({key.rpartition(".")[0] for key in lacking})
    odd = [name for name in fresh if not isinstance(model.get_submodule(name), nn.Linear)]
    if odd:
        raise ConfigError(f"the checkpoint {options.model} lacks {odd[0]}, which is no Linear layer; it is damaged")
    model.config.pad_token_id = pad_token_id
    model.requires_grad_(False)
    return Classifier(model.to("cuda" if torch.cuda.is_available() else "cpu"), fresh, copied)


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(str(name) for name, module in model.named_modules() if module is wanted)
