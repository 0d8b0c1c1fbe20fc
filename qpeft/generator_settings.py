"""The settings of a generator, once for PEFT configs, TOML files and the command line."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from typing import Any

from qpeft.engines import check_engine
from qpeft.errors import ConfigError
from qpeft.options import check_whole, is_whole, option
from qpeft.qcircuits import Circuit
from qpeft.registry import Registry

STARTS = ("identity", "paper")
SCOPES = ("model", "layer")

PRESETS: Registry[dict[str, Any]] = Registry(
    "preset",
    {
        # One small hidden layer trains best for its size, and p * 2**N - 1 keeps the angles' gradient alive.
        "default": {
            "ansatz": "ry_cnot", "reps": 8, "hidden": [16], "activation": "gelu", "transform": "scaled",
            "start": "identity",
        },
        # arXiv 2410.09846, Table 1 and Appendix J: seven hidden layers, no activation, p itself, no zero start.
        "paper": {
            "ansatz": "ry_cnot", "reps": 8, "hidden": [32, 64, 128, 128, 64, 32, 32], "activation": "none",
            "transform": "identity", "start": "paper",
        },
    },
)  # fmt: skip


@dataclass
class GeneratorSettings:
    """How a circuit and a mapping network generate an adapter's weights (arXiv 2410.09846).

    Fields left None are taken from the preset. Without `chunk_size` or `budget` a generator keeps to its carrier's
    usual budget, half of what LoRA of rank 1 trains on the same layers where a LoRA is generated; it trains more if
    the smallest generator is larger.

    Raises:
        ConfigError: A value that is not allowed.
    """

    preset: str = option("default", "'default' or 'paper': sets what is not given of the network, transform and start")
    chunk_size: int | None = option(None, "n_mlp, weights generated for each basis state")
    budget: int | None = option(None, "most numbers to train; chooses the chunk size (for a LoRA, half of LoRA r=1)")
    ansatz: Any = option(None, "registered ansatz, Circuit, or function (num_qubits, reps) -> Circuit (ry_cnot)")
    reps: int | None = option(None, "layers of the ansatz (8)")
    hidden: list[int] | None = option(None, "widths of the mapping network's hidden layers")
    activation: str | None = option(None, "activation of the mapping network")
    transform: str | None = option(None, "what is done to the probabilities")
    start: str | None = option(None, "'identity' (the adapter starts at zero) or 'paper' (all random)")
    source: str = option("circuit", "circuit, or a classical control: frozen, free, mlp, none")
    scope: str = option("model", "one generator for the whole 'model', or one for each 'layer'")
    engine: str = option("exact", "engine that runs the circuit, NAME[@DEVICE][:SHOTS], e.g. exact:20x, aer:20x")
    diff_method: str | None = option(None, "how the engine is differentiated; its own default if not given")
    gradient_shots: str | None = option(None, "shots of each circuit of a sampled gradient, e.g. 100x; the engine's")

    def __post_init__(self) -> None:
        if not isinstance(self.engine, str):
            raise ConfigError(
                f"engine is a {type(self.engine).__name__}; give the name of a registered engine, since the config is "
                "saved as a file: qpeft.register_engine gives an engine of your own a name"
            )
        check_engine(self.engine, self.diff_method, self.gradient_shots)
        check_ansatz(self.ansatz)
        PRESETS[self.preset]  # an unknown name raises
        _require(self.start is None or self.start in STARTS, f"start {self.start!r} is not one of {', '.join(STARTS)}")
        _require(self.scope in SCOPES, f"scope {self.scope!r} is not one of {', '.join(SCOPES)}")
        for name, least in (("reps", 0), ("chunk_size", 1), ("budget", 1)):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), least)
        both = self.chunk_size is not None and self.budget is not None
        _require(not both, "give chunk_size or budget, not both: the budget chooses the chunk size")
        hidden = self.hidden
        sound = hidden is None or (isinstance(hidden, list) and all(map(is_whole, hidden)))
        _require(sound, f"hidden is {hidden!r}; it must be a list of whole numbers")

    def apply_preset(self) -> None:
        """Fills the fields left None from the preset."""
        for name, default in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                setattr(self, name, copy.copy(default))


def check_ansatz(ansatz: Any) -> None:
    """Raises `ConfigError` for what cannot be an ansatz; None stands for the usual one."""
    if not (ansatz is None or isinstance(ansatz, str | Circuit) or callable(ansatz)):
        raise ConfigError(
            f"ansatz is {ansatz!r}; give a registered name, a Circuit, or a function (num_qubits, reps) -> Circuit"
        )


SETTING_NAMES = tuple(field.name for field in fields(GeneratorSettings))


def _require(fine: bool, message: str) -> None:
    if not fine:
        raise ConfigError(message)
