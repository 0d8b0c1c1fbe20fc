import math

import pytest
import torch

from qpeft.errors import ConfigError
from qpeft.generators import TRANSFORMS

PROBABILITIES = torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=torch.float64)


def test_identity_is_the_probability():
    assert torch.equal(TRANSFORMS["identity"](PROBABILITIES, 2), PROBABILITIES)


def test_scaled_by_hand():
    assert TRANSFORMS["scaled"](PROBABILITIES, 2).tolist() == [1.0, 0.0, 0.0, -1.0]


@pytest.mark.parametrize("num_qubits", [1, 5, 12])
def test_scaled_has_zero_mean_and_is_zero_for_equal_probabilities(num_qubits):
    dim = 2**num_qubits
    p = torch.rand(dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert TRANSFORMS["scaled"](p / p.sum(), num_qubits).mean().abs() < 1e-12
    assert torch.equal(TRANSFORMS["scaled"](torch.full((dim,), 1 / dim), num_qubits), torch.zeros(dim))


def test_tanh_power_by_hand():
    raw = [(0.6 * math.tanh(0.1 * 2 ** (2 - 1) * max(p, 1e-12))) ** 0.15 for p in PROBABILITIES.tolist()]
    expected = torch.tensor([value - sum(raw) / 4 for value in raw], dtype=torch.float64)
    torch.testing.assert_close(TRANSFORMS["tanh_power"](PROBABILITIES, 2), expected, rtol=1e-12, atol=0)


def test_tanh_power_has_a_finite_gradient_at_zero():
    p = PROBABILITIES.clone().requires_grad_()
    TRANSFORMS["tanh_power"](p, 2)[[0, 3]].sum().backward()
    assert p.grad.isfinite().all()
    assert p.grad[0] > 0


def test_tanh_power_has_the_slope_of_its_formula():
    p = PROBABILITIES.clone().requires_grad_()
    TRANSFORMS["tanh_power"](p, 2)[0].backward()
    inner, slope = 0.6 * math.tanh(0.1), 0.6 * 0.2 / math.cosh(0.1) ** 2
    expected = 0.15 * inner ** (0.15 - 1) * slope * (1 - 1 / 4)  # its own mean takes a quarter
    assert p.grad[0].item() == pytest.approx(expected, rel=1e-10)


def test_unknown_transform_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'scalde'. Did you mean 'scaled'\?"):
        TRANSFORMS["scalde"]
