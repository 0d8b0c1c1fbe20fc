"""Rounds the weights of a base model to few bits, as the vision transformer of arXiv 2503.05431 was before adapting."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qpeft.errors import ConfigError
from qpeft.generators.quantization import QuantizationAware, check_group_fits


@torch.no_grad()
def round_weights_(model: nn.Module, bits: int, group: int = 128) -> list[str]:
    """Rounds each Linear and Conv1D weight to its `bits`-bit values, in place; the dtype stays.

    The paper's vision transformer has 3 bits in groups of 128 (section 5.4). Biases, norms and embeddings stay, save
    an embedding that is the very tensor of a tied head. Round before adapters are attached: what they add is not
    base weight.

    Args:
        model: Any model without adapters.
        bits: 1 to 8.
        group: Numbers of a group; a weight is read in its own order.

    Returns:
        The names of the rounded modules; a weight that several share is rounded once.

    Raises:
        ConfigError: Nothing is rounded if bits or group are not allowed, the model has adapters or no such module, or
            a weight is smaller than a group, already quantised or not finite.
    """
    from transformers.pytorch_utils import Conv1D

    rounding = QuantizationAware(bits, group)
    if hasattr(model, "peft_config"):
        raise ConfigError("the model has adapters, whose matrices would be rounded too: round the base model first")
    found: dict[int, tuple[str, Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            found.setdefault(id(module.weight), (name, module.weight))
    if not found:
        raise ConfigError(f"{type(model).__name__} has no Linear or Conv1D module whose weight could be rounded")
    for name, weight in found.values():
        if not weight.is_floating_point():
            raise ConfigError(
                f"{name}.weight is {weight.dtype}, already quantised; load the model without quantisation"
            )
        check_group_fits(group, weight, f"{name}.weight")
        if not weight.isfinite().all() or weight.abs().max() > torch.finfo(torch.float16).max / 2:
            raise ConfigError(f"{name}.weight has numbers that are not finite or that FP16 scales cannot span")
    for _, weight in found.values():
        weight.copy_(rounding(weight))
    return [name for name, _ in found.values()]
