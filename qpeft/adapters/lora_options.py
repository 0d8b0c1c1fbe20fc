"""Options of peft's LoRA that our variants of it do not cover, refused by name."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import fields
from typing import Any

from peft import LoraConfig

from qpeft.errors import ConfigError
from qpeft.options import check_whole

_ONLY: dict[str, Any] = {  # the only value allowed
    "init_lora_weights": True, "lora_bias": False, "bias": "none", "layer_replication": None,
    "target_parameters": None, "ensure_weight_tying": False, "trainable_token_indices": {},
    "alora_invocation_tokens": None, "use_qalora": False, "megatron_config": None, "rank_pattern": {},
    "alpha_pattern": {},
    **{variant.name: False for variant in fields(LoraConfig) if variant.metadata.get("is_lora_variant")},
}  # fmt: skip


def check_lora_options(config: LoraConfig, method: str, *, covers: Container[str]) -> None:
    """Refuses what a variant of LoRA does not cover; called before `LoraConfig.__post_init__`.

    Args:
        config: The config.
        method: What it is a config of, for the message.
        covers: Options of `_ONLY` that this variant covers after all.

    Raises:
        ConfigError: An option that is not covered, or a rank or scale that cannot be.
    """
    for name, allowed in _ONLY.items():
        given = getattr(config, name)
        if name not in covers and given != allowed and (given or allowed is True):
            raise ConfigError(
                f"{name}={given!r} is not available for {method}, which has only {name}={allowed!r}; leave it out"
            )
    # Whatever was given instead of it: with None peft saves the whole embedding matrix beside an adapter of `lm_head`.
    config.trainable_token_indices = {}
    check_whole("rank r", config.r)
    alpha = config.lora_alpha
    if type(alpha) not in (int, float) or not math.isfinite(alpha) or alpha == 0:
        raise ConfigError(f"lora_alpha is {alpha!r}; it must be a finite number other than 0, at which nothing trains")
