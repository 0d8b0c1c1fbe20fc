"""The only place that touches peft's private surface, written for peft 0.21; tests/contracts checks each assumption."""

from qpeft.adapters.peft_internals.lora import GeneratedLoraModel, fully_trained, lora_layers
from qpeft.adapters.peft_internals.registration import QpeftType, register
from qpeft.adapters.peft_internals.targets import Shape, adapted_layers, head_name, linear_layers, resolve_targets
from qpeft.adapters.peft_internals.tuner import GeneratedTuner, bank_of

__all__ = [
    "GeneratedLoraModel", "GeneratedTuner", "QpeftType", "Shape", "adapted_layers", "bank_of", "fully_trained",
    "head_name", "linear_layers", "lora_layers", "register", "resolve_targets",
]  # fmt: skip
