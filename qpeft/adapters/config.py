"""`QPAConfig`: a `LoraConfig` whose weights a circuit generates."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from peft import LoraConfig

from qpeft.adapters.peft_internals import QpeftType
from qpeft.engines import check_engine, get_engine
from qpeft.errors import ConfigError
from qpeft.generators.spec import CIRCUIT_SOURCES, AnsatzLike, QPASpec
from qpeft.options import option
from qpeft.qcircuits import Circuit, Engine
from qpeft.registry import Registry

FORMAT_VERSION = 1
CUSTOM = "custom"  # how a circuit or function of the user's own is named in a file
STARTS = ("identity", "paper")

PRESETS: Registry[dict[str, Any]] = Registry(
    "preset",
    {
        # One small hidden layer trains best for its size, and p * 2**N - 1 keeps the angles' gradient alive.
        "default": {"hidden": [16], "activation": "gelu", "transform": "scaled", "start": "identity"},
        # arXiv 2410.09846, Table 1 and Appendix J: seven hidden layers, no activation, p itself, no zero start.
        "paper": {
            "hidden": [32, 64, 128, 128, 64, 32, 32], "activation": "none", "transform": "identity", "start": "paper",
        },
    },
)  # fmt: skip

_UNSUPPORTED: dict[str, Any] = {  # what generated factors do not cover, with the only value allowed
    "lora_bias": False, "bias": "none", "layer_replication": None, "target_parameters": None, "rank_pattern": {},
    "alpha_pattern": {}, "init_lora_weights": True, "ensure_weight_tying": False, "trainable_token_indices": {},
    "alora_invocation_tokens": None, "use_qalora": False, "megatron_config": None,
    **{variant.name: False for variant in fields(LoraConfig) if variant.metadata.get("is_lora_variant")},
}  # fmt: skip
_RESOLVED = {"target_size", "chunk_size", "circuit", "frozen_checksum", "settings"}  # what `resolved` must hold
_SETTINGS = (  # what decides a generator's sizes and its frozen factor
    "r", "chunk_size", "budget", "ansatz", "reps", "hidden", "activation", "transform", "start", "source", "seed",
)  # fmt: skip


def _ansatz_name(ansatz: AnsatzLike) -> str:
    return ansatz if isinstance(ansatz, str) else CUSTOM


@dataclass
class QPAConfig(LoraConfig):  # type: ignore[misc]  # peft is untyped
    """Configuration of Quantum Parameter Adaptation of LoRA weights (arXiv 2410.09846).

    One generator serves all targets. Without `chunk_size` or `budget` it trains at most half as many numbers as LoRA of
    rank 1 would. Fields left None are taken from the preset.

    Example:
        >>> QPAConfig(r=4, target_modules=["lm_head"], chunk_size=128).hidden
        [16]
    """

    r: int = option(4, "rank of the generated update")
    lora_alpha: int = option(8, "scale: the update is multiplied by lora_alpha / r")
    preset: str = option("default", "'default' or 'paper': sets hidden, activation, transform and start")
    chunk_size: int | None = option(None, "n_mlp, weights generated for each basis state")
    budget: int | None = option(None, "most numbers to train; chooses the chunk size")
    ansatz: Any = option("ry_cnot", "registered name, Circuit, or function (num_qubits, reps) -> Circuit")
    reps: int = option(8, "layers of the ansatz")
    hidden: list[int] | None = option(None, "widths of the mapping network's hidden layers")
    activation: str | None = option(None, "activation of the mapping network")
    transform: str | None = option(None, "what is done to the probabilities")
    start: str | None = option(None, "'identity' (zero last layer, frozen random A) or 'paper' (all random)")
    source: str = option("circuit", "circuit, or a classical control: frozen, free, mlp, none")
    engine: str = option("exact", "engine that runs the circuit, NAME[@DEVICE][:SHOTS], e.g. exact:20x")
    diff_method: str | None = option(None, "how the engine is differentiated; its own default if not given")
    gradient_shots: str | None = option(None, "shots of each circuit of a sampled gradient; the engine's if not given")
    seed: int = option(
        0, "seed of the frozen random factor, which is rebuilt and not saved, and of the engine's samples"
    )
    resolved: dict[str, Any] | None = option(None, "filled in when the adapter is built: sizes, circuit, checksum")
    format_version: int = option(FORMAT_VERSION, "version of this file's format")
    # peft saves the whole embedding matrix beside an adapter of `lm_head` unless token rows are listed: none are.
    trainable_token_indices: Any = option({}, "always empty")

    def __post_init__(self) -> None:
        for name, allowed in _UNSUPPORTED.items():
            given = getattr(self, name)
            if given != allowed and (given or allowed is True):
                raise ConfigError(f"{name}={given!r} is not available for generated weights; leave it out")
        self.trainable_token_indices = {}
        self._check_types()
        super().__post_init__()
        self.peft_type = QpeftType.QPA
        if self.format_version > FORMAT_VERSION:
            raise ConfigError(
                f"the adapter was written in format {self.format_version}; this qpeft reads up to {FORMAT_VERSION}. "
                "Install a newer qpeft"
            )
        for name, default in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                setattr(self, name, copy.copy(default))
        if self.start not in STARTS:
            raise ConfigError(f"start {self.start!r} is not one of {', '.join(STARTS)}")
        if not isinstance(self.r, int) or self.r < 1:
            raise ConfigError(f"rank r is {self.r!r}; it must be a whole number of at least 1")
        for name in ("chunk_size", "budget"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if self.chunk_size is not None and self.budget is not None:
            raise ConfigError("give chunk_size or budget, not both: the budget chooses the chunk size")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed!r}; it must be a whole number of at least 0")
        if not isinstance(self.engine, str):
            raise ConfigError(
                f"engine is a {type(self.engine).__name__}; give the name of a registered engine, since the config is "
                "saved as a file: qpeft.register_engine gives an engine of your own a name"
            )
        check_engine(self.engine, self.diff_method, self.gradient_shots, self.seed)

    def _check_types(self) -> None:
        """Refuses what a damaged or hand-edited `adapter_config.json` may hold."""
        hidden, resolved = self.hidden, self.resolved
        sound = {
            "format_version": _is_whole(self.format_version), "reps": _is_whole(self.reps),
            "lora_alpha": type(self.lora_alpha) in (int, float) and math.isfinite(self.lora_alpha),
            "hidden": hidden is None or (isinstance(hidden, list) and all(map(_is_whole, hidden))),
            "resolved": resolved is None or (isinstance(resolved, dict) and resolved.keys() >= _RESOLVED),
        }  # fmt: skip
        for name, fine in sound.items():
            if not fine:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, which is no such setting; if it was read from a file, "
                    "adapter_config.json is damaged: save the adapter again"
                )

    def settings(self) -> dict[str, Any]:
        """The fields that decide a generator's sizes and its frozen factor, as plain data."""
        data = {name: getattr(self, name) for name in _SETTINGS}
        return data | {"ansatz": _ansatz_name(self.ansatz), "hidden": list(self.hidden or ())}

    def saved_build(self, target_size: int) -> dict[str, Any] | None:
        """`resolved`, if it was filled in for this size and the settings are still those; else None.

        A config outlives its first model: it is changed, copied with `dataclasses.replace`, used on other models.
        """
        saved = self.resolved
        if saved is None or not isinstance(self.ansatz, str) or saved["target_size"] != target_size:
            return None
        return saved if saved["settings"] == self.settings() else None

    def spec(self, shapes: list[tuple[int, int]]) -> QPASpec:
        """The generator's sizes for layers of these (out_features, in_features).

        Raises:
            ConfigError: Sizes that cannot be, e.g. a circuit of other qubits than the chunks need.
        """
        target_size = sum(self.r * (fan_out + fan_in) for fan_out, fan_in in shapes)
        options: dict[str, Any] = {
            "ansatz": self.ansatz, "reps": self.reps, "hidden": tuple(self.hidden or ()), "activation": self.activation,
            "transform": self.transform, "source": self.source, "zero_last": self.start == "identity",
        }  # fmt: skip
        saved = self.saved_build(target_size)
        if saved is not None:
            options["ansatz"] = Circuit.from_dict(saved["circuit"])
            return QPASpec(target_size, saved["chunk_size"], **options)
        if self.ansatz == CUSTOM:
            raise ConfigError(
                f"the saved circuit was made for {(self.resolved or {}).get('target_size')} generated weights and the "
                f"settings saved with it; this model's targets need {target_size}. Load the adapter unchanged on the "
                "model it was trained on"
            )
        if self.chunk_size is not None:
            return QPASpec(target_size, self.chunk_size, **options)
        if self.budget is not None:
            return QPASpec.within_budget(target_size, self.budget, **options)
        lora_rank_1 = sum(fan_out + fan_in for fan_out, fan_in in shapes)
        least = QPASpec.smallest(target_size, **options)
        return QPASpec.within_budget(target_size, max(lora_rank_1 // 2, least.num_parameters), **options)

    def build_engine(self) -> Engine:
        """The engine that runs the circuit; raises `MissingExtraError` if a package it needs is not installed.

        A classical control without a circuit needs none, and gets the exact one.
        """
        if self.source not in CIRCUIT_SOURCES:
            return get_engine("exact")
        return get_engine(self.engine, self.diff_method, self.gradient_shots, self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; a circuit or function of the user's own is the circuit in `resolved`."""
        ansatz: AnsatzLike | Callable[..., Any] = self.ansatz
        try:
            self.ansatz = _ansatz_name(ansatz)
            data: dict[str, Any] = super().to_dict()
        finally:
            self.ansatz = ansatz
        return data


def _is_whole(value: Any) -> bool:
    return type(value) is int  # True is no number here
