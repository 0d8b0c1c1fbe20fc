"""Frames from a quantum circuit: columns or rows of its real orthogonal matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qpeft.errors import ConfigError
from qpeft.generators.frames.acting import ActingFrame
from qpeft.generators.frames.truncation import Truncation, checked_truncation
from qpeft.generators.spec import AnsatzLike
from qpeft.qcircuits import ANSATZE, Circuit, StatevectorEngine, gate


class PauliFrame(ActingFrame):
    """The first K columns (or rows) of a real circuit's matrix Q_P, orthonormal for all angles.

    The default circuit is arXiv 2503.05431, eq. 2: RY on all q = log2 N qubits, then L times CZ and RY on the even and
    on the odd pairs of neighbours. It has (2L + 1) q - 2L angles for q >= 2. At most that many of the frame's
    dimensions are reached: it is orthonormal, but not every orthonormal frame. A frame costs O(L N K log N) and, in
    training, the memory of a few frames whatever L is; the N x N matrix is never made.

    Args:
        size: N, a power of two.
        columns: K.
        count: Number of frames, each with angles of its own.
        ansatz: A registered name, a function (num_qubits, reps) -> Circuit, or a Circuit, with real gates only.
        reps: L, layers of the ansatz; a given Circuit has its own.
        truncate: "columns" keeps Q[:, :K]; "rows" keeps Q[:K, :] and returns its transpose, as in the paper.

    Attributes:
        angles: (count, P) in radians, uniform in [-pi, pi] at the start.

    Raises:
        ConfigError: The size is no power of two, or the circuit is complex or on another number of qubits.

    Example:
        >>> frame = PauliFrame(256, 3, count=2)
        >>> frame().shape, frame.num_parameters  # 2 (3 q - 2) with q = 8
        (torch.Size([2, 256, 3]), 44)
        >>> bool((frame.orthogonality_error() < 1e-5).all())
        True
    """

    def __init__(
        self, size: int, columns: int, count: int = 1, ansatz: AnsatzLike = "simplified_two_design", reps: int = 1,
        truncate: Truncation = "columns",
    ) -> None:  # fmt: skip
        super().__init__(size, columns, count)
        if size & (size - 1):
            raise ConfigError(
                f"a circuit's frame has a power of two as size, got N = {size}; wrap it for other sizes: "
                "ShannonFrame (orthonormal) or PaddedFrame"
            )
        circuit = _real_circuit(ansatz, size.bit_length() - 1, reps)
        self.circuit = circuit
        self.truncate = checked_truncation(truncate)
        self._run = circuit if truncate == "columns" else circuit.inverse()  # its matrix is Q, or Q^T
        self.angles = nn.Parameter((2 * torch.rand(count, circuit.num_parameters) - 1) * math.pi)

    def forward(self) -> Tensor:
        return StatevectorEngine().columns(self._run, self.angles, self.columns)

    def act_on(self, block: Tensor) -> Tensor:
        """Q @ block (Q^T @ block if rows are kept), (count, N, k)."""
        return StatevectorEngine().multiply(self._run, self.angles, block)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, angles={self.circuit.num_parameters}, truncate={self.truncate!r}"


def _real_circuit(ansatz: AnsatzLike, num_qubits: int, reps: int) -> Circuit:
    """The circuit on `num_qubits`; raises `ConfigError` unless it is one, is real and has angles."""
    build = ANSATZE[ansatz] if isinstance(ansatz, str) else ansatz
    circuit = build if isinstance(build, Circuit) else build(num_qubits, reps)
    if not isinstance(circuit, Circuit):
        raise ConfigError(f"the ansatz function returned a {type(circuit).__name__}; expected a qpeft Circuit")
    if circuit.num_qubits != num_qubits:
        raise ConfigError(
            f"the circuit has {circuit.num_qubits} qubits; a frame of size N = {2**num_qubits} needs {num_qubits}"
        )
    if not circuit.is_real:
        names = sorted({o.gate for o in circuit.operations if not gate(o.gate).is_real})
        raise ConfigError(
            f"the circuit is complex because of its gates {', '.join(names)}, and adapter weights are real: its "
            "columns are unitary, and their real part is not orthonormal. Use real gates such as ry, cz, cx, rbs"
        )
    if not circuit.num_parameters:
        raise ConfigError("the circuit has no angles, so nothing would train; give one with rotations")
    return circuit
