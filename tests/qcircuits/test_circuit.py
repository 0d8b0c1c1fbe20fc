import copy
import dataclasses
import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from qiskit.quantum_info import Operator
from qiskit_reference import circuits, random_circuit, to_qiskit, unitary

from qpeft.errors import CircuitError
from qpeft.qcircuits import GATES, Angle, Circuit, CircuitBuilder, Operation, StatevectorEngine

SAMPLE = CircuitBuilder(3).ry(0).cx(0, 1).rx(2, angle=Angle(0, -0.5, 1.5)).p(1, angle=0.25).rbs(2, 0).build()

IMPOSSIBLE = {
    "too few qubits": (Operation("cx", (0,)), r"cx on \(0,\)\): cx acts on 2 qubit\(s\); given 1"),
    "too many qubits": (Operation("x", (0, 1)), r"x on \(0, 1\)\): x acts on 1 qubit\(s\); given 2"),
    "repeated qubit": (Operation("cx", (1, 1)), r"cx on \(1, 1\)\): a qubit is named twice"),
    "qubit too large": (Operation("x", (2,)), r"x on \(2,\)\): the circuit's qubits are 0 to 1"),
    "negative qubit": (Operation("x", (-1,)), r"x on \(-1,\)\): the circuit's qubits are 0 to 1"),
    "fractional qubit": (Operation("x", (0.0,)), r"x on \(0.0,\)\): qubits must be a tuple of integers"),
    "qubits in a list": (Operation("x", [0]), r"x on \[0\]\): qubits must be a tuple of integers"),
    "missing angle": (Operation("rx", (0,)), r"rx on \(0,\)\): rx takes one angle"),
    "extra angle": (Operation("x", (0,), Angle(0)), r"x\(theta\[0\]\) on \(0,\)\): x takes no angle"),
    "parameter too large": (Operation("rx", (0,), Angle(2)), r"parameters are theta\[0\] to theta\[1\]"),
    "negative parameter": (Operation("rx", (0,), Angle(-1)), r"parameters are theta\[0\] to theta\[1\]"),
    "fractional parameter": (Operation("rx", (0,), Angle(0.5)), "index of a parameter must be an integer"),
    "infinite scale": (Operation("rx", (0,), Angle(0, math.inf)), "scale and offset must be finite"),
    "offset no number": (Operation("rx", (0,), Angle(None, 1.0, math.nan)), "scale and offset must be finite"),
    "unknown gate": (Operation("ryy", (0,)), r"ryy on \(0,\)\): unknown gate 'ryy'\. Did you mean .*'ry'"),
}


class TestValidation:
    @pytest.mark.parametrize(("operation", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
    def test_message_names_the_operation_and_its_position(self, operation, message):
        with pytest.raises(CircuitError, match=r"^operation 1 \(.*" + message):
            Circuit(2, (Operation("x", (0,)), operation), 2)

    def test_without_parameters_no_index_is_right(self):
        with pytest.raises(CircuitError, match="the circuit has no parameters"):
            Circuit(1, (Operation("rx", (0,), Angle(0)),), 0)

    @pytest.mark.parametrize("num_qubits", [0, -1, 1.0, "2", True])
    def test_number_of_qubits(self, num_qubits):
        with pytest.raises(CircuitError, match="at least 1 qubit"):
            Circuit(num_qubits, (), 0)

    @pytest.mark.parametrize("num_parameters", [-1, 1.0, None])
    def test_number_of_parameters(self, num_parameters):
        with pytest.raises(CircuitError, match="num_parameters"):
            Circuit(1, (), num_parameters)


class TestAngle:
    @pytest.mark.parametrize("number", [np.float64(0.5), np.float32(0.5), np.array(0.5), torch.tensor(0.5)], ids=repr)
    def test_other_libraries_numbers_become_plain_ones(self, number):
        angle = Angle(0, number, number)
        assert (type(angle.scale), type(angle.offset)) == (float, float)
        assert angle == Angle(0, 0.5, 0.5)
        assert hash(angle) == hash(Angle(0, 0.5, 0.5))

    @pytest.mark.parametrize(
        "value", ["1", None, 1j, np.complex128(1), torch.ones(2), torch.tensor(1j), 10**400], ids=repr
    )  # fmt: skip
    def test_what_is_no_real_number_is_refused(self, value):
        with pytest.raises(CircuitError, match="an angle's scale must be a real number; given"):
            Angle(0, value)
        with pytest.raises(CircuitError, match="an angle's offset must be a real number; given"):
            Angle(0, 1.0, value)


class TestValue:
    def test_equal_circuits_are_one_key(self):
        again = CircuitBuilder(3).ry(0).cx(0, 1).rx(2, angle=Angle(0, -0.5, 1.5)).p(1, angle=0.25).rbs(2, 0).build()
        assert again is not SAMPLE
        assert again == SAMPLE
        assert len({again, SAMPLE}) == 1

    @pytest.mark.parametrize(
        "other",
        [
            Circuit(4, SAMPLE.operations, SAMPLE.num_parameters),
            Circuit(3, SAMPLE.operations[:-1], SAMPLE.num_parameters),
            Circuit(3, SAMPLE.operations[::-1], SAMPLE.num_parameters),
            Circuit(3, SAMPLE.operations, SAMPLE.num_parameters + 1),
        ],
        ids=["qubits", "operations", "order", "parameters"],
    )
    def test_any_difference_makes_another_circuit(self, other):
        assert other != SAMPLE

    def test_a_circuit_cannot_be_changed(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            SAMPLE.num_qubits = 4
        with pytest.raises(dataclasses.FrozenInstanceError):
            SAMPLE.operations[0].gate = "rx"
        with pytest.raises(dataclasses.FrozenInstanceError):
            SAMPLE.operations[0].angle.scale = 2.0

    def test_operations_given_as_a_list_are_copied(self):
        operations = [Operation("x", (0,))]
        circuit = Circuit(1, operations, 0)
        operations.clear()
        assert circuit.operations == (Operation("x", (0,)),)

    def test_building_on_leaves_what_was_built(self):
        builder = CircuitBuilder(1).x(0)
        first = builder.build()
        assert len(builder.y(0).build().operations) == 2
        assert len(first.operations) == 1

    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
    def test_copies_are_equal(self, duplicate):
        assert duplicate(SAMPLE) == SAMPLE
        assert hash(duplicate(SAMPLE)) == hash(SAMPLE)

    def test_a_pickle_is_the_same_key_in_another_process(self):
        hash(SAMPLE)  # now it is remembered, and must not travel: strings hash differently there
        code = (
            "import pickle, sys; from qpeft.qcircuits import Circuit; c = pickle.load(sys.stdin.buffer); "
            "assert hash(c) == hash(Circuit(c.num_qubits, c.operations, c.num_parameters))"
        )
        subprocess.run([sys.executable, "-c", code], input=pickle.dumps(SAMPLE), check=True)


class TestBuilder:
    @pytest.mark.parametrize("name", GATES)
    def test_every_gate_is_a_method(self, name):
        row = GATES[name]
        built = getattr(CircuitBuilder(2), name)(*range(row.num_qubits)).build()
        angle = Angle(0) if row.has_angle else None
        assert built == Circuit(2, (Operation(name, tuple(range(row.num_qubits)), angle),), int(row.has_angle))

    def test_angles_are_new_shared_or_constant(self):
        built = CircuitBuilder(1).rx(0).ry(0, angle=Angle(0, 2.0, 0.5)).rz(0, angle=0.25).rx(0).build()
        assert [o.angle for o in built.operations] == [Angle(0), Angle(0, 2.0, 0.5), Angle(None, 1.0, 0.25), Angle(1)]
        assert built.num_parameters == 2

    def test_numpy_integers_become_plain_ones(self):
        built = CircuitBuilder(2).cx(*np.arange(2)).build()
        assert Circuit.from_json(built.to_json()) == built

    def test_unknown_gate(self):
        with pytest.raises(AttributeError, match=r"Did you mean .*'swap'"):
            CircuitBuilder(2).swop(0, 1)
        with pytest.raises(CircuitError, match=r"Did you mean .*'swap'"):
            CircuitBuilder(2).append("swop", (0, 1))

    def test_no_such_private_attribute(self):
        assert not hasattr(CircuitBuilder(2), "_repr_html_")


class TestAlgebra:
    first = random_circuit(3, 9, seed=1)
    second = random_circuit(3, 15, seed=2)

    def angles(self, count):
        return np.random.default_rng(0).uniform(-3, 3, count)

    def test_compose_gives_the_second_angles_of_its_own(self):
        both = self.first.compose(self.second)
        count = self.first.num_parameters
        assert both.num_parameters == count + self.second.num_parameters
        theta = self.angles(both.num_parameters)
        expected = unitary(self.second, theta[count:]) @ unitary(self.first, theta[:count])
        np.testing.assert_allclose(unitary(both, theta), expected, atol=1e-12)

    def test_compose_with_shared_angles(self):
        both = self.first.compose(self.second, share_parameters=True)
        assert both.num_parameters == max(self.first.num_parameters, self.second.num_parameters)
        theta = self.angles(both.num_parameters)
        expected = unitary(self.second, theta) @ unitary(self.first, theta)
        np.testing.assert_allclose(unitary(both, theta), expected, atol=1e-12)

    def test_compose_needs_as_many_qubits(self):
        with pytest.raises(CircuitError, match="cannot compose 3 qubits with 2"):
            self.first.compose(Circuit(2, (), 0))

    @pytest.mark.parametrize("reps", [0, 1, 3])
    def test_repeat(self, reps):
        own, shared = self.first.repeat(reps), self.first.repeat(reps, share_parameters=True)
        count = self.first.num_parameters
        assert (own.num_parameters, shared.num_parameters) == (reps * count, count)
        theta = self.angles(max(1, reps) * count)
        parts = [unitary(self.first, theta[k * count : (k + 1) * count]) for k in range(reps)]
        expected = np.linalg.multi_dot([np.eye(8), *parts[::-1], np.eye(8)])
        np.testing.assert_allclose(unitary(own, theta), expected, atol=1e-12)
        np.testing.assert_allclose(
            unitary(shared, theta), np.linalg.matrix_power(unitary(self.first, theta), reps), atol=1e-12
        )

    def test_repeat_a_negative_number_of_times(self):
        with pytest.raises(CircuitError, match="reps must be 0 or more; given -1"):
            self.first.repeat(-1)

    @given(circuits())
    def test_inverse_is_the_inverse_matrix(self, circuit):
        theta = self.angles(circuit.num_parameters)
        expected = unitary(circuit, theta).conj().T
        np.testing.assert_allclose(unitary(circuit.inverse(), theta), expected, atol=1e-12)

    @pytest.mark.parametrize("num_qubits", [1, 2, 5])
    def test_inverse_returns_the_state_to_the_start(self, num_qubits):
        circuit = random_circuit(num_qubits, 40, seed=num_qubits)
        there_and_back = circuit.compose(circuit.inverse(), share_parameters=True)
        theta = torch.tensor(self.angles(circuit.num_parameters))
        state = StatevectorEngine().state(there_and_back, theta)
        start = torch.eye(2**num_qubits, dtype=state.dtype)[0]
        torch.testing.assert_close(state, start, rtol=0, atol=1e-12)

    @given(circuits(max_qubits=5, max_operations=20))
    def test_depth_is_qiskits(self, circuit):
        assert circuit.depth == to_qiskit(circuit, np.zeros(circuit.num_parameters)).depth()

    @given(circuits())
    def test_is_real_says_whether_the_matrix_is(self, circuit):
        theta = self.angles(circuit.num_parameters)
        gates = [Operator(step.operation).data for step in to_qiskit(circuit, theta).data]
        if circuit.is_real:
            assert all(np.allclose(matrix.imag, 0, atol=1e-12) for matrix in gates)

    def test_one_complex_gate_makes_a_circuit_complex(self):
        assert CircuitBuilder(2).ry(0).rbs(0, 1).h(1).build().is_real
        assert not CircuitBuilder(2).ry(0).s(0).h(1).build().is_real


class TestBind:
    @given(circuits())
    def test_same_unitary_without_parameters(self, circuit):
        angles = np.random.default_rng(0).uniform(-np.pi, np.pi, circuit.num_parameters)
        bound = circuit.bind(angles)
        assert bound.num_parameters == 0
        np.testing.assert_allclose(unitary(bound, ()), unitary(circuit, angles), atol=1e-12)

    @pytest.mark.parametrize(
        ("angles", "message"),
        [
            ([], "has 2 parameters; given 0 angles"),
            ([0.0, math.nan], "must be finite"),
            ([0.0, "one"], "must be 2 numbers, one a parameter: could not convert"),
            ([0.0, None], "must be 2 numbers"),
            (0.5, "must be 2 numbers"),
        ],
    )
    def test_one_finite_angle_a_parameter(self, angles, message):
        with pytest.raises(CircuitError, match=message):
            CircuitBuilder(1).rx(0).ry(0).build().bind(angles)


class TestJSON:
    @given(circuits(max_qubits=5, max_operations=20))
    @example(Circuit(1, (), 0))
    @example(Circuit(1, (), 7))
    @example(Circuit(1, (Operation("rx", (0,), Angle(None, -0.0, 1e-300)),), 0))
    def test_round_trip(self, circuit):
        again = Circuit.from_json(circuit.to_json())
        assert again == circuit
        assert hash(again) == hash(circuit)
        assert again.to_json() == circuit.to_json()

    def test_format_is_fixed(self):
        """Saved adapters hold this text: change it only with the version."""
        assert json.loads(
            CircuitBuilder(2).cx(0, 1).ry(1, angle=Angle(0, 2.0, 0.5)).p(0, angle=0.25).build().to_json()
        ) == {
            "format": "qpeft-circuit",
            "version": 1,
            "num_qubits": 2,
            "num_parameters": 1,
            "operations": [["cx", [0, 1]], ["ry", [1], [0, 2.0, 0.5]], ["p", [0], [None, 1.0, 0.25]]],
        }

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("format", "other", "'format' is 'other'"),
            ("version", 2, "version 2; this qpeft reads version 1"),
            ("num_qubits", "three", "num_qubits='three'"),
            ("num_qubits", 3.5, "num_qubits=3.5"),
            ("num_qubits", 1e999, "num_qubits=inf"),
            ("num_qubits", 1, "the circuit's qubits are 0 to 0"),
            ("num_parameters", None, "num_parameters"),
            ("num_parameters", 0, "no parameters"),
            ("operations", None, "damaged"),
            ("operations", "cx", "damaged"),
            ("operations", [["cx"]], "damaged"),
            ("operations", [["cx", 0]], "damaged"),
            ("operations", [["cx", "01"]], "operation 0 .* integers"),
            ("operations", [["x", [0.7]]], "operation 0 .* integers"),
            ("operations", [["x", [1e999]]], "operation 0 .* integers"),
            ("operations", [[None, [0]]], "operation 0 .* unknown gate 'None'"),
            ("operations", [["rx", [0], [0.5, 1.0, 0.0]]], "operation 0 .* integer"),
            ("operations", [["rx", [0], ["0", 1.0, 0.0]]], "operation 0 .* integer"),
            ("operations", [["rx", [0], [0, "1", 0.0]]], "scale must be a real number; given '1'"),
            ("operations", [["rx", [0], [0, float("nan"), 0.0]]], "finite"),
            ("operations", [["rx", [0], [0, 10**400, 0.0]]], "scale must be a real number.*too large"),
            ("operations", [["rx", [0], []]], "damaged"),
            ("operations", [["rx", [0], [0, 1.0, 0.0, 0.0]]], "damaged"),
            ("operations", [["rx", [0], [0, 1.0, 0.0], [0, 1.0, 0.0]]], "damaged"),
        ],
    )
    def test_damaged_entry(self, key, value, message):
        damaged = json.dumps({**SAMPLE.to_dict(), key: value})
        with pytest.raises(CircuitError, match=message):
            Circuit.from_json(damaged)

    @pytest.mark.parametrize("key", SAMPLE.to_dict())
    def test_missing_entry(self, key):
        damaged = {k: v for k, v in SAMPLE.to_dict().items() if k != key}
        with pytest.raises(CircuitError, match=key):
            Circuit.from_dict(damaged)

    @given(st.integers(0, len(SAMPLE.to_json()) - 1))
    def test_cut_short(self, length):
        with pytest.raises(CircuitError, match="not JSON"):
            Circuit.from_json(SAMPLE.to_json()[:length])

    @pytest.mark.parametrize("text", ["[]", "3", "null", '"circuit"', "{}"])
    def test_json_of_something_else(self, text):
        with pytest.raises(CircuitError, match="not a circuit"):
            Circuit.from_json(text)
