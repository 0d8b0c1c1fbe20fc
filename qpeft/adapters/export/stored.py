"""Export of adapters that cannot merge: the same adapter with stored weights."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor

from qpeft.adapters.config import GeneratedConfig
from qpeft.adapters.export.forms import FORMS, Form
from qpeft.adapters.export.publish import Exported, alone, largest_difference, outputs, publish
from qpeft.adapters.peft_internals import fully_trained
from qpeft.adapters.peft_internals.layer_tuner import LayerTunerConfig, TunedLayer


def export_stored(
    model: PeftModel, folder: str | Path, adapter_name: str = "default", tolerance: float = 1e-4,
    weights: str | None = None,
) -> Exported:  # fmt: skip
    """Writes a feed-forward adapter or an additive prefix with its weights stored, so that no circuit runs again.

    They change what flows between layers, so no weight matrix can hold them: peft loads the files once `qpeft.adapters`
    is imported. They are re-loaded on the same base weights and compared before they reach `folder`.

    Args:
        model: A PEFT model with such an adapter, generated or not.
        folder: Where to write; files of the same names are replaced.
        adapter_name: Which adapter.
        tolerance: As in `export_lora`.
        weights: As in `export_lora`.

    Raises:
        ConfigError: No such adapter, or one of another kind.
        ExportError: The re-loaded adapter differs; nothing is written.
    """

    def write(source: PeftModel, staging: Path) -> tuple[int, float]:
        tensors = _tensors(source, adapter_name) | fully_trained(source, adapter_name)
        save_file(tensors, staging / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        _stored_config(source, adapter_name).save_pretrained(str(staging))
        return sum(tensor.numel() for tensor in tensors.values()), _compare(source, adapter_name, staging, tolerance)

    return publish("stored", model, folder, adapter_name, weights, write)


def _tuned_layers(model: PeftModel, adapter_name: str) -> dict[str, Any]:
    """The layers that hold the adapter, by name."""
    layers: dict[str, Any] = {n: m for n, m in model.get_base_model().named_modules() if isinstance(m, TunedLayer)}
    return {n: m for n, m in layers.items() if adapter_name in getattr(m, m.adapter_layer_names[0])}


def _tensors(model: PeftModel, adapter_name: str) -> dict[str, Tensor]:
    """The weights and biases of each layer, under the names of a file."""
    found = {}
    for name, layer in _tuned_layers(model, adapter_name).items():
        for role in layer.adapter_layer_names:
            module = getattr(layer, role)[adapter_name]
            for kind in ("weight", "bias"):
                tensor = getattr(module, kind, None)
                if tensor is not None:
                    found[f"base_model.model.{name}.{role}.{kind}"] = tensor.detach().cpu().contiguous()
    return found


def _stored_config(model: PeftModel, adapter_name: str) -> LayerTunerConfig:
    """The config that the adapter's own is derived from, without what generates."""
    config = model.peft_config[adapter_name]
    kinds = (kind for kind in type(config).__mro__ if issubclass(kind, LayerTunerConfig))
    plain = next(kind for kind in kinds if not issubclass(kind, GeneratedConfig))
    stored = plain(**{field.name: getattr(config, field.name) for field in fields(plain)})
    stored.target_modules = set(_tuned_layers(model, adapter_name))
    stored.inference_mode = True
    return stored


def _compare(model: PeftModel, adapter_name: str, folder: Path, tolerance: float) -> float:
    """Largest difference between the adapter and the files."""
    twin = alone(model, adapter_name)
    base = twin.get_base_model()
    ours, tensors = outputs(twin, base), _tensors(twin, adapter_name)
    loaded = PeftModel.from_pretrained(twin.base_model.unload(), folder).eval()
    again = _tensors(loaded, "default")
    difference = largest_difference(list(tensors.values()), [again[key] for key in tensors], tolerance)
    return largest_difference(ours, outputs(loaded, base), tolerance) if ours else difference


FORMS.register("stored", Form(
    export_stored, "stored weights",
    "the same adapter with its weights stored, which this package loads without running a circuit",
    ("import qpeft.adapters", "model = PeftModel.from_pretrained(base_model, {folder!r})"), needs_qpeft=True,
))  # fmt: skip
