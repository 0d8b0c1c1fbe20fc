"""Where each basis state's number comes from: the circuit, or one of its classical controls.

Every source is a module whose `forward()` gives one number a chunk, (n_ch,). The controls answer what the circuit adds:
they differ from it in nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qpeft.generators.philox import fingerprint
from qpeft.generators.spec import QPASpec
from qpeft.generators.traced import register, traced_call
from qpeft.generators.transforms import TRANSFORMS
from qpeft.qcircuits import Engine


def basis_labels(num_rows: int, num_qubits: int) -> Tensor:
    """Row i holds the bits of i as -1 and +1, most significant first: (num_rows, num_qubits)."""
    shifts = torch.arange(num_qubits - 1, -1, -1)
    bits = (torch.arange(num_rows)[:, None] >> shifts) & 1
    return (2 * bits - 1).to(torch.float32)


@torch.no_grad()
def choose_sample(engine: Engine, state: Sequence[Tensor]) -> None:
    """Makes the engine's next sample the one of these numbers; nothing for an engine that has none."""
    draws = getattr(engine, "draws", None)
    if draws is not None:
        draws.call = fingerprint(torch.cat([tensor.reshape(-1) for tensor in state]))


class CircuitSource(nn.Module):
    """Transformed basis probabilities of the circuit; its angles start uniform in [-pi, pi].

    Args:
        spec: Circuit, transform and number of chunks.
        engine: Runs the circuit.
        trainable: Whether the angles train; the control "frozen" keeps them at their start.
    """

    angles: Tensor

    def __init__(self, spec: QPASpec, engine: Engine, trainable: bool = True) -> None:
        super().__init__()
        self.spec, self.engine = spec, engine
        start = (2 * torch.rand(spec.circuit.num_parameters) - 1) * math.pi
        if trainable:
            self.angles = nn.Parameter(start)
        else:
            self.register_buffer("angles", start)
        self.handle = register(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.handle = register(self)  # of its own: this is how copies are made

    def forward(self) -> Tensor:
        """(n_ch,)"""
        return self._features(self.engine.probabilities(self.spec.circuit, self.angles))

    def traced(self, state: Sequence[Tensor]) -> Tensor:
        """What `forward` gives after `choose_sample` with `state`, for the graph of `torch.compile`: (n_ch,)."""
        return self._features(traced_call(self.handle, [2**self.spec.num_qubits], self.angles, state))

    def run(self, angles: Tensor, state: Sequence[Tensor]) -> Tensor:
        """The engine's probabilities (2**N,) at other angles than its own, in the sample of `state`."""
        choose_sample(self.engine, state)
        return self.engine.probabilities(self.spec.circuit, angles)

    def _features(self, probabilities: Tensor) -> Tensor:
        return TRANSFORMS[self.spec.transform](probabilities, self.spec.num_qubits)[: self.spec.num_chunks]


class FreeSource(nn.Module):
    """The control "free": a trainable number a chunk, which starts as the circuit's would."""

    def __init__(self, spec: QPASpec, engine: Engine) -> None:
        super().__init__()
        # Angles as a buffer, because peft makes parameters without values when it loads with low_cpu_mem_usage; a copy,
        # because the features are a view of 2**N numbers.
        self.values = nn.Parameter(CircuitSource(spec, engine, trainable=False)().clone())

    def forward(self) -> Tensor:
        """(n_ch,)"""
        return self.values


class LabelMLPSource(nn.Module):
    """The control "mlp": a one-hidden-layer tanh network on the basis label, as large as the circuit."""

    labels: Tensor

    def __init__(self, spec: QPASpec) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(spec.num_qubits, spec.label_mlp_width), nn.Tanh(), nn.Linear(spec.label_mlp_width, 1)
        )
        self.register_buffer("labels", basis_labels(spec.num_chunks, spec.num_qubits), persistent=False)

    def forward(self) -> Tensor:
        """(n_ch,)"""
        values: Tensor = self.network(self.labels)
        return values.squeeze(-1)


def build_source(spec: QPASpec, engine: Engine) -> nn.Module | None:
    """The source `spec.source` names; None for "none"."""
    match spec.source:
        case "circuit":
            return CircuitSource(spec, engine)
        case "frozen":
            return CircuitSource(spec, engine, trainable=False)
        case "free":
            return FreeSource(spec, engine)
        case "mlp":
            return LabelMLPSource(spec)
        case _:
            return None
