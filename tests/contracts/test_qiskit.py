"""What `transpilation`, `aer_engine` and `aer_noise` take for granted about Qiskit and Aer, one test each."""

import numpy as np
import pytest
import qiskit
import qiskit_aer
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import Kraus, Operator, SuperOp
from qiskit.transpiler import CouplingMap, generate_preset_pass_manager
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel, ReadoutError, depolarizing_error, pauli_error

from qpeft.noise.devices import snapshot
from qpeft.qcircuits.aer_noise import VIRTUAL_GATES, device_noise


def test_versions():
    assert qiskit.__version__.startswith("2.")
    assert tuple(map(int, qiskit_aer.__version__.split(".")[:2])) >= (0, 17)


# ---- Qiskit


def test_qubit_0_is_the_least_significant_bit():
    circuit = QuantumCircuit(2)
    circuit.x(0)
    assert abs(Operator(circuit).data[1, 0]) == 1


def test_parameters_are_listed_by_their_index_in_the_vector_and_keep_it():
    theta = ParameterVector("theta", 12)
    circuit = QuantumCircuit(1)
    for index in reversed(range(12)):
        circuit.ry(1.0 * theta[index], 0)
    manager = generate_preset_pass_manager(optimization_level=0, basis_gates=["rz", "sx"])
    assert [parameter.index for parameter in manager.run(circuit).parameters] == list(range(12))


def test_measurements_say_where_the_qubits_ended():
    line = GenericBackendV2(4, ["rz", "sx", "x", "cx"], coupling_map=CouplingMap.from_line(4), seed=1)
    circuit = QuantumCircuit(3, 3)
    circuit.cx([0, 1, 2], [1, 2, 0])  # a triangle, which a line has not
    circuit.measure(range(3), range(3))
    done = generate_preset_pass_manager(optimization_level=1, backend=line, seed_transpiler=0).run(circuit)
    ended = {
        done.find_bit(i.clbits[0]).index: done.find_bit(i.qubits[0]).index for i in done.data if i.name == "measure"
    }
    assert [ended[bit] for bit in range(3)] == done.layout.final_index_layout(filter_ancillas=True)


def test_a_back_end_is_hashed_by_identity():
    one, other = GenericBackendV2(2, seed=1), GenericBackendV2(2, seed=1)
    assert one != other
    assert len({one, other, one}) == 2


def test_a_target_states_errors_by_gate_and_qubits():
    target = snapshot("ibm_torino").target
    assert target["sx"][(0,)].error > 0
    assert target["rz"][(0,)].error == 0
    assert target["if_else"] == {None: None}
    assert len(target.qubit_properties) == 133


# ---- Aer


def one_rotation():
    theta = ParameterVector("theta", 2)
    circuit = QuantumCircuit(2)
    circuit.ry(1.0 * theta[0] + 0.0, 0)
    circuit.ry(theta[1], 1)
    return circuit, theta


def test_rows_of_parameters_come_back_in_order_from_one_job():
    circuit, theta = one_rotation()
    circuit.save_probabilities([1, 0])
    binds = {theta[0]: [0.0, np.pi, 0.0], theta[1]: [0.0, 0.0, np.pi]}
    result = AerSimulator(method="statevector").run(circuit, parameter_binds=[binds]).result()
    assert len(result.results) == 3
    rows = [result.data(row)["probabilities"].argmax() for row in range(3)]
    assert rows == [0, 2, 1]  # the first qubit of [1, 0] is the least significant bit


def test_counts_are_keyed_by_hexadecimal_outcomes():
    circuit = QuantumCircuit(4, 4)
    circuit.x(3)
    circuit.x(1)
    circuit.measure(range(4), range(4))
    assert AerSimulator().run(circuit, shots=5).result().data(0)["counts"] == {"0xa": 5}


@pytest.mark.parametrize("bound", [True, False])
def test_circuits_of_one_job_are_sampled_apart_and_alike_however_many_run_at_once(bound):
    circuit, theta = one_rotation()
    if not bound:
        circuit = circuit.assign_parameters([1.0, 2.0])
    circuit.measure_all()
    answers = []
    for parallel in (0, 1):
        simulator = AerSimulator(max_parallel_experiments=parallel)
        if bound:
            job = simulator.run(
                circuit, parameter_binds=[{theta[0]: [1.0] * 3, theta[1]: [2.0] * 3}], shots=999, seed_simulator=7
            )
        else:
            job = simulator.run([circuit] * 3, shots=999, seed_simulator=7)
        answers.append(job.result().get_counts())
    assert answers[0] == answers[1]
    assert answers[0][0] != answers[0][1] != answers[0][2]


def test_a_gate_without_an_error_runs_without_a_word():
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(0.9, 1), ["sx"])
    circuit = QuantumCircuit(1)
    circuit.x(0)
    circuit.measure_all()
    assert AerSimulator(noise_model=model).run(circuit, shots=100).result().get_counts() == {"1": 100}


def test_a_correlated_readout_error_is_left_out_without_a_word():
    model = NoiseModel()
    model.add_readout_error(ReadoutError(np.eye(4)[::-1]), [0, 1])
    circuit = QuantumCircuit(2)
    circuit.measure_all()
    assert AerSimulator(noise_model=model).run(circuit, shots=100).result().get_counts() == {"00": 100}


def test_readout_errors_are_in_counts_and_not_in_saved_probabilities():
    model = NoiseModel()
    model.add_all_qubit_readout_error(ReadoutError([[0, 1], [0, 1]]))
    circuit = QuantumCircuit(1, 1)
    circuit.save_probabilities()
    circuit.measure(0, 0)
    data = AerSimulator(noise_model=model, method="density_matrix").run(circuit, shots=10).result().data(0)
    assert data["probabilities"].tolist() == [1, 0]
    assert data["counts"] == {"0x1": 10}


def test_a_quantum_error_on_measurements_acts_before_them_and_not_on_saved_probabilities():
    model = NoiseModel()
    model.add_all_qubit_quantum_error(pauli_error([("X", 1.0)]), "measure")
    circuit = QuantumCircuit(1, 1)
    circuit.save_probabilities()
    circuit.measure(0, 0)
    data = AerSimulator(noise_model=model, method="density_matrix").run(circuit, shots=10).result().data(0)
    assert data["probabilities"].tolist() == [1, 0]
    assert data["counts"] == {"0x1": 10}


def test_a_devices_noise_model_has_phases_in_its_basis_and_no_error_for_them():
    model = NoiseModel.from_backend(snapshot("ibm_manila"))
    assert "rz" in model.basis_gates
    assert not VIRTUAL_GATES & set(model.noise_instructions)


def test_a_noise_model_without_a_basis_has_phases_in_it():
    assert set(NoiseModel().basis_gates) == {"id", "rz", "sx", "cx"}


def test_a_noise_model_says_which_gates_have_errors():
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(0.1, 1), ["sx"])
    model.add_quantum_error(depolarizing_error(0.1, 2), ["cx"], [1, 0])
    model.add_all_qubit_readout_error([[0.9, 0.1], [0.2, 0.8]])
    model.add_readout_error([[0.8, 0.2], [0.2, 0.8]], [1], warnings=False)
    told = [(e["type"], e["operations"], e.get("gate_qubits")) for e in model.to_dict()["errors"]]
    assert told == [
        ("qerror", ["sx"], None),
        ("qerror", ["cx"], [(1, 0)]),
        ("roerror", ["measure"], None),
        ("roerror", ["measure"], [(1,)]),
    ]


def test_the_errors_of_a_few_qubits_are_those_of_the_whole_device():
    target, qubits = snapshot("ibm_torino").target, [15, 0, 1]
    whole = NoiseModel.from_backend(snapshot("ibm_torino"))
    uses = [("cz", (1, 0)), ("cz", (1, 2)), *((name, (place,)) for name in ("sx", "x", "rz") for place in range(3))]
    ours = described(device_noise(target, qubits, uses), [0, 1, 2])
    theirs = described(whole, qubits)
    assert set(ours) == {
        *uses[:2],
        *(use for use in uses[2:] if use[0] != "rz"),
        *(("measure", (q,)) for q in range(3)),
    }
    for use, channel in ours.items():
        np.testing.assert_allclose(channel, theirs[use], atol=1e-9)


def described(model, qubits):
    """(gate, places in `qubits`) -> what happens there, as a matrix."""
    found = {}
    for error in model.to_dict()["errors"]:
        places = tuple(error["gate_qubits"][0])
        if not set(places) <= set(qubits) or error["operations"] == ["id"] or error["operations"] == ["reset"]:
            continue
        use = (error["operations"][0], tuple(qubits.index(place) for place in places))
        found[use] = np.array(error["probabilities"]) if error["type"] == "roerror" else superop(error, len(places))
    return found


def superop(error, num_qubits):
    total = np.zeros((4**num_qubits,) * 2, dtype=complex)
    for probability, instructions in zip(error["probabilities"], error["instructions"], strict=True):
        branch = SuperOp(np.eye(4**num_qubits))
        for instruction in instructions:
            branch = branch.compose(channel(instruction), instruction["qubits"])
        total += probability * branch.data
    return total


def channel(instruction):
    name, params = instruction["name"], instruction.get("params")
    if name == "kraus":
        return SuperOp(Kraus([np.asarray(matrix) for matrix in params]))
    circuit = QuantumCircuit(len(instruction["qubits"]))
    if name == "pauli":
        circuit.pauli(params[0], range(circuit.num_qubits))
    else:
        getattr(circuit, name)(0)
    return SuperOp(circuit)


def test_available_methods_and_devices_are_told():
    assert "CPU" in AerSimulator().available_devices()
    assert {"automatic", "statevector", "density_matrix"} <= set(AerSimulator().available_methods())
