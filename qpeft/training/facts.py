"""What a report says about a model's adapter: its counts, what was resolved, its circuit."""

from __future__ import annotations

from typing import Any

from peft import PeftModel

from qpeft.adapters import QPAConfig
from qpeft.adapters.methods import METHODS
from qpeft.adapters.peft_internals import lora_layers
from qpeft.training.config import TrainConfig


def learning_rate(config: TrainConfig) -> float:
    """What was given, or the method's own."""
    if config.training.learning_rate is not None:
        return config.training.learning_rate
    method = METHODS[config.adapter.method]
    return method.preset_learning_rates.get(config.adapter.preset, method.learning_rate)


def parameter_counts(model: PeftModel) -> dict[str, int]:
    """Trained numbers, frozen numbers the adapter needs, and what LoRA of the same and of rank 1 would train."""
    config = model.peft_config["default"]
    layers = lora_layers(model.base_model.model, "default").values()
    shapes = [(layer.out_features, layer.in_features) for layer in layers]
    rank_1 = sum(fan_out + fan_in for fan_out, fan_in in shapes)
    trained, total = model.get_nb_trainable_parameters()
    frozen = model.base_model.bank().num_frozen if isinstance(config, QPAConfig) else 0
    return {
        "trained": trained, "frozen": frozen, "lora_same_rank": config.r * rank_1, "lora_rank_1": rank_1,
        "model": total - trained,
    }  # fmt: skip


def resolved_settings(model: PeftModel, config: TrainConfig) -> dict[str, Any]:
    """What was left to defaults, presets and budgets, as it was decided."""
    adapter = model.peft_config["default"]
    layers = lora_layers(model.base_model.model, "default")
    found: dict[str, Any] = {
        "learning_rate": learning_rate(config), "targets": list(layers), "alpha": adapter.lora_alpha,
    }  # fmt: skip
    if isinstance(adapter, QPAConfig):
        built = adapter.resolved or {}
        found.update({name: getattr(adapter, name) for name in ("hidden", "activation", "transform", "start")})
        found.update({name: built[name] for name in ("chunk_size", "num_chunks", "num_qubits")})
    return found


def generator_facts(model: PeftModel) -> dict[str, Any] | None:
    """Sizes of a QPA generator; None for other methods."""
    config = model.peft_config["default"]
    if not isinstance(config, QPAConfig):
        return None
    generator = model.base_model.bank().generator
    spec = generator.spec
    return {
        "qubits": spec.num_qubits, "chunks": spec.num_chunks, "chunk_size": spec.chunk_size,
        "angles": spec.circuit.num_parameters, "depth": spec.circuit.depth, "ansatz": config.to_dict()["ansatz"],
        "source": spec.source, "drawing": spec.circuit.draw(),
        "engine": {"name": config.engine, **generator.engine.describe()},
    }  # fmt: skip
