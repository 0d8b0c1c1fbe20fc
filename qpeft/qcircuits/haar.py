"""Random states: how their fidelities and their entanglement are distributed, to compare circuits with.

"complex" are states of the unitary group's Haar measure; "real" are those of the orthogonal group's, uniform on the
real sphere, which is all that a circuit of real gates can reach.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from qpeft.errors import ConfigError, unknown_name

REFERENCES = ("complex", "real")
SMALLEST = 1e-280  # tails below are computed as logarithms

Floats = npt.NDArray[np.float64]

MOST_BINS = 1_000_000


def log_haar_masses(dim: int, bins: int, reference: str = "complex") -> Floats:
    """Logarithm of the probability that the fidelity of two random states falls into each bin.

    P(F > f) is (1 - f)^(D - 1) for states of the unitary group (Zyczkowski and Sommers, quant-ph/0311117). Real states
    have F = x^2 for one coordinate x of a point on the sphere, which is Beta(1/2, (D - 1)/2). Logarithms, since the
    last bins of many qubits have masses that no float holds.

    Args:
        dim: D = 2**N.
        bins: Number of bins of equal width on [0, 1].
        reference: "complex" or "real".

    Returns:
        (bins,)

    Raises:
        ConfigError: Fewer than 2 bins, or an unknown reference.

    Example:
        >>> np.exp(log_haar_masses(4, 2)).round(6).tolist()  # 1 - (1/2)^3 and (1/2)^3
        [0.875, 0.125]
    """
    _check_reference(reference)
    if bins < 2:
        raise ConfigError(f"bins is {bins}; it must be at least 2")
    if bins > MOST_BINS:
        raise ConfigError(f"bins is {bins}; it can be at most {MOST_BINS:,}, and 75 is usual")
    above = np.arange(bins, 0, -1) / bins  # 1 - f at the lower edges
    log_tails = (dim - 1) * np.log(above) if reference == "complex" else _log_real_tails(dim, above)
    steps = np.diff(log_tails, append=-np.inf)
    return np.asarray(log_tails + np.log(-np.expm1(steps)))


def haar_entanglement(num_qubits: int, reference: str = "complex") -> float:
    """Mean Meyer-Wallach entanglement of random states: (D - 2) / (D + 1), or (D - 2) / (D + 2) of real ones.

    The second follows from E[x_i x_j x_k x_l] = (d_ij d_kl + d_ik d_jl + d_il d_jk) / (D (D + 2)) on the real sphere.
    """
    _check_reference(reference)
    dim: int = 2**num_qubits
    return (dim - 2) / (dim + (1 if reference == "complex" else 2))


def _check_reference(reference: str) -> None:
    if reference not in REFERENCES:
        raise ConfigError(unknown_name("reference", reference, REFERENCES))


def _log_real_tails(dim: int, above: Floats) -> Floats:
    """Logarithm of P(F > f) for F of Beta(1/2, (D - 1)/2), at `above` = 1 - f of every lower edge of a bin."""
    from scipy.special import betainc  # here, since the command line starts without scipy

    a = (dim - 1) / 2
    tails = betainc(a, 0.5, above)
    deep = tails < SMALLEST
    with np.errstate(divide="ignore"):
        return np.where(deep, _log_deep_tails(a, np.where(deep, above, 0.5)), np.log(tails))


def _log_deep_tails(a: float, x: Floats) -> Floats:
    """Logarithm of I_x(a, 1/2), the regularised incomplete beta function, by its series of positive terms.

    I_x(a, b) = x^a (1 - x)^b / (a B(a, b)) * sum_n (a + b)_n / (a + 1)_n x^n (NIST DLMF 8.17.8).
    """
    term, total, n = np.ones_like(x), np.ones_like(x), 0
    while (term > 1e-17 * total).any():
        term = term * x * (a + 0.5 + n) / (a + 1 + n)
        total, n = total + term, n + 1
    log_beta = math.lgamma(a) + math.lgamma(0.5) - math.lgamma(a + 0.5)
    return np.asarray(a * np.log(x) + 0.5 * np.log1p(-x) - math.log(a) - log_beta + np.log(total))
