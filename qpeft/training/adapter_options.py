"""The settings of an adapter: which method, what carries the update, and what generates its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from qpeft.errors import ConfigError
from qpeft.frame_settings import FrameSettings
from qpeft.generator_settings import GeneratorSettings
from qpeft.options import at_least, finite, option


@dataclass(frozen=True)
class AdapterOptions:
    """Which adapter to train, and what most methods share."""

    method: str = option("qpa", "adaptation method; qpeft methods lists them")
    rank: int = option(4, "rank r of the update")
    alpha: float | None = option(None, "the update is multiplied by alpha / rank (2 * rank; quantum-peft: 32)")
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
    """Settings of single methods; the others do not look at them. None means the method's own default."""

    virtual_tokens: int = option(20, "prefix: virtual tokens before the text")
    prefix_length: int = option(512, "additive-prefix: positions that get a vector")
    bottleneck: int | None = option(None, "ffa, houlsby, pfeiffer: width of the bottleneck (H/4; the others H/16)")
    placement: str | None = option(None, "ffa: before or after the target (before)")
    nonlinearity: str | None = option(None, "ffa, houlsby, pfeiffer: activation of the bottleneck (gelu, gelu, relu)")
    dora_magnitude: str | None = option(None, "qpa-dora: magnitudes relative to the norm, or absolute (the paper's)")
    dora_magnitude_size: str = option("out", "qpa-dora: a magnitude for each output (out) or input (in)")
    threshold: float | None = option(None, "sora: what each step takes off a gate (0.0003)")
    gate_l1: float | None = option(None, "sora: weight of an L1 term on the gates (0)")
    block_size: int | None = option(None, "oft, boft: inputs in a block (32; 4)")
    frequencies: int = option(1000, "fourierft: trained Fourier coefficients of each target")

    def __post_init__(self) -> None:
        at_least(1, self, "virtual_tokens", "prefix_length", "bottleneck", "block_size", "frequencies")
        finite(self, "threshold", "gate_l1")


@dataclass
class GeneratorOptions(GeneratorSettings):
    """What generates the weights, for the methods whose name begins with qpa; quantum-peft looks at the circuit."""

    ansatz: str | None = option(
        None, "a registered ansatz; qpeft circuit list shows them (ry_cnot; quantum-peft: simplified_two_design)"
    )
    reps: int | None = option(None, "layers of the ansatz (8; quantum-peft: 1)")


@dataclass(frozen=True)
class CountConfig:
    """All settings of `qpeft count`."""

    adapter: AdapterOptions = field(default_factory=AdapterOptions)
    carrier: CarrierOptions = field(default_factory=CarrierOptions)
    generator: GeneratorOptions = field(default_factory=GeneratorOptions)
    frame: FrameSettings = field(default_factory=FrameSettings)

    @property
    def settings(self) -> dict[str, Any]:
        """What `qpeft.adapters.methods.Method.peft_config` takes; seed and steps change no count."""
        return method_settings(self.adapter, self.carrier, self.generator, self.frame, seed=0, steps=100)


def method_settings(*sections: Any, seed: int, steps: int) -> dict[str, Any]:
    """The settings of several sections in one, with what else a method may want to know."""
    return {name: value for section in sections for name, value in asdict(section).items()} | {
        "seed": seed, "steps": steps,
    }  # fmt: skip
