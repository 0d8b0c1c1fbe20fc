"""How much of the state space a circuit reaches, and how entangled its states are.

Both descriptors are those of Sim, Johnson and Aspuru-Guzik, "Expressibility and entangling capability of parameterized
quantum circuits for hybrid quantum-classical algorithms" (2019, arXiv 1905.10876). Angles are uniform on [-pi, pi).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qpeft.errors import ConfigError
from qpeft.qcircuits.circuit import Circuit
from qpeft.qcircuits.fusion import footprint
from qpeft.qcircuits.haar import Floats, log_haar_masses
from qpeft.qcircuits.memory import WORTH_CHECKING, available_bytes, needed_bytes
from qpeft.qcircuits.seeding import Draws, Purpose
from qpeft.qcircuits.statevector import StatevectorEngine

SAMPLES, BINS = 5000, 75  # those of the paper
RESAMPLES = 1000  # of the bootstrap
CHUNK_BYTES = 2**28  # states of at most so many bytes are simulated at once

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Expressibility:
    """How far a circuit's fidelities are from those of random states; 0 is as near as can be.

    Attributes:
        divergence: Kullback-Leibler divergence in nats.
        error: Its standard error, by bootstrap.
        bias: By how much finite samples raise the divergence, about: (occupied bins - 1) / (2 samples).
    """

    divergence: float
    error: float
    bias: float


@dataclass(frozen=True)
class EntanglingCapability:
    """Mean Meyer-Wallach entanglement of a circuit's states, and the standard error of the mean."""

    mean: float
    error: float


def expressibility(
    circuit: Circuit, samples: int = SAMPLES, bins: int = BINS, seed: int = 0, reference: str = "complex"
) -> Expressibility:
    """Divergence of the fidelities of pairs of the circuit's states from those of Haar-random states.

    Expr = sum_b p_b ln(p_b / q_b), where p is the histogram of |<psi(t)|psi(t')>|^2 over pairs of random angles and q
    holds the exact masses of the bins for Haar-random states (Sim et al., section on expressibility). A circuit that
    does nothing has (D - 1) ln(bins), with D = 2**N.

    Haar-random states of N qubits have fidelities of about 1/D. With far fewer bins than D nearly all lie in the first
    bin, and the divergence hardly tells one circuit from another; take about D bins. A small divergence is no proof of
    a 2-design: `rx_cnot`, which is none, comes near 0.

    A circuit whose gates are all real never reaches all states, so the divergence from complex states cannot vanish as
    it deepens; "real" compares it with states that are uniform on the real sphere, the orthogonal group's.

    Args:
        circuit: Any circuit with angles.
        samples: Number of pairs.
        bins: Number of bins of equal width on [0, 1].
        seed: Decides the angles.
        reference: "complex" (the unitary group) or "real" (the orthogonal group).

    Raises:
        ConfigError: A circuit without angles or too large for the memory, fewer than 2 samples or bins, or an unknown
            reference.

    Example:
        >>> from qpeft.qcircuits import CircuitBuilder
        >>> idle = CircuitBuilder(2).rz(0).rz(1).build()  # only turns the phase of |00>
        >>> found = expressibility(idle, samples=100, bins=10)
        >>> abs(found.divergence - 3 * math.log(10)) < 1e-12
        True
    """
    log_haar_masses(2, bins, reference)  # refuses bad settings before the work
    fidelities = pair_fidelities(circuit, samples, seed)
    return divergence_from_haar(fidelities, circuit.num_qubits, bins, seed, reference)


def entangling_capability(
    circuit: Circuit, samples: int = SAMPLES, seed: int = 0, progress: Progress | None = None
) -> EntanglingCapability:
    """Mean Meyer-Wallach entanglement of the circuit's states (Sim et al., section on entangling capability).

    Args:
        circuit: Any circuit with angles.
        samples: Number of states.
        seed: Decides the angles.
        progress: Called with a number of states whenever that many more are done.

    Raises:
        ConfigError: A circuit without angles or too large for the memory, or fewer than 2 samples.

    Example:
        >>> from qpeft.qcircuits import ansatz
        >>> found = entangling_capability(ansatz("rx_cnot", num_qubits=2, reps=1))  # 1/2 on average
        >>> abs(found.mean - 0.5) < 4 * found.error
        True
    """
    found = [meyer_wallach(states[:, 0]) for states in _states(circuit, samples, 1, seed, progress)]
    values = torch.cat(found)
    return EntanglingCapability(values.mean().item(), values.std().item() / math.sqrt(samples))


def meyer_wallach(states: Tensor) -> Tensor:
    """Meyer-Wallach entanglement Q = 2 (1 - sum_k Tr(rho_k^2) / N), where rho_k is the state of qubit k alone.

    0 for product states, 1 where every qubit is maximally entangled with the others, as in a GHZ state (Meyer and
    Wallach, quant-ph/0108104; in this form Brennen, quant-ph/0305094).

    Args:
        states: (..., 2**N), real or complex, of norm 1.

    Returns:
        (...), real and differentiable.

    Raises:
        ConfigError: The last axis is no power of two of at least 2, or a state is not of norm 1.

    Example:
        >>> meyer_wallach(torch.tensor([[1.0, 0, 0, 0], [0.5**0.5, 0, 0, 0.5**0.5]])).round(decimals=3)
        tensor([0., 1.])
    """
    dim = states.shape[-1] if states.ndim else 0
    if dim < 2 or dim & (dim - 1):
        raise ConfigError(f"states have shape {tuple(states.shape)}; expected (..., 2**N) with N of 1 or more")
    norms = states.detach().abs().square().sum(-1)
    if not torch.allclose(norms, torch.ones_like(norms), rtol=0, atol=1e-3):
        raise ConfigError("states are not of norm 1; divide each by its norm")
    num_qubits = dim.bit_length() - 1
    mixed = norms.new_zeros(norms.shape)
    for qubit in range(num_qubits):
        halves = states.reshape(*states.shape[:-1], 2**qubit, 2, -1)
        zero, one = halves[..., 0, :], halves[..., 1, :]
        weights = zero.abs().square().sum((-2, -1)), one.abs().square().sum((-2, -1))
        # (1 - Tr rho^2) / 2 is the determinant of rho, without a difference of near numbers at product states.
        mixed = mixed + weights[0] * weights[1] - (zero.conj() * one).sum((-2, -1)).abs().square()
    return (4 / num_qubits * mixed).clamp_min(0)


def pair_fidelities(
    circuit: Circuit, samples: int = SAMPLES, seed: int = 0, progress: Progress | None = None
) -> Tensor:  # fmt: skip
    """Fidelities |<psi(t)|psi(t')>|^2 of pairs of random angles.

    Args:
        circuit: Any circuit with angles.
        samples: Number of pairs.
        seed: Decides the angles.
        progress: Called with a number of pairs whenever that many more are done.

    Returns:
        (samples,), float64, in [0, 1].

    Raises:
        ConfigError: A circuit without angles or too large for the memory, or fewer than 2 samples.
    """
    found = [
        (pairs[:, 0].conj() * pairs[:, 1]).sum(-1).abs().square()
        for pairs in _states(circuit, samples, 2, seed, progress)
    ]
    return torch.cat(found).clamp(0, 1)  # rounding may pass 1


def divergence_from_haar(
    fidelities: Tensor, num_qubits: int, bins: int = BINS, seed: int = 0, reference: str = "complex"
) -> Expressibility:
    """`expressibility` from fidelities that are there already, e.g. to compare them with both references.

    Args:
        fidelities: (samples,), from `pair_fidelities`.
        num_qubits: N.
        bins: As for `expressibility`.
        seed: Decides the resamples of the bootstrap.
        reference: As for `expressibility`.
    """
    masses = log_haar_masses(2**num_qubits, bins, reference)
    counts, _ = np.histogram(fidelities.numpy(), bins=bins, range=(0, 1))
    filled = counts > 0  # an empty bin adds 0 ln 0 = 0
    counts, masses, samples = counts[filled], masses[filled], len(fidelities)
    draws = Draws(seed, call=1)  # call 0 drew the angles
    generator = draws.stream(draws.next(), Purpose.FORWARD).generator()
    resampled = generator.multinomial(samples, counts / samples, size=RESAMPLES)
    return Expressibility(
        divergence=float(_divergence(counts / samples, masses)),
        error=float(_divergence(resampled / samples, masses).std(ddof=1)),
        bias=(len(counts) - 1) / (2 * samples),
    )


def check(circuit: Circuit, samples: int, seed: int = 0) -> None:
    """Raises `ConfigError` if random angles of the circuit cannot be sampled: what was given, what is allowed."""
    if circuit.num_parameters == 0:
        raise ConfigError("the circuit has no angles to draw at random; give one with at least 1 parameter")
    if samples < 2:
        raise ConfigError(f"samples is {samples}; it must be at least 2")
    Draws(seed)  # refuses what is no seed
    needed, free = 2 * _bytes_of_a_state(circuit), available_bytes(torch.device("cpu"))
    if needed > max(free, WORTH_CHECKING):
        fitting = circuit.num_qubits - (needed // free).bit_length()
        raise ConfigError(
            f"a pair of states of {circuit.num_qubits} qubits does not fit into the {free / 2**30:,.1f} GiB that are "
            f"free; use at most about {fitting} qubits"
        )


def _divergence(shares: Floats, log_masses: Floats) -> Floats:
    """Shares (..., bins) -> (...)."""
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray((shares * (logs - log_masses)).sum(-1))


def _bytes_of_a_state(circuit: Circuit) -> int:
    dtype = torch.float64 if circuit.is_real else torch.complex128
    return needed_bytes(circuit.num_qubits, 1, dtype, footprint(circuit))


@torch.no_grad()
def _states(circuit: Circuit, samples: int, group: int, seed: int, progress: Progress | None) -> Iterator[Tensor]:
    """States at random angles, in chunks (B, group, D); the angles do not depend on the size of the chunks."""
    check(circuit, samples, seed)
    draws = Draws(seed)
    generator = draws.stream(draws.next(), Purpose.FORWARD).generator()
    rows = max(1, CHUNK_BYTES // (group * _bytes_of_a_state(circuit)))
    for start in range(0, samples, rows):
        size = (min(rows, samples - start), group, circuit.num_parameters)
        angles = torch.from_numpy(generator.uniform(-math.pi, math.pi, size))
        yield StatevectorEngine().state(circuit, angles)
        if progress is not None:
            progress(size[0])
