"""Sizes of adapters before anything is trained, from a model's config alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qpeft.adapters import GeneratedConfig, QPABank
from qpeft.adapters.attach import attach
from qpeft.adapters.bank import Piece
from qpeft.adapters.method_table import METHODS
from qpeft.adapters.peft_internals import Shape, adapted_layers, bank_of
from qpeft.adapters.quantum_peft import QuantumPEFTConfig
from qpeft.generators import QPASpec
from qpeft.training.adapter_options import CountConfig
from qpeft.training.frame_counts import FrameCounts
from qpeft.training.models import load_config, skeleton

CHUNK_SIZES = (16, 64, 256, 1024, 4096, 16384)


@dataclass(frozen=True)
class Generated:
    """One choice of chunk size.

    Attributes:
        chunk_size: n_mlp.
        specs: The generators, one in all or one a layer.
    """

    chunk_size: int
    specs: list[QPASpec]

    @property
    def num_parameters(self) -> int:
        """Trained numbers of all generators."""
        return sum(spec.num_parameters for spec in self.specs)

    @property
    def largest(self) -> QPASpec:
        """The generator with the most qubits."""
        return max(self.specs, key=lambda spec: spec.num_qubits)


@dataclass(frozen=True)
class Counts:
    """Counts for one adapter on one model.

    Attributes:
        targets: Layers the adapter changes and (out_features, in_features); the output head for a prefix.
        is_prefix: Whether the adapter changes no layer, but adds keys and values to each.
        trained: Numbers that train with the settings as they are.
        frozen: Numbers that the adapter needs beside, which do not train and are rebuilt from a seed.
        model: Numbers of the model.
        lora_rank_1: What LoRA of rank 1 trains on `targets`.
        generated: How many numbers are generated; None for a method that stores them.
        choices: Counts for several chunk sizes; empty for a method that has none.
        frames: Counts by the formulas of Quantum-PEFT; None for another method.
    """

    targets: dict[str, Shape]
    is_prefix: bool
    trained: int
    frozen: int
    model: int
    lora_rank_1: int
    generated: int | None
    choices: list[Generated]
    frames: FrameCounts | None


def count(model: str, config: CountConfig, chunk_sizes: Sequence[int] = ()) -> Counts:
    """Builds the adapter on a model without weights and counts what trains.

    Args:
        model: Hub id, folder or "embedded"; only its config is read.
        config: Method, targets and settings.
        chunk_sizes: n_mlp values to list; a usual range, and the default or chosen one, if empty.

    Raises:
        ConfigError: Unknown model, method or target, or a chunk size that cannot be.
    """
    adapter = METHODS[config.adapter.method].peft_config(config.settings, "CAUSAL_LM")
    adapted = attach(skeleton(load_config(model)), adapter)
    targets = adapted_layers(adapted)
    trained, total = adapted.get_nb_trainable_parameters()
    bank = bank_of(adapted)
    pieces = bank.pieces if isinstance(bank, QPABank) else []
    choices = _choices(adapted.peft_config["default"], pieces, chunk_sizes) if pieces else []
    frames = FrameCounts(adapter, targets.values()) if isinstance(adapter, QuantumPEFTConfig) else None
    return Counts(
        targets, adapter.is_prompt_learning, trained, 0 if bank is None else bank.num_frozen, total - trained,
        sum(fan_out + fan_in for fan_out, fan_in in targets.values()), sum(piece.size for piece in pieces) or None,
        choices, frames,
    )  # fmt: skip


def _choices(config: GeneratedConfig, pieces: list[Piece], chunk_sizes: Sequence[int]) -> list[Generated]:
    def choice(chunk_size: int) -> Generated:
        return Generated(chunk_size, replace(config, chunk_size=chunk_size, budget=None, resolved=None).specs(pieces))

    specs = replace(config, resolved=None).specs(pieces)
    chosen = Generated(max(spec.chunk_size for spec in specs), specs)
    if chunk_sizes:
        return [choice(size) for size in chunk_sizes] + ([chosen] if config.budget is not None else [])
    least = min(spec.target_size for spec in specs)
    usual = [choice(size) for size in CHUNK_SIZES if size <= least and size != chosen.chunk_size]
    return sorted([*usual, chosen], key=lambda one: one.chunk_size)
