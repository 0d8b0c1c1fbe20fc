"""QPA over feed-forward adapters and over the additive prefix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qpeft.adapters.additive_prefix import AdditivePrefixConfig, AdditivePrefixModel
from qpeft.adapters.bank import Piece, QPABank
from qpeft.adapters.config import GeneratedConfig
from qpeft.adapters.feedforward import FeedForwardConfig, FeedForwardModel
from qpeft.adapters.generated import GeneratedTensor
from qpeft.adapters.peft_internals import GeneratedTuner, QpeftType, Shape, register
from qpeft.errors import ConfigError


@dataclass
class QPAFeedForwardConfig(GeneratedConfig, FeedForwardConfig):
    """Configuration of Quantum Parameter Adaptation of feed-forward adapters (arXiv 2410.09846).

    W_up and W_down of every target are generated, without biases. Under the identity start W_up begins at zero, and
    W_down as a frozen random matrix, U(-1/sqrt(H), 1/sqrt(H)), to which the generated one is added.

    Example:
        >>> QPAFeedForwardConfig(target_modules=["lm_head"], chunk_size=64).width(768)
        192
    """

    def __post_init__(self) -> None:
        FeedForwardConfig.__post_init__(self)
        self.peft_type = QpeftType.QPA_FEED_FORWARD
        if self.use_bias:
            raise ConfigError("use_bias=True is not available for generated weights; leave it out")
        self.check_generated()


class QPAFeedForwardModel(GeneratedTuner, FeedForwardModel):
    """The tuner behind `QPAFeedForwardConfig`."""

    roles = ("ffa_down", "ffa_up")

    def build_bank(self, config: Any, targets: dict[str, Shape]) -> QPABank:
        pieces = []
        for name, (fan_out, fan_in) in targets.items():
            features = fan_in if config.placement == "before" else fan_out
            width = config.width(features)
            pieces.append(Piece(name, "ffa_up", (features, width)))
            pieces.append(Piece(name, "ffa_down", (width, features), fan_in=features))
        bank: QPABank = config.build_bank(pieces)
        return bank


@dataclass
class QPAAdditivePrefixConfig(GeneratedConfig, AdditivePrefixConfig):
    """Configuration of Quantum Parameter Adaptation of the additive prefix (arXiv 2410.09846, "PT").

    Example:
        >>> QPAAdditivePrefixConfig(length=512, preset="paper", chunk_size=1024).start
        'paper'
    """

    def __post_init__(self) -> None:
        AdditivePrefixConfig.__post_init__(self)
        self.peft_type = QpeftType.QPA_ADDITIVE_PREFIX
        self.check_generated()


class QPAAdditivePrefixModel(GeneratedTuner, AdditivePrefixModel):
    """The tuner behind `QPAAdditivePrefixConfig`."""

    roles = ("additive_prefix",)
    stand_in = GeneratedTensor

    def build_bank(self, config: Any, targets: dict[str, Shape]) -> QPABank:
        bank: QPABank = config.build_bank(
            [Piece(name, "additive_prefix", (config.length, fan_in)) for name, (_, fan_in) in targets.items()]
        )
        return bank


register(QpeftType.QPA_FEED_FORWARD, QPAFeedForwardConfig, QPAFeedForwardModel)
register(QpeftType.QPA_ADDITIVE_PREFIX, QPAAdditivePrefixConfig, QPAAdditivePrefixModel)
