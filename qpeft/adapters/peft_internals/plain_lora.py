"""What tells a plain LoRA or DoRA, which a file of peft's can hold, from other adapters of the LoRA kind."""

from __future__ import annotations

from peft import AdaLoraModel, PeftModel
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn

from qpeft.adapters.peft_internals.lora import lora_layers

KEEPS_BASE = (True, False, "gaussian", "orthogonal", "eva")  # starts of a LoRA that leave the base weights alone


def more_than_lora(model: PeftModel, adapter_name: str) -> list[str]:
    """What keeps an adapter of the LoRA kind from being a plain LoRA or DoRA."""
    config = model.peft_config[adapter_name]
    found = [name for name in ("bias", "trainable_token_indices") if getattr(config, name) not in ("none", None, {})]
    if config.init_lora_weights not in KEEPS_BASE:
        found.append(f"init_lora_weights={config.init_lora_weights!r}, which changed the base weights")
    layers = lora_layers(model.base_model.model, adapter_name).values()
    variants = {type(layer.lora_variant[adapter_name]) for layer in layers if adapter_name in layer.lora_variant}
    if any(variant is not DoraLinearVariant for variant in variants):
        found.append("a variant of LoRA that plain peft has not, or not for these layers")
    if any(layer.lora_bias.get(adapter_name) for layer in layers):
        found.append("lora_bias")
    if any(adapter_name in getattr(module, "lora_embedding_A", ()) for module in model.modules()):
        found.append("an adapted Embedding")
    if isinstance(model.base_model, AdaLoraModel) and any(isinstance(x.get_base_layer(), nn.Conv2d) for x in layers):
        found.append("AdaLoRA of a convolution")
    return found


def dora_magnitudes(model: PeftModel, adapter_name: str) -> dict[str, Tensor]:
    """DoRA's magnitudes of each layer, one for each output; none for a LoRA.

    The norms they are compared with are those of W0 + s B A, so that the scale s may be folded into B.
    """
    layers = lora_layers(model.base_model.model, adapter_name)
    return {
        name: layer.lora_magnitude_vector[adapter_name].weight
        for name, layer in layers.items()
        if adapter_name in layer.lora_magnitude_vector
    }
