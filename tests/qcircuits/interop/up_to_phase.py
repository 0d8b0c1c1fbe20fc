"""Equality of unitaries where a global phase is free."""

import numpy as np
from qiskit.quantum_info import Operator
from qiskit_reference import unitary


def same_up_to_phase(U, V):
    phase = np.vdot(U, V) / len(U)
    return np.allclose(abs(phase), 1, atol=1e-9) and np.allclose(U * phase, V, atol=1e-9)


def qiskit_unitary(there, angles):
    """The unitary of a Qiskit circuit, whose qubit i is our qubit i, in our order of basis indices."""
    return Operator(there.assign_parameters(angles, strict=False).reverse_bits()).data


def assert_same_circuit(found, expected, seed=0):
    """Both do the same at random angles, theta[i] being the same parameter in both."""
    assert (found.num_qubits, found.num_parameters) == (expected.num_qubits, expected.num_parameters)
    angles = np.random.default_rng(seed).uniform(-np.pi, np.pi, expected.num_parameters)
    assert same_up_to_phase(unitary(found, angles), unitary(expected, angles))
