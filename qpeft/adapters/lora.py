"""QPA over LoRA and DoRA: circuits and mapping networks generate the factors, and magnitudes, of all target layers."""

from __future__ import annotations

from typing import Any

from qpeft.adapters.bank import Piece, QPABank
from qpeft.adapters.config import QPAConfig
from qpeft.adapters.peft_internals import GeneratedLoraModel, QpeftType, Shape, register


def lora_pieces(config: QPAConfig, targets: dict[str, Shape]) -> list[Piece]:
    """For each target B (out x r), then A (r x in), then the magnitudes: the paper's order, whose A is peft's B.

    Args:
        config: Rank and variant.
        targets: Layer name to (out_features, in_features), none of them smaller than the rank.
    """
    pieces = []
    for name, (fan_out, fan_in) in targets.items():
        pieces.append(Piece(name, "lora_B", (fan_out, config.r)))
        pieces.append(Piece(name, "lora_A", (config.r, fan_in), fan_in=fan_in))
        if config.use_dora:
            length = fan_out if config.dora_magnitude_size == "out" else fan_in
            pieces.append(Piece(name, "lora_magnitude_vector", (length,)))
    return pieces


class QPAModel(GeneratedLoraModel):
    """The tuner behind `QPAConfig`."""

    def build_bank(self, config: Any, targets: dict[str, Shape]) -> QPABank:
        bank: QPABank = config.build_bank(lora_pieces(config, targets))
        return bank


register(QpeftType.QPA, QPAConfig, QPAModel)
