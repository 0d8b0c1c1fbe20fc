"""What the variance of a derivative is where it can be derived: the lines that measured variances are held against.

L is a cost of the state V exp(-i t G / 2) W |0..0>, t one angle with G^2 = 1 and tr G = 0, and D = 2**N. The variance
is that of dL/dt over random angles, whose mean is zero. Write w = W|0..0>, O for the observable and M = V^+ O V; then
dL/dt = w^+ S w with S = (i/2) [G, M], which has no trace.

* Two-designs. If w and V are independent and Haar random as far as these moments see, then
  E (w^+ S w)^2 = tr S^2 / (D (D + 1)), in real arithmetic (G = Y) 2 tr S^2 / (D (D + 2)), and tr S^2 is averaged over
  V. Random circuits come close to this with depth (Harrow and Low, Commun. Math. Phys. 291, 257 (2009)); that gradients
  then vanish is due to McClean et al., Nature Commun. 9, 4812 (2018). It holds for angles deep inside a deep circuit,
  not for those near its end, whose V is short: the global observable of real circuits alone does not depend on V.
* One layer of RY or of RX on all qubits, then CNOTs. CNOTs leave |0..0> in place, so the global observable is the
  product of cos^2(t_j / 2), and the average factorises. It holds for every angle.
* Shots. The parameter-shift rule halves the difference of two costs, each measured with S shots: their variance adds
  E v / (2 S), with v the variance of one shot, p (1 - p) of the global and 1 - z^2 of the local observable. Shifted
  angles are as random as the angles, so that E v needs the moments of p or z alone.
"""

from __future__ import annotations

import math

from qpeft.qcircuits import Circuit, ansatz


def two_design(observable: str, num_qubits: int, is_real: bool) -> float:
    """The variance of one angle's derivative between two independent 2-designs.

    Args:
        observable: "global", the projector on |0..0>, or "local", Z on one qubit.
        num_qubits: N.
        is_real: Whether the designs are of real (orthogonal) matrices, otherwise of unitary ones.

    Example:
        >>> two_design("global", 1, is_real=True)  # L = cos^2(t / 2) with a random offset: E sin^2 / 4
        0.125
    """
    dim = 1 << num_qubits
    if observable == "global":
        return 1 / (dim * (dim + 2)) if is_real else 1 / (2 * (dim + 1) ** 2)
    return dim / ((dim - 1) * (dim + 2)) if is_real else dim**2 / (2 * (dim - 1) * (dim + 1) ** 2)


def one_layer_global(num_qubits: int) -> float:
    """The variance of every angle's derivative for `ry_cnot` or `rx_cnot` with one layer and the global observable.

    dL/dt_k = -sin(t_k)/2 * (product over the others of cos^2(t_j / 2)); E sin^2 / 4 = 1/8, E cos^4(t / 2) = 3/8.
    The squares have heavy tails: their relative variance grows as (35/18)^N, so that a few hundred initialisations of
    10 qubits usually show less than this.

    Example:
        >>> one_layer_global(1)
        0.125
    """
    return math.pow(3 / 8, num_qubits - 1) / 8


def shots_of_two_design(observable: str, num_qubits: int, is_real: bool, shots: int) -> float:
    """What shots add to `two_design`: E p = 1/D, E p^2 = 3/(D(D+2)) and E z^2 = 2/(D+2) of random real states, and
    2/(D(D+1)) and 1/(D+1) of complex ones.

    Args:
        observable: As for `two_design`.
        num_qubits: N.
        is_real: As for `two_design`.
        shots: S, of every circuit.
    """
    dim = 1 << num_qubits
    if observable == "global":
        one = 1 / dim - (3 / (dim * (dim + 2)) if is_real else 2 / (dim * (dim + 1)))
    else:
        one = 1 - (2 / (dim + 2) if is_real else 1 / (dim + 1))
    return one / (2 * shots)


def shots_of_one_layer(num_qubits: int, shots: int) -> float:
    """What S shots add to `one_layer_global`: E p = 2^-N and E p^2 = (3/8)^N of the product of cos^2(t_j / 2).

    Example:
        >>> shots_of_one_layer(1, shots=1)  # (1/2 - 3/8) / 2
        0.0625
    """
    return (math.pow(1 / 2, num_qubits) - math.pow(3 / 8, num_qubits)) / (2 * shots)


def is_one_product_layer(circuit: Circuit) -> bool:
    """Whether `one_layer_global` holds for the circuit."""
    return any(circuit == ansatz(name, circuit.num_qubits, 1) for name in ("ry_cnot", "rx_cnot"))
