"""Finite shots over any exact engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qpeft.errors import ConfigError, EngineError
from qpeft.qcircuits.blackbox import DIFF_METHODS, BlackBoxEngine
from qpeft.qcircuits.circuit import Circuit
from qpeft.qcircuits.engine import Engine, require_engine
from qpeft.qcircuits.gradients import in_blocks
from qpeft.qcircuits.seeding import Purpose, Stream
from qpeft.qcircuits.shots import Shots
from qpeft.qcircuits.surrogate import substitute
from qpeft.qcircuits.untraced import untraced


def frequencies(probabilities: Tensor, shots: int, rng: np.random.Generator) -> Tensor:
    """Relative frequencies of `shots` measurements: one multinomial sample a row, (..., D) -> (..., D).

    Raises:
        EngineError: Probabilities that are not finite.
    """
    exact = probabilities.detach().to("cpu", torch.float64).clamp(min=0).numpy()
    if not np.isfinite(exact).all():
        raise EngineError("cannot sample: probabilities are not finite, so the angles are not; lower the learning rate")
    exact = exact / exact.sum(-1, keepdims=True)  # float32 sums to 1 only to seven digits
    return torch.from_numpy(rng.multinomial(shots, exact) / shots).to(probabilities)


class SampledEngine(BlackBoxEngine):
    """Frequencies of a finite number of measurements instead of probabilities.

    Args:
        engine: An exact engine.
        shots: Measurements of each circuit, e.g. 4096 or "10x" (10 * 2**N).
        diff_method: "straight-through" (the exact engine's gradient at the sampled value), or "parameter-shift" or
            "spsa", whose shifted circuits are sampled too.
        gradient_shots: Measurements of each shifted circuit; `shots` if None.
        seed: Decides every sample together with the number of the call.

    Example:
        >>> from qpeft.qcircuits import StatevectorEngine, ansatz
        >>> circuit = ansatz("ry_cnot", 2, 1)
        >>> SampledEngine(StatevectorEngine(), shots=100).probabilities(circuit, torch.tensor([0.0, 3.14159265]))
        tensor([0., 1., 0., 0.])
    """

    diff_methods = ("straight-through", *DIFF_METHODS)

    def __init__(
        self, engine: Engine, shots: Shots | int | str, diff_method: str = "straight-through",
        gradient_shots: Shots | int | str | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(shots, diff_method, gradient_shots, seed)
        if diff_method == "straight-through" and gradient_shots is not None:
            raise ConfigError(
                f"gradient_shots is {gradient_shots}, but 'straight-through' samples no gradient; "
                "use 'parameter-shift' or 'spsa'"
            )
        require_engine(engine, "engine")
        if getattr(engine, "shots", None) is not None:
            raise ConfigError(f"{type(engine).__name__} has {engine.shots} shots already; give an exact engine")  # type: ignore[attr-defined]
        self.engine = engine

    def probabilities(self, circuit: Circuit, angles: Tensor) -> Tensor:
        """See `Engine.probabilities`."""
        if self.diff_method != "straight-through":
            estimated: Tensor = super().probabilities(circuit, angles)
            return estimated
        exact = self.engine.probabilities(circuit, angles)
        return substitute(self._sample(exact), exact)

    @untraced
    def _sample(self, exact: Tensor) -> Tensor:
        assert self.shots is not None
        stream = self.draws.stream(self.draws.next(), Purpose.FORWARD)
        return frequencies(exact, self.shots.number(exact.shape[-1].bit_length() - 1), stream.generator())

    def evaluate(self, circuit: Circuit, angles: Tensor, shots: int | None, stream: Stream) -> Iterable[Tensor]:
        """See `BlackBoxEngine.evaluate`."""
        rng = stream.generator()

        def blocks() -> Iterator[Tensor]:
            for block in in_blocks(self.engine)(circuit, angles):
                assert shots is not None
                yield frequencies(block, shots, rng)

        return blocks()

    def check(self, circuit: Circuit, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        self.engine.check(circuit, dtype, device)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"of": self.engine.describe()}
