import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qiskit.quantum_info import SuperOp
from qiskit_aer import noise as aer

from qpeft.errors import NoiseError, QpeftError
from qpeft.noise import channels
from qpeft.noise.model import NoiseModel

UNEVEN = channels.tensor(channels.amplitude_damping(0.1), channels.depolarizing(0.02))


def example():
    return NoiseModel(
        "example", ("rz", "sx", "cz"), num_qubits=3, coupling=((0, 1), (1, 2)), calibrated="2026-01-02",
        errors={("cz", (0, 1)): UNEVEN, ("cz", (2, 1)): UNEVEN, ("sx", (2,)): channels.phase_damping(0.1)},
        default_errors={"sx": channels.thermal_relaxation(50, 60, 1)},
        readout={1: channels.readout(0.1, 0.02)}, default_readout=channels.readout(0.01, 0.01),
    )  # fmt: skip


def same(one, other):
    assert set(one.basis_gates) == set(other.basis_gates)
    for name, qubits in [("sx", (0,)), ("sx", (2,)), ("cz", (0, 1)), ("cz", (2, 1)), ("cz", (1, 0)), ("rz", (0,))]:
        a, b = one.error_of(name, qubits), other.error_of(name, qubits)
        assert (a is None) == (b is None), (name, qubits)
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
    for qubit in range(3):
        np.testing.assert_allclose(one.readout_of(qubit), other.readout_of(qubit), rtol=0, atol=1e-12)


def test_json_round_trip():
    model = example()
    there = json.loads(model.to_json())
    back = NoiseModel.from_dict(there)
    same(model, back)
    assert back.to_dict() == model.to_dict()
    assert (back.name, back.num_qubits, back.coupling, back.calibrated) == (
        "example",
        3,
        ((0, 1), (1, 2)),
        "2026-01-02",
    )


def test_aer_round_trip():
    same(example(), NoiseModel.from_aer(example().to_aer(), num_qubits=3))


def test_errors_from_aer_keep_their_qubits():
    model = aer.NoiseModel(basis_gates=["rz", "sx", "cz"])
    damped, kept = aer.amplitude_damping_error(0.3), aer.depolarizing_error(0.0, 1)
    model.add_quantum_error(damped.expand(kept), "cz", [4, 2])  # damps the gate's first qubit
    model.add_readout_error([[0.9, 0.1], [0.3, 0.7]], [4])  # reads 1 for 0 with chance 0.1
    ours = NoiseModel.from_aer(model)
    expected = channels.tensor(channels.amplitude_damping(0.3), np.eye(4))
    np.testing.assert_allclose(ours.error_of("cz", (4, 2)), expected, rtol=0, atol=1e-7)
    np.testing.assert_allclose(ours.readout_of(4), channels.readout(0.1, 0.3))
    assert ours.error_of("cz", (2, 4)) is None and ours.readout_of(2) is None


def test_what_aer_has_and_we_do_not_is_named():
    correlated = aer.NoiseModel()
    correlated.add_readout_error(np.full((4, 4), 0.25), [0, 1])
    with pytest.raises(NoiseError, match="a readout error of several qubits at once"):
        NoiseModel.from_aer(correlated)
    measured = aer.NoiseModel()
    measured.add_all_qubit_quantum_error(aer.pauli_error([("X", 0.3), ("I", 0.7)]), "measure")
    with pytest.raises(NoiseError, match="a quantum error on measure; give a ReadoutError"):
        NoiseModel.from_aer(measured)
    other = aer.NoiseModel()
    other.add_all_qubit_quantum_error(aer.depolarizing_error(0.1, 1), "u3")
    with pytest.raises(NoiseError, match="the model has errors for u3; our gates are h, x"):
        NoiseModel.from_aer(other)


@given(st.floats(0, 1))
def test_scaling_down_mixes_with_the_ideal_gate(factor):
    scaled = example().scaled(factor)
    np.testing.assert_allclose(scaled.error_of("cz", (0, 1)), (1 - factor) * np.eye(16) + factor * UNEVEN)
    np.testing.assert_allclose(scaled.readout_of(1)[:, 0], [1 - 0.1 * factor, 0.1 * factor])


def test_parametric_models_scale_beyond_one():
    model = NoiseModel.depolarizing(0.01, 0.02, 0.03).scaled(3)
    np.testing.assert_allclose(model.error_of("sx", (7,)), channels.depolarizing(0.03))
    np.testing.assert_allclose(model.error_of("cz", (7, 3)), channels.depolarizing(0.06, 2))
    np.testing.assert_allclose(model.readout_of(0), channels.readout(0.09, 0.09))
    assert model.error_of("rz", (0,)) is None
    with pytest.raises(NoiseError, match="a readout error is 3"):
        NoiseModel.depolarizing(0.01, 0.01, 0.03).scaled(100)


def test_scaling_keeps_size_and_coupling():
    model = NoiseModel.depolarizing(0.01, 0.01).on([0, 1, 2]).scaled(0.5)
    assert model.num_qubits == 3 and model.name == "depolarizing(0.005, 0.005, 0)"


def test_some_qubits_alone():
    part = example().on([2, 1])
    np.testing.assert_allclose(part.error_of("cz", (0, 1)), UNEVEN)
    np.testing.assert_allclose(part.error_of("sx", (0,)), channels.phase_damping(0.1))
    np.testing.assert_allclose(part.readout_of(1), channels.readout(0.1, 0.02))
    assert part.coupling == ((1, 0),) and part.num_qubits == 2


def test_channels_of_aer_are_superoperators_of_qiskit():
    written = example().to_aer().to_dict()["errors"]
    damped = next(e for e in written if e["operations"] == ["cz"] and (0, 1) in [tuple(q) for q in e["gate_qubits"]])
    there = SuperOp(aer.QuantumError.from_dict(damped)).data
    np.testing.assert_allclose(channels.reversed_qubits(channels.superoperator(there)), UNEVEN, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseModel("m", ("rz", "u3")), "native gates u3 are not in the gate table: h, x"),
        (lambda: NoiseModel("m", ("sx",), {("sx", (0,)): 2 * np.eye(4)}), r"error of sx on \(0,\) does not preserve"),
        (lambda: NoiseModel("m", ("sx",), default_errors={"sx": -np.eye(4)}), "the error of sx does not preserve"),
        (lambda: NoiseModel("m", ("cz",), {("cz", (0, 1)): np.eye(4)}), r"has shape \(4, 4\); a transfer matrix"),
        (lambda: NoiseModel("m", ("sx",), {("foo", (0,)): np.eye(4)}), "no such gate"),
        (lambda: NoiseModel("m", ("sx",), readout={0: np.array([[0.5, 0.5], [0.9, 0.5]])}), "do not sum to 1: off by"),
        (lambda: NoiseModel("m", ("sx",), readout={0: np.array([[1.5, 0], [-0.5, 1]])}), "entries outside 0 to 1"),
        (lambda: NoiseModel("m", ("sx",), default_readout=np.eye(4)), r"the readout has shape \(4, 4\)"),
        (lambda: NoiseModel("m", ("sx",), calibrated="2025/02/26"), "calibrated is '2025/02/26'; expected a date"),
        (lambda: example().scaled(-1), "the factor is -1; it must be 0 or more"),
        (lambda: example().scaled(1.5), "example cannot be scaled by 1.5: only parametric models can exceed 1"),
        (lambda: example().on([0, 3]), r"qubits \[0, 3\] of example: they must be distinct and below 3"),
        (lambda: example().on([0, 0]), "must be distinct"),
        (lambda: example().noise(4), "the circuit has 4 qubits; the noise model example has 3"),
        (lambda: NoiseModel.depolarizing(0.1, 0.1, basis_gates=("rz", "foo")), "unknown gate 'foo'"),
        (lambda: NoiseModel.depolarizing(-1, 0), "a depolarizing probability is -1"),
        (lambda: NoiseModel.from_json("["), "not JSON"),
        (lambda: NoiseModel.from_json("[]"), "not a noise model: a JSON list, expected an object"),
        (lambda: NoiseModel.from_dict({"format": "x"}), "expected format 'qpeft-noise' 1, found 'x' None"),
        (lambda: NoiseModel.from_dict({**example().to_dict(), "errors": [1]}), "damaged noise model: TypeError"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(QpeftError, match=message):
        make()
