"""Export as merged weights: an ordinary transformers checkpoint, for every adapter that merges."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from qpeft.adapters.export.forms import FORMS, Form
from qpeft.adapters.export.publish import Exported, ExportError, alone, largest_difference, outputs, publish
from qpeft.adapters.peft_internals.merged_weight import merged_weight
from qpeft.adapters.regenerate import share_weights
from qpeft.errors import ConfigError


def export_merged(
    model: PeftModel, folder: str | Path, adapter_name: str = "default", tolerance: float = 1e-4,
    weights: str | None = None,
) -> Exported:  # fmt: skip
    """Writes the base model with an adapter's update in its weights, as transformers' `save_pretrained` does.

    The given model stays as it is: only the layers that change are copied. A head that shares its weight with the input
    embedding gets one of its own if only one of the two is adapted. Modules that were trained in full are part of it;
    the tokeniser is not. The checkpoint is re-loaded with plain transformers and compared before it reaches `folder`.

    Args:
        model: A PEFT model of a transformers model, with any adapter that merges.
        folder: Where to write; files of the same names are replaced.
        adapter_name: Which adapter.
        tolerance: As in `export_lora`.
        weights: As in `export_lora`.

    Raises:
        ConfigError: No such adapter, one that does not merge, a base that is quantised or no transformers model.
        ExportError: The merged weights are not finite, or the re-loaded model differs; nothing is written.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else None
    if base is not None and not isinstance(base, PreTrainedModel):
        raise ConfigError(
            f"only transformers models can be exported as merged weights; the base is a {type(base).__name__}. Merge "
            "it with model.merge_and_unload() and save its state_dict"
        )
    if getattr(base, "is_quantized", False):
        raise ConfigError(
            "the base model is quantised, and merged weights would be rounded anew; load the adapter on the base "
            "without quantisation and export that"
        )

    def write(source: PeftModel, staging: Path) -> tuple[int, float]:
        merged = _merged(source, adapter_name)
        merged.save_pretrained(staging)
        return merged.num_parameters(), _compare(source, adapter_name, merged, staging, tolerance)

    return publish("merged", model, folder, adapter_name, weights, write)


def _merged(model: PeftModel, adapter_name: str) -> Any:
    """The base model with the update in its weights; what the adapter does not change is shared with `model`."""
    changed = [p for layer in _adapted(model) for p in layer.get_base_layer().parameters()]
    twin = share_weights(model, copied=changed)
    _untie(twin)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # it has not any more
        try:
            return twin.base_model.merge_and_unload(safe_merge=True, adapter_names=[adapter_name])
        except (ValueError, NotImplementedError) as error:
            raise ExportError(f"the adapter could not be merged: {error}; nothing was written") from error


def _adapted(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _untie(model: PeftModel) -> None:
    """Gives each adapted layer parameters of its own, so that merging changes no other layer."""
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    for layer in _adapted(model):
        base = layer.get_base_layer()
        for name, parameter in list(base.named_parameters(recurse=False)):
            if owners[id(parameter)] > 1:
                owners[id(parameter)] -= 1
                setattr(base, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
                model.get_base_model().config.tie_word_embeddings = False  # else loading would tie them again


def _compare(model: PeftModel, adapter_name: str, merged: Any, folder: Path, tolerance: float) -> float:
    """Largest difference between the adapter's outputs and those of the checkpoint."""
    loaded = type(merged).from_pretrained(folder, dtype=merged.dtype).to(merged.device).eval()
    written, read = merged.state_dict(), loaded.state_dict()
    # What was in a higher precision than the model is in the file so, and read in the model's.
    unlike = [key for key, t in written.items() if key not in read or not torch.equal(t.to(read[key].dtype), read[key])]
    if unlike:
        raise ExportError(f"{unlike[0]} is not what was written once it is re-loaded; nothing was written")
    _compare_layers(model, adapter_name, merged, tolerance)
    twin = alone(model, adapter_name)
    ours = outputs(twin, twin.get_base_model())
    return largest_difference(ours, outputs(loaded, loaded), tolerance) if ours else 0.0


def _compare_layers(model: PeftModel, adapter_name: str, merged: nn.Module, tolerance: float) -> None:
    """Compares each merged weight with W0 + dW: in half precision a whole update may be less than outputs are rounded.

    Updates that multiply the weight (OFT, BOFT, IA3) show in the outputs alone.
    """
    for name, layer in model.get_base_model().named_modules():
        wanted = merged_weight(layer, adapter_name) if isinstance(layer, BaseTunerLayer) else None
        if wanted is None:
            continue
        weight, size = wanted
        found: Any = merged.get_submodule(name).weight
        update = (weight - layer.get_base_layer().weight).abs().max()
        difference = (found.float() - weight).abs()
        # dW and the sum are rounded, with DoRA the norm and the factor too: each by half of eps.
        if not (difference <= 4 * torch.finfo(found.dtype).eps * size + tolerance * update).all():
            raise ExportError(
                f"the merged weight of {name} differs by {difference.max():.3g} from the layer's with its update; "
                "nothing was written. If the adapter's weights are finite, please report this"
            )


FORMS.register("merged", Form(
    export_merged, "merged weights",
    "the whole model with the update in its weights, which transformers loads; its tokeniser is the base model's",
    ("model = type(base_model).from_pretrained({folder!r})",), whole_model=True,
))  # fmt: skip
