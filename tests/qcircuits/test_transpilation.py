import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import Statevector
from qiskit.transpiler import CouplingMap
from qiskit_aer import AerSimulator

from qpeft.errors import ConfigError, EngineError
from qpeft.qcircuits import CircuitBuilder, ansatz
from qpeft.qcircuits.transpilation import compact, require_backend, transpile
from tests.qcircuits.qiskit_reference import circuits, final_state

LINE = GenericBackendV2(5, ["rz", "sx", "x", "cx"], coupling_map=CouplingMap.from_line(5), seed=1)
BASIS = ("rz", "sx", "cz")


def bound(transpiled, angles):
    """The transpiled circuit with numbers, as a job gets it: values in the order of its parameters."""
    values = transpiled.values(torch.tensor(np.array([angles])))[0]
    return transpiled.circuit.assign_parameters(list(values))


@settings(max_examples=40)
@given(circuits(), st.sampled_from([(LINE, None), (None, BASIS), (None, None)]), st.integers(0, 3))
def test_the_circuit_and_its_order_of_qubits_survive(circuit, target, level):
    angles = np.linspace(-2, 2, circuit.num_parameters)
    transpiled = transpile(circuit, *target, level)
    unitary = bound(transpiled, angles).remove_final_measurements(inplace=False)
    there = Statevector(unitary).probabilities(transpiled.qubits[::-1])
    np.testing.assert_allclose(there, abs(final_state(circuit, angles)) ** 2, atol=1e-7)


@pytest.mark.parametrize("backend", [None, LINE])
def test_an_outcome_is_our_basis_index(backend):
    circuit = CircuitBuilder(5).x(0).cx(0, 3).swap(3, 4).cx(4, 1).swap(1, 2).build()  # routed on a line
    transpiled = transpile(circuit, backend)
    counts = AerSimulator().run(transpiled.circuit, shots=10).result().get_counts()
    assert counts == {"10101": 10}


def test_a_circuit_is_transpiled_once():
    again = [transpile(ansatz("ry_cnot", 3, 2), LINE, None, level) for level in (1, 1, 2)]
    assert again[0] is again[1]
    assert again[0] is not again[2]
    assert transpile(ansatz("ry_cnot", 3, 2), LINE, seed=5) is not transpile(ansatz("ry_cnot", 3, 2), LINE, seed=6)


def test_a_device_is_told_from_an_equal_one():
    other = GenericBackendV2(5, ["rz", "sx", "x", "cx"], coupling_map=CouplingMap.from_line(5), seed=1)
    assert transpile(ansatz("ry_cnot", 3, 2), LINE) is not transpile(ansatz("ry_cnot", 3, 2), other)


def test_parameters_stay_symbolic_and_those_that_do_nothing_are_dropped():
    circuit = CircuitBuilder(2).rz(0).ry(1).ry(0).cx(0, 1).rz(1).build()
    transpiled = transpile(circuit, LINE)
    assert transpiled.columns == (0, 1, 2)  # a phase right before the measurement is none
    assert len(transpiled.circuit.parameters) == 3
    values = transpiled.values(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    np.testing.assert_array_equal(values, [[1, 2, 3]])


def test_more_than_ten_parameters_keep_their_order():
    assert transpile(ansatz("ry_cnot", 4, 3), LINE).columns == tuple(range(12))


def test_the_register_has_one_bit_for_each_of_our_qubits():
    transpiled = transpile(ansatz("ry_cnot", 3, 1), LINE)
    assert [(register.name, register.size) for register in transpiled.circuit.cregs] == [("meas", 3)]
    assert transpiled.circuit.num_qubits == 5
    assert set(transpiled.circuit.count_ops()) <= {"rz", "sx", "x", "cx", "measure"}


def test_a_device_with_too_few_qubits():
    with pytest.raises(EngineError, match=r"the circuit has 6 qubits; generic_backend_5q has 5\. Use fewer"):
        transpile(ansatz("ry_cnot", 6, 1), LINE)


def test_gates_that_cannot_express_the_circuit():
    with pytest.raises(EngineError, match="cannot transpile the circuit for the gates cx, x: "):
        transpile(ansatz("ry_cnot", 2, 1), basis_gates=("cx", "x"))


def test_compact_keeps_the_qubits_in_use_in_their_order():
    circuit = CircuitBuilder(3).ry(0).cx(0, 2).swap(2, 1).ry(1).build()
    transpiled, angles = transpile(circuit, LINE), np.array([0.4, 1.3])
    qubits, small = compact(transpiled)
    assert qubits == sorted(qubits)
    assert small.num_qubits == len(qubits) < 5
    assert "measure" not in small.count_ops()
    values = transpiled.values(torch.tensor(angles[None]))[0]
    order = [qubits.index(qubit) for qubit in transpiled.qubits[::-1]]
    there = Statevector(small.assign_parameters(list(values))).probabilities(order)
    np.testing.assert_allclose(there, abs(final_state(circuit, angles)) ** 2, atol=1e-7)


def test_a_backend_is_an_object_of_qiskits():
    assert require_backend(LINE) is LINE
    with pytest.raises(ConfigError, match=r"the backend is str; expected a qiskit.providers.BackendV2, e\.g\. qpeft"):
        require_backend("ibm_torino")


def test_connected_pairs_without_a_device():
    circuit = CircuitBuilder(3).cx(0, 2).build()
    transpiled = transpile(circuit, None, BASIS, 3, 0, ((0, 1), (1, 2)))
    used = {
        tuple(sorted(transpiled.circuit.find_bit(q).index for q in i.qubits))
        for i in transpiled.circuit.data if len(i.qubits) == 2
    }  # fmt: skip
    assert used <= {(0, 1), (1, 2)}


def test_a_kept_result_keeps_its_device_until_the_cache_is_cleared():
    device = GenericBackendV2(2, seed=1)
    seen = weakref.ref(device)
    transpile(ansatz("ry_cnot", 2, 1), device)
    del device
    gc.collect()
    assert seen() is not None
    transpile.cache_clear()
    gc.collect()
    assert seen() is None
