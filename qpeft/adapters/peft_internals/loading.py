"""Weights that must be read completely or not at all.

peft only warns of tensors that a file lacks, or is silent, and leaves the random ones in place.
"""

from __future__ import annotations

from pathlib import Path

from peft.tuners.tuners_utils import _filter_state_dict_by_key_prefixes, _get_tuner_state_dict_key_prefixes
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from qpeft.errors import ConfigError
from qpeft.generators.packed_state import names_of_any_length


def check_weights_file(folder: Path) -> None:
    """Refuses a weights file that cannot be read; a folder without one (a config alone) is left to peft.

    Raises:
        ConfigError: The file is cut off or damaged.
    """
    path = folder / SAFETENSORS_WEIGHTS_NAME
    if path.is_file():
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise ConfigError(
                f"{path} cannot be read ({error}): it was cut off or damaged. Copy it again, or save the adapter again"
            ) from error


def check_weights(model: nn.Module, adapter_name: str, given: dict[str, Tensor]) -> None:
    """Compares an adapter's tensors with those about to be loaded into it.

    Args:
        model: Holds the adapter.
        adapter_name: Its name.
        given: The tensors under the names they have in `model`, those of fully trained modules among them.

    Raises:
        ConfigError: A tensor is missing, of another shape or not finite, or there is one too many.
    """
    state = model.state_dict()
    prefixes = _get_tuner_state_dict_key_prefixes(model, adapter_name=adapter_name)
    wanted = _filter_state_dict_by_key_prefixes(state, prefixes)
    any_length = names_of_any_length(model)  # the model checks them itself, against the tensors beside them
    missing = [f"{key} is missing" for key in wanted if key not in given]
    unknown = [f"{key} is not one of its tensors" for key in given if key not in state]
    other = [
        f"{key} is {tuple(given[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        # Partitioned by DeepSpeed, a tensor is empty here.
        if key in given and tensor.numel() and key not in any_length and given[key].shape != tensor.shape
    ]
    numbers = {key: tensor for key, tensor in given.items() if key in wanted and tensor.is_floating_point()}
    broken = [
        f"{key} has numbers that are not finite" for key, tensor in numbers.items() if not tensor.isfinite().all()
    ]
    problems = missing + other + unknown + broken
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ConfigError(
            f"the weights do not fit adapter {adapter_name!r}: {'; '.join(problems[:3])}{more}. The file is damaged "
            "or belongs to another config or base model: load a folder as save_pretrained wrote it"
        )
