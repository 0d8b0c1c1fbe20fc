import numpy as np
import pytest
from qiskit.quantum_info import SuperOp
from qiskit_aer.noise import NoiseModel as AerNoiseModel
from qiskit_aer.noise import QuantumError

from qpeft.errors import ConfigError, NoiseError
from qpeft.noise import channels
from qpeft.noise.device import Device
from qpeft.noise.devices import snapshot


@pytest.mark.parametrize("qubits", [None, (1, 2, 3)])
def test_the_noise_on_a_line_is_aers_for_the_whole_device(qubits):
    backend = snapshot("ibm_manila")  # small, so that the whole device is quick
    device = Device(backend, qubits)
    line = device.line(3)
    assert qubits is None or line == qubits
    ours = device.noise(3)
    assert ours.num_qubits == 3 and set(ours.coupling) == {(0, 1), (1, 0), (1, 2), (2, 1)}
    checked = 0
    for entry in AerNoiseModel.from_backend(backend).to_dict()["errors"]:
        for places in entry["gate_qubits"]:
            if not set(places) <= set(line):
                continue
            here = tuple(line.index(qubit) for qubit in places)
            if entry["type"] == "roerror":
                np.testing.assert_allclose(ours.readout_of(*here), np.array(entry["probabilities"]).T)
                checked += 1
            elif entry["operations"][0] in ours.basis_gates:
                there = SuperOp(QuantumError.from_dict(entry)).data
                expected = channels.reversed_qubits(channels.superoperator(there))
                np.testing.assert_allclose(ours.error_of(entry["operations"][0], here), expected, rtol=0, atol=1e-9)
                checked += 1
    assert checked >= 3 + 2 * 3 + 4  # readout, sx and x, cx in both directions


def test_the_calibration_has_a_date():
    assert Device(snapshot("ibm_torino")).calibrated == "2025-02-26"
    assert Device(snapshot("ibm_torino")).noise(2).calibrated == "2025-02-26"


def test_the_noise_is_made_once():
    assert Device(snapshot("ibm_manila")).noise(2) is Device(snapshot("ibm_manila")).noise(2)


def test_lines_by_hand():
    device = Device(snapshot("ibm_torino"), (0, 1, 2, 3))
    assert device.line(2) == (0, 1)
    with pytest.raises(NoiseError, match=r"the circuit has 5 qubits; the line on fake_torino has 4: \[0, 1, 2, 3\]"):
        device.line(5)
    with pytest.raises(NoiseError, match=r"qubits 1 and 3 of the line \[0, 1, 3\] are not coupled on fake_torino"):
        Device(snapshot("ibm_torino"), (0, 1, 3))


def test_a_coupler_that_is_broken_in_one_direction_is_used_in_the_other_alone():
    target = snapshot("ibm_hanoi").target
    assert target["cx"][(5, 8)].error >= 0.5 > target["cx"][(8, 5)].error
    noise = Device(snapshot("ibm_hanoi"), (5, 8)).noise(2)
    assert noise.coupling == ((1, 0),) and noise.error_of("cx", (0, 1)) is None


def test_gates_that_are_none_of_ours_are_named():
    with pytest.raises(NoiseError, match=r"fake_rochester runs .*u3.*; only devices with rz and sx"):
        Device(snapshot("ibm_rochester"))


def test_a_name_is_no_backend():
    with pytest.raises(ConfigError, match="backend is str; expected"):
        Device("ibm_torino")


def test_a_partial_snapshot():
    with pytest.raises(NoiseError, match="the calibration of fake_kyoto is incomplete: it states no two-qubit gate"):
        Device(snapshot("ibm_kyoto")).noise(2)


def test_too_few_qubits():
    with pytest.raises(NoiseError, match=r"fake_manila has no line of 6 working qubits \(5 qubits, 4 couplers"):
        Device(snapshot("ibm_manila")).noise(6)
