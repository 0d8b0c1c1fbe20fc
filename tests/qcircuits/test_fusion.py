from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given
from qiskit_reference import REAL, circuits, random_circuit, value_of

from qpeft.qcircuits import GATES, Angle, Circuit, CircuitBuilder, Operation, StatevectorEngine, ansatz
from qpeft.qcircuits.fusion import compile_circuit
from qpeft.qcircuits.program import LocalStep, MonomialStep, PairStep

CPU = torch.device("cpu")


def steps(circuit, dtype=torch.complex128):
    circuit = circuit.build() if isinstance(circuit, CircuitBuilder) else circuit
    return compile_circuit(circuit, dtype, CPU).steps


def kinds(circuit):
    return [type(step) for step in steps(circuit)]


def gate_by_gate(circuit, angles):
    """The circuit's matrix as a product of Kronecker products: sums over |a><b| on each gate's qubits."""
    product = np.eye(2**circuit.num_qubits)
    for operation in circuit.operations:
        matrix = GATES[operation.gate].at(value_of(operation.angle, angles) if operation.angle else 0.0)
        size = len(operation.qubits)
        whole = np.zeros_like(product, dtype=complex)
        for a, b in np.argwhere(matrix):
            factors = [np.eye(2)] * circuit.num_qubits
            for place, qubit in enumerate(operation.qubits):
                shift = size - 1 - place
                factors[qubit] = np.outer(np.eye(2)[a >> shift & 1], np.eye(2)[b >> shift & 1])
            whole = whole + matrix[a, b] * reduce(np.kron, factors)
        product = whole @ product
    return product


def assert_fused_right(circuit, atol=1e-12):
    angles = np.random.default_rng(0).uniform(-3, 3, circuit.num_parameters)
    for method in ("adjoint", "backprop"):
        fused = StatevectorEngine(method).columns(circuit, torch.tensor(angles), 2**circuit.num_qubits)
        np.testing.assert_allclose(fused, gate_by_gate(circuit, angles), atol=atol)


class TestSteps:
    @pytest.mark.parametrize("num_qubits", [2, 3, 7, 12])
    def test_a_ladder_is_one_gather(self, num_qubits):
        builder = CircuitBuilder(num_qubits)
        for qubit in range(num_qubits - 1):
            builder.cx(qubit, qubit + 1)
        (step,) = steps(builder)
        index = torch.arange(2**num_qubits)
        assert isinstance(step, MonomialStep)
        assert torch.equal(step.source, index ^ (index >> 1))
        assert torch.equal(step.source[step.inverse], index)
        assert step.phases is None

    def test_a_layer_of_cz_is_one_vector_of_signs(self):
        (step,) = steps(CircuitBuilder(4).cz(0, 1).cz(2, 3).cz(1, 2), torch.float64)
        assert isinstance(step, MonomialStep)
        assert step.source is None
        assert step.inverse is None
        bits = [[int(bit) for bit in f"{index:04b}"] for index in range(16)]
        assert step.phases.tolist() == [(-1.0) ** (b[0] * b[1] + b[2] * b[3] + b[1] * b[2]) for b in bits]
        assert step.phases.dtype == torch.float64

    def test_a_layer_of_rotations_is_one_local_step(self):
        builder = CircuitBuilder(6)
        for qubit in range(6):
            builder.ry(qubit).rz(qubit)
        assert kinds(builder.h(3).s(5)) == [LocalStep]

    def test_gates_move_past_steps_on_other_qubits(self):
        assert kinds(CircuitBuilder(3).ry(0).cx(0, 1).ry(2).cx(1, 2)) == [LocalStep, MonomialStep]

    def test_gates_stay_behind_steps_on_their_qubits(self):
        assert kinds(CircuitBuilder(3).ry(0).cx(0, 1).ry(1)) == [LocalStep, MonomialStep, LocalStep]
        assert kinds(CircuitBuilder(2).cx(0, 1).rbs(0, 1).cx(0, 1)) == [MonomialStep, PairStep, MonomialStep]

    def test_an_ansatz_is_two_steps_a_layer(self):
        assert kinds(ansatz("ry_cnot", 9, 3)) == [LocalStep, MonomialStep] * 3

    def test_equal_layers_share_one_index(self):
        ladders = [step for step in steps(ansatz("ry_cnot", 5, 4)) if isinstance(step, MonomialStep)]
        assert len(ladders) == 4
        assert len({id(ladder.source) for ladder in ladders}) == 1

    @pytest.mark.parametrize("name", ["rbs", "rzz", "ecr"])
    def test_other_pairs_are_pair_steps(self, name):
        (step,) = steps(getattr(CircuitBuilder(3), name)(2, 0))
        assert isinstance(step, PairStep)
        assert step.qubits == (2, 0)

    @pytest.mark.parametrize("builder", [CircuitBuilder(2), CircuitBuilder(2).cx(0, 1).cx(0, 1)])
    def test_nothing_to_do_is_no_step(self, builder):
        assert steps(builder) == ()

    def test_compiled_once(self):
        again = Circuit.from_json(ansatz("ry_cnot", 4, 2).to_json())
        program = compile_circuit(ansatz("ry_cnot", 4, 2), torch.float32, CPU)
        assert compile_circuit(again, torch.float32, CPU) is program
        assert compile_circuit(again, torch.float64, CPU) is not program


class TestMatrix:
    @given(circuits(max_qubits=4, max_operations=15))
    def test_random(self, circuit):
        assert_fused_right(circuit)

    @given(circuits(max_qubits=3, max_operations=15, names=("x", "y", "s", "cx", "cz", "swap", "tdg", "ry")))
    def test_random_permutations_and_phases(self, circuit):
        assert_fused_right(circuit)

    @pytest.mark.parametrize("num_qubits", range(5, 10))  # one, two and three blocks of equal and unequal size
    def test_many_qubits(self, num_qubits):
        assert_fused_right(random_circuit(num_qubits, 12, seed=num_qubits))
        assert_fused_right(random_circuit(num_qubits, 12, seed=num_qubits, names=REAL))

    def test_steps_that_cancel_between_others(self):
        assert_fused_right(CircuitBuilder(2).ry(0).ry(1).cx(0, 1).cx(0, 1).ry(0).cz(0, 1).cz(0, 1).rx(1).build())

    def test_several_gates_on_one_qubit_keep_their_order(self):
        assert_fused_right(CircuitBuilder(2).rx(0).ry(0).h(1).rz(0).s(1).rx(1).build())

    @pytest.mark.parametrize("first", [0, 1, 2, 3])
    @pytest.mark.parametrize("second", [0, 1, 2, 3])
    def test_every_pair_of_qubits(self, first, second):
        if first != second:
            assert_fused_right(CircuitBuilder(4).ry(first).ry(second).rbs(first, second).ecr(first, second).build())

    @pytest.mark.parametrize(
        "angle",
        [Angle(0), Angle(0, -2.0, 0.5), Angle(2, 0.5), Angle(None, 1.0, 0.7)],
        ids=["own", "affine", "last", "constant"],
    )
    @pytest.mark.parametrize("name", ["ry", "p"])
    def test_angles(self, name, angle):
        assert_fused_right(Circuit(1, (Operation("h", (0,)), Operation(name, (0,), angle)), 3))
