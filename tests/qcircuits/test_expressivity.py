"""Statistical tests have fixed seeds; over other seeds each would fail about once in a million runs (5 standard errors,
or the chi-squared quantile of that rate)."""

import math

import numpy as np
import pytest
import torch
from qiskit.quantum_info import Statevector, partial_trace
from scipy import stats

from qpeft.errors import ConfigError
from qpeft.qcircuits import Angle, Circuit, CircuitBuilder, ansatz, expressivity
from qpeft.qcircuits.expressivity import (
    divergence_from_haar,
    entangling_capability,
    expressibility,
    meyer_wallach,
    pair_fidelities,
)

ONE_QUBIT = {
    "rx": CircuitBuilder(1).rx(0).build(),
    "ry": CircuitBuilder(1).ry(0).build(),
    "h rz": CircuitBuilder(1).h(0).rz(0).build(),
}
one_qubit = pytest.mark.parametrize("circuit", ONE_QUBIT.values(), ids=ONE_QUBIT.keys())


def arcsine_masses(bins):
    """Of F = cos^2(u) with u uniform: P(F < f) = (2 / pi) arcsin(sqrt(f))."""
    return np.diff(2 / np.pi * np.arcsin(np.sqrt(np.linspace(0, 1, bins + 1))))


def random_states(count, num_qubits, is_complex, seed):
    generator = np.random.default_rng(seed)
    shape = (count, 2**num_qubits)
    states = torch.from_numpy(generator.normal(size=shape) + (1j * generator.normal(size=shape) if is_complex else 0))
    return states / states.abs().square().sum(-1, keepdim=True).sqrt()


def product_state(num_qubits, seed):
    state = np.ones(1)
    for factor in random_states(num_qubits, 1, True, seed).numpy():
        state = np.kron(state, factor)
    return torch.from_numpy(state)


def ghz(num_qubits):
    state = torch.zeros(2**num_qubits, dtype=torch.float64)
    state[[0, -1]] = 0.5**0.5
    return state


def w_state(num_qubits):
    state = torch.zeros(2**num_qubits, dtype=torch.float64)
    state[[2**qubit for qubit in range(num_qubits)]] = num_qubits**-0.5
    return state


@pytest.mark.parametrize("bins", [2, 10, 75])
@pytest.mark.parametrize("num_qubits", [1, 2, 4, 10])
def test_an_idle_circuit(num_qubits, bins):
    builder = CircuitBuilder(num_qubits)
    for qubit in range(num_qubits):
        builder.rz(qubit)  # turns the phase of |0...0> alone
    found = expressibility(builder.build(), samples=50, bins=bins)
    assert found.divergence == pytest.approx((2**num_qubits - 1) * math.log(bins), rel=1e-12)
    assert found.error == pytest.approx(0, abs=1e-12 * found.divergence)
    assert found.bias == 0


def test_fidelities_conjugate_one_state():
    theta = Angle(0)
    builder = CircuitBuilder(2).ry(0, angle=1.1).rz(0, angle=0.8).rx(1, angle=theta).rx(1, angle=-theta)
    torch.testing.assert_close(pair_fidelities(builder.build(), 20), torch.ones(20, dtype=torch.float64))


@one_qubit
@pytest.mark.parametrize("bins", [4, 75])
def test_one_angle_on_one_qubit(circuit, bins):
    samples, masses = 4000, arcsine_masses(bins)
    exact = float(masses @ np.log(masses * bins))  # of one qubit, Haar's masses are equal
    found = expressibility(circuit, samples, bins, seed=1)
    assert abs(found.divergence - found.bias - exact) < 5 * found.error
    assert found.bias == pytest.approx((bins - 1) / (2 * samples))


@one_qubit
def test_one_angle_gives_random_real_states(circuit):
    """Beta(1/2, 1/2) is the arcsine distribution, so 2 samples KL is a G statistic of bins - 1 degrees of freedom."""
    found = expressibility(circuit, 4000, 20, seed=2, reference="real")
    assert 2 * 4000 * found.divergence < stats.chi2(19).isf(1e-6)


def test_error_and_bias_are_those_of_many_runs():
    samples, bins, runs = 400, 10, 60
    masses = arcsine_masses(bins)
    exact = float(masses @ np.log(masses * bins))
    found = [expressibility(ONE_QUBIT["ry"], samples, bins, seed) for seed in range(runs)]
    values = np.array([one.divergence for one in found])
    deviation = values.std(ddof=1)
    assert np.mean([one.error for one in found]) == pytest.approx(deviation, rel=5 / math.sqrt(2 * runs))
    assert abs((values - [one.bias for one in found]).mean() - exact) < 5 * deviation / math.sqrt(runs)
    assert values.mean() - exact > 0.5 * found[0].bias


@pytest.mark.parametrize(("is_complex", "reference"), [(True, "complex"), (False, "real")])
def test_random_states_have_the_references_fidelities(is_complex, reference):
    one, other = (random_states(20_000, 3, is_complex, seed) for seed in (1, 2))
    fidelities = (one.conj() * other).sum(-1).abs().square()
    found = divergence_from_haar(fidelities, 3, bins=8, reference=reference)
    wrong = divergence_from_haar(fidelities, 3, bins=8, reference="real" if is_complex else "complex")
    limit = stats.chi2(7).isf(1e-6) / (2 * 20_000)
    assert found.divergence < limit < wrong.divergence


@pytest.mark.parametrize("name", ["ry_cnot", "rx_cnot"])
def test_one_layer_has_the_fidelities_of_a_product(name):
    """CNOTs at the end change no fidelity: F is a product of N squared cosines, of moments 1/2 and 3/8 each."""
    fidelities = pair_fidelities(ansatz(name, 3, 1), 10_000, seed=3).numpy()
    for power, moment in ((1, 0.5**3), (2, 0.375**3)):
        values = fidelities**power
        assert abs(values.mean() - moment) < 5 * values.std() / 100


def test_deep_circuits_reach_their_references():
    """2 samples KL of 9 degrees of freedom."""
    limit = stats.chi2(9).isf(1e-6) / (2 * 3000)
    deep, real = ansatz("ryrz_cnot", 2, 20), ansatz("ry_cnot", 2, 20)
    assert expressibility(deep, 3000, 10).divergence < limit
    assert expressibility(real, 3000, 10, reference="real").divergence < limit
    assert expressibility(real, 3000, 10).divergence > 2 * limit


@pytest.mark.parametrize("num_qubits", [1, 2, 5])
def test_product_states_are_not_entangled(num_qubits):
    assert meyer_wallach(product_state(num_qubits, 1)) == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("num_qubits", [2, 3, 6])
def test_ghz_and_w(num_qubits):
    found = meyer_wallach(torch.stack([ghz(num_qubits), w_state(num_qubits)]))
    assert found.tolist() == pytest.approx([1, 4 * (num_qubits - 1) / num_qubits**2])


def test_a_bell_pair_among_others():
    state = torch.from_numpy(np.kron(product_state(2, 3).numpy(), ghz(2).numpy()))
    assert meyer_wallach(state).item() == pytest.approx(2 / 4)


@pytest.mark.parametrize("is_complex", [False, True])
def test_meyer_wallach_is_qiskits_mean_impurity(is_complex):
    states = random_states(6, 4, is_complex, seed=5).reshape(2, 3, 16)
    found = meyer_wallach(states)
    assert (found.shape, found.dtype) == ((2, 3), torch.float64)
    for value, state in zip(found.flatten().tolist(), states.reshape(6, 16).numpy(), strict=True):
        there = Statevector(state)
        purities = [partial_trace(there, [q for q in range(4) if q != kept]).purity().real for kept in range(4)]
        assert value == pytest.approx(2 * (1 - np.mean(purities)))


def test_meyer_wallach_is_differentiable():
    raw = random_states(2, 3, True, seed=6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: meyer_wallach(x / x.abs().square().sum(-1, keepdim=True).sqrt()), raw)


# Behind the CNOT of (a, b) and (c, d) the concurrence is 2 |ab| |c^2 - d^2|, and Q its square: sin^2(t0) for RX, where
# c^2 - d^2 is 1, and sin^2(t0) cos^2(t1) for RY.
@pytest.mark.parametrize(("name", "mean"), [("rx_cnot", 1 / 2), ("ry_cnot", 1 / 4)])
def test_entanglement_of_one_layer_on_two_qubits(name, mean):
    second_moment = {"rx_cnot": 3 / 8, "ry_cnot": (3 / 8) ** 2}[name]
    found = entangling_capability(ansatz(name, 2, 1), 4000, seed=1)
    assert abs(found.mean - mean) < 5 * found.error
    assert found.error == pytest.approx(math.sqrt((second_moment - mean**2) / 4000), rel=0.1)


@pytest.mark.parametrize(("name", "mean"), [("ryrz_cnot", 6 / 9), ("ry_cnot", 6 / 10)])
def test_entanglement_of_deep_circuits_is_that_of_random_states(name, mean):
    found = entangling_capability(ansatz(name, 3, 30), 2000, seed=1)
    assert abs(found.mean - mean) < 5 * found.error


def test_circuits_without_pair_gates_do_not_entangle():
    found = entangling_capability(CircuitBuilder(3).ry(0).rx(1).ry(2).rz(2).build(), 50)
    assert (found.mean, found.error) == pytest.approx((0, 0), abs=1e-14)


def test_seeds_repeat_and_chunks_do_not_matter(monkeypatch):
    circuit = ansatz("ryrz_cnot", 3, 2)
    together = pair_fidelities(circuit, 40, seed=7), entangling_capability(circuit, 40, seed=7)
    assert not torch.equal(together[0], pair_fidelities(circuit, 40, seed=8))
    monkeypatch.setattr(expressivity, "CHUNK_BYTES", 7 * 2 * expressivity._bytes_of_a_state(circuit))
    steps = []
    apart = pair_fidelities(circuit, 40, 7, steps.append), entangling_capability(circuit, 40, 7, steps.append)
    assert steps == [7, 7, 7, 7, 7, 5, 14, 14, 12]
    torch.testing.assert_close(apart[0], together[0])
    assert apart[1].mean == pytest.approx(together[1].mean)
    assert expressibility(circuit, 40, seed=7) == expressibility(circuit, 40, seed=7)


@pytest.mark.parametrize("measure", [expressibility, entangling_capability, pair_fidelities])
def test_what_cannot_be_sampled(measure, monkeypatch):
    circuit = ansatz("ry_cnot", 3, 1)
    with pytest.raises(ConfigError, match="the circuit has no angles to draw at random; give one with at least 1"):
        measure(circuit.bind([0.1, 0.2, 0.3]))
    with pytest.raises(ConfigError, match="samples is 1; it must be at least 2"):
        measure(circuit, 1)
    with pytest.raises(ConfigError, match="seed is -1; it must be a whole number of at least 0"):
        measure(circuit, 10, seed=-1)
    monkeypatch.setattr(expressivity, "available_bytes", lambda device: 2**30)
    with pytest.raises(ConfigError, match=r"a pair of states of 40 qubits does not fit into the 1.0 GiB .* about 2\d "):
        measure(Circuit(40, CircuitBuilder(40).ry(0).build().operations, 1))


def test_settings_of_the_histogram():
    circuit = ansatz("ry_cnot", 2, 1)
    with pytest.raises(ConfigError, match="bins is 1; it must be at least 2"):
        expressibility(circuit, bins=1)
    with pytest.raises(ConfigError, match=r"unknown reference 'haar'\. Available: complex, real"):
        expressibility(circuit, reference="haar")


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (torch.ones(3), r"shape \(3,\); expected \(..., 2\*\*N\)"),
        (torch.ones(2, 1), "N of 1 or more"),
        (torch.tensor(1.0), "N of 1 or more"),
        (torch.ones(4), "not of norm 1; divide each by its norm"),
        (torch.tensor([torch.nan, 1]), "not of norm 1"),
    ],
)
def test_what_is_no_state(states, message):
    with pytest.raises(ConfigError, match=message):
        meyer_wallach(states)
