"""Prefix tuning whose keys and values a bank generates.

peft asks in many places whether a config's type is `PREFIX_TUNING`, so a generated prefix is of that type in memory. It
differs in two places: the encoder that peft builds, which is looked up in a dict by the type, and what is saved, which
is the bank under a type of our own. Plain prefix tuning passes through unchanged, and may be an adapter beside ours.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import peft.mapping
import torch
import torch.nn.functional as F
from peft import PeftConfig, PeftType, PrefixEncoder, PrefixTuningConfig
from torch import Tensor, nn

from qpeft.adapters.generated import Bank, Weights, WeightSource
from qpeft.adapters.peft_internals.registration import QpeftType
from qpeft.errors import ConfigError

KEY, VALUE = "key", "value"  # roles of a bank's tensors
BANK_KEY = "prompt_encoder.bank."  # head of a bank's names in a file


@dataclass
class GeneratedPrefixConfig(PrefixTuningConfig):  # type: ignore[misc]  # peft is untyped
    """A prefix tuning config whose keys and values are generated; `file_type` is its type in files."""

    file_type: ClassVar[QpeftType]

    @abstractmethod
    def build_prefix_bank(self) -> Bank:
        """The bank of one adapter, after peft has filled in the model's sizes.

        Its `forward()` maps each layer, in the model's order, to `KEY` and `VALUE`, both (num_virtual_tokens,
        token_dim), where token_dim is the number of key-value heads times the size of a head.
        """

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as it is saved."""
        return {**super().to_dict(), "peft_type": self.file_type.value}


class PromptSource(WeightSource):
    """Generates once for a pair of reads: peft asks for the device of `embedding.weight`, then calls the embedding."""

    def read(self) -> list[Weights]:
        """The tensors of every layer, generated anew if a gradient may be asked for."""
        self.begin_forward()
        return self._layers()

    def take(self) -> list[Weights]:
        """The same; if they were read before this and nothing has changed since, those that were read."""
        kept = self._with_graph if self._wants_graph() else self._without_graph
        if kept is None or self._pass is not kept.weights or not self._is_current(kept, self._draws()):
            self.begin_forward()
        layers = self._layers()
        self.end_forward()
        return layers

    def _layers(self) -> list[Weights]:
        assert self._pass is not None
        return list(self._pass.values())

    def __deepcopy__(self, memo: dict[int, Any]) -> PromptSource:
        return PromptSource(copy.deepcopy(self.bank, memo))

    def __reduce__(self) -> tuple[type[PromptSource], tuple[Bank]]:
        return PromptSource, (self.bank,)


class GeneratedEmbedding(nn.Module):
    """Stands where peft keeps the `nn.Embedding` of a prefix, and owns no parameter.

    Its weight is (num_virtual_tokens, 2 * num_layers * token_dim): a row holds, layer by layer, a key and a value.
    """

    def __init__(self, bank: Bank) -> None:
        super().__init__()
        self.source = PromptSource(bank)  # no module: the bank belongs to the encoder

    @property
    def weight(self) -> Tensor:
        return _rows(self.source.read())

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) token numbers -> (..., 2 * num_layers * token_dim)."""
        return F.embedding(tokens, _rows(self.source.take()))


def _rows(layers: list[Weights]) -> Tensor:
    # peft views a row as (2 * num_layers, heads, head size) and takes each two of the first axis as a key and a value.
    return torch.cat([layer[role] for layer in layers for role in (KEY, VALUE)], dim=1)


class BankPrefixEncoder(PrefixEncoder):  # type: ignore[misc]  # peft is untyped
    """What peft builds for its type `PREFIX_TUNING`: its own encoder, unless the config's embeddings are generated."""

    def __init__(self, config: PrefixTuningConfig) -> None:
        super().__init__(config)
        self.bank: Bank | None = None
        if isinstance(config, GeneratedPrefixConfig):
            self.bank = config.build_prefix_bank().requires_grad_(not config.inference_mode)
            self.embedding = GeneratedEmbedding(self.bank)

    def load_prompt_embeddings(self, prompt_embeddings: Tensor) -> None:
        """Sets plain embeddings; there is no general way to find the bank that generates given ones."""
        if self.bank is not None:
            raise ConfigError("a generated prefix cannot be set to given embeddings; use peft's PrefixTuningConfig")
        super().load_prompt_embeddings(prompt_embeddings)

    @classmethod
    def _get_adapter_state_dict(
        cls, model: Any, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor], **others: Any
    ) -> dict[str, Tensor]:
        if not isinstance(config, GeneratedPrefixConfig):
            plain: dict[str, Tensor] = super()._get_adapter_state_dict(
                model=model, config=config, adapter_name=adapter_name, state_dict=state_dict, **others
            )
            return plain
        head = f"prompt_encoder.{adapter_name}.bank."
        return {BANK_KEY + key.removeprefix(head): t for key, t in state_dict.items() if key.startswith(head)}

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # A bank's names hold no adapter name, but an adapter may be called as a part of them is.
        if key.startswith(BANK_KEY):
            return key
        name: str = super()._remove_adapter_name_from_key(key, adapter_name)
        return name

    def _load_adapter_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        if self.bank is None:
            super()._load_adapter_state_dict(state_dict)
            return
        given = {key.removeprefix(BANK_KEY): t for key, t in state_dict.items() if key.startswith(BANK_KEY)}
        wanted = {key: tensor.shape for key, tensor in self.bank.state_dict().items()}
        if {key: tensor.shape for key, tensor in given.items()} != wanted:
            raise ConfigError(
                f"the file's weights do not fit the generator of its config: it holds {_described(given) or 'none'}; "
                f"{', '.join(f'{key} {tuple(shape)}' for key, shape in wanted.items())} are needed"
            )
        self.bank.load_state_dict(given)


def _described(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in tensors.items())


def register_prefix(config: type[GeneratedPrefixConfig]) -> None:
    """Makes peft know a generated prefix: `get_peft_model`, saving and loading then work."""
    peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[config.file_type] = config
    peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[PeftType.PREFIX_TUNING] = BankPrefixEncoder
