"""The forms of an export, and which of them an adapter has."""

from __future__ import annotations

from peft import AdaLoraModel, LoraModel, PeftModel, PrefixTuningConfig
from peft.tuners.lora.variants import DoraLinearVariant
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from qpeft.adapters.peft_internals import lora_layers
from qpeft.adapters.peft_internals.layer_tuner import LayerTuner
from qpeft.errors import ConfigError

FORMS = {
    "lora": "a plain PEFT LoRA (or DoRA), which peft and transformers load",
    "merged": "the whole model with the update in its weights, which transformers loads",
    "prefix": "a plain PEFT prefix, which peft loads",
    "stored": "the same adapter with its weights stored, which this package loads without running a circuit",
}
KEEPS_BASE = (True, False, "gaussian", "orthogonal", "eva")  # starts of a LoRA that leave the base weights alone


def check_model(model: PeftModel, adapter_name: str) -> None:
    """Raises `ConfigError` for what is no PEFT model, has no such adapter, or has one merged."""
    if not isinstance(model, PeftModel):
        raise ConfigError(f"an export takes the PeftModel that holds the adapter; given a {type(model).__name__}")
    if adapter_name not in model.peft_config:
        raise ConfigError(f"there is no adapter {adapter_name!r}; the model has {', '.join(model.peft_config)}")
    if any(isinstance(module, BaseTunerLayer) and module.merged for module in model.modules()):
        raise ConfigError("an adapter is merged into the base weights; call model.unmerge_adapter() first")


def forms(model: PeftModel, adapter_name: str = "default") -> tuple[str, ...]:
    """The forms that an adapter can be exported in, its usual one first; see `FORMS`."""
    config = model.peft_config[adapter_name]
    if isinstance(config, PrefixTuningConfig):
        return ("prefix",)
    if config.is_prompt_learning or not isinstance(model.base_model, BaseTuner):
        return ()
    if isinstance(model.base_model, LayerTuner):
        return ("stored",)
    if isinstance(model.base_model, LoraModel) and not more_than_lora(model, adapter_name):
        return ("lora", "merged")
    return ("merged",)


def check_form(model: PeftModel, adapter_name: str, form: str) -> None:
    """Raises `ConfigError` if an adapter cannot be exported in a form, saying which it has."""
    available = forms(model, adapter_name)
    if form in available:
        return
    kind = model.peft_config[adapter_name].peft_type
    message = f"adapter {adapter_name!r} of type {getattr(kind, 'value', kind)} cannot be exported as {FORMS[form]}"
    if form == "lora" and isinstance(model.base_model, LoraModel):
        message += f": it is more than a plain LoRA, it uses {', '.join(more_than_lora(model, adapter_name))}"
    others = " or ".join(f'export_{other} (form "{other}")' for other in available) or "save_pretrained"
    raise ConfigError(f"{message}; use {others}")


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
