"""PEFT configs of generated weights: what every carrier shares, and `QPAConfig` for LoRA and DoRA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from peft import LoraConfig

from qpeft.adapters.bank import Piece, QPABank, by_scope
from qpeft.adapters.peft_internals import QpeftType
from qpeft.engines import check_engine, get_engine
from qpeft.errors import ConfigError
from qpeft.generator_settings import SETTING_NAMES, GeneratorSettings, is_whole
from qpeft.generators.philox import checksum
from qpeft.generators.spec import CIRCUIT_SOURCES, AnsatzLike, QPASpec
from qpeft.options import option
from qpeft.qcircuits import Circuit, Engine

FORMAT_VERSION = 1
CUSTOM = "custom"  # how a circuit or function of the user's own is named in a file
_RESOLVED = {"generators", "circuits", "frozen_checksum", "settings"}  # what `resolved` must hold
_DECIDING = tuple(  # the settings that decide the generators' sizes and the frozen numbers
    name for name in SETTING_NAMES if name not in ("preset", "engine", "diff_method", "gradient_shots")
)
MAGNITUDES = ("relative", "absolute")
MAGNITUDE_SIZES = ("out", "in")

_UNSUPPORTED: dict[str, Any] = {  # what generated factors do not cover, with the only value allowed
    "lora_bias": False, "bias": "none", "layer_replication": None, "target_parameters": None, "rank_pattern": {},
    "alpha_pattern": {}, "init_lora_weights": True, "ensure_weight_tying": False, "trainable_token_indices": {},
    "alora_invocation_tokens": None, "use_qalora": False, "megatron_config": None,
    **{
        variant.name: False
        for variant in fields(LoraConfig)
        if variant.metadata.get("is_lora_variant") and variant.name != "use_dora"
    },
}  # fmt: skip


def _ansatz_name(ansatz: AnsatzLike) -> str:
    return ansatz if isinstance(ansatz, str) else CUSTOM


@dataclass
class GeneratedConfig(GeneratorSettings):
    """What the configs of all carriers share: the generator's settings, and what they were resolved to.

    A config that mixes this in calls `check_generated()` at the end of its `__post_init__`.
    """

    seed: int = option(
        0, "seed of the frozen random numbers, which are rebuilt and not saved, and of the engine's samples"
    )
    resolved: dict[str, Any] | None = option(None, "filled in when the adapter is built: sizes, circuits, checksum")
    format_version: int = option(FORMAT_VERSION, "version of this file's format")

    def check_generated(self) -> None:
        """Checks the settings, which a damaged or hand-edited `adapter_config.json` may hold, and applies the preset.

        Raises:
            ConfigError: A value that is not allowed, or a file of a newer format.
        """
        resolved = self.resolved
        sound = {
            "format_version": is_whole(self.format_version),
            "resolved": resolved is None or (isinstance(resolved, dict) and resolved.keys() >= _RESOLVED),
            "seed": is_whole(self.seed) and 0 <= self.seed < 2**63,
        }
        for name, fine in sound.items():
            if not fine:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, which is no such setting; if it was read from a file, "
                    "adapter_config.json is damaged: save the adapter again"
                )
        if self.format_version > FORMAT_VERSION:
            raise ConfigError(
                f"the adapter was written in format {self.format_version}; this qpeft reads up to {FORMAT_VERSION}. "
                "Install a newer qpeft"
            )
        GeneratorSettings.__post_init__(self)
        check_engine(self.engine, self.diff_method, self.gradient_shots, self.seed)
        self.apply_preset()

    def settings(self) -> dict[str, Any]:
        """The settings that decide the generators' sizes and the frozen numbers, as plain data."""
        data = {name: getattr(self, name) for name in (*_DECIDING, "seed")}
        return data | {"ansatz": _ansatz_name(self.ansatz), "hidden": list(self.hidden or ())}

    def saved_build(self, sizes: Sequence[int]) -> dict[str, Any] | None:
        """`resolved`, if it was filled in for these target sizes and the settings are still those; else None.

        A config outlives its first model: it is changed, copied with `dataclasses.replace`, used on other models.
        """
        saved = self.resolved
        if saved is None or not isinstance(self.ansatz, str):
            return None
        if [generator["target_size"] for generator in saved["generators"]] != list(sizes):
            return None
        return saved if saved["settings"] == self.settings() else None

    def specs(self, pieces: Sequence[Piece]) -> list[QPASpec]:
        """The sizes of the generators: one in all, or one for each layer (`scope`).

        Raises:
            ConfigError: Sizes that cannot be, e.g. a circuit of other qubits than the chunks need.
        """
        groups = by_scope(pieces, self.scope)
        sizes = [sum(piece.size for piece in group) for group in groups]
        saved = self.saved_build(sizes)
        if saved is not None:
            circuits = [Circuit.from_dict(data) for data in saved["circuits"]]
            return [
                QPASpec(size, built["chunk_size"], **self._options(circuits[built["circuit"]]))
                for size, built in zip(sizes, saved["generators"], strict=True)
            ]
        if self.ansatz == CUSTOM:
            was = [generator["target_size"] for generator in (self.resolved or {}).get("generators", [])]
            raise ConfigError(
                f"the saved circuit was made for {', '.join(map(str, was)) or 'unknown numbers of'} generated weights "
                f"and the settings saved with it; this model's targets need {', '.join(map(str, sizes))}. Load the "
                "adapter unchanged on the model it was trained on"
            )
        budgets = self._budgets(groups, sizes)
        return [self._spec(size, budget) for size, budget in zip(sizes, budgets, strict=True)]

    def _options(self, ansatz: AnsatzLike) -> dict[str, Any]:
        return {
            "ansatz": ansatz, "reps": self.reps, "hidden": tuple(self.hidden or ()), "activation": self.activation,
            "transform": self.transform, "source": self.source, "zero_last": self.start == "identity",
        }  # fmt: skip

    def _spec(self, size: int, budget: int) -> QPASpec:
        if self.chunk_size is not None:
            return QPASpec(size, self.chunk_size, **self._options(self.ansatz))
        return QPASpec.within_budget(size, budget, **self._options(self.ansatz))

    def _budgets(self, groups: list[list[Piece]], sizes: list[int]) -> list[int]:
        """The most numbers each generator may train: equal shares of what is generated, if no budget is given."""
        if self.chunk_size is not None:
            return [0] * len(sizes)  # not asked for
        least = [QPASpec.smallest(size, **self._options(self.ansatz)).num_parameters for size in sizes]
        if self.budget is None:
            usual = [self.usual_budget(group) for group in groups]
            return [max(smallest, share) for smallest, share in zip(least, usual, strict=True)]
        spare = self.budget - sum(least)
        if spare < 0 and len(sizes) > 1:
            raise ConfigError(
                f"a budget of {self.budget} parameters is too small: the smallest {len(sizes)} generators (one a "
                f"layer) train {sum(least)}. Raise the budget, or use scope='model'"
            )
        if len(sizes) == 1:
            return [self.budget]
        return [smallest + spare * size // sum(sizes) for smallest, size in zip(least, sizes, strict=True)]

    def usual_budget(self, pieces: Sequence[Piece]) -> int:
        """The budget of a generator if none is given: an eighth of what it generates."""
        return sum(piece.size for piece in pieces) // 8

    def build_bank(self, pieces: Sequence[Piece]) -> QPABank:
        """The module that generates `pieces`; fills in `resolved`.

        Raises:
            ConfigError: Sizes that cannot be, or frozen numbers that differ from those of the saved adapter.
            MissingExtraError: A package the engine needs is not installed.
        """
        specs = self.specs(pieces)
        sizes = [spec.target_size for spec in specs]
        bank = QPABank(specs, pieces, self.build_engine(), self.seed if self.start == "identity" else None)
        found = checksum(bank.frozen)
        saved = self.saved_build(sizes)
        if saved is not None and saved["frozen_checksum"] != found:
            raise ConfigError(
                f"the frozen numbers rebuilt from seed {self.seed} have checksum {found}; the adapter was trained with "
                f"{saved['frozen_checksum']}. The adapter's config is damaged, or this numpy draws other numbers"
            )
        circuits: list[Circuit] = []
        for spec in specs:
            if spec.circuit not in circuits:
                circuits.append(spec.circuit)
        self.resolved = {
            "generators": [
                {
                    "target_size": spec.target_size, "chunk_size": spec.chunk_size, "num_chunks": spec.num_chunks,
                    "num_qubits": spec.num_qubits, "num_parameters": spec.num_parameters,
                    "circuit": circuits.index(spec.circuit),
                }
                for spec in specs
            ],
            "circuits": [circuit.to_dict() for circuit in circuits],
            "frozen_checksum": found, "settings": self.settings(),
        }  # fmt: skip
        return bank

    def build_engine(self) -> Engine:
        """The engine that runs the circuit; raises `MissingExtraError` if a package it needs is not installed.

        A classical control without a circuit needs none, and gets the exact one.
        """
        if self.source not in CIRCUIT_SOURCES:
            return get_engine("exact")
        return get_engine(self.engine, self.diff_method, self.gradient_shots, self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; a circuit or function of the user's own is the circuit in `resolved`."""
        ansatz = self.ansatz
        try:
            self.ansatz = _ansatz_name(ansatz)
            data: dict[str, Any] = super().to_dict()  # type: ignore[misc]  # of the peft config this is mixed into
        finally:
            self.ansatz = ansatz
        return data


@dataclass
class QPAConfig(GeneratedConfig, LoraConfig):  # type: ignore[misc]  # peft is untyped
    """Configuration of Quantum Parameter Adaptation of LoRA or DoRA weights (arXiv 2410.09846).

    With `use_dora` the magnitudes are generated too: as a relative change of the weight's norm, so that step 0 is the
    identity, or as they are (`dora_magnitude="absolute"`, the paper's; the preset "paper" means it). They are as many
    as the layer has outputs, as in PEFT's DoRA, or inputs (the paper's eq. 10).

    Example:
        >>> QPAConfig(r=4, target_modules=["lm_head"], chunk_size=128).hidden
        [16]
    """

    r: int = option(4, "rank of the generated update")
    lora_alpha: int = option(8, "scale: the update is multiplied by lora_alpha / r")
    dora_magnitude: str | None = option(None, "'relative' to the weight's norm, or 'absolute'; the preset's")
    dora_magnitude_size: str = option("out", "one DoRA magnitude for each output ('out') or input ('in') of a layer")
    # peft saves the whole embedding matrix beside an adapter of `lm_head` unless token rows are listed: none are.
    trainable_token_indices: Any = option({}, "always empty")

    def __post_init__(self) -> None:
        for name, allowed in _UNSUPPORTED.items():
            given = getattr(self, name)
            if given != allowed and (given or allowed is True):
                raise ConfigError(f"{name}={given!r} is not available for generated weights; leave it out")
        self.trainable_token_indices = {}
        if not is_whole(self.r) or self.r < 1:
            raise ConfigError(f"rank r is {self.r!r}; it must be a whole number of at least 1")
        if type(self.lora_alpha) not in (int, float) or not math.isfinite(self.lora_alpha):
            raise ConfigError(f"lora_alpha is {self.lora_alpha!r}; it must be a finite number")
        LoraConfig.__post_init__(self)
        self.peft_type = QpeftType.QPA
        self.check_generated()
        if self.dora_magnitude is None:
            self.dora_magnitude = "absolute" if self.start == "paper" else "relative"
        for name, allowed in (("dora_magnitude", MAGNITUDES), ("dora_magnitude_size", MAGNITUDE_SIZES)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} {getattr(self, name)!r} is not one of {', '.join(allowed)}")

    def usual_budget(self, pieces: Sequence[Piece]) -> int:
        """Half of what LoRA of rank 1 trains on the same layers."""
        return sum(piece.size for piece in pieces if len(piece.shape) == 2) // (2 * self.r)
