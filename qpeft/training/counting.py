"""Sizes of adapters before anything is trained, from a model's config alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from peft import PeftConfig

from qpeft.adapters import QPAConfig
from qpeft.adapters.methods import peft_config
from qpeft.adapters.peft_internals import Shape, resolve_targets
from qpeft.generators import QPASpec
from qpeft.training.config import AdapterOptions
from qpeft.training.models import load_config, skeleton

CHUNK_SIZES = (16, 64, 256, 1024, 4096, 16384)


@dataclass(frozen=True)
class Counts:
    """Counts for one set of targets.

    Attributes:
        targets: Layer names and (out_features, in_features).
        target_size: Numbers a QPA generator would generate: LoRA's count at the same rank.
        lora_rank_1: LoRA's count at rank 1.
        specs: A generator for each chunk size.
    """

    targets: dict[str, Shape]
    target_size: int
    lora_rank_1: int
    specs: list[QPASpec]


def count(model: str, options: AdapterOptions, chunk_sizes: Sequence[int] = ()) -> Counts:
    """Counts QPA and LoRA on a model's targets.

    Args:
        model: Hub id, folder or "embedded"; only its config is read.
        options: Targets, rank and generator settings.
        chunk_sizes: n_mlp values; a usual range, and the default or chosen one, if empty.

    Raises:
        ConfigError: Unknown model or target, or a chunk size that cannot be.
    """
    config = peft_config({**asdict(options), "method": "qpa", "seed": 0}, "CAUSAL_LM")
    targets = resolve_targets(skeleton(load_config(model)), config)
    shapes = list(targets.values())
    rank_1 = sum(fan_out + fan_in for fan_out, fan_in in shapes)
    if chunk_sizes:
        specs = [_spec(config, size, shapes) for size in chunk_sizes]
        specs += [config.spec(shapes)] if options.budget is not None else []
        return Counts(targets, options.rank * rank_1, rank_1, specs)
    chosen = config.spec(shapes)
    usual = [size for size in CHUNK_SIZES if size <= chosen.target_size and size != chosen.chunk_size]
    specs = [*(_spec(config, size, shapes) for size in usual), chosen]
    return Counts(targets, chosen.target_size, rank_1, sorted(specs, key=lambda spec: spec.chunk_size))


def _spec(config: PeftConfig, chunk_size: int, shapes: list[Shape]) -> QPASpec:
    assert isinstance(config, QPAConfig)
    return replace(config, chunk_size=chunk_size, budget=None).spec(shapes)
