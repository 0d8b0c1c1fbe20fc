"""AdaLoRA's update as a LoRA's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def adalora_factors(layer: Any, adapter_name: str) -> tuple[Tensor, Tensor]:
    """(A, B) of a layer, k x in and out x k, with B A its whole update P diag(E) Q (arXiv 2303.10512, eq. 3).

    Singular values and scale are folded into B, and the ranks whose singular value was set to zero are left out; one is
    kept at least.
    """
    singular = layer.lora_E[adapter_name][:, 0]
    kept = singular.nonzero()[:, 0]
    if not len(kept):
        kept = kept.new_zeros(1)
    scale = layer.scaling[adapter_name] / (layer.ranknum[adapter_name] + 1e-5)  # peft's, against a division by zero
    return layer.lora_A[adapter_name][kept], layer.lora_B[adapter_name][:, kept] * singular[kept] * scale
