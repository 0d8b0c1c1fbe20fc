"""Modules that a checkpoint has no weights for, such as a classification head: drawn from the seed, trained in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftConfig
from torch import nn

from qpeft.errors import ConfigError

PEFT_HEADS = ("classifier", "score")  # peft trains modules whose names end so by itself


@torch.no_grad()
def draw_fresh(model: Any, names: Sequence[str]) -> None:
    """New weights for Linear layers, as transformers initialises them: normal with the config's deviation, biases 0.

    They replace the parameters, which other copies of the model may share.
    """
    for name in names:
        layer = model.get_submodule(name)
        weight = torch.empty_like(layer.weight).normal_(std=getattr(model.config, "initializer_range", 0.02))
        layer.weight = nn.Parameter(weight, requires_grad=False)
        if layer.bias is not None:
            layer.bias = nn.Parameter(torch.zeros_like(layer.bias), requires_grad=False)


def train_whole(adapter: PeftConfig, names: Sequence[str]) -> None:
    """Has peft train and save these modules, beyond the heads that it knows by name.

    Without it they would stay random and be in no file.

    Raises:
        ConfigError: The method saves no whole modules.
    """
    others = [name for name in names if not any(part.endswith(PEFT_HEADS) for part in name.split("."))]
    if not others:
        return
    if not hasattr(adapter, "modules_to_save"):
        raise ConfigError(
            f"the checkpoint has no weights for {others[0]}, and this method can train no whole layers; give a "
            "checkpoint with a trained head, or another method"
        )
    adapter.modules_to_save = sorted({*(adapter.modules_to_save or ()), *others})
