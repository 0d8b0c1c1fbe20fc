"""What the model card of a Quantum-PEFT adapter says about it."""

from __future__ import annotations

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
    update, bonds = "U diag(l) V^T; U and V have orthonormal columns", "rank K of each update"
    if config.network is not None:
        update, bonds = f"a {config.network} network of matrices with orthonormal columns", "rank K of its bonds"
    own = {
        name: value for name, value in resolved["settings"].items()
        if value is not None and name not in ("parametrization", "r", "ansatz")
    }  # fmt: skip
    facts = [
        *([f"trained numbers: {trained:,}; LoRA of rank 1 trains {rank_1:,} on the same layers"] if trained else []),
        *([f"frozen numbers, saved with them: {frozen:,}"] if frozen else []),
        f"layers: {len(targets)}; {bonds}: {config.r}",
        f"parametrization of the frames: {config.parametrization}",
        *(f"{name}: {value}" for name, value in own.items()),
    ]
    return [
        "## What generates the weights", "",
        f"Each update is lora_alpha / r * {update} (Quantum-PEFT, arXiv 2503.05431).", "",
        *(f"- {fact}" for fact in facts), "",
        *(drawings(circuits) if circuits else []),
        f"No quantum advantage is claimed: frames of all sizes are computed classically. `qpeft export` writes the "
        f"adapter {config.exported}.", "",
    ]  # fmt: skip
