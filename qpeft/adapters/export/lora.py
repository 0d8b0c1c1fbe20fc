"""Export as a plain PEFT LoRA or DoRA: for every adapter whose update is of rank r."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

from peft import AdaLoraModel, LoraConfig, PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor

from qpeft.adapters.export.forms import FORMS, Form
from qpeft.adapters.export.publish import Exported, alone, largest_difference, outputs, publish
from qpeft.adapters.peft_internals import fully_trained, lora_layers
from qpeft.adapters.peft_internals.adalora import adalora_factors
from qpeft.adapters.peft_internals.plain_lora import dora_magnitudes
from qpeft.adapters.sora import SoRAModel


def export_lora(
    model: PeftModel, folder: str | Path, adapter_name: str = "default", tolerance: float = 1e-4,
    weights: str | None = None,
) -> Exported:  # fmt: skip
    """Writes an adapter as `adapter_config.json` and `adapter_model.safetensors` of a plain PEFT LoRA or DoRA.

    A third file, `qpeft_export.json`, states which weights they hold; peft ignores it. Scales, gates (SoRA) and
    singular values (AdaLoRA) are folded into B (`lora_alpha == r`), in float32; ranks that are zero are left out. The
    files are re-loaded with plain peft on the same base weights and compared before they reach `folder`.

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
        ConfigError: No such adapter, it is merged, it is more than a plain LoRA or DoRA, or other `weights`.
        ExportError: The re-loaded adapter differs; nothing is written.
    """

    def write(source: PeftModel, staging: Path) -> tuple[int, float]:
        tensors = _tensors(source, adapter_name)
        save_file(tensors, staging / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        _plain_config(source, adapter_name).save_pretrained(staging)
        return sum(tensor.numel() for tensor in tensors.values()), _compare(source, adapter_name, staging, tolerance)

    return publish("lora", model, folder, adapter_name, weights, write)


def _factors(model: PeftModel, adapter_name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of each layer, the update being B A."""
    tuner = model.base_model
    layers = lora_layers(tuner.model, adapter_name)
    if isinstance(tuner, AdaLoraModel):
        return {name: adalora_factors(layer, adapter_name) for name, layer in layers.items()}
    if isinstance(tuner, SoRAModel):
        factors = tuner.pruned_factors(adapter_name)
    else:
        factors = {n: (x.lora_A[adapter_name].weight, x.lora_B[adapter_name].weight) for n, x in layers.items()}
    return {name: (A, B.float() * layers[name].scaling[adapter_name]) for name, (A, B) in factors.items()}


def _tensors(model: PeftModel, adapter_name: str) -> dict[str, Tensor]:
    """The tensors of the file, by name."""
    found = {}
    for name, (A, B) in _factors(model, adapter_name).items():
        found[f"base_model.model.{name}.lora_A.weight"], found[f"base_model.model.{name}.lora_B.weight"] = A, B
    # peft's own files have no ".weight" here. It reads both, but transformers' load_adapter would read only this one,
    # and go on with the base weights' magnitudes.
    for name, magnitude in dora_magnitudes(model, adapter_name).items():
        found[f"base_model.model.{name}.lora_magnitude_vector.weight"] = magnitude
    return {key: t.float().cpu().contiguous() for key, t in found.items()} | fully_trained(model, adapter_name)


def _plain_config(model: PeftModel, adapter_name: str) -> LoraConfig:
    config = model.peft_config[adapter_name]
    layers = lora_layers(model.base_model.model, adapter_name)
    ranks = {name: A.shape[0] for name, (A, _) in _factors(model, adapter_name).items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    other_ranks = {name: other for name, other in ranks.items() if other != rank}
    return LoraConfig(
        r=rank, lora_alpha=rank, rank_pattern=other_ranks, alpha_pattern=dict(other_ranks), use_dora=config.use_dora,
        target_modules=sorted(layers), modules_to_save=config.modules_to_save, task_type=config.task_type, bias="none",
        inference_mode=True, base_model_name_or_path=config.base_model_name_or_path,
        fan_in_fan_out=all(layer.fan_in_fan_out for layer in layers.values()),
    )  # fmt: skip


def _compare(model: PeftModel, adapter_name: str, folder: Path, tolerance: float) -> float:
    """Largest difference between the adapter and the files on plain peft."""
    twin = alone(model, adapter_name)
    base = twin.get_base_model()
    layers = list(lora_layers(twin.base_model.model, adapter_name))
    ours, updates = outputs(twin, base), _updates(twin, adapter_name, layers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # nothing is merged here
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # peft corrects it layer by layer
        loaded = PeftModel.from_pretrained(twin.unload(), folder).eval()
    difference = largest_difference(updates, _updates(loaded, "default", layers), tolerance)
    return largest_difference(ours, outputs(loaded, base), tolerance) if ours else difference


def _updates(model: PeftModel, adapter_name: str, names: list[str]) -> list[Tensor]:
    """B A of each layer, scaled, then the magnitudes."""
    layers = lora_layers(model.base_model.model, adapter_name)
    magnitudes = dora_magnitudes(model, adapter_name)
    return [layers[name].get_delta_weight(adapter_name) for name in names] + [magnitudes[n] for n in sorted(magnitudes)]


FORMS.register("lora", Form(
    export_lora, "plain LoRA or DoRA", "a plain PEFT LoRA or DoRA, which peft and transformers load",
    ("model = PeftModel.from_pretrained(base_model, {folder!r})",),
))  # fmt: skip
