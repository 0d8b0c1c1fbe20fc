import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils import parametrize

from qpeft.errors import ConfigError
from qpeft.generators.quantization import QuantizationAware, adaptive_bits, quantize


def sample(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def paper_values(theta, bits):
    """The paper's formula on one group, with FP32 scale and zero."""
    beta = (theta.max() - theta.min()) / (2**bits - 1)
    mu = theta.min()
    return ((theta - mu) / beta).round() * beta + mu


@pytest.mark.parametrize("bits", range(1, 9))
def test_values_where_fp16_is_exact_are_the_papers(bits):
    theta = torch.cat([torch.tensor([-1.0, -1.0 + (2**bits - 1) / 16]), -1 + sample(30).abs() % ((2**bits - 1) / 16)])
    assert torch.equal(QuantizationAware(bits, group=32)(theta), paper_values(theta, bits))


def test_two_bits_by_hand():
    theta = torch.tensor([0.0, 0.4, 0.6, 3.0, -8.0, -8.0, -5.0, -6.6])
    assert QuantizationAware(2, group=4)(theta).tolist() == [0.0, 0.0, 1.0, 3.0, -8.0, -8.0, -5.0, -7.0]


@given(
    values=st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=70),
    bits=st.integers(1, 8),
    group=st.integers(1, 70),
)
def test_error_is_at_most_half_a_scale_and_levels_are_few(values, bits, group):
    theta = torch.tensor(values)
    group = min(group, theta.numel())
    groups = quantize(theta, bits, group)
    quantized = QuantizationAware(bits, group)(theta)
    for chunk, found, scale in zip(theta.split(group), quantized.split(group), groups.scale.view(-1), strict=True):
        assert (chunk - found).abs().max() <= scale.float() / 2 * (1 + 1e-5) + chunk.abs().max() * 1e-6
        assert found.unique().numel() <= 2**bits
    assert (groups.codes >= 0).all()
    assert (groups.codes < 2**bits).all()


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_scale_is_the_papers_up_to_fp16(bits):
    theta = sample(256)
    groups = quantize(theta, bits, 128)
    rows = theta.view(2, 128)
    beta = (rows.amax(1) - rows.amin(1)) / (2**bits - 1)
    assert groups.scale.dtype == groups.zero.dtype == torch.float16
    torch.testing.assert_close(groups.scale.view(-1).float(), beta, rtol=3e-3, atol=0)
    assert (groups.zero.view(-1).float() <= rows.amin(1)).all()
    top = groups.zero.float() + groups.scale.float() * (2**bits - 1)
    assert (top.view(-1) >= rows.amax(1) - 1e-6).all()


@pytest.mark.parametrize("value", [0.0, -0.5, 0.1, -1234.567, 1e-9])
@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_a_constant_group_stays(value, kappa):
    theta = torch.full((6,), value)
    torch.testing.assert_close(QuantizationAware(3, 4, kappa)(theta), theta, rtol=1e-3, atol=1e-7)


def test_gradient_passes_straight_through():
    theta = sample(3, 50).requires_grad_()
    upstream = sample(3, 50, seed=1)
    QuantizationAware(1, group=64, kappa=2.0)(theta).backward(upstream)
    assert torch.equal(theta.grad, upstream)


def test_a_short_last_group_has_its_own_scale():
    theta = torch.tensor([0.0, 100.0, 0.0, 100.0, 0.25, 0.5])
    assert torch.equal(QuantizationAware(1, group=4)(theta), theta)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_keeps_dtype_and_shape(dtype):
    theta = sample(4, 8, 3).to(dtype)
    found = QuantizationAware(8, group=32)(theta)
    assert found.dtype == dtype
    assert found.shape == theta.shape
    torch.testing.assert_close(found.double(), theta.double(), rtol=1e-2, atol=0.02)


def test_serves_as_a_parametrization():
    layer = torch.nn.Linear(8, 8)
    original = layer.weight.detach().clone()
    parametrize.register_parametrization(layer, "weight", QuantizationAware(2, group=16))
    assert not torch.equal(layer.weight, original)
    assert layer.weight.view(-1)[:16].unique().numel() <= 4
    layer(sample(5, 8)).square().sum().backward()
    assert layer.parametrizations.weight.original.grad.abs().min() > 0


def test_adaptive_bits_by_hand():
    ranges = torch.tensor([[1.0], [2.0], [4.0], [0.0], [0.01]])
    mean = 7.01 / 5
    expected = [max(0, round(3 + math.log2(d / mean))) if d else 0 for d in (1.0, 2.0, 4.0, 0.0, 0.01)]
    assert adaptive_bits(ranges, 3, 1.0).view(-1).tolist() == expected == [3, 4, 5, 0, 0]


def test_no_exponent_gives_equal_bits():
    ranges = torch.tensor([[1.0], [0.0], [1e-30], [1e30]])
    for bits in range(1, 9):
        assert adaptive_bits(ranges, bits, 0.0).view(-1).tolist() == [bits] * 4
    theta = sample(300)
    assert quantize(theta, 4, 128, kappa=0.0).bits.view(-1).tolist() == [4, 4, 4]


@given(st.lists(st.floats(0, 1e30), min_size=1, max_size=20), st.integers(1, 8), st.floats(0, 40))
def test_adaptive_bits_stay_in_range(ranges, bits, kappa):
    loaded = adaptive_bits(torch.tensor(ranges, dtype=torch.float64)[:, None], bits, kappa)
    assert loaded.min() >= 0
    assert loaded.max() <= 8
    if max(ranges) > 0 and bits < 8:
        assert loaded[max(range(len(ranges)), key=ranges.__getitem__)] >= bits  # the widest is at least the mean


def test_a_group_of_no_bits_is_held_at_its_zero():
    theta = torch.cat([sample(64), 0.5 + 1e-4 * sample(64).abs()])
    groups = quantize(theta, 2, group=64, kappa=1.0)
    assert groups.bits.view(-1).tolist() == [3, 0]
    pruned = QuantizationAware(2, group=64, kappa=1.0)(theta)[64:]
    assert pruned.unique().tolist() == [groups.zero[1].item()]
    assert pruned[0].item() == pytest.approx(theta[64:].min().item(), abs=1e-3)


def test_mean_bits_fall_below_the_nominal_ones():
    theta = sample(200, 32) * sample(200, 1, seed=1).exp()
    assert quantize(theta, 4, 32, kappa=1.0).bits.float().mean() < 4


@pytest.mark.parametrize("bits", [0, 9, -1, 2.0, True])
def test_bits_outside_what_is_allowed_are_named(bits):
    with pytest.raises(ConfigError, match=rf"bits is {bits}; allowed are the whole numbers 1 to 8"):
        QuantizationAware(bits)


def test_other_bad_input_is_named():
    with pytest.raises(ConfigError, match=r"group of 128 is larger than the tensor, which has 6 numbers .*1 to 6"):
        QuantizationAware(4)(torch.zeros(2, 3))
    with pytest.raises(ConfigError, match="group is 0"):
        QuantizationAware(4, group=0)
    for kappa in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="kappa is"):
            QuantizationAware(4, kappa=kappa)
