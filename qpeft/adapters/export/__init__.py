"""Export: a trained adapter as files that need no circuit, and where the form allows it none of this package."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel

from qpeft.adapters.export.forms import FORMS, Form, check_model, forms
from qpeft.adapters.export.lora import export_lora
from qpeft.adapters.export.merged import export_merged
from qpeft.adapters.export.prefix import export_prefix
from qpeft.adapters.export.publish import STATEMENT_FILE, Exported, ExportError
from qpeft.adapters.export.stored import export_stored
from qpeft.errors import ConfigError

__all__ = [
    "FORMS", "STATEMENT_FILE", "ExportError", "Exported", "Form", "export_adapter", "export_lora", "export_merged",
    "export_prefix", "export_stored", "forms",
]  # fmt: skip


def export_adapter(
    model: PeftModel, folder: str | Path, form: str | None = None, adapter_name: str = "default",
    tolerance: float = 1e-4, weights: str | None = None,
) -> Exported:  # fmt: skip
    """Exports an adapter in the form that suits it, or in a given one.

    The files are re-loaded and compared with the adapter before they reach `folder`.

    Args:
        model: The PEFT model that holds the adapter.
        folder: Where to write; files of the same names are replaced.
        form: One of `forms(model, adapter_name)`; the first of them if not given. See `FORMS`.
        adapter_name: Which adapter.
        tolerance: Largest difference allowed, relative to the largest value compared; a model in half precision is
            allowed its rounding.
        weights: "last_sample", "exact" or None, as in `export_lora`.

    Raises:
        ConfigError: No such adapter or form, a form that the adapter has not, or other `weights`.
        ExportError: The re-loaded files differ; nothing is written.
    """
    check_model(model, adapter_name)
    chosen = form if form is not None else next(iter(forms(model, adapter_name)), None)
    if chosen is None:
        kind = type(model.peft_config[adapter_name]).__name__
        raise ConfigError(f"there is no export of {kind}; save_pretrained writes its standard files already")
    return FORMS[chosen].write(model, folder, adapter_name, tolerance, weights)
