"""The only place that touches peft's private surface, written for peft 0.21; tests/contracts checks each assumption."""

from qpeft.adapters.peft_internals.registration import QpeftType, register
from qpeft.adapters.peft_internals.targets import Shape, head_name, linear_layers, resolve_targets
from qpeft.adapters.peft_internals.tuner import GeneratedLoraModel, fully_trained, lora_layers

__all__ = [
    "GeneratedLoraModel", "QpeftType", "Shape", "fully_trained", "head_name", "linear_layers", "lora_layers",
    "register", "resolve_targets",
]  # fmt: skip
