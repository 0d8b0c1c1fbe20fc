"""Export: a trained adapter as a standard PEFT LoRA that needs none of this package."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, LoraModel, PeftModel
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from qpeft.adapters.peft_internals import fully_trained, lora_layers
from qpeft.adapters.regenerate import (
    EXACT,
    LAST_SAMPLE,
    circuit_generators,
    deviation,
    share_weights,
    with_exact_weights,
)
from qpeft.errors import ConfigError
from qpeft.files import staged_folder, write_json

WEIGHTS_FILE = "adapter_model.safetensors"
STATEMENT_FILE = "qpeft_export.json"  # a name that peft does not look for


@dataclass(frozen=True)
class Exported:
    """What `export_lora` wrote and how well the re-loaded copy agreed.

    Attributes:
        folder: Where the files are.
        num_parameters: Numbers in the LoRA file.
        max_difference: Largest difference of any output on a few tokens (of any update matrix, for a model that takes
            no tokens).
        weights: "exact", or "last_sample" of an engine that samples or has noise; `qpeft_export.json` says the same.
    """

    folder: Path
    num_parameters: int
    max_difference: float
    weights: str


def export_lora(
    model: PeftModel, folder: str | Path, adapter_name: str = "default", tolerance: float = 1e-4,
    weights: str | None = None,
) -> Exported:  # fmt: skip
    """Writes an adapter as `adapter_config.json` and `adapter_model.safetensors` of a plain PEFT LoRA.

    A third file, `qpeft_export.json`, states which weights they hold; peft ignores it. The scale is folded into B
    (`lora_alpha == r`), in float32. The files are re-loaded with plain peft on the same base weights and compared
    before they reach `folder`.

    Args:
        model: A PEFT model with a LoRA-shaped adapter, ours or plain.
        folder: Where to write; files of the same names are replaced.
        adapter_name: Which adapter.
        tolerance: Largest difference allowed, relative to the largest value compared; a model in half precision is
            allowed its rounding.
        weights: "last_sample" for the weights the model computes with now, "exact" for those that exact simulation of
            the circuit gives at the same angles. They differ only if the engine samples or has noise; if it does not,
            either is called "exact". None for what the model computes with.

    Raises:
        ConfigError: No such adapter, it is merged, it is more than a plain LoRA, or other `weights`.
        RuntimeError: The re-loaded adapter differs; nothing is written.
    """
    if not isinstance(model, PeftModel):
        raise ConfigError(f"export_lora takes the PeftModel that holds the adapter; given a {type(model).__name__}")
    if adapter_name not in model.peft_config:
        raise ConfigError(f"there is no adapter {adapter_name!r}; the model has {', '.join(model.peft_config)}")
    if weights not in (None, EXACT, LAST_SAMPLE):
        raise ConfigError(f"weights {weights!r} is not one of {LAST_SAMPLE!r}, {EXACT!r} or None (what the model uses)")
    _plain_layers(model, adapter_name)
    differs = deviation(model, adapter_name)
    stated = EXACT if weights == EXACT or differs is None else differs.weights
    if weights == EXACT and differs is not None:
        model = with_exact_weights(model, adapter_name)
    config = model.peft_config[adapter_name]
    layers = _plain_layers(model, adapter_name)
    tensors: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, layer in layers.items():
            A, B = layer.lora_A[adapter_name].weight.float(), layer.lora_B[adapter_name].weight.float()
            tensors[f"base_model.model.{name}.lora_A.weight"] = A.cpu().contiguous()
            tensors[f"base_model.model.{name}.lora_B.weight"] = (B * layer.scaling[adapter_name]).cpu().contiguous()
    tensors |= fully_trained(model, adapter_name)
    ranks = {name: layer.r[adapter_name] for name, layer in layers.items()}
    other_ranks = {name: rank for name, rank in ranks.items() if rank != config.r}
    plain = LoraConfig(
        r=config.r, lora_alpha=config.r, rank_pattern=other_ranks, alpha_pattern=dict(other_ranks),
        target_modules=sorted(layers), modules_to_save=config.modules_to_save, task_type=config.task_type, bias="none",
        inference_mode=True, base_model_name_or_path=config.base_model_name_or_path,
        fan_in_fan_out=all(layer.fan_in_fan_out for layer in layers.values()),
    )  # fmt: skip
    folder = Path(folder)
    trained = {p: p.requires_grad for p in model.parameters()}
    try:
        with staged_folder(folder) as staging:
            save_file(tensors, staging / WEIGHTS_FILE, metadata={"format": "pt"})
            plain.save_pretrained(staging)
            write_json(staging / STATEMENT_FILE, _statement(model, adapter_name, stated))
            difference = _compare(model, adapter_name, staging, tolerance)
    finally:
        for parameter, requires_grad in trained.items():  # the comparison shares them and freezes some
            parameter.requires_grad_(requires_grad)
    return Exported(folder, sum(t.numel() for t in tensors.values()), difference, stated)


def _statement(model: PeftModel, adapter_name: str, weights: str) -> dict[str, Any]:
    """Which weights were written, and by which engine they were generated (None if by no circuit)."""
    circuits = circuit_generators(model, adapter_name)
    return {"weights": weights, "engine": circuits[0][1].engine.describe() if circuits else None}


def _plain_layers(model: PeftModel, adapter_name: str) -> dict[str, LoraLinear]:
    """The adapted layers; raises `ConfigError` for what a plain LoRA file cannot hold."""
    if not isinstance(model.base_model, LoraModel):
        kind = getattr(model.peft_config[adapter_name].peft_type, "value", "unknown")
        raise ConfigError(f"only LoRA-shaped adapters can be exported; {adapter_name!r} is of type {kind}")
    config = model.peft_config[adapter_name]
    layers = lora_layers(model.base_model.model, adapter_name)
    if any(layer.merged for layer in layers.values()):
        raise ConfigError("the adapter is merged into the base weights; call model.unmerge_adapter() first")
    extras = [name for name in ("bias", "trainable_token_indices") if getattr(config, name) not in ("none", None, {})]
    if any(adapter_name in layer.lora_variant or layer.lora_bias[adapter_name] for layer in layers.values()):
        extras.append("a variant such as DoRA, or lora_bias")
    if any(adapter_name in getattr(module, "lora_embedding_A", ()) for module in model.modules()):
        extras.append("an adapted Embedding")
    if extras:
        raise ConfigError(f"adapter {adapter_name!r} is more than a plain LoRA: it uses {', '.join(extras)}")
    return layers


@torch.no_grad()
def _compare(model: PeftModel, adapter_name: str, folder: Path, tolerance: float) -> float:
    """Largest difference between the adapter and the files on plain peft; raises `RuntimeError` if it is too large."""
    twin = share_weights(model)
    twin.set_adapter(adapter_name)
    twin.eval()
    inputs = _token_inputs(model)
    layers = lora_layers(twin.base_model.model, adapter_name)
    updates = [layer.get_delta_weight(adapter_name) for layer in layers.values()]
    outputs = [] if inputs is None else [twin(**inputs)[0]]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # nothing is merged here
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # peft corrects it layer by layer
        loaded = PeftModel.from_pretrained(twin.unload(), folder).eval()
    again = lora_layers(loaded.base_model.model, "default")
    difference = _difference(updates, [again[name].get_delta_weight("default") for name in layers], tolerance)
    if inputs is not None:
        difference = _difference(outputs, [loaded(**inputs)[0]], tolerance)
    return difference


def _difference(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> float:
    difference = max(float((a.float() - b.float()).abs().max()) for a, b in zip(ours, theirs, strict=True))
    size = max(float(a.float().abs().max()) for a in ours)
    rounding = max(torch.finfo(a.dtype).eps for a in ours)
    if not difference <= max(tolerance, 16 * rounding) * size:
        raise RuntimeError(
            f"the exported LoRA differs by {difference:.3g} from the adapter (largest value {size:.3g}); nothing was "
            "written. Please report this"
        )
    return difference


def _token_inputs(model: PeftModel) -> dict[str, Tensor] | None:
    """A few tokens, for a transformers model that takes them."""
    base = model.base_model.model
    if not isinstance(base, PreTrainedModel) or base.main_input_name != "input_ids":
        return None
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in base.dummy_inputs.items()}
