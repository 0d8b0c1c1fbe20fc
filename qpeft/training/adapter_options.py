"""The settings of an adapter: which method, what carries the update, and what generates its weights."""

from __future__ import annotations

from dataclasses import dataclass

from qpeft.errors import ConfigError
from qpeft.generator_settings import GeneratorSettings
from qpeft.options import at_least, finite, option


@dataclass(frozen=True)
class AdapterOptions:
    """Which adapter to train, and what most methods share."""

    method: str = option("qpa", "adaptation method; qpeft methods lists them")
    rank: int = option(4, "rank r of the update")
    alpha: float | None = option(None, "scale: the update is multiplied by alpha / rank (2 * rank if not given)")
    dropout: float = option(0.0, "dropout on the adapter's input")
    targets: list[str] | None = option(
        None, "layers to adapt, e.g. lm_head or q_proj, or all-linear (the output head; to classify, the usual layers)"
    )

    def __post_init__(self) -> None:
        at_least(1, self, "rank")
        finite(self, "alpha")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; it must be at least 0 and below 1")


@dataclass(frozen=True)
class CarrierOptions:
    """Settings of single methods; the others do not look at them."""

    dora_magnitude: str | None = option(None, "qpa-dora: magnitudes relative to the norm, or absolute (the paper's)")
    dora_magnitude_size: str = option("out", "qpa-dora: a magnitude for each output (out) or input (in)")


@dataclass
class GeneratorOptions(GeneratorSettings):
    """What generates the adapter's weights, for the methods whose name begins with qpa."""

    ansatz: str = option("ry_cnot", "a registered ansatz; qpeft circuit list shows them")
