"""QPA over prefix tuning: circuits and mapping networks generate the keys and values that stand before every layer's.

The prefix is the standard one (arXiv 2101.00190) and peft's own, so that its embeddings can be written as a plain
`PREFIX_TUNING` checkpoint. A key-value prefix cannot be the identity at the start: even a key of zeros takes
attention, exp(0) against the other keys' exp(q k / sqrt(d)).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from peft import PeftModel, PrefixTuningConfig
from torch import Tensor

from qpeft.adapters.bank import Piece, QPABank
from qpeft.adapters.config import GeneratedConfig
from qpeft.adapters.peft_internals.prefix import KEY, VALUE, GeneratedPrefixConfig, register_prefix
from qpeft.adapters.peft_internals.registration import QpeftType
from qpeft.adapters.peft_internals.strict import check_adapter
from qpeft.errors import ConfigError
from qpeft.options import check_whole


@dataclass
class QPAPrefixConfig(GeneratedConfig, GeneratedPrefixConfig):
    """Configuration of Quantum Parameter Adaptation of a key-value prefix (arXiv 2410.09846 over arXiv 2101.00190).

    For each layer the keys and then the values, both (num_virtual_tokens, kv_dim) and row-major, are cut from what is
    generated. With the start "identity" the prefix begins as frozen uniform numbers in [-1, 1), which the generator
    adds to and which are rebuilt from the seed; with "paper" it begins as what a generator with random weights gives.
    Without `chunk_size` or `budget` it trains at most half as many numbers as a prefix of one token.

    Raises:
        ConfigError: A value that is not allowed, or a setting of peft's that a generated prefix has no use for.

    Example:
        >>> QPAPrefixConfig(num_virtual_tokens=8, task_type="CAUSAL_LM").hidden
        [16]
    """

    file_type: ClassVar[QpeftType] = QpeftType.QPA_PREFIX
    exported: ClassVar[str] = "as a plain prefix of peft's, which needs neither qpeft nor a circuit"

    def __post_init__(self) -> None:
        for name in ("prefix_projection", "init_weights"):
            if getattr(self, name):
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} is not available for a generated prefix; leave it out: the "
                    "mapping network and `start` take its place"
                )
        check_whole("num_virtual_tokens", self.num_virtual_tokens)
        if self.task_type is None:
            raise ConfigError("prefix tuning needs a task_type: CAUSAL_LM, SEQ_CLS, TOKEN_CLS, ...")
        GeneratedPrefixConfig.__post_init__(self)
        self.check_generated()

    def usual_budget(self, pieces: Sequence[Piece]) -> int:
        """Half of what a prefix of one token trains."""
        numbers = sum(piece.size for piece in pieces)
        return numbers // (2 * int(self.num_virtual_tokens))

    def build_prefix_bank(self) -> QPABank:
        return self.build_bank(prefix_pieces(self))


def prefix_pieces(config: PrefixTuningConfig) -> list[Piece]:
    """For each layer the keys, then the values, both (num_virtual_tokens, kv_dim).

    Args:
        config: With the model's sizes, which peft fills in; its `token_dim` is that of the key-value heads together.
    """
    shape = (config.num_virtual_tokens, config.token_dim)
    # fan_in=1: frozen numbers in [-1, 1), about the size of peft's random start. From zeros, where tokens look alike
    # to the model, small runs ended with a slightly higher loss.
    return [Piece(f"layers.{i}", role, shape, fan_in=1) for i in range(config.num_layers) for role in (KEY, VALUE)]


@torch.no_grad()
def prefix_embeddings(model: PeftModel, adapter_name: str = "default") -> Tensor:
    """The embeddings of a prefix, generated or plain, as a plain checkpoint's `prompt_embeddings` holds them.

    Returns:
        (num_virtual_tokens, 2 * num_layers * kv_dim) on the CPU: a row holds, layer by layer, a key and a value.

    Raises:
        ConfigError: There is no such adapter, or it is no prefix.
    """
    check_adapter(model, adapter_name)
    config = model.peft_config[adapter_name]
    if not isinstance(config, PrefixTuningConfig):
        raise ConfigError(f"adapter {adapter_name!r} is no key-value prefix but {type(config).__name__}")
    embeddings: Tensor = model.get_prompt_embedding_to_save(adapter_name)
    return embeddings


def standard_config(config: PrefixTuningConfig) -> PrefixTuningConfig:
    """The plain peft config under which a prefix's embeddings load; everything in it that is generated is left out."""
    kept: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(PrefixTuningConfig)}
    return PrefixTuningConfig(**copy.deepcopy(kept))


register_prefix(QPAPrefixConfig)
