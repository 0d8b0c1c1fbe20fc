"""Export: a trained adapter as a standard PEFT LoRA that needs none of this package."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn

from qpeft.adapters.peft_internals import lora_layers
from qpeft.errors import ConfigError
from qpeft.files import staged_folder

WEIGHTS_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class Exported:
    """What `export_lora` wrote and how well the re-loaded copy agreed.

    Attributes:
        folder: Where the files are.
        num_parameters: Numbers in the LoRA file.
        max_difference: Largest difference of any logit (of any update matrix, for a model without token inputs).
    """

    folder: Path
    num_parameters: int
    max_difference: float


def export_lora(
    model: PeftModel, folder: str | Path, adapter_name: str = "default", tolerance: float = 1e-4
) -> Exported:
    """Writes an adapter as `adapter_config.json` and `adapter_model.safetensors` of a plain PEFT LoRA.

    The scale is folded into B (`lora_alpha == r`). The files are re-loaded with plain peft on the same base weights and
    compared before they reach `folder`.

    Args:
        model: A PEFT model with a LoRA-shaped adapter, ours or plain.
        folder: Where to write; files of the same names are replaced.
        adapter_name: Which adapter.
        tolerance: Largest difference allowed, relative to the largest value compared.

    Raises:
        ConfigError: No such adapter, or it is merged.
        RuntimeError: The re-loaded adapter differs; nothing is written.
    """
    if not isinstance(model, PeftModel):
        raise ConfigError(f"export_lora takes the PeftModel that holds the adapter; given a {type(model).__name__}")
    if adapter_name not in model.peft_config:
        raise ConfigError(f"there is no adapter {adapter_name!r}; the model has {', '.join(model.peft_config)}")
    layers = lora_layers(model.base_model.model, adapter_name)
    if any(layer.merged for layer in layers.values()):
        raise ConfigError("the adapter is merged into the base weights; call model.unmerge_adapter() first")
    config = model.peft_config[adapter_name]
    tensors: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, layer in layers.items():
            scale = layer.scaling[adapter_name]
            tensors[f"base_model.model.{name}.lora_A.weight"] = layer.lora_A[adapter_name].weight.cpu().contiguous()
            tensors[f"base_model.model.{name}.lora_B.weight"] = (layer.lora_B[adapter_name].weight * scale).cpu()
    plain = LoraConfig(
        r=config.r, lora_alpha=config.r, target_modules=sorted(layers), task_type=config.task_type, bias="none",
        inference_mode=True, base_model_name_or_path=config.base_model_name_or_path,
        fan_in_fan_out=all(layer.fan_in_fan_out for layer in layers.values()),
    )  # fmt: skip
    folder = Path(folder)
    with staged_folder(folder) as staging:
        save_file(tensors, staging / WEIGHTS_FILE, metadata={"format": "pt"})
        plain.save_pretrained(staging)
        difference, size = _compare(model, adapter_name, staging)
        if not difference <= tolerance * max(size, 1.0):
            raise RuntimeError(
                f"the exported LoRA differs by {difference:.3g} from the adapter (largest value {size:.3g}); nothing "
                "was written. Please report this"
            )
    return Exported(folder, sum(t.numel() for t in tensors.values()), difference)


def _without_copying_weights(model: nn.Module) -> Any:
    """A deep copy of the modules that shares every parameter and buffer."""
    memo: dict[int, Any] = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, memo)


@torch.no_grad()
def _compare(model: PeftModel, adapter_name: str, folder: Path) -> tuple[float, float]:
    """(largest difference, largest value) between the adapter and the files, on plain peft."""
    twin = _without_copying_weights(model)
    twin.set_adapter(adapter_name)
    twin.eval()
    inputs = getattr(model.base_model.model, "dummy_inputs", None)
    values = [] if inputs is None else [twin(**_on_device(inputs, model)).logits]
    layers = lora_layers(twin.base_model.model, adapter_name)
    updates = {name: layer.get_delta_weight(adapter_name) for name, layer in layers.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # nothing is merged here
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # peft corrects it layer by layer
        loaded = PeftModel.from_pretrained(twin.unload(), folder).eval()
    if inputs is not None:
        found = [loaded(**_on_device(inputs, model)).logits]
    else:
        values = list(updates.values())
        again = lora_layers(loaded.base_model.model, "default")
        found = [again[name].get_delta_weight("default") for name in updates]
    difference = max(float((a - b).abs().max()) for a, b in zip(values, found, strict=True))
    return difference, max(float(a.abs().max()) for a in values)


def _on_device(inputs: dict[str, Tensor], model: PeftModel) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in inputs.items()}
