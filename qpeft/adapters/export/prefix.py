"""Export as standard files of peft's prefix tuning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file

from qpeft.adapters.export.forms import FORMS, Form
from qpeft.adapters.export.publish import Exported, alone, largest_difference, outputs, publish
from qpeft.adapters.peft_internals import fully_trained
from qpeft.adapters.prefix import prefix_embeddings, standard_config


def export_prefix(
    model: PeftModel, folder: str | Path, adapter_name: str = "default", tolerance: float = 1e-4,
    weights: str | None = None,
) -> Exported:  # fmt: skip
    """Writes a key-value prefix as `adapter_config.json` and `adapter_model.safetensors` of plain PREFIX_TUNING.

    Keys and values that a circuit or peft's own projection makes are written as they are, so neither is needed at
    inference. The files are re-loaded with peft on the same base weights and compared before they reach `folder`.

    Args:
        model: A PEFT model with a key-value prefix, ours or plain.
        folder: Where to write; files of the same names are replaced.
        adapter_name: Which adapter.
        tolerance: As in `export_lora`.
        weights: As in `export_lora`.

    Raises:
        ConfigError: No such adapter, or one that is no prefix.
        ExportError: The re-loaded prefix differs; nothing is written.
    """

    def write(source: PeftModel, staging: Path) -> tuple[int, float]:
        tensors = {"prompt_embeddings": prefix_embeddings(source, adapter_name).contiguous()}
        tensors |= fully_trained(source, adapter_name)
        save_file(tensors, staging / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        plain = replace(standard_config(source.peft_config[adapter_name]), inference_mode=True, prefix_projection=False)
        plain.save_pretrained(staging)
        return sum(tensor.numel() for tensor in tensors.values()), _compare(source, adapter_name, staging, tolerance)

    return publish("prefix", model, folder, adapter_name, weights, write)


def _compare(model: PeftModel, adapter_name: str, folder: Path, tolerance: float) -> float:
    """Largest difference between the adapter and the files, loaded beside it."""
    twin = alone(model, adapter_name)
    base = twin.get_base_model()
    ours, rows = outputs(twin, base), prefix_embeddings(twin, adapter_name)
    again = f"{adapter_name}_again"
    twin.load_adapter(folder, again)
    twin.set_adapter(again)
    difference = largest_difference([rows], [prefix_embeddings(twin, again)], tolerance)
    with torch.no_grad():
        return largest_difference(ours, outputs(twin.eval(), base), tolerance) if ours else difference


FORMS.register("prefix", Form(
    export_prefix, "plain prefix", "a plain PEFT prefix, which peft loads",
    ("model = PeftModel.from_pretrained(base_model, {folder!r})",),
))  # fmt: skip
