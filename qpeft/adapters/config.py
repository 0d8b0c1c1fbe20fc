"""PEFT configs of generated weights: what every carrier shares, and `QPAConfig` for LoRA and DoRA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from peft import LoraConfig

from qpeft.adapters.bank import Piece, QPABank, by_scope
from qpeft.adapters.budget import shares
from qpeft.adapters.built_config import CUSTOM, BuiltConfig, damaged
from qpeft.adapters.card import generator_facts
from qpeft.adapters.lora_options import check_lora_options
from qpeft.adapters.peft_internals import QpeftType
from qpeft.adapters.resolved import another_build, changed_settings, describe, is_resolved
from qpeft.engines import check_engine, get_engine
from qpeft.errors import ConfigError
from qpeft.generator_settings import SETTING_NAMES, GeneratorSettings
from qpeft.generators.philox import checksum
from qpeft.generators.spec import CIRCUIT_SOURCES, AnsatzLike, QPASpec
from qpeft.options import is_whole, option
from qpeft.qcircuits import Circuit, Engine

_DECIDING = tuple(  # the settings that decide the generators' sizes and the frozen numbers
    name for name in SETTING_NAMES if name not in ("preset", "engine", "diff_method", "gradient_shots")
)
MAGNITUDES = ("relative", "absolute")
MAGNITUDE_SIZES = ("out", "in")


@dataclass
class GeneratedConfig(BuiltConfig, GeneratorSettings):
    """What the configs of all carriers share: the generator's settings, and what they were resolved to.

    A config that mixes this in calls `check_generated()` at the end of its `__post_init__`.
    """

    seed: int = option(
        0, "seed of the frozen random numbers, which are rebuilt and not saved, and of the engine's samples"
    )

    is_resolved = staticmethod(is_resolved)

    def card_facts(self) -> list[str]:
        return generator_facts(self) if self.resolved is not None else []

    def check_generated(self) -> None:
        """Checks the settings, which a damaged or hand-edited `adapter_config.json` may hold, and applies the preset.

        Raises:
            ConfigError: A value that is not allowed, or a file of a newer format.
        """
        if not (is_whole(self.seed) and 0 <= self.seed < 2**63):
            raise damaged("seed", self.seed)
        self.check_built()
        GeneratorSettings.__post_init__(self)
        check_engine(self.engine, self.diff_method, self.gradient_shots, self.seed)
        self.apply_preset()

    def settings(self) -> dict[str, Any]:
        """The settings that decide the generators' sizes and the frozen numbers, as plain data."""
        data = {name: getattr(self, name) for name in (*_DECIDING, "seed")}
        return data | {"ansatz": self.ansatz_name, "hidden": list(self.hidden or ())}

    def saved_build(self, sizes: Sequence[int]) -> dict[str, Any] | None:
        """`resolved`, if it was filled in for these target sizes and the settings are still those; else None.

        A config outlives its first model: it is changed, copied with `dataclasses.replace`, used on other models.
        """
        saved = self.resolved
        if saved is None or not isinstance(self.ansatz, str):
            return None
        if [generator["target_size"] for generator in saved["generators"]] != list(sizes):
            return None
        return None if changed_settings(saved["settings"], self.settings()) else saved

    def specs(self, pieces: Sequence[Piece]) -> list[QPASpec]:
        """The sizes of the generators: one in all, or one for each layer (`scope`).

        Raises:
            ConfigError: Sizes that cannot be, e.g. a circuit of other qubits than the chunks need.
        """
        groups = by_scope(pieces, self.scope)
        sizes = [sum(piece.size for piece in group) for group in groups]
        if (saved := self.saved_build(sizes)) is not None:
            circuits = [Circuit.from_dict(data) for data in saved["circuits"]]
            return [
                QPASpec(size, built["chunk_size"], **self._options(circuits[built["circuit"]]))
                for size, built in zip(sizes, saved["generators"], strict=True)
            ]
        if self.ansatz == CUSTOM or self.is_saved:
            raise self._another_build(sizes)
        budgets = self._budgets(groups, sizes)
        return [self._spec(size, budget) for size, budget in zip(sizes, budgets, strict=True)]

    def _another_build(self, sizes: list[int]) -> ConfigError:
        saved = self.resolved or {"generators": [], "settings": {}}
        was = [generator["target_size"] for generator in saved["generators"]]
        then, now = (", ".join(map(str, numbers)) or "unknown numbers of" for numbers in (was, sizes))
        differs = (
            None if was == sizes else f"it was made for {then} generated weights, and this model's targets need {now}"
        )
        return another_build(saved["settings"], self.settings(), differs)

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
        return shares(self.budget, least, sizes)

    def usual_budget(self, pieces: Sequence[Piece]) -> int:
        """The budget of a generator if none is given: an eighth of what it generates."""
        return sum(piece.size for piece in pieces) // 8

    def lora_rank_1(self, pieces: Sequence[Piece]) -> int | None:
        """Numbers that LoRA of rank 1 trains on the same layers; None if the pieces do not tell."""
        return None

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
        self.resolved = describe(specs) | {
            "frozen_checksum": found, "settings": self.settings(), "num_frozen": bank.num_frozen,
            "lora_rank_1": self.lora_rank_1(pieces),
        }  # fmt: skip
        return bank

    def build_engine(self) -> Engine:
        """The engine that runs the circuit; raises `MissingExtraError` if a package it needs is not installed."""
        if self.source not in CIRCUIT_SOURCES:  # a classical control without a circuit needs none
            return get_engine("exact")
        return get_engine(self.engine, self.diff_method, self.gradient_shots, self.seed)


@dataclass
class QPAConfig(GeneratedConfig, LoraConfig):  # type: ignore[misc]  # peft is untyped
    """Configuration of Quantum Parameter Adaptation of LoRA or DoRA weights (arXiv 2410.09846).

    With `use_dora` the magnitudes are generated too: as a change of the weight's norm n, relative (n (1 + g)) or
    absolute (n + g), so that step 0 is the identity; absolute under the start "paper", they are what is generated (g),
    as in the paper. They are as many as the layer has outputs, as in PEFT's DoRA, or inputs (the paper's eq. 10).

    Example:
        >>> QPAConfig(r=4, target_modules=["lm_head"], chunk_size=128).hidden
        [16]
    """

    exported: ClassVar[str] = "as a plain LoRA or DoRA of peft's, which needs neither qpeft nor a circuit"

    r: int = option(4, "rank of the generated update")
    lora_alpha: int = option(8, "scale: the update is multiplied by lora_alpha / r")
    dora_magnitude: str | None = option(None, "'relative' to the weight's norm, or 'absolute'; the preset's")
    dora_magnitude_size: str = option("out", "one DoRA magnitude for each output ('out') or input ('in') of a layer")
    # peft saves the whole embedding matrix beside an adapter of `lm_head` unless token rows are listed: none are.
    trainable_token_indices: Any = option({}, "always empty")

    def __post_init__(self) -> None:
        check_lora_options(self, "generated weights", covers=("use_dora",))
        LoraConfig.__post_init__(self)
        self.peft_type = QpeftType.QPA
        self.check_generated()
        if self.use_dora not in (True, False, None):
            raise ConfigError(f"use_dora is {self.use_dora!r}; it must be true or false")
        if self.dora_magnitude is not None and not self.use_dora:
            raise ConfigError(f"dora_magnitude={self.dora_magnitude!r} needs use_dora=True; set it, or leave it out")
        if self.use_dora and self.dora_magnitude is None:
            self.dora_magnitude = "absolute" if self.start == "paper" else "relative"
        for name, allowed in (("dora_magnitude", (None, *MAGNITUDES)), ("dora_magnitude_size", MAGNITUDE_SIZES)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} {getattr(self, name)!r} is not one of {', '.join(filter(None, allowed))}")

    def lora_rank_1(self, pieces: Sequence[Piece]) -> int:
        """Numbers that LoRA of rank 1 trains on the same layers."""
        return sum(piece.size for piece in pieces if len(piece.shape) == 2) // self.r

    def usual_budget(self, pieces: Sequence[Piece]) -> int:
        """Half of what LoRA of rank 1 trains on the same layers."""
        return self.lora_rank_1(pieces) // 2
