"""Quantum channels as Pauli transfer matrices: real, and as easy to compose as gates.

R_ij = Tr(P_i E(P_j)) / 2**n over the Pauli basis I, X, Y, Z of each qubit, the first qubit most significant. A state's
Pauli coefficients r_j = Tr(P_j rho) go to R r. Constructors follow qiskit-aer's conventions for their arguments.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qpeft.errors import NoiseError

RealMatrix = npt.NDArray[np.float64]
ComplexMatrix = npt.NDArray[np.complexfloating]

TOLERANCE = 1e-8
_PAULIS = np.array([[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
_LABELS = "IXYZ"


@lru_cache
def paulis(num_qubits: int) -> ComplexMatrix:
    """The Pauli strings (4**n, 2**n, 2**n), in the order II, IX, IY, IZ, XI, ..."""
    strings = np.ones((1, 1, 1), dtype=complex)
    for _ in range(num_qubits):
        strings = np.einsum("aij,bkl->abikjl", strings, _PAULIS).reshape(
            4 * len(strings), 2 * strings.shape[1], 2 * strings.shape[2]
        )
    return strings


def num_qubits_of(ptm: RealMatrix) -> int:
    """How many qubits a transfer matrix acts on."""
    return (len(ptm).bit_length() - 1) // 2


def kraus(operators: Sequence[ComplexMatrix]) -> RealMatrix:
    """The channel rho -> sum of K rho K^dagger.

    Raises:
        NoiseError: The operators do not preserve the trace.
    """
    num_qubits = len(operators[0]).bit_length() - 1
    strings = paulis(num_qubits)
    mapped = sum(np.einsum("ij,ajk,lk->ail", k, strings, np.conj(k)) for k in operators)
    ptm = np.einsum("aij,bji->ab", strings, mapped).real / 2**num_qubits
    return validated(ptm, f"the channel of {len(operators)} Kraus operators")


def unitary(matrix: ComplexMatrix) -> RealMatrix:
    """The channel of a gate or of a coherent error; raises `NoiseError` if `matrix` is not unitary."""
    matrix = np.asarray(matrix)
    distance = np.abs(matrix @ matrix.conj().T - np.eye(len(matrix))).max()
    if distance > TOLERANCE:
        raise NoiseError(f"the matrix of a coherent error is not unitary: U U^dagger differs from 1 by {distance:.1e}")
    return kraus([matrix])


def superoperator(matrix: ComplexMatrix) -> RealMatrix:
    """The channel of a matrix (4**n, 4**n) that acts on column-stacked density matrices (Qiskit's `SuperOp.data`)."""
    num_qubits = (len(matrix).bit_length() - 1) // 2
    strings, dim = paulis(num_qubits), 2**num_qubits
    stacked = strings.transpose(0, 2, 1).reshape(-1, dim * dim)  # column-stacked
    ptm = (stacked.conj() @ np.asarray(matrix) @ stacked.T).real / dim
    return validated(ptm, "the channel of a superoperator")


def depolarizing(probability: float, num_qubits: int = 1) -> RealMatrix:
    """(1 - p) rho + p 1 / 2**n, with p from 0 to 4**n / (4**n - 1)."""
    dim = 4**num_qubits
    _within(probability, "a depolarizing probability", dim / (dim - 1))
    return np.diag([1.0, *[1.0 - probability] * (dim - 1)])


def pauli(probabilities: Mapping[str, float]) -> RealMatrix:
    """Applies each Pauli string with its probability, e.g. {"II": 0.98, "XZ": 0.02}; its first letter is qubit 0.

    Raises:
        NoiseError: Labels of other letters or lengths, or probabilities that are none.
    """
    lengths = {len(label) for label in probabilities}
    if len(lengths) != 1 or any(set(label) - set(_LABELS) for label in probabilities):
        raise NoiseError(f"Pauli labels are strings of {_LABELS} of one length; given {', '.join(probabilities)}")
    for label, probability in probabilities.items():
        _within(probability, f"the probability of {label}")
    total = math.fsum(probabilities.values())
    if abs(total - 1) > TOLERANCE:
        raise NoiseError(f"the Pauli probabilities sum to {total:.6g}; they must sum to 1")
    (num_qubits,) = lengths
    strings = ["".join(letters) for letters in itertools.product(_LABELS, repeat=num_qubits)]
    return np.diag([sum(p * _commutation(string, label) for label, p in probabilities.items()) for string in strings])


def _commutation(a: str, b: str) -> int:
    """1 if two Pauli strings commute, else -1."""
    clashes = sum(x != "I" and y not in ("I", x) for x, y in zip(a, b, strict=True))
    return 1 - 2 * (clashes % 2)


def amplitude_damping(gamma: float, excited: float = 0.0) -> RealMatrix:
    """Decay with probability gamma towards the mixture with population `excited` in |1>."""
    _within(gamma, "a damping probability")
    _within(excited, "an excited-state population")
    return _affine(math.sqrt(1 - gamma), 1 - gamma, gamma * (1 - 2 * excited))


def phase_damping(probability: float) -> RealMatrix:
    """Loss of phase: X and Y shrink by sqrt(1 - probability)."""
    _within(probability, "a phase damping probability")
    return _affine(math.sqrt(1 - probability), 1.0, 0.0)


def thermal_relaxation(t1: float, t2: float, time: float, excited: float = 0.0) -> RealMatrix:
    """Relaxation over `time` with the times T1 and T2 (all in one unit), towards population `excited` in |1>.

    Raises:
        NoiseError: Times below zero, or T2 > 2 T1, which no physical process has.
    """
    if not (t1 > 0 and t2 > 0 and time >= 0):
        raise NoiseError(f"relaxation times must be above 0 and the gate's at least 0; given {t1=}, {t2=}, {time=}")
    if t2 > 2 * t1:
        raise NoiseError(f"T2 = {t2:g} is more than 2 T1 = {2 * t1:g}, which is not physical; T2 is at most 2 T1")
    _within(excited, "an excited-state population")
    decay = math.exp(-time / t1)
    return _affine(math.exp(-time / t2), decay, (1 - decay) * (1 - 2 * excited))


def reset(to_zero: float, to_one: float = 0.0) -> RealMatrix:
    """Resets to |0> or |1> with these probabilities, else leaves the state."""
    _within(to_zero, "a reset probability")
    _within(to_one, "a reset probability")
    _within(to_zero + to_one, "the sum of the reset probabilities")
    kept = 1 - to_zero - to_one
    return _affine(kept, kept, to_zero - to_one)


def _affine(coherence: float, polarisation: float, offset: float) -> RealMatrix:
    """X and Y shrink by `coherence`, Z by `polarisation`, and Z moves by `offset`."""
    ptm = np.diag([1.0, coherence, coherence, polarisation])
    ptm[3, 0] = offset
    return ptm


def readout(one_given_zero: float, zero_given_one: float) -> RealMatrix:
    """Confusion of a measured bit: entry [measured, true], (2, 2)."""
    _within(one_given_zero, "a readout error")
    _within(zero_given_one, "a readout error")
    return np.array([[1 - one_given_zero, zero_given_one], [one_given_zero, 1 - zero_given_one]])


def validated_readout(matrix: RealMatrix, what: str) -> RealMatrix:
    """`matrix` if it is a confusion matrix [measured, true]; raises `NoiseError` with what is wrong if not."""
    if np.shape(matrix) != (2, 2):
        raise NoiseError(f"{what} has shape {np.shape(matrix)}; a confusion matrix has (2, 2)")
    if not ((matrix >= 0) & (matrix <= 1)).all():
        raise NoiseError(f"{what} has entries outside 0 to 1: {np.asarray(matrix).tolist()}")
    excess = np.abs(matrix.sum(0) - 1).max()
    if excess > TOLERANCE:
        raise NoiseError(f"{what} has columns that do not sum to 1: off by {excess:.2e} (allowed: {TOLERANCE:.0e})")
    return matrix


def tensor(first: RealMatrix, second: RealMatrix) -> RealMatrix:
    """Both channels side by side."""
    return np.asarray(np.kron(first, second), dtype=np.float64)


def reversed_qubits(ptm: RealMatrix) -> RealMatrix:
    """The same channel with its qubits named in the opposite order."""
    n = num_qubits_of(ptm)
    order = [*reversed(range(n)), *reversed(range(n, 2 * n))]
    return np.ascontiguousarray(ptm.reshape([4] * (2 * n)).transpose(order).reshape(ptm.shape))


def choi(ptm: RealMatrix) -> ComplexMatrix:
    """The Choi matrix sum_ij R_ij P_j^T (x) P_i / 2**n: without negative eigenvalues if completely positive."""
    strings, dim = paulis(num_qubits_of(ptm)), 2 ** num_qubits_of(ptm)
    blocks: ComplexMatrix = np.einsum("ab,bji,akl->ikjl", ptm, strings, strings) / dim
    return blocks.reshape(dim * dim, dim * dim)


def validated(ptm: RealMatrix, what: str, tolerance: float = TOLERANCE) -> RealMatrix:
    """`ptm` if it is a physical channel.

    Raises:
        NoiseError: Not finite, not trace preserving, or not completely positive; the message says how far off.
    """
    if not np.isfinite(ptm).all():
        raise NoiseError(f"{what} has numbers that are not finite")
    first = np.eye(len(ptm))[0]
    leak = np.abs(ptm[0] - first).max()
    if leak > tolerance:
        raise NoiseError(f"{what} does not preserve the trace: off by {leak:.2e} (allowed: {tolerance:.0e})")
    lowest = float(np.linalg.eigvalsh(choi(ptm)).min())
    if lowest < -tolerance:
        raise NoiseError(
            f"{what} is not completely positive: its Choi matrix has the eigenvalue {lowest:.2e} "
            f"(allowed: {-tolerance:.0e})"
        )
    return ptm


def average_infidelity(noisy: RealMatrix, ideal: RealMatrix) -> float:
    """1 - the average fidelity of `noisy` to the unitary channel `ideal` (Nielsen, Phys. Lett. A 303, 249 (2002))."""
    dim = 2 ** num_qubits_of(noisy)
    process = float(np.trace(ideal.T @ noisy)) / dim**2
    return float(1 - (dim * process + 1) / (dim + 1))


def _within(value: float, what: str, most: float = 1.0) -> None:
    if not 0 <= value <= most:  # also refuses nan
        raise NoiseError(f"{what} is {value:g}; it must be from 0 to {most:g}")
