import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from qpeft.errors import ConfigError
from qpeft.qcircuits.haar import haar_entanglement, log_haar_masses


@pytest.mark.parametrize("bins", [2, 10, 75, 2048])
@pytest.mark.parametrize("dim", [2, 4, 16, 2048])
def test_masses_of_complex_states(dim, bins):
    edges = np.linspace(0, 1, bins + 1)
    expected = (1 - edges[:-1]) ** (dim - 1) - (1 - edges[1:]) ** (dim - 1)
    np.testing.assert_allclose(np.exp(log_haar_masses(dim, bins)), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("bins", [2, 10, 75, 2048])
@pytest.mark.parametrize("dim", [2, 4, 16, 2048])
def test_masses_of_real_states(dim, bins):
    tails = stats.beta(0.5, (dim - 1) / 2).sf(np.linspace(0, 1, bins + 1))
    found = np.exp(log_haar_masses(dim, bins, "real"))
    np.testing.assert_allclose(found, tails[:-1] - tails[1:], rtol=1e-9, atol=1e-15)


def test_masses_that_no_float_holds():
    mpmath.mp.dps = 30
    dim, bins = 2**12, 75
    found = log_haar_masses(dim, bins, "real")
    for bin_ in (0, 1, 40, 74):
        mass = mpmath.betainc((dim - 1) / 2, 0.5, 1 - (bin_ + 1) / mpmath.mpf(bins), 1 - bin_ / mpmath.mpf(bins),
                              regularized=True)  # fmt: skip
        assert found[bin_] == pytest.approx(float(mpmath.log(mass)), rel=1e-9, abs=1e-12)
    for reference in ("complex", "real"):
        assert np.isfinite(log_haar_masses(2**20, bins, reference)).all()
    assert log_haar_masses(2**20, bins)[-1] == pytest.approx(-(2**20 - 1) * math.log(bins))


@pytest.mark.parametrize(("states", "more"), [("complex", 1), ("real", 2)])
def test_entanglement_of_random_states(states, more):
    """A million-to-one test: the mean of 4000 draws lies within 5 standard errors."""
    generator = np.random.default_rng(1)
    for num_qubits in (2, 3, 4):
        dim = 2**num_qubits
        vectors = generator.normal(size=(4000, dim)) + (states == "complex") * 1j * generator.normal(size=(4000, dim))
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        purities = np.zeros(4000)
        for qubit in range(num_qubits):
            split = np.moveaxis(vectors.reshape(-1, *[2] * num_qubits), 1 + qubit, 1).reshape(4000, 2, -1)
            reduced = split @ split.conj().transpose(0, 2, 1)
            purities += np.einsum("bij,bji->b", reduced, reduced).real / num_qubits
        values = 2 * (1 - purities)
        expected = haar_entanglement(num_qubits, states)
        assert expected == pytest.approx((dim - 2) / (dim + more))
        assert abs(values.mean() - expected) < 5 * values.std() / math.sqrt(4000)


def test_errors():
    with pytest.raises(ConfigError, match="bins is 1; it must be at least 2"):
        log_haar_masses(4, 1)
    for call in (lambda: log_haar_masses(4, 10, "reel"), lambda: haar_entanglement(2, "reel")):
        with pytest.raises(ConfigError, match=r"unknown reference 'reel'\. Did you mean 'real'"):
            call()
