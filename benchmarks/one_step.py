"""One step of an engine on the circuit of the benchmarks: an RY + CNOT chain of 8 layers."""

from __future__ import annotations

import torch
from circuit_speed import REPS, median_seconds

from qpeft.qcircuits import Engine, ansatz


def one_step(
    engine: Engine, num_qubits: int, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Probabilities (2**N,) and gradient (angles,) in float64, and the median seconds of forward + gradient.

    The angles are uniform in [-pi, pi]; the gradient is that of one random linear functional. Both depend on the
    number of qubits alone.
    """
    circuit = ansatz("ry_cnot", num_qubits, REPS)
    numbers = torch.Generator().manual_seed(num_qubits)
    start = (2 * torch.rand(circuit.num_parameters, generator=numbers, dtype=torch.float64) - 1) * torch.pi
    angles = start.to(dtype).requires_grad_()
    weights = torch.randn(2**num_qubits, generator=numbers, dtype=torch.float64).to(dtype)
    found: list[torch.Tensor] = []

    def job() -> None:
        angles.grad = None
        probabilities = engine.probabilities(circuit, angles)
        (probabilities @ weights).backward()  # type: ignore[no-untyped-call]
        assert angles.grad is not None
        found[:] = [probabilities.detach().double(), angles.grad.double().clone()]

    seconds = median_seconds(job)
    return found[0], found[1], seconds
