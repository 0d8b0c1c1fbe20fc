"""What the model card of a Quantum-PEFT adapter says about it."""

from __future__ import annotations

import math
from typing import Any

from qpeft.adapters.card import drawings
from qpeft.qcircuits import Circuit


def frame_facts(config: Any) -> list[str]:
    """What generates an adapter's factors.

    Args:
        config: A `QuantumPEFTConfig` whose `resolved` is filled in.
    """
    resolved = config.resolved
    circuits = [Circuit.from_dict(data) for data in resolved["circuits"]]
    trained, frozen, targets = resolved.get("num_parameters"), resolved.get("num_frozen"), resolved["targets"]
    rank_1 = sum(fan_out + fan_in for _, fan_out, fan_in in targets)
    scale, divisor = (
        ("lora_alpha / sqrt(r)", math.sqrt(config.r)) if config.use_rslora else ("lora_alpha / r", config.r)
    )
    subtracted = not config.new_diagonal(config.r, 1).starts_at_zero
    start = ", less its frozen value at the start" if subtracted else ""
    update = f"U diag(l) V^T{start}; U and V have K = {config.r} orthonormal columns"
    rank = f"rank of each update, at most: {2 * config.r if subtracted else config.r}"
    if config.network is not None:
        update = f"a {config.network} network of matrices with orthonormal columns{start}"
        rank = f"rank K of its bonds: {config.r}"
    own = {
        name: value for name, value in resolved["settings"].items()
        if value is not None and name not in ("parametrization", "r", "ansatz")
    }  # fmt: skip
    facts = [
        *([f"trained numbers: {trained:,}; LoRA of rank 1 trains {rank_1:,} on the same layers"] if trained else []),
        *([f"frozen numbers, saved with them: {frozen:,}"] if frozen else []),
        f"layers: {len(targets)}; {rank}",
        f"parametrization of the frames: {config.parametrization}",
        *(f"{name}: {value}" for name, value in own.items()),
    ]
    return [
        "## What generates the weights", "",
        f"Each update is {scale} = {config.lora_alpha / divisor:g} times {update} (Quantum-PEFT, arXiv 2503.05431).",
        "",
        *(f"- {fact}" for fact in facts), "",
        *(drawings(circuits) if circuits else []),
        f"No quantum advantage is claimed: frames of all sizes are computed classically. `qpeft export` writes the "
        f"adapter {config.exported}.", "",
    ]  # fmt: skip
