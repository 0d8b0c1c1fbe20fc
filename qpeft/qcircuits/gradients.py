"""Gradients from evaluations alone: parameter-shift and SPSA, as vector-Jacobian products.

Both need nothing but probabilities at other angles, so they serve simulators without a backward pass and hardware.
What they contract is streamed: of the P x 2**N Jacobian, a block of rows exists at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from qpeft.errors import CircuitError, EngineError
from qpeft.qcircuits.circuit import Angle, Circuit, Operation
from qpeft.qcircuits.engine import Engine
from qpeft.qcircuits.gates import gate

BLOCK_NUMBERS = 2**22  # probabilities of one block: 16 MiB in float32

Evaluate = Callable[[Circuit, Tensor], Iterable[Tensor]]
"""(circuit, angles (B, P)) -> blocks (b, 2**N) whose rows are the probabilities at the rows of the angles, in order."""

ShiftRule = tuple[tuple[float, float], ...]
"""Pairs (s, c) with f'(t) = sum of c * (f(t + s) - f(t - s))."""

_RULES: dict[tuple[float, ...], ShiftRule] = {
    (1.0,): ((math.pi / 2, 0.5),),
    (1.0, 2.0): ((math.pi / 4, 1.0), (math.pi / 2, (1 - math.sqrt(2)) / 2)),
}


def shift_rule(name: str) -> ShiftRule:
    """The exact derivative of any expectation with respect to the angle of gate `name`.

    The expectation is a trigonometric polynomial whose frequencies are the gaps between the generator's eigenvalues
    (Wierichs et al., Quantum 6, 677 (2022), eq. 6): two terms for the gap 1, four for the gaps 1 and 2 of `rbs`.

    Raises:
        CircuitError: The gate has no angle, or gaps no rule is known for.

    Example:
        >>> shift_rule("ry")
        ((1.5707963267948966, 0.5),)
    """
    gaps = gate(name).gaps
    if gaps not in _RULES:
        raise CircuitError(
            f"no shift rule for gate {name!r}, whose generator has eigenvalue gaps {gaps}; known: {list(_RULES)}"
        )
    return _RULES[gaps]


@dataclass(frozen=True, eq=False)
class Unshared:
    """A circuit with an angle phi of its own, of scale 1, at every occurrence of a parameter.

    Attributes:
        circuit: The circuit; its parameters are the occurrences, in order.
        index: Which theta each occurrence takes.
        scale: Its scale.
        offset: Its offset.
    """

    circuit: Circuit
    index: Tensor  # (G,)
    scale: Tensor  # (G,) float64
    offset: Tensor  # (G,) float64

    def expand(self, angles: Tensor) -> Tensor:
        """Theta (..., P) -> phi (..., G), differentiable."""
        index, scale, offset = self._on(angles)
        return angles.index_select(-1, index) * scale + offset

    def gather(self, gradient: Tensor, num_parameters: int) -> Tensor:
        """The chain rule: a gradient in phi (B, G) -> in theta (B, P), summed over the occurrences."""
        index, scale, _ = self._on(gradient)
        return gradient.new_zeros(len(gradient), num_parameters).index_add(-1, index, gradient * scale)

    def _on(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.index.to(like.device), self.scale.to(like), self.offset.to(like)


@lru_cache(maxsize=256)
def unshared(circuit: Circuit) -> Unshared:
    """`circuit` with every occurrence of a parameter made a parameter of its own; itself if that changes nothing."""
    operations: list[Operation] = []
    angles: list[Angle] = []
    for operation in circuit.operations:
        if operation.angle is None or operation.angle.index is None:
            operations.append(operation)
            continue
        operations.append(Operation(operation.gate, operation.qubits, Angle(len(angles))))
        angles.append(operation.angle)
    plain = Circuit(circuit.num_qubits, tuple(operations), len(angles))
    return Unshared(
        circuit if plain == circuit else plain,
        torch.tensor([angle.index or 0 for angle in angles], dtype=torch.int64, device="cpu"),
        torch.tensor([angle.scale for angle in angles], dtype=torch.float64, device="cpu"),
        torch.tensor([angle.offset for angle in angles], dtype=torch.float64, device="cpu"),
    )


def in_blocks(engine: Engine) -> Evaluate:
    """An engine's probabilities, a block of `BLOCK_NUMBERS` at a time, without gradients."""

    def evaluate(circuit: Circuit, angles: Tensor) -> Iterator[Tensor]:
        with torch.no_grad():
            for part in angles.split(max(1, BLOCK_NUMBERS >> circuit.num_qubits)):
                yield engine.probabilities(circuit, part)

    return evaluate


@torch.no_grad()
def parameter_shift_vjp(evaluate: Evaluate, circuit: Circuit, angles: Tensor, cotangent: Tensor) -> Tensor:
    """The gradient of `(cotangent * probabilities).sum()` by the parameter-shift rule of each gate.

    Exact if the evaluations are, unbiased if they are. All shifted circuits go to `evaluate` in one call: two for each
    occurrence of a parameter (four for `rbs`).

    Args:
        evaluate: Gives probabilities; it is asked for `unshared(circuit).circuit`.
        circuit: The circuit.
        angles: Theta (B, P) in radians.
        cotangent: (B, 2**N).

    Returns:
        (B, P), summed over the occurrences of each parameter, with the scale of each affine angle.

    Example:
        >>> from qpeft.qcircuits import StatevectorEngine, ansatz
        >>> angles, upstream = torch.zeros(1, 1), torch.tensor([[0.0, 1.0]])
        >>> evaluate = in_blocks(StatevectorEngine())
        >>> parameter_shift_vjp(evaluate, ansatz("ry_cnot", 1, 1), angles + 0.5, upstream)  # sin(0.5) / 2
        tensor([[0.2397]])
    """
    plain = unshared(circuit)
    phi = plain.expand(angles)
    names = [o.gate for o in plain.circuit.operations if o.angle is not None and o.angle.index is not None]
    terms = [
        (place, sign * shift, sign * coefficient)
        for place, name in enumerate(names)
        for shift, coefficient in shift_rule(name)
        for sign in (1, -1)
    ]
    if not terms or not len(phi):
        return torch.zeros_like(angles)
    place = torch.tensor([t[0] for t in terms], device=phi.device)
    shifts, coefficients = phi.new_tensor([t[1:] for t in terms]).unbind(-1)
    moved = torch.zeros(len(terms), phi.shape[-1], dtype=phi.dtype, device=phi.device)
    moved[torch.arange(len(terms), device=phi.device), place] = shifts
    values = _contract(evaluate(plain.circuit, (phi[:, None] + moved).flatten(0, 1)), cotangent, len(terms))
    gradient = torch.zeros_like(phi).index_add(-1, place, values * coefficients)
    return plain.gather(gradient, circuit.num_parameters)


@torch.no_grad()
def spsa_vjp(
    evaluate: Evaluate, circuit: Circuit, angles: Tensor, cotangent: Tensor, rng: np.random.Generator, step: float
) -> Tensor:
    """An estimate of the gradient of `(cotangent * probabilities).sum()` from two evaluations.

    Simultaneous perturbation (Spall, IEEE TAC 37, 332 (1992)): all angles move by +-step at once, in a random
    direction. Its expectation is the gradient up to terms in step**2.

    Args:
        evaluate: As in `parameter_shift_vjp`.
        circuit: The circuit.
        angles: Theta (B, P) in radians.
        cotangent: (B, 2**N).
        rng: Draws the direction.
        step: Size of the perturbation in radians.

    Returns:
        (B, P)
    """
    if not angles.numel():
        return torch.zeros_like(angles)
    plain = unshared(circuit)
    direction = torch.from_numpy(rng.integers(0, 2, tuple(angles.shape)) * 2.0 - 1.0).to(angles)
    points = torch.stack([angles + step * direction, angles - step * direction], dim=1).flatten(0, 1)
    plus, minus = _contract(evaluate(plain.circuit, plain.expand(points)), cotangent, 2).unbind(-1)
    return ((plus - minus) / (2 * step))[:, None] * direction


def _contract(blocks: Iterable[Tensor], cotangent: Tensor, copies: int) -> Tensor:
    """<cotangent, probabilities> of every row: blocks of B * copies rows in all, (B, 2**N) -> (B, copies)."""
    values: list[Tensor] = []
    done = 0
    for block in checked_blocks(blocks, len(cotangent) * copies, cotangent.shape[-1]):
        rows = torch.arange(done, done + len(block), device=cotangent.device) // copies
        done += len(block)
        values.append((block.to(cotangent) * cotangent[rows]).sum(-1))
    return torch.cat(values).view(-1, copies)


def checked_blocks(blocks: Iterable[Tensor], rows: int, dim: int) -> Iterator[Tensor]:
    """The blocks one by one; raises `EngineError` unless they are (b, dim) and have `rows` rows in all."""
    done = 0
    for block in blocks:
        if block.ndim != 2 or block.shape[1] != dim:
            raise EngineError(f"the engine answered with a block of shape {tuple(block.shape)}; expected (b, {dim})")
        done += len(block)
        if done > rows:
            break
        yield block
    if done != rows:
        many = f"{done} or more" if done > rows else str(done)
        raise EngineError(f"the engine was asked for {rows} rows of probabilities and answered with {many}")
