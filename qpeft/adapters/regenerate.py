"""An adapter's weights generated once more by exact simulation, and how far its own engine is from that.

Weights from a sampling or noisy engine are those of its last sample: the one it draws for the trained numbers as they
are. The same angles and network give the exact weights if the circuit is simulated exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from qpeft.adapters.bank import QPABank
from qpeft.adapters.peft_internals import bank_of
from qpeft.errors import ConfigError, EngineError
from qpeft.generators import QPAGenerator
from qpeft.generators.sources import CircuitSource
from qpeft.qcircuits import StatevectorEngine

EXACT, LAST_SAMPLE = "exact", "last_sample"
ROUNDING = 1e-5  # total variation between exact engines in single precision; a single shot more or less is far above


@dataclass(frozen=True)
class Deviation:
    """How far the distribution p that an adapter's weights come from is from the exact one q, at the same angles.

    Attributes:
        total_variation: sum_i |p_i - q_i| / 2, from 0 (equal) to 1.
        fidelity: (sum_i sqrt(p_i q_i))**2, the classical fidelity, from 0 to 1 (equal).
    """

    total_variation: float
    fidelity: float

    @classmethod
    def between(cls, p: Tensor, q: Tensor) -> Deviation:
        """The deviation of two distributions (D,), each scaled to the sum 1.

        Raises:
            EngineError: Probabilities that are not finite.

        Example:
            >>> Deviation.between(torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.75]))
            Deviation(total_variation=0.75, fidelity=0.25)
        """
        p, q = (x.detach().double().cpu().clamp(min=0) for x in (p, q))
        p, q = p / p.sum(), q / q.sum()
        if not (p.isfinite().all() and q.isfinite().all()):
            raise EngineError("the circuit's probabilities are not finite: its angles are not. Lower the learning rate")
        overlap = float((p * q).sqrt().sum())
        return cls(float((p - q).abs().sum()) / 2, min(overlap, 1.0) ** 2)

    @property
    def weights(self) -> str:
        """What the weights are to be called: `exact`, or `last_sample` of an engine that samples or has noise."""
        return EXACT if self.total_variation <= ROUNDING else LAST_SAMPLE


def circuit_generators(model: PeftModel, adapter_name: str = "default") -> list[tuple[QPAGenerator, CircuitSource]]:
    """The generators of an adapter's weights that run a circuit, each with its circuit; none for other adapters."""
    bank = bank_of(model, adapter_name)
    if not isinstance(bank, QPABank):
        return []
    return [
        (generator, generator.source)
        for generator in bank.generators
        if isinstance(generator, QPAGenerator) and isinstance(generator.source, CircuitSource)
    ]


@torch.no_grad()
def deviation(model: PeftModel, adapter_name: str = "default") -> Deviation | None:
    """The deviation of the sample behind an adapter's weights from the exact distribution; None without a circuit.

    Of several circuits, that of the one that is furthest off.
    """
    found = []
    for generator, source in circuit_generators(model, adapter_name):
        generator.choose_sample()  # the one the weights are made of
        circuit = generator.spec.circuit
        sampled = source.engine.probabilities(circuit, source.angles)
        found.append(Deviation.between(sampled, StatevectorEngine().probabilities(circuit, source.angles)))
    return max(found, key=lambda one: one.total_variation, default=None)


def with_exact_weights(model: PeftModel, adapter_name: str = "default") -> PeftModel:
    """A copy of the model that simulates an adapter's circuits exactly; it shares every parameter and buffer.

    Raises:
        ConfigError: The adapter runs no circuit.
        EngineError: A circuit is too large to be simulated.
    """
    twin: PeftModel = share_weights(model)
    circuits = circuit_generators(twin, adapter_name)
    if not circuits:
        raise ConfigError(f"adapter {adapter_name!r} runs no circuit: there is nothing to simulate exactly")
    exact = StatevectorEngine()
    for generator, source in circuits:
        exact.check(generator.spec.circuit)
        generator.engine = source.engine = exact
    return twin


def share_weights(model: nn.Module, copied: Iterable[nn.Parameter] = ()) -> Any:
    """A deep copy of the modules that shares every parameter and buffer, but for the parameters that are `copied`."""
    memo: dict[int, Any] = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    for parameter in copied:
        memo.pop(id(parameter), None)
    return copy.deepcopy(model, memo)
