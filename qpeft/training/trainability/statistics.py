"""Variances of derivatives over random initialisations, their confidence bands, and how fast they fall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qpeft.errors import ConfigError
from qpeft.options import check_whole
from qpeft.qcircuits import Circuit

Array = NDArray[np.float64]
ENOUGH = 20  # effective initialisations; with 5 of 200 a 95% band holds the true variance in four of five cases
VANISHING = 1e-28  # a variance below it is the rounding error, squared, of derivatives of size one in float64


@dataclass(frozen=True)
class Bootstrap:
    """How confidence bands are made: initialisations are drawn anew, with repetition, and the percentiles taken.

    Attributes:
        confidence: Share of the resampled variances inside the band.
        resamples: How many times all initialisations are drawn anew.
    """

    confidence: float = 0.95
    resamples: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence is {self.confidence}; it must be above 0 and below 1, e.g. 0.95")
        check_whole("resamples", self.resamples)


@dataclass(frozen=True)
class Band:
    """A variance, averaged over some angles, between the ends of its confidence band."""

    variance: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """The variances of one circuit's derivatives.

    Attributes:
        all: Averaged over all angles.
        layers: Averaged over the angles of each layer.
        parameters: Of each angle.
        effective: How many initialisations the variance really rests on, (sum s)^2 / sum s^2 of their squared
            derivatives s: all of them if they are alike, 1 if one is far above the others.
        initialisations: How many there are.
    """

    all: Band
    layers: tuple[Band, ...]
    parameters: tuple[float, ...]
    effective: float
    initialisations: int

    @property
    def has_heavy_tails(self) -> bool:
        """Whether so few initialisations decide that the variance is likely too small, and its band too narrow."""
        return self.effective < min(ENOUGH, self.initialisations / 5)


def spread(gradients: Array, layers: Sequence[int], bootstrap: Bootstrap, seed: int) -> Spread:
    """Sample variances (over n - 1) of every angle's derivative, and bands that resample whole initialisations.

    Derivatives of one initialisation depend on each other, so that it is drawn or left out as a whole.

    Args:
        gradients: (n, P) derivatives, a row an initialisation.
        layers: (P,) each angle's layer, counted from 0.
        bootstrap: How bands are made.
        seed: Of the draws.
    """
    number = len(gradients)
    parameters = gradients.var(axis=0, ddof=1)
    member = np.eye(max(layers) + 1)[list(layers)]  # (P, layers), one 1 a row
    columns = np.column_stack([member / member.sum(axis=0), np.full(len(layers), 1 / len(layers))])
    draws = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), bootstrap.resamples)
    weights = draws / number  # (resamples, n)
    centred = gradients - gradients.mean(axis=0)  # variances of small numbers, not differences of large ones
    squares = centred**2 @ columns  # (n, layers + 1)
    resampled = weights @ squares - (weights @ centred) ** 2 @ columns
    tail = (1 - bootstrap.confidence) / 2
    lows, highs = np.quantile(resampled * number / (number - 1), [tail, 1 - tail], axis=0)
    bands = [
        Band(float(variance), float(low), float(high))
        for variance, low, high in zip(parameters @ columns, lows, highs, strict=True)
    ]
    of_all = squares[:, -1]
    effective = float(of_all.sum() ** 2 / (of_all**2).sum()) if of_all.any() else float(number)
    return Spread(bands[-1], tuple(bands[:-1]), tuple(map(float, parameters)), effective, number)


def layers_of(circuit: Circuit) -> list[int]:
    """Each angle's layer, (P,): a layer ends where a qubit would be turned a second time.

    An angle that turns several times counts where it turns first; one that turns nothing belongs to layer 0.

    Example:
        >>> from qpeft.qcircuits import ansatz
        >>> layers_of(ansatz("ry_cnot", num_qubits=3, reps=2))
        [0, 0, 0, 1, 1, 1]
    """
    found: dict[int, int] = {}
    layer, turned = 0, set[int]()
    for operation in circuit.operations:
        if operation.angle is None or operation.angle.index is None:
            continue
        if turned & set(operation.qubits):
            layer, turned = layer + 1, set()
        turned |= set(operation.qubits)
        found.setdefault(operation.angle.index, layer)
    used = {layer: place for place, layer in enumerate(sorted({0, *found.values()}))}
    return [used[found.get(index, 0)] for index in range(circuit.num_parameters)]


@dataclass(frozen=True)
class Decay:
    """log2 of a variance falls along a line in N; 2 ** rate is the factor a qubit.

    Attributes:
        rate: Slope of the least-squares line of log2 variance against N: -1 halves the variance with every qubit.
        error: The slope's standard error, from the scatter about the line; None with fewer than three points.
        points: Number of points.
    """

    rate: float
    error: float | None
    points: int


def fit_decay(num_qubits: Sequence[int], variances: Sequence[float]) -> Decay | None:
    """Fits the decay of variances with N; None if fewer than two different N have one that does not vanish.

    Example:
        >>> fit_decay([2, 4, 6], [1/4, 1/16, 1/64])
        Decay(rate=-1.0, error=0.0, points=3)
    """
    pairs = [(n, math.log2(v)) for n, v in zip(num_qubits, variances, strict=True) if v > VANISHING]
    if len({n for n, _ in pairs}) < 2:
        return None
    from scipy.stats import linregress  # here: the command line reads these settings without it

    x, y = np.array(pairs, dtype=np.float64).T
    line = linregress(x, y)
    return Decay(float(line.slope), float(line.stderr) if len(x) > 2 else None, len(x))
