"""Modules that are trained in full beside an adapter: `modules_to_save`, a classifier's head for one."""

from __future__ import annotations

from peft import PeftModel, get_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper
from torch import Tensor


def fully_trained(model: PeftModel, adapter_name: str) -> dict[str, Tensor]:
    """The tensors of an adapter's `modules_to_save`, under the names of a file."""
    state = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    wrapped = tuple(f"{n}." for n, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper))
    return {key: tensor.cpu().contiguous() for key, tensor in state.items() if key.startswith(wrapped)}


def count_fully_trained(model: PeftModel, adapter_name: str = "default") -> int:
    """Trained numbers of the modules that are trained in full, among all that an adapter trains."""
    wrapped = [module.modules_to_save for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]
    return sum(p.numel() for copies in wrapped if adapter_name in copies for p in copies[adapter_name].parameters())
