"""The maps of the frame benchmark, and the dense maps of torch and PennyLane that an engineer would otherwise take."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from qpeft.generators.frames import (
    CayleyFrame,
    ExponentialFrame,
    Frame,
    GivensFrame,
    HouseholderFrame,
    NeumannFrame,
    NodeFrame,
    PauliFrame,
    TaylorFrame,
)


@dataclass
class Contender:
    """`generate` gives frames (count, N, K) from `parameters`."""

    generate: Callable[[], Tensor]
    parameters: list[nn.Parameter]

    def jobs(self) -> dict[str, Callable[[], None]]:
        """What is timed: "forward" alone, and forward with "gradient"."""
        with torch.no_grad():
            weights = torch.randn_like(self.generate())

        def forward() -> None:
            with torch.no_grad():
                self.generate()
            _wait(weights)

        def gradient() -> None:
            for parameter in self.parameters:
                parameter.grad = None
            self.generate().backward(weights)
            _wait(weights)

        return {"forward": forward, "gradient": gradient}


def of_frame(frame: Frame) -> Contender:
    return Contender(frame, list(frame.parameters()))


Make = Callable[[int, int, int], Frame]
PAULI, NODE, TAYLOR, TAYLOR_3 = "Pauli, L=1", "node N'=4, L=1", "Taylor P=18", "Taylor P=3"
NEUMANN = "Neumann P=18"
MAPS: dict[str, Make] = {
    PAULI: PauliFrame,
    NODE: partial(NodeFrame, node_size=4),
    "exponential": ExponentialFrame,
    TAYLOR: partial(TaylorFrame, order=18),
    TAYLOR_3: partial(TaylorFrame, order=3),
    "Cayley": CayleyFrame,
    NEUMANN: partial(NeumannFrame, order=18),
    "Householder": HouseholderFrame,
    "Givens": GivensFrame,
}
SERIES = (TAYLOR, TAYLOR_3, NEUMANN)  # cut short, so that their error hangs on the scale of B
# Each with the map of ours that makes the same kind of matrices.
PEERS = {
    "torch matrix_exp": "exponential",
    "torch cayley": "Cayley",
    "torch householder": "Householder",
    "PennyLane matrix": PAULI,
}


def maps_of(size: int) -> list[str]:
    """The maps that make frames of this power of two: nodes of 4 make powers of 4."""
    return [name for name in MAPS if name != NODE or size.bit_length() % 2]


def init_scales() -> dict[str, float]:
    """Scale of B at the start, of the maps that have one."""
    kinds = {name: getattr(make, "func", make) for name, make in MAPS.items()}
    return {name: kind.default_init_scale for name, kind in kinds.items() if hasattr(kind, "default_init_scale")}


def peer(name: str, size: int, columns: int, count: int) -> Contender:
    if name == "PennyLane matrix":
        return _pennylane(size, columns, count)
    module = nn.Module()
    # As our exponential map starts. Without trivialisation, which would cost one more N x N product.
    module.weight = nn.Parameter(torch.randn(count, size, columns) * ExponentialFrame.default_init_scale / size**0.5)
    nn.utils.parametrizations.orthogonal(module, "weight", name.split()[1], use_trivialization=False)
    return Contender(lambda: module.weight, list(module.parameters()))


def _pennylane(size: int, columns: int, count: int) -> Contender:
    """The same circuit as `PauliFrame`'s; the template takes no batch, so the circuits run one by one."""
    import pennylane as qml

    qubits = size.bit_length() - 1
    first = nn.Parameter(2 * math.pi * torch.rand(count, qubits))
    rest = nn.Parameter(2 * math.pi * torch.rand(count, 1, qubits - 1, 2))
    matrix = qml.matrix(qml.SimplifiedTwoDesign, wire_order=range(qubits))

    def generate() -> Tensor:
        pairs = zip(first, rest, strict=True)
        return torch.stack([matrix(a, b, wires=range(qubits)).real[:, :columns] for a, b in pairs])

    return Contender(generate, [first, rest])


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()
