import copy
from functools import partial

import numpy as np
import pennylane as qml
import pytest
import torch
from qiskit import QuantumCircuit
from qiskit.quantum_info import Operator
from torch.autograd import gradcheck

from qpeft.errors import ConfigError
from qpeft.generators.frames.pauli import PauliFrame
from qpeft.qcircuits import ANSATZE, Circuit, CircuitBuilder, ansatz

SIZES = [(q, reps) for q in range(2, 7) for reps in range(1, 4)]
sizes = pytest.mark.parametrize(("q", "reps"), SIZES)
truncations = pytest.mark.parametrize("truncate", ["columns", "rows"])
REAL = [name for name in ANSATZE if ansatz(name, 3, 1).is_real]


def in_qiskit(q, reps, angles):
    """Eq. 2 written a second time, on reversed qubits: Qiskit's qubit 0 is the least significant bit."""
    there, values = QuantumCircuit(q), iter(angles)
    for wire in range(q):
        there.ry(next(values), q - 1 - wire)
    for _ in range(reps):
        for start in (0, 1):
            firsts = range(start, q - 1, 2)
            for first in firsts:
                there.cz(q - 1 - first, q - 2 - first)
            for first in firsts:
                there.ry(next(values), q - 1 - first)
                there.ry(next(values), q - 2 - first)
    return Operator(there).data.real


def in_pennylane(q, reps, angles):
    def circuit():
        qml.SimplifiedTwoDesign(angles[:q], angles[q:].reshape(reps, q - 1, 2), wires=range(q))

    return qml.matrix(circuit, wire_order=range(q))().real


class TestValues:
    @sizes
    @pytest.mark.parametrize("reference", [in_qiskit, in_pennylane])
    def test_first_columns_of_the_two_design(self, q, reps, reference):
        frame = PauliFrame(2**q, 3, count=2, reps=reps).double()
        for made, angles in zip(frame().detach(), frame.angles.detach().numpy(), strict=True):
            np.testing.assert_allclose(made, reference(q, reps, angles)[:, :3], atol=1e-12)

    @sizes
    def test_first_rows_are_the_transpose(self, q, reps):
        frame = PauliFrame(2**q, 3, reps=reps, truncate="rows").double()
        whole = in_pennylane(q, reps, frame.angles.detach().numpy()[0])
        np.testing.assert_allclose(frame().detach()[0].T, whole[:3], atol=1e-12)

    @truncations
    def test_acts_as_its_matrix(self, truncate):
        frame = PauliFrame(16, 2, count=3, truncate=truncate).double()
        block = torch.randn(3, 16, 5, dtype=torch.float64)
        for angles, before, after in zip(
            frame.angles.detach().numpy(), block, frame.act_on(block).detach(), strict=True
        ):
            whole = in_pennylane(4, 1, angles)
            np.testing.assert_allclose(
                after, (whole if truncate == "columns" else whole.T) @ before.numpy(), atol=1e-12
            )

    def test_one_qubit_is_a_rotation(self):
        frame = PauliFrame(2, 1).double()
        (angle,) = frame.angles.detach()[0]
        torch.testing.assert_close(frame()[0, :, 0].detach(), torch.stack([(angle / 2).cos(), (angle / 2).sin()]))


class TestCounts:
    @pytest.mark.parametrize("reps", [1, 2, 4])
    @pytest.mark.parametrize("q", range(8, 15))
    def test_formula(self, q, reps):
        assert PauliFrame(2**q, 3, count=5, reps=reps).num_parameters == 5 * ((2 * reps + 1) * q - 2 * reps)

    def test_one_layer(self):
        assert [PauliFrame(2**q, 1).num_parameters for q in range(8, 15)] == [22, 25, 28, 31, 34, 37, 40]


class TestOrthonormality:
    @truncations
    @pytest.mark.parametrize("name", REAL)
    @pytest.mark.parametrize(("q", "columns"), [(1, 2), (2, 1), (3, 8), (5, 4), (9, 3)])
    def test_double(self, name, q, columns, truncate):
        frame = PauliFrame(2**q, columns, count=2, ansatz=name, reps=2, truncate=truncate).double()
        assert frame().shape == (2, 2**q, columns)
        assert frame.orthogonality_error().max() < 1e-12

    def test_single_precision_at_the_largest_size(self):
        frame = PauliFrame(2**14, 16, count=2)
        assert frame().dtype == torch.float32
        assert frame.orthogonality_error().max() < 1e-5


class TestCircuits:
    def test_a_circuit_of_its_own(self):
        circuit = CircuitBuilder(2).ry(0).cx(0, 1).rbs(0, 1).build()
        frame = PauliFrame(4, 4, ansatz=circuit).double()
        assert frame.num_parameters == 2
        assert frame.orthogonality_error() < 1e-12
        assert PauliFrame(4, 2, ansatz=lambda q, reps: circuit).circuit == circuit

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("ryrz_cnot", "complex because of its gates rz, and adapter weights are real"),
            (CircuitBuilder(3).rx(0).y(1).ry(2).build(), "its gates rx, y, and"),
            (CircuitBuilder(2).ry(0).build(), "has 2 qubits; a frame of size N = 8 needs 3"),
            (CircuitBuilder(3).h(0).build(), "has no angles"),
            (lambda q, reps: "ry", "returned a str; expected a qpeft Circuit"),
            ("simplified_two_desing", "Did you mean 'simplified_two_design'"),
        ],
        ids=["complex", "complex circuit", "qubits", "no angles", "no circuit", "unknown"],
    )
    def test_refused(self, given, message):
        with pytest.raises(ConfigError, match=message):
            PauliFrame(8, 2, ansatz=given)

    @pytest.mark.parametrize("size", [3, 12, 768])
    def test_other_sizes_name_the_wrappers(self, size):
        with pytest.raises(ConfigError, match=f"got N = {size}; wrap it for other sizes: ShannonFrame .* PaddedFrame"):
            PauliFrame(size, 2)

    def test_unknown_truncation(self):
        with pytest.raises(ConfigError, match="truncate must be 'columns' or 'rows', got 'row'"):
            PauliFrame(8, 2, truncate="row")


class TestTraining:
    @truncations
    def test_gradcheck(self, truncate):
        frame = PauliFrame(8, 2, count=2, truncate=truncate).double()

        def frames(angles):
            return torch.func.functional_call(frame, {"angles": angles}, ())

        assert gradcheck(frames, (frame.angles,))

    def test_gradcheck_of_the_action(self):
        frame = PauliFrame(8, 2, count=2).double()
        block = torch.randn(2, 8, 3, dtype=torch.float64, requires_grad=True)
        assert gradcheck(frame.act_on, (block,))

    def test_start(self):
        torch.manual_seed(0)
        angles = PauliFrame(256, 2, count=200).angles.detach()
        assert angles.abs().max() <= np.pi
        assert angles.var() == pytest.approx(np.pi**2 / 3, rel=0.05)  # of the uniform distribution on [-pi, pi]

    def test_state_and_copies(self):
        frame = PauliFrame(16, 3, count=2, truncate="rows")
        other = PauliFrame(16, 3, count=2, truncate="rows")
        assert not torch.equal(frame(), other())
        other.load_state_dict(frame.state_dict())
        duplicate = copy.deepcopy(frame)
        assert torch.equal(frame(), other()) and torch.equal(frame(), duplicate())
        assert list(frame.state_dict()) == ["angles"]
        with torch.no_grad():
            duplicate.angles.add_(1)
        assert not torch.equal(frame(), duplicate())

    def test_frames_are_independent(self):
        frame = PauliFrame(16, 3, count=2)
        frame()[1].square().mul(torch.arange(16.0)[:, None]).sum().backward()
        assert not frame.angles.grad[0].any()
        assert frame.angles.grad[1].any()

    def test_is_a_node_of_others(self):
        assert partial(PauliFrame, reps=2)(16, 3, 4).num_parameters == 4 * (5 * 4 - 4)

    def test_circuit_without_operations(self):
        with pytest.raises(ConfigError, match="has no angles"):
            PauliFrame(8, 2, ansatz=Circuit(3, (), 0))
