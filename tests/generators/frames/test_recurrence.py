import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpeft.generators.frames.recurrence import linear_recurrence


def step_by_step(gains, inputs):
    states = [inputs[:, 0]]
    for j in range(1, inputs.shape[1]):
        states.append(gains[:, j, None] * states[-1] + inputs[:, j])
    return torch.stack(states, dim=1)


def example(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    gains = torch.rand(2, length, generator=generator, dtype=torch.float64) * 2 - 1
    return gains, torch.randn(2, length, 3, generator=generator, dtype=torch.float64)


@given(st.integers(1, 40), st.integers(0, 99))
def test_equals_one_step_after_another(length, seed):
    gains, inputs = example(length, seed)
    torch.testing.assert_close(linear_recurrence(gains, inputs), step_by_step(gains, inputs), atol=1e-12, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
def test_gradients_of_first_and_second_order(length):
    arguments = [argument.requires_grad_() for argument in example(length)]
    assert torch.autograd.gradcheck(linear_recurrence, arguments)
    assert torch.autograd.gradgradcheck(linear_recurrence, arguments)


def test_gradients_are_those_of_one_step_after_another():
    gradients = []
    for function in (linear_recurrence, step_by_step):
        arguments = [argument.requires_grad_() for argument in example(11)]
        gradients.append(torch.autograd.grad(function(*arguments).pow(3).sum(), arguments))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_long_products_fade_to_zero_without_harm():
    states = linear_recurrence(
        torch.full((1, 20000), 0.5), torch.nn.functional.pad(torch.ones(1, 1, 1), (0, 0, 0, 19999))
    )
    assert states.isfinite().all()
    assert states[0, 10, 0] == 0.5**10
    assert states[0, -1, 0] == 0


def test_arguments_stay_as_they_were():
    gains, inputs = example(9)
    kept = gains.clone(), inputs.clone()
    linear_recurrence(gains, inputs)
    assert torch.equal(gains, kept[0])
    assert torch.equal(inputs, kept[1])
