"""How many numbers Quantum-PEFT trains (arXiv 2503.05431): the paper's formulas, and the ways its tables count.

A layer has two frames, U of out_features rows and V of in_features rows, and a diagonal of K numbers. No single formula
gives all published counts: `CONVENTIONS` names the ways of counting that a figure needs or that our frames train.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from qpeft.generators.frames.triangle import Triangle, triangle_parameters
from qpeft.registry import Registry

FrameCount = Callable[[int, int, int, int], int]  # (rows N, columns K, intrinsic rank K', layers L) -> numbers


def floor_qubits(size: int) -> int:
    """log2 N, rounded down."""
    return size.bit_length() - 1


def ceil_qubits(size: int) -> int:
    """log2 N, rounded up: the qubits of a size padded to a power of two."""
    return (size - 1).bit_length()


def is_power(size: int, base: int) -> bool:
    """Whether N is base^m, for m = 0, 1, ..."""
    nearest: int = base ** round(math.log(size, base))
    return nearest == size


def two_design(qubits: int, reps: int) -> int:
    """RY gates of the simplified two-design, one angle each: (2L + 1) q - 2L (eq. 2).

    Example:
        >>> [two_design(q, reps=1) for q in (8, 9, 10)]
        [22, 25, 28]
    """
    return (2 * reps + 1) * qubits - 2 * reps


def three_per_gate(qubits: int, reps: int) -> int:
    """The same gates with three numbers each, as a general SU(2) gate has: 3 ((2L + 1) q - 2L); in no equation."""
    return 3 * two_design(qubits, reps)


def shannon(size: int, node: Callable[[int], int], angles: str) -> int:
    """Numbers of a cosine-sine decomposition: P(N) = 2 P(N1) + 2 P(N2) + angles, N = N1 + N2 (eq. 4).

    Args:
        size: N; N1 is the largest power of two below it.
        node: Numbers of an orthogonal matrix whose size is a power of two above 1; P(1) = 0.
        angles: The angles that train in each cosine-sine matrix: all N2 ("full"), one, or none. The paper does not say.

    Example:
        >>> shannon(768, lambda size: two_design(ceil_qubits(size), reps=1), "full")
        350
    """
    larger = 1 << floor_qubits(size)
    smaller = size - larger
    if not smaller:
        return node(size) if size > 1 else 0
    trained = {"full": smaller, "single": 1, "none": 0}[angles]
    return 2 * node(larger) + 2 * shannon(smaller, node, angles) + trained


def idle(size: int, columns: int, node: Callable[[int], int]) -> int:
    """Of `shannon`, the numbers of every V2 that acts on zeros alone in the first K columns: those with K <= N2.

    Example:
        >>> idle(768, 3, lambda size: two_design(ceil_qubits(size), reps=1))  # P(512)
        25
    """
    larger = 1 << floor_qubits(size)
    smaller = size - larger
    return 0 if columns > smaller else node(larger) + idle(smaller, columns, node)


def node_circuit(size: int, node_size: int, reps: int, sublayers: str) -> int:
    """Numbers of a circuit of orthogonal N' x N' nodes on m digits, N = N'^m, each of N' (N' - 1) / 2.

    "eq2" counts m + 2L (m - 1) nodes. "fig7" counts the m + L (m - 1) that Fig. 7 prints for m = 3; for even m and
    odd L there is one more.

    Example:
        >>> node_circuit(729, 9, 1, "fig7"), node_circuit(729, 9, 1, "eq2")  # the figure's example, m = 3
        (180, 252)
    """
    digits = round(math.log(size, node_size))
    if sublayers == "eq2":
        nodes = two_design(digits, reps)
    else:
        nodes = digits + reps * (digits - 1) + (reps % 2 and digits % 2 == 0)
    return nodes * triangle_parameters(node_size, node_size)


def lora(out_features: int, in_features: int, rank: int) -> int:
    """LoRA, a tensor train of two modes: 2NK for N x N (Fig. 5)."""
    return rank * (out_features + in_features)


def adalora(out_features: int, in_features: int, rank: int) -> int:
    """AdaLoRA at its final rank, a CP decomposition: 2NK + K for N x N (Fig. 5)."""
    return rank * (out_features + in_features + 1)


def tensor_train(mode: int, modes: int, rank: int) -> int:
    """Canonical tensor train of D modes of size n: n K (2 + (D - 2) K) - K (D (K + 1) / 2 - 1) (Fig. 5)."""
    return mode * rank * (2 + (modes - 2) * rank) - rank * (modes * (rank + 1) - 2) // 2


def tucker(mode: int, modes: int, rank: int) -> int:
    """Canonical Tucker decomposition of D modes of size n: D n K + K^D - D K (K + 1) / 2 (Fig. 5)."""
    core: int = rank**modes
    return modes * triangle_parameters(mode, rank) + core


def tensor_ring(mode: int, modes: int, rank: int) -> float:
    """Canonical tensor ring of D modes of size n: D n K^2 - K (D K + 1) / 2 (Fig. 5).

    A ring of frames and a diagonal has as many at D = 3 alone, see `qpeft.generators.tensor_layouts.tensor_ring`.
    """
    return modes * mode * rank**2 - rank * (modes * rank + 1) / 2


@dataclass(frozen=True)
class Convention:
    """A way to count the numbers of a layer.

    Attributes:
        counts: What it counts, in words.
        formula: P(N), the numbers of one frame of N rows.
        published: The published counts that need it.
        frame: The formula of one frame, (N, K, K', L) -> numbers.
    """

    counts: str
    formula: str
    published: str
    frame: FrameCount

    def layer(self, out_features: int, in_features: int, rank: int, intrinsic_rank: int, reps: int) -> int:
        """Numbers of a layer: its two frames and the K = `rank` of the diagonal."""
        frames = (self.frame(size, rank, intrinsic_rank, reps) for size in (out_features, in_features))
        return sum(frames) + rank


def _padded(size: int, columns: int, intrinsic_rank: int, reps: int) -> int:
    return two_design(ceil_qubits(size), reps)


def _decomposed(angles: str, size: int, columns: int, intrinsic_rank: int, reps: int) -> int:
    def circuit(part: int) -> int:
        return two_design(floor_qubits(part), reps)

    return shannon(size, circuit, angles) - idle(size, columns, circuit)


def _three(qubits: Callable[[int], int], size: int, columns: int, intrinsic_rank: int, reps: int) -> int:
    return three_per_gate(qubits(size), reps)


def _triangle(triangle: Triangle, size: int, columns: int, intrinsic_rank: int, reps: int) -> int:
    return triangle_parameters(size, intrinsic_rank, triangle)


_EQ2 = "(2L + 1) q - 2L"
_EQ4 = {
    "single": "2 P(N1) + 2 P(N2) + 1, less V2 if K <= N2",
    "full": "2 P(N1) + 2 P(N2) + N2, less V2 if K <= N2",
}

CONVENTIONS: Registry[Convention] = Registry(
    "count convention",
    {
        "eq2-pad": Convention("eq. 2, ceil(q)", f"{_EQ2}, q = ceil(log2 N)", "none", _padded),
        "eq2-single": Convention(
            "eq. 4 with one angle", f"P(2^q) = {_EQ2}; else {_EQ4['single']}", "none", partial(_decomposed, "single")
        ),
        "eq2-full": Convention(
            "eq. 4 with N2 angles", f"P(2^q) = {_EQ2}; else {_EQ4['full']}", "none", partial(_decomposed, "full")
        ),
        "three-floor": Convention(
            "3 a gate, floor(q)", f"3 ({_EQ2}), q = floor(log2 N)", "Table 1: 3.98K, 9.7K, 60.7K, 64.5K",
            partial(_three, floor_qubits),
        ),
        "three-ceil": Convention(
            "3 a gate, ceil(q)", f"3 ({_EQ2}), q = ceil(log2 N)", "Table 1: 60.7K, 64.5K; Table 2: 0.013M",
            partial(_three, ceil_qubits),
        ),
        "triangle-strict": Convention(
            "B below its diagonal", "N K' - K' (K' + 1) / 2", "Table 3: 0.098M; Fig. 5: 2NK - K^2",
            partial(_triangle, "strict"),
        ),
        "triangle-diagonal": Convention(
            "B with its diagonal", "N K' - K' (K' - 1) / 2", "Table 3: 0.098M; Table 8: all; Fig. 7: 729",
            partial(_triangle, "diagonal"),
        ),
    },
)  # fmt: skip


def node_convention(node_size: int, sublayers: str, other_sizes: str) -> Convention:
    """How a circuit of N' x N' nodes is counted.

    Args:
        node_size: N'.
        sublayers: "eq2" or "fig7", see `node_circuit`.
        other_sizes: Of sizes that are no power of N': "single" or "full" of a decomposition, or "pad".
    """

    def frame(size: int, columns: int, intrinsic_rank: int, reps: int) -> int:
        def circuit(part: int) -> int:
            return node_circuit(part, node_size, reps, sublayers)

        if is_power(size, node_size):
            return circuit(size)
        if other_sizes == "pad":
            return circuit(1 << ceil_qubits(size))
        return shannon(size, circuit, other_sizes) - idle(size, columns, circuit)

    nodes, published = ("m + 2L (m - 1)", "none") if sublayers == "eq2" else ("m + L (m - 1)", "Fig. 7: 180")
    other = "N rounded up to 2^q" if other_sizes == "pad" else _EQ4[other_sizes]
    return Convention(f"{nodes} nodes", f"P(N'^m) = ({nodes}) N' (N' - 1) / 2; else {other}", published, frame)
