"""peft keeps its methods in three dicts keyed by a string enum; a method is registered from outside by writing
into them.
"""

from __future__ import annotations

from enum import Enum

import peft.mapping
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner


class QpeftType(str, Enum):  # noqa: UP042  (peft compares by string value, as its own `class PeftType(str, Enum)` does)
    """Our method names, as peft's config files spell them."""

    QPA = "QPA"
    QPA_PREFIX = "QPA_PREFIX"
    QPA_FEED_FORWARD = "QPA_FEED_FORWARD"
    QPA_ADDITIVE_PREFIX = "QPA_ADDITIVE_PREFIX"
    FEED_FORWARD = "FEED_FORWARD"
    ADDITIVE_PREFIX = "ADDITIVE_PREFIX"
    SORA = "SORA"
    QUANTUM_PEFT = "QUANTUM_PEFT"


def register(peft_type: QpeftType, config: type[PeftConfig], model: type[BaseTuner]) -> None:
    """Makes peft know a method: `get_peft_model`, `PeftModel.from_pretrained` and `save_pretrained` then work."""
    peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft_type] = config
    peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[peft_type] = model
    peft.mapping.PEFT_TYPE_TO_PREFIX_MAPPING[peft_type] = model.prefix
