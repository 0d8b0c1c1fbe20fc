"""The only place that touches peft's private surface, written for peft 0.21; tests/contracts checks each assumption."""

from qpeft.adapters.peft_internals.lora import GeneratedLoraModel, lora_layers
from qpeft.adapters.peft_internals.registration import QpeftType, register
from qpeft.adapters.peft_internals.targets import Shape, adapted_layers, head_name, linear_layers, resolve_targets
from qpeft.adapters.peft_internals.tuner import GeneratedTuner, bank_of
from qpeft.adapters.peft_internals.whole_modules import count_fully_trained, fully_trained

__all__ = [
    "GeneratedLoraModel", "GeneratedTuner", "QpeftType", "Shape", "adapted_layers", "bank_of", "count_fully_trained",
    "fully_trained", "head_name", "linear_layers", "lora_layers", "register", "resolve_targets",
]  # fmt: skip
