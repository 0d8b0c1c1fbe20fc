"""The table of gates: one row a gate, and nowhere else.

A row holds a constant `matrix` or a Hermitian `generator`, and what the gate is called elsewhere. Everything else
(kind, realness, the matrix at an angle) follows from the row. Matrices are written with the gate's first qubit as the
most significant bit of the index.

A gate with an angle is U(theta) = exp(-i theta H). Every generator here satisfies H^3 = w^2 H (Pauli rotations with
w = 1/2; `p` and `rbs` with w = 1), so that one formula serves all of them:

    U(theta) = (I - H^2/w^2) + cos(w theta) H^2/w^2 - i sin(w theta) H/w
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt

from qpeft.errors import CircuitError, unknown_name

Matrix = npt.NDArray[np.complexfloating]


class Kind(StrEnum):
    """What a simulator may do with a gate."""

    ROTATION = "rotation"  # has an angle, matrix not diagonal
    DIAGONAL = "diagonal"  # matrix diagonal, with or without an angle
    PERMUTATION = "permutation"  # one non-zero entry a row: an index permutation times phases
    DENSE = "dense"


@dataclass(frozen=True)
class Term:
    """One gate of a decomposition, on the `qubits` of the decomposed gate.

    Its angle is `scale` times the decomposed gate's angle plus `offset`.
    """

    gate: str
    qubits: tuple[int, ...]
    scale: float = 0.0
    offset: float = 0.0


@dataclass(frozen=True)
class Foreign:
    """A gate's name in another library, whose angle is `scale` times ours."""

    name: str
    scale: float = 1.0


Decomposition = tuple[Term, ...]  # applied left to right; equal to the gate up to a global phase


@dataclass(frozen=True, eq=False)
class Gate:
    """A row of the table.

    Attributes:
        name: Our name, the one circuits use.
        num_qubits: 1 or 2.
        matrix: The constant matrix, or None if the gate has an angle.
        generator: H of U(theta) = exp(-i theta H), or None if the gate has no angle.
        inverse: Name of the inverse gate; for a gate with an angle, itself at minus the angle.
        qiskit, pennylane, torchquantum, openqasm3: The gate's name there, or its decomposition into this table's gates.
    """

    name: str
    num_qubits: int
    matrix: Matrix | None
    generator: Matrix | None
    inverse: str
    qiskit: Foreign | Decomposition
    pennylane: Foreign | Decomposition
    torchquantum: Foreign | Decomposition
    openqasm3: Foreign | Decomposition

    @property
    def has_angle(self) -> bool:
        return self.generator is not None

    @cached_property
    def frequency(self) -> float:
        """w, the largest eigenvalue magnitude of the generator: the matrix has period 2 pi / w up to sign."""
        assert self.generator is not None
        return float(np.abs(np.linalg.eigvalsh(self.generator)).max())

    @cached_property
    def gaps(self) -> tuple[float, ...]:
        """The positive gaps between the generator's eigenvalues: the frequencies of an expectation in the angle."""
        if self.generator is None:
            return ()
        levels = np.linalg.eigvalsh(self.generator)
        gaps = np.abs(levels[:, None] - levels).round(9)
        return tuple(float(gap) for gap in np.unique(gaps[gaps > 0]))

    @cached_property
    def harmonics(self) -> tuple[Matrix, Matrix, Matrix]:
        """(C0, C1, C2) with U(theta) = C0 + cos(w theta) C1 + sin(w theta) C2; a constant gate has only C0."""
        if self.generator is None:
            assert self.matrix is not None
            nothing = np.zeros_like(self.matrix)
            return self.matrix, nothing, nothing
        moved = self.generator @ self.generator / self.frequency**2
        return np.eye(len(moved)) - moved, moved, -1j * self.generator / self.frequency

    def at(self, angle: float = 0.0) -> Matrix:
        """The gate's matrix, (2**num_qubits, 2**num_qubits), at an angle in radians."""
        constant, cosine, sine = self.harmonics
        if self.generator is None:
            return constant
        matrix: Matrix = constant + np.cos(self.frequency * angle) * cosine + np.sin(self.frequency * angle) * sine
        return matrix

    @cached_property
    def is_real(self) -> bool:
        return all(np.allclose(part.imag, 0) for part in self.harmonics)

    @cached_property
    def kind(self) -> Kind:
        occupied = np.abs(np.stack(self.harmonics)).sum(axis=0) > 1e-12
        if np.array_equal(occupied, np.diag(occupied.diagonal())):
            return Kind.DIAGONAL
        if self.has_angle:
            return Kind.ROTATION
        return Kind.PERMUTATION if (occupied.sum(axis=1) == 1).all() else Kind.DENSE


def _array(rows: list[list[complex]]) -> Matrix:
    return np.array(rows, dtype=np.complex128)


_I = np.eye(2, dtype=np.complex128)
_X = _array([[0, 1], [1, 0]])
_Y = _array([[0, -1j], [1j, 0]])
_Z = _array([[1, 0], [0, -1]])
_S = _array([[1, 0], [0, 1j]])
_T = _array([[1, 0], [0, np.exp(0.25j * np.pi)]])
_SX = 0.5 * _array([[1 + 1j, 1 - 1j], [1 - 1j, 1 + 1j]])
_CX = _array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
_CZ = np.diag(np.array([1, 1, 1, -1], dtype=np.complex128))
_SWAP = _array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
_ECR = (np.kron(_X, _I) - np.kron(_Y, _X)) / np.sqrt(2)  # IBM's echoed cross-resonance gate
_RBS_GENERATOR = _array([[0, 0, 0, 0], [0, 0, 1j, 0], [0, -1j, 0, 0], [0, 0, 0, 0]])

_SXDG_TERMS = (Term("z", (0,)), Term("sx", (0,)), Term("z", (0,)))
_ECR_TERMS = (Term("s", (0,)), Term("sx", (1,)), Term("cx", (0, 1)), Term("x", (0,)))
_RZZ_TERMS = (Term("cx", (0, 1)), Term("rz", (1,), scale=1.0), Term("cx", (0, 1)))
_HADAMARDS = (Term("h", (0,)), Term("h", (1,)))
_RBS_TERMS = (
    *_HADAMARDS, Term("cz", (0, 1)), Term("ry", (0,), scale=1.0), Term("ry", (1,), scale=-1.0), Term("cz", (0, 1)),
    *_HADAMARDS,
)  # fmt: skip


def _fixed(
    name: str, matrix: Matrix, pennylane: str | Decomposition, torchquantum: str,
    openqasm3: str | Decomposition = "", inverse: str = "",
) -> Gate:  # fmt: skip
    def foreign(entry: str | Decomposition) -> Foreign | Decomposition:
        return Foreign(entry) if isinstance(entry, str) else entry

    return Gate(
        name, len(matrix).bit_length() - 1, matrix, None, inverse or name, Foreign(name), foreign(pennylane),
        Foreign(torchquantum), foreign(openqasm3 or name),
    )  # fmt: skip


def _rotation(
    name: str, generator: Matrix, pennylane: Foreign, torchquantum: Foreign | Decomposition,
    decomposition: Decomposition | None = None, in_qiskit: bool = True,
) -> Gate:  # fmt: skip
    return Gate(
        name, len(generator).bit_length() - 1, None, generator, name,
        Foreign(name) if in_qiskit else decomposition or (), pennylane, torchquantum, decomposition or Foreign(name),
    )  # fmt: skip


GATES: dict[str, Gate] = {
    gate.name: gate
    for gate in (
        _fixed("h", (_X + _Z) / np.sqrt(2), "Hadamard", "hadamard"),
        _fixed("x", _X, "PauliX", "paulix"),
        _fixed("y", _Y, "PauliY", "pauliy"),
        _fixed("z", _Z, "PauliZ", "pauliz"),
        _fixed("s", _S, "S", "s", inverse="sdg"),
        _fixed("sdg", _S.conj(), (Term("p", (0,), offset=-np.pi / 2),), "sdg", inverse="s"),
        _fixed("t", _T, "T", "t", inverse="tdg"),
        _fixed("tdg", _T.conj(), (Term("p", (0,), offset=-np.pi / 4),), "tdg", inverse="t"),
        _fixed("sx", _SX, "SX", "sx", inverse="sxdg"),
        _fixed("sxdg", _SX.conj().T, _SXDG_TERMS, "sxdg", openqasm3=_SXDG_TERMS, inverse="sx"),
        _rotation("rx", _X / 2, Foreign("RX"), Foreign("rx")),
        _rotation("ry", _Y / 2, Foreign("RY"), Foreign("ry")),
        _rotation("rz", _Z / 2, Foreign("RZ"), Foreign("rz")),
        _rotation("p", (_Z - _I) / 2, Foreign("PhaseShift"), Foreign("phaseshift")),
        _fixed("cx", _CX, "CNOT", "cnot"),
        _fixed("cz", _CZ, "CZ", "cz"),
        _fixed("swap", _SWAP, "SWAP", "swap"),
        _fixed("ecr", _ECR, "ECR", "ecr", openqasm3=_ECR_TERMS),
        _rotation("rzz", np.kron(_Z, _Z) / 2, Foreign("IsingZZ"), Foreign("rzz"), decomposition=_RZZ_TERMS),
        _rotation(
            "rbs", _RBS_GENERATOR, Foreign("SingleExcitation", -2.0),
            _RBS_TERMS,  # TorchQuantum 0.1.8 has a singleexcitation, which raises NameError
            decomposition=_RBS_TERMS, in_qiskit=False,
        ),
    )
}  # fmt: skip


def gate(name: str) -> Gate:
    """The row named `name`; raises `CircuitError` with the nearest names if there is none."""
    try:
        return GATES[name]
    except (KeyError, TypeError):  # a TypeError: not even hashable
        raise CircuitError(unknown_name("gate", str(name), GATES)) from None
