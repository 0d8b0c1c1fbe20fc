"""What a report says about a model's adapter: its counts, what was resolved, its circuit."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel

from qpeft.adapters import GeneratedConfig, QPABank
from qpeft.adapters.method_table import METHODS
from qpeft.adapters.peft_internals import adapted_layers, bank_of
from qpeft.generators.frames import Frame, FramePool
from qpeft.generators.frames.base import orthogonality_error
from qpeft.training.config import TrainConfig
from qpeft.training.tasks import task_for


def learning_rate(config: TrainConfig) -> float:
    """What was given, or the method's own, scaled for the task."""
    if config.training.learning_rate is not None:
        return config.training.learning_rate
    own = METHODS[config.adapter.method].usual_learning_rate(config.settings)
    return own * task_for(config).learning_rate_scale


def parameter_counts(model: PeftModel, config: TrainConfig) -> dict[str, int | None]:
    """Trained numbers, frozen numbers the adapter needs, and what LoRA of the same and of rank 1 would train.

    LoRA's counts are of the layers the adapter changes; for a prefix, which changes none, of the output head. They are
    None where there is no such layer.
    """
    rank_1 = sum(fan_out + fan_in for fan_out, fan_in in adapted_layers(model).values()) or None
    trained, total = model.get_nb_trainable_parameters()
    bank = bank_of(model)
    return {
        "trained": trained, "frozen": 0 if bank is None else bank.num_frozen,
        "lora_same_rank": rank_1 and config.adapter.rank * rank_1, "lora_rank_1": rank_1, "model": total - trained,
    }  # fmt: skip


def resolved_settings(model: PeftModel, config: TrainConfig) -> dict[str, Any]:
    """What was left to defaults, presets and budgets, as it was decided."""
    adapter = model.peft_config["default"]
    found: dict[str, Any] = {"learning_rate": learning_rate(config), "targets": list(adapted_layers(model))}
    if hasattr(adapter, "lora_alpha"):
        found["alpha"] = adapter.lora_alpha
    if isinstance(adapter, GeneratedConfig):
        built = (adapter.resolved or {})["generators"]
        found.update({name: getattr(adapter, name) for name in ("hidden", "activation", "transform", "start")})
        for name in ("chunk_size", "num_chunks", "num_qubits"):
            values = [generator[name] for generator in built]
            found[name] = values[0] if len(values) == 1 else values
    return found


def generator_facts(model: PeftModel) -> dict[str, Any] | None:
    """Sizes of the generators, the largest one's circuit; None for methods that generate nothing."""
    config, bank = model.peft_config["default"], bank_of(model)
    if not isinstance(config, GeneratedConfig) or not isinstance(bank, QPABank):
        return None
    spec = max(bank.specs, key=lambda one: one.num_qubits)
    return {
        "generators": len(bank.specs), "qubits": spec.num_qubits, "chunks": spec.num_chunks,
        "chunk_size": spec.chunk_size, "angles": spec.circuit.num_parameters, "depth": spec.circuit.depth,
        "ansatz": config.to_dict()["ansatz"], "source": spec.source, "drawing": spec.circuit.draw(),
        "engine": {"name": config.engine, **bank.engine.describe()},
    }  # fmt: skip


def frame_facts(model: PeftModel) -> list[dict[str, Any]] | None:
    """The frames of each size, and how far they are from orthonormal; None for adapters that are not made of frames.

    Measured are the frames that the layers get, from quantised numbers if the adapter quantises them.

    Returns:
        For each size: size, frames, numbers (of one frame), orthogonality_error (the largest).
    """
    bank = bank_of(model)
    pools = [] if bank is None else [part for part in bank.modules() if isinstance(part, FramePool)]
    rows: dict[int, dict[str, Any]] = {}
    for pool in pools:
        with torch.no_grad():
            made = list(zip(pool.sizes, pool(), strict=True))
        for frame in pool.by_size.values():
            assert isinstance(frame, Frame)
            row = rows.setdefault(frame.size, {"size": frame.size, "frames": 0, "orthogonality_error": 0.0})
            errors = [float(orthogonality_error(frames).max()) for size, frames in made if size == frame.size]
            row["frames"] += frame.count
            row["numbers"] = frame.num_parameters // frame.count
            row["orthogonality_error"] = max(row["orthogonality_error"], *errors)
    return [rows[size] for size in sorted(rows)] or None
