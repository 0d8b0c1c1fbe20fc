import copy
import math

import pytest
import reinmax as reference
import torch

from qpeft.errors import ConfigError, UnknownNameError
from qpeft.generators.diagonal import DIAGONALS, MEASUREMENTS, RademacherDiagonal, RealDiagonal, reinmax


def test_real_starts_at_zero_and_passes_the_gradient():
    node = RealDiagonal(size=3, count=2)
    assert torch.equal(node(), torch.zeros(2, 3))
    assert node.starts_at_zero
    (node() * torch.arange(6.0).view(2, 3)).sum().backward()
    assert torch.equal(node.weight.grad, torch.arange(6.0).view(2, 3))
    assert node.num_parameters == 6


@pytest.mark.parametrize("name", ["square", "log_softmax_square"])
def test_a_measured_node_can_leave_its_start(name):
    node = RealDiagonal(size=3, count=2, measurement=name)
    assert torch.equal(node(), node.initial())
    assert not node.starts_at_zero
    (node()[:, 0] * torch.tensor([1.0, 2.0])).sum().backward()
    assert node.weight.grad[:, 0].abs().min() > 0.5


def test_measurements_by_hand():
    values = torch.tensor([[1.0, -2.0, 0.0]], dtype=torch.float64)
    assert torch.equal(MEASUREMENTS["identity"](values, -1), values)
    assert MEASUREMENTS["square"](values, -1).tolist() == [[1.0, 4.0, 0.0]]
    total = math.log(math.e + math.e**4 + 1)
    expected = torch.tensor([[1 - total, 4 - total, -total]], dtype=torch.float64)
    torch.testing.assert_close(MEASUREMENTS["log_softmax_square"](values, -1), expected)
    assert MEASUREMENTS["log_softmax_square"](values, 0).tolist() == [[0.0, 0.0, 0.0]]  # one state along this axis


@pytest.mark.parametrize("tau", [1.0, 1.3, 5.0])
def test_reinmax_equals_the_reference_package(tau):
    logits = 2 * torch.randn(4, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    upstream = torch.randn(4, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    torch.manual_seed(2)
    sample = reinmax(ours, tau)
    torch.manual_seed(2)
    expected, _ = reference.reinmax(theirs, tau)
    assert torch.equal(sample, expected)
    sample.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-14)
    assert ours.grad.abs().max() > 0.1


def test_reinmax_gradient_by_hand():
    # logits (0, 0), sample (1, 0), g = (1, 0): pi0 = (1/2, 1/2), pi1 = (3/4, 1/4)
    # J(pi1) 2g = (3/8, -3/8); J(pi0) g/2 = (1/8, -1/8); the difference is (1/4, -1/4)
    logits = torch.zeros(1, 2, requires_grad=True)
    torch.manual_seed(0)
    sample = reinmax(logits)
    while sample[0, 0] != 1:
        sample = reinmax(logits)
    sample[0, 0].backward()
    assert logits.grad.tolist() == [[0.25, -0.25]]


def test_reinmax_takes_extreme_logits():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    sample = reinmax(logits)
    assert sample.tolist() == [[1.0, 0.0]]
    sample[0, 0].backward()
    assert logits.grad.isfinite().all()


def test_signs_are_exact_and_drawn_with_their_probability():
    node = RademacherDiagonal(size=5, count=4000)
    with torch.no_grad():
        node.weight[:, 0] = 0.4
        node.weight[:, 1] = -30.0
    torch.manual_seed(0)
    signs = node()
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert (signs[:, 0] > 0).float().mean().item() == pytest.approx(1 / (1 + math.exp(-0.8)), abs=0.03)
    assert (signs[:, 1] == -1).all()


def test_signs_get_the_gradient_of_the_pair():
    node = RademacherDiagonal(size=4, count=3, tau=1.5).double()
    pair = torch.stack([node.weight.detach(), -node.weight.detach()], -1).requires_grad_()
    upstream = torch.randn(3, 4, dtype=torch.float64)
    torch.manual_seed(3)
    node().backward(upstream)
    torch.manual_seed(3)
    expected, _ = reference.reinmax(pair, 1.5)
    (expected @ torch.tensor([1.0, -1.0], dtype=torch.float64)).backward(upstream)
    torch.testing.assert_close(node.weight.grad, pair.grad[..., 0] - pair.grad[..., 1])


def test_evaluation_takes_the_likelier_sign_and_starts_at_the_initial_one():
    node = RademacherDiagonal(size=3, count=2).eval()
    assert torch.equal(node(), node.initial())
    with torch.no_grad():
        node.weight.copy_(torch.tensor([[0.1, -0.1, 5.0], [-3.0, 2.0, -1e-6]]))
    assert node().tolist() == [[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]]
    assert torch.equal(node.initial(), torch.ones(2, 3))


@pytest.mark.parametrize("name", list(DIAGONALS))
def test_nodes_keep_dtype_and_can_be_copied_and_reloaded(name):
    node = DIAGONALS[name](4, 2).double().eval()
    with torch.no_grad():
        node.weight.copy_(torch.linspace(-1, 1, 8).view(2, 4))
    assert node().dtype == node.initial().dtype == torch.float64
    fresh = DIAGONALS[name](4, 2).double().eval()
    fresh.load_state_dict(node.state_dict())
    assert torch.equal(fresh(), node())
    assert torch.equal(copy.deepcopy(node)(), node())


@pytest.mark.parametrize("tau", [0.9, 0, -1, math.nan, math.inf])
def test_temperature_below_one_is_named(tau):
    with pytest.raises(ConfigError, match=r"tau is .*at least 1"):
        RademacherDiagonal(2, tau=tau)


def test_bad_sizes_and_names_are_named():
    with pytest.raises(ConfigError, match="size of a diagonal is 0"):
        RealDiagonal(0)
    with pytest.raises(ConfigError, match="always 0"):
        RealDiagonal(1, measurement="log_softmax_square")
    with pytest.raises(UnknownNameError, match="unknown measurement 'cube'"):
        RealDiagonal(2, measurement="cube")
    with pytest.raises(UnknownNameError, match="Did you mean 'rademacher'"):
        DIAGONALS["rademaker"]
