import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from qpeft.errors import ConfigError
from qpeft.generators.packing import Packed, pack, pack_codes, unpack, unpack_codes
from qpeft.generators.quantization import QuantizationAware


def sample(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(st.data(), st.integers(1, 8))
def test_codes_are_the_digits_of_one_long_number(data, bits):
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40))
    packed = pack_codes(torch.tensor(codes, dtype=torch.int64), bits)
    number = sum(code << (bits * place) for place, code in enumerate(codes))
    assert bytes(packed.tolist()) == number.to_bytes(-(-len(codes) * bits // 8), "little")
    assert unpack_codes(packed, bits, len(codes)).tolist() == codes


@given(
    count=st.integers(1, 90),
    bits=st.integers(1, 8),
    group=st.integers(1, 90),
    kappa=st.sampled_from([0.0, 0.5, 2.0]),
    seed=st.integers(0, 99),
)
def test_unpacked_is_what_training_saw(count, bits, group, kappa, seed):
    group = min(group, count)
    values = sample(count, seed=seed) * sample(count, seed=seed + 100).exp()
    expected = QuantizationAware(bits, group, kappa)(values)
    assert torch.equal(unpack(pack(values, bits, group, kappa), values.shape, group), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_unpacked_in_any_dtype_and_shape(dtype):
    values = sample(3, 5, 7).to(dtype)
    expected = QuantizationAware(5, 16)(values)
    found = unpack(pack(values, 5, 16), values.shape, 16, dtype)
    assert found.dtype == dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("bits", range(1, 9))
def test_size_on_disk_is_the_papers(tmp_path, bits, group):
    values = sample(48, 1024)
    path = tmp_path / "theta.safetensors"
    save_file(pack(values, bits, group)._asdict(), path)
    raw = path.read_bytes()
    header = int.from_bytes(raw[:8], "little")
    data = len(raw) - 8 - header
    assert data - 1 == values.numel() * (bits + 32 / group) / 8  # one byte says how many bits
    assert 8 * len(raw) / values.numel() == pytest.approx(bits + 32 / group, abs=0.1)
    assert json.loads(raw[8 : 8 + header])["scale"]["dtype"] == "F16"
    loaded = Packed(**load_file(path))
    assert torch.equal(unpack(loaded, values.shape, group), QuantizationAware(bits, group)(values))


def test_mixed_bits_take_their_mean_and_a_byte_each():
    values = sample(64, 128) * sample(64, 1, seed=1).exp()
    packed = pack(values, 3, 128, kappa=1.0)
    assert packed.bits.unique().numel() >= 3
    assert packed.codes.numel() == int(packed.bits.sum()) * 128 // 8
    assert packed.bits.shape == packed.scale.shape == packed.zero.shape == (64,)


def test_a_short_last_group_is_not_padded():
    assert pack(sample(130), 4, 128).codes.numel() == 65
    assert pack(sample(130), 4, 128).scale.numel() == 2


def test_numbers_that_fp16_cannot_hold_are_named():
    for bad in (1e6, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"outside what FP16 holds"):
            pack(torch.tensor([0.0, bad]), 4, 2)


def test_tensors_that_do_not_belong_together_are_named():
    packed = pack(sample(64), 4, 16)
    with pytest.raises(ConfigError, match=r"\[4, 4, 1\] numbers, but shape \(64,\) in groups of 32 has 2 groups"):
        unpack(packed, (64,), 32)
    with pytest.raises(ConfigError, match=r"32 bytes, but shape \(60,\) in groups of 16 needs 30"):
        unpack(packed, (60,), 16)
    with pytest.raises(ConfigError, match="bits go up to 9"):
        unpack(packed._replace(bits=torch.tensor([9], dtype=torch.uint8)), (64,), 16)
    with pytest.raises(ConfigError, match="both must be uint8"):
        unpack(packed._replace(codes=packed.codes.float()), (64,), 16)
    with pytest.raises(ConfigError, match="bits is 9"):
        pack(sample(64), 9, 16)
