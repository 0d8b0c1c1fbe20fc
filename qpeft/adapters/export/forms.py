"""The forms of an export, and which of them an adapter has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peft import LoraModel, PeftModel, PrefixTuningConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer

from qpeft.adapters.peft_internals.layer_tuner import LayerTuner
from qpeft.adapters.peft_internals.plain_lora import more_than_lora
from qpeft.adapters.peft_internals.strict import check_adapter
from qpeft.errors import ConfigError
from qpeft.registry import Registry

if TYPE_CHECKING:
    from qpeft.adapters.export.publish import Exported

    Writer = Callable[[PeftModel, str | Path, str, float, str | None], Exported]


@dataclass(frozen=True)
class Form:
    """A form of export, a row of `FORMS`.

    Attributes:
        write: The function that exports: model, folder, adapter name, tolerance, weights -> Exported.
        title: What the files are, in a few words.
        description: The same, and what loads them.
        loading: Lines of Python that load them on `base_model`, with {folder!r} for where they are.
        needs_qpeft: Whether loading needs this package.
        whole_model: Whether the base model is in the files too.
    """

    write: Writer
    title: str
    description: str
    loading: tuple[str, ...]
    needs_qpeft: bool = False
    whole_model: bool = False

    def loading_from(self, folder: str) -> list[str]:
        """The lines that load the files in a folder."""
        return [line.format(folder=folder) for line in self.loading]


FORMS: Registry[Form] = Registry("form of export")
"""Each form's file registers its row."""


def check_model(model: PeftModel, adapter_name: str) -> None:
    """Raises `ConfigError` for what is no PEFT model, has no such adapter, or has one merged."""
    if not isinstance(model, PeftModel):
        raise ConfigError(f"an export takes the PeftModel that holds the adapter; given a {type(model).__name__}")
    check_adapter(model, adapter_name)
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
    message = (
        f"adapter {adapter_name!r} of type {getattr(kind, 'value', kind)} cannot be exported as "
        f"{FORMS[form].description}"
    )
    if form == "lora" and isinstance(model.base_model, LoraModel):
        message += f": it is more than a plain LoRA, it uses {', '.join(more_than_lora(model, adapter_name))}"
    others = " or ".join(f'export_{other} (form "{other}")' for other in available) or "save_pretrained"
    raise ConfigError(f"{message}; use {others}")
