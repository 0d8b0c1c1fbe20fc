"""What every export does: choose the weights, write aside, re-load and compare, then publish."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from qpeft.adapters.card import drop_sections
from qpeft.adapters.export.forms import check_form, check_model
from qpeft.adapters.regenerate import (
    EXACT,
    LAST_SAMPLE,
    circuit_generators,
    deviation,
    share_weights,
    with_exact_weights,
)
from qpeft.errors import ConfigError, QpeftError
from qpeft.files import staged_folder, write_json

STATEMENT_FILE = "qpeft_export.json"  # a name that neither peft nor transformers looks for
_READ_BY_LOADERS = ("adapter_config.json", "config.json", "*.safetensors", "*.safetensors.index.json", "*.bin")


class ExportError(QpeftError, RuntimeError):
    """Files that do not give what the adapter gives; nothing was written."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote and how well the re-loaded copy agreed.

    Attributes:
        folder: Where the files are.
        num_parameters: Numbers in the weights' file.
        max_difference: Largest difference of any output on a few inputs (of any tensor that is compared, for a model
            that takes neither tokens nor images).
        weights: "exact", or "last_sample" of an engine that samples or has noise; `qpeft_export.json` says the same.
        form: A name in `FORMS`.
        num_bytes: Size of all files.
    """

    folder: Path
    num_parameters: int
    max_difference: float
    weights: str
    form: str
    num_bytes: int


Write = Callable[[PeftModel, Path], tuple[int, float]]
"""Writes an adapter of a model into a folder and compares: (numbers written, largest difference)."""


@torch.no_grad()
def publish(
    form: str, model: PeftModel, folder: str | Path, adapter_name: str, weights: str | None, write: Write
) -> Exported:
    """Exports an adapter: all files or none.

    Args:
        form: The form that `write` writes.
        model: The PEFT model; it stays as it is.
        folder: Where the files go.
        adapter_name: Which adapter.
        weights: "last_sample", "exact" or None, as in `export_lora`.
        write: Is given the model, or its copy with exact weights, and a folder aside.

    Raises:
        ConfigError: Anything that cannot be exported so; raised before files are written.
        ExportError: The re-loaded files differ.
    """
    check_model(model, adapter_name)
    if weights not in (None, EXACT, LAST_SAMPLE):
        raise ConfigError(f"weights {weights!r} is not one of {LAST_SAMPLE!r}, {EXACT!r} or None (what the model uses)")
    check_form(model, adapter_name, form)
    _check_finite(model, adapter_name)
    differs = deviation(model, adapter_name)
    stated = EXACT if weights == EXACT or differs is None else differs.weights
    source = with_exact_weights(model, adapter_name) if weights == EXACT and differs is not None else model
    folder = Path(folder)
    with _as_it_was(model), _writing(folder), staged_folder(folder) as staging:
        num_parameters, difference = write(source, staging)
        write_json(staging / STATEMENT_FILE, _statement(source, adapter_name, form, stated))
        _refuse_other_files(folder, staging)
        num_bytes = sum(file.stat().st_size for file in staging.rglob("*") if file.is_file())
    with _writing(folder):
        drop_sections(folder)
    return Exported(folder, num_parameters, difference, stated, form, num_bytes)


def _statement(model: PeftModel, adapter_name: str, form: str, weights: str) -> dict[str, Any]:
    """Which weights were written, and by which engine they were generated (None if by no circuit)."""
    circuits = circuit_generators(model, adapter_name)
    return {"form": form, "weights": weights, "engine": circuits[0][1].engine.describe() if circuits else None}


def _check_finite(model: PeftModel, adapter_name: str) -> None:
    """Refuses an adapter with a parameter that is not finite."""
    for name, parameter in model.named_parameters():
        if adapter_name in name.split(".") and not parameter.isfinite().all():
            raise ExportError(
                f"the adapter's numbers are not finite ({name}): its file is damaged, or its training diverged; "
                "nothing was written. Load an earlier copy, or train again"
            )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Names the folder that was given where the system refuses one inside or beside it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"the output folder {folder} cannot be written: {reason}; give another folder") from error


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Restores what trains: a copy that is compared shares the parameters, and freezes some."""
    trained = {p: p.requires_grad for p in model.parameters()}
    try:
        yield
    finally:
        for parameter, requires_grad in trained.items():
            parameter.requires_grad_(requires_grad)


def _refuse_other_files(folder: Path, staging: Path) -> None:
    """Refuses a folder whose other files would be loaded along, or in place of, those to be written."""
    there = {path.name for pattern in _READ_BY_LOADERS for path in folder.glob(pattern)}
    others = sorted(there - {path.name for path in staging.iterdir()})
    if others:
        raise ConfigError(
            f"{folder} holds {', '.join(others[:3])} of another model or export, which would be loaded too; remove "
            "them, or give another folder"
        )


# ---- comparing


def alone(model: PeftModel, adapter_name: str) -> PeftModel:
    """A copy in evaluation mode, with one adapter active, that shares every number."""
    twin: PeftModel = share_weights(model)
    twin.set_adapter(adapter_name)
    return twin.eval()


def outputs(model: nn.Module, base: nn.Module) -> list[Tensor]:
    """The first output on a few inputs of a transformers model `base`; empty for models with other inputs."""
    inputs = _inputs(base)
    return [] if inputs is None else [model(**inputs)[0]]


def _inputs(base: nn.Module) -> dict[str, Tensor] | None:
    if not isinstance(base, PreTrainedModel):
        return None
    if base.main_input_name == "input_ids":
        rows = slice(None if getattr(base.config, "pad_token_id", None) is not None else 1)  # classifiers need padding
        return {name: tensor[rows].to(base.device) for name, tensor in base.dummy_inputs.items()}
    channels, size = (getattr(base.config, name, None) for name in ("num_channels", "image_size"))
    if base.main_input_name == "pixel_values" and isinstance(channels, int) and isinstance(size, int):
        ramp = torch.linspace(-1, 1, channels * size * size, device=base.device, dtype=base.dtype)
        return {"pixel_values": ramp.view(1, channels, size, size)}
    return None


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float) -> float:
    """Of any number; raises `ExportError` if it is too large, or not finite."""
    difference = max(float((a.float() - b.float()).abs().max()) for a, b in zip(ours, theirs, strict=True))
    size = max(float(a.float().abs().max()) for a in ours)
    rounding = max(torch.finfo(a.dtype).eps for a in ours)
    if not difference <= max(tolerance, 16 * rounding) * size:
        raise ExportError(
            f"the exported files differ by {difference:.3g} from the adapter (largest value {size:.3g}); nothing was "
            "written. If the adapter's weights are finite, please report this"
        )
    return difference
