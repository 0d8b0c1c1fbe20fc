"""The weight that merging an adapter into a layer is to give, in single precision."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.fourierft import FourierFTLayer
from peft.tuners.lora import LoraLayer
from peft.tuners.lycoris_utils import LycorisLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.tuners.vera import VeraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

# Whose update is added to the weight. That of OFT, BOFT and IA3 multiplies it.
_ADDITIVE = (LoraLayer, LycorisLayer, VeraLayer, FourierFTLayer)
_ONE_WEIGHT = (nn.Linear, Conv1D, nn.Embedding, nn.modules.conv._ConvNd)


def merged_weight(layer: BaseTunerLayer, adapter_name: str) -> tuple[Tensor, Tensor] | None:
    """W0 + dW of a layer, with DoRA its rows (or columns) scaled to the magnitudes; and how large its terms are.

    Args:
        layer: A layer that peft has wrapped, unmerged and in a precision that is not quantised.
        adapter_name: An adapter; the layer need not hold it.

    Returns:
        The weight and the sizes of the terms it is summed from, both float32 in the shape of the layer's weight.
        None for an update that is not added, or a DoRA of anything but a Linear or Conv1D.
    """
    base: Any = layer.get_base_layer()
    if not isinstance(layer, _ADDITIVE) or not isinstance(base, _ONE_WEIGHT) or not _holds(layer, adapter_name):
        return None
    weight = base.weight.detach().float()
    delta = layer.get_delta_weight(adapter_name).detach().float()
    if isinstance(layer, FourierFTLayer) and layer.fan_in_fan_out:  # the others' is stored as the weight is
        delta = delta.T
    total, size = weight + delta, weight.abs() + delta.abs()
    magnitude = _magnitude(layer, adapter_name)
    if magnitude is None:
        return total, size
    if not isinstance(base, nn.Linear | Conv1D):
        return None
    axis = getattr(magnitude, "axis", 1)  # 1: of each output, in a weight (out, in)
    norm = torch.linalg.norm(total, dim=1 - axis if layer.fan_in_fan_out else axis, keepdim=True)
    factor = magnitude.weight.detach().float().view_as(norm) / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    return factor * total, (1 + factor.abs()) * size


def _holds(layer: Any, adapter_name: str) -> bool:
    return any(adapter_name in getattr(layer, name, ()) for name in layer.adapter_layer_names)


def _magnitude(layer: Any, adapter_name: str) -> Any:
    """What holds DoRA's magnitudes; None for other adapters."""
    if adapter_name not in getattr(layer, "lora_magnitude_vector", ()):
        return None
    return layer.lora_magnitude_vector[adapter_name]
