import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qiskit.quantum_info import PTM, Choi, Kraus, Operator, SuperOp, average_gate_fidelity, random_quantum_channel
from qiskit.quantum_info import random_unitary as qiskit_random_unitary
from qiskit_aer import noise as aer

from qpeft.errors import NoiseError
from qpeft.noise import channels

unit = st.floats(0, 1)


def qiskits(channel):
    """Qiskit's transfer matrix with our order of qubits (its first qubit is the least significant)."""
    return channels.reversed_qubits(np.real(PTM(SuperOp(channel)).data))


def close(ours, theirs, atol=1e-12):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


class TestAgainstAer:
    @pytest.mark.parametrize("num_qubits", [1, 2])
    @given(unit)
    def test_depolarizing(self, num_qubits, p):
        close(channels.depolarizing(p, num_qubits), qiskits(aer.depolarizing_error(p, num_qubits)))

    @given(unit, unit)
    def test_amplitude_damping(self, gamma, excited):
        close(channels.amplitude_damping(gamma, excited), qiskits(aer.amplitude_damping_error(gamma, excited)), 1e-7)

    @given(unit)
    def test_phase_damping(self, p):
        close(channels.phase_damping(p), qiskits(aer.phase_damping_error(p)), 1e-7)

    @given(st.floats(1, 300), st.floats(0.01, 2), st.floats(0, 300), unit)
    def test_thermal_relaxation(self, t1, ratio, time, excited):
        ours = channels.thermal_relaxation(t1, ratio * t1, time, excited)
        close(ours, qiskits(aer.thermal_relaxation_error(t1, ratio * t1, time, excited)), 1e-7)

    @given(st.floats(0, 0.5), st.floats(0, 0.5))
    def test_reset(self, to_zero, to_one):
        close(channels.reset(to_zero, to_one), qiskits(aer.reset_error(to_zero, to_one)))

    @given(st.lists(st.integers(1, 50), min_size=16, max_size=16))
    def test_pauli(self, weights):
        labels = ["".join(letters) for letters in itertools.product("IXYZ", repeat=2)]
        p = {label: weight / sum(weights) for label, weight in zip(labels, weights, strict=True)}
        theirs = aer.pauli_error([(label[::-1], value) for label, value in p.items()])  # Qiskit's first letter is last
        close(channels.pauli(p), qiskits(theirs))

    @pytest.mark.parametrize("num_qubits", [1, 2])
    def test_coherent(self, num_qubits):
        matrix = qiskit_random_unitary(2**num_qubits, seed=3).data
        close(channels.unitary(matrix), np.real(PTM(Operator(matrix)).data))
        close(channels.reversed_qubits(channels.unitary(matrix)), qiskits(aer.coherent_unitary_error(matrix)))


@pytest.mark.parametrize("num_qubits", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_random_channels_are_qiskits(num_qubits, seed):
    channel = random_quantum_channel(2**num_qubits, 2**num_qubits, rank=3, seed=seed)
    expected = np.real(PTM(channel).data)
    close(channels.kraus(Kraus(channel).data), expected)
    close(channels.superoperator(SuperOp(channel).data), expected)
    ours, theirs = np.linalg.eigvalsh(channels.choi(expected)), np.linalg.eigvalsh(Choi(channel).data)
    close(ours, theirs)
    ideal = qiskit_random_unitary(2**num_qubits, seed=seed)
    fidelity = average_gate_fidelity(channel, Operator(ideal))
    assert channels.average_infidelity(expected, channels.unitary(ideal.data)) == pytest.approx(1 - fidelity, abs=1e-9)


def test_tensor_and_reversal():
    one, other = channels.amplitude_damping(0.3), channels.phase_damping(0.2)
    both = channels.tensor(one, other)
    close(channels.reversed_qubits(both), channels.tensor(other, one))
    close(both, qiskits(aer.amplitude_damping_error(0.3).expand(aer.phase_damping_error(0.2))), 1e-7)


def test_readout_is_a_column_for_each_true_bit():
    close(channels.readout(0.1, 0.3), [[0.9, 0.3], [0.1, 0.7]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: channels.depolarizing(-0.1), r"a depolarizing probability is -0.1; it must be from 0 to 1.33333"),
        (lambda: channels.depolarizing(1.1, 2), r"is 1.1; it must be from 0 to 1.06667"),
        (lambda: channels.depolarizing(float("nan")), "is nan; it must be from 0"),
        (lambda: channels.amplitude_damping(1.2), "a damping probability is 1.2"),
        (lambda: channels.amplitude_damping(0.2, -1), "an excited-state population is -1"),
        (lambda: channels.thermal_relaxation(50, 101, 1), r"T2 = 101 is more than 2 T1 = 100, which is not physical"),
        (lambda: channels.thermal_relaxation(0, 1, 1), "relaxation times must be above 0"),
        (lambda: channels.reset(0.6, 0.6), "the sum of the reset probabilities is 1.2"),
        (lambda: channels.readout(2, 0), "a readout error is 2"),
        (lambda: channels.pauli({"II": 0.5, "XX": 0.4}), "the Pauli probabilities sum to 0.9; they must sum to 1"),
        (lambda: channels.pauli({"I": 0.5, "XX": 0.5}), "Pauli labels are strings of IXYZ of one length; given I, XX"),
        (lambda: channels.pauli({"Q": 1.0}), "Pauli labels are strings of IXYZ"),
        (lambda: channels.unitary(np.diag([1, 1.1])), r"not unitary: U U\^dagger differs from 1 by 2.1e-01"),
        (lambda: channels.kraus([np.diag([1, 0.9])]), r"not preserve the trace: off by 9.50e-02 \(allowed: 1e-08\)"),
        (
            lambda: channels.validated(np.diag([1.0, 1, 1, -1]), "this"),
            r"this is not completely positive: its Choi matrix has the eigenvalue -1.00e\+00 \(allowed: -1e-08\)",
        ),
        (lambda: channels.validated(np.full((4, 4), np.nan), "this"), "this has numbers that are not finite"),
    ],
)  # fmt: skip
def test_what_is_not_physical_is_refused(make, message):
    with pytest.raises(NoiseError, match=message):
        make()
