import hashlib
import struct

import numpy as np
import pytest
import torch

from qpeft.generators.philox import checksum, uniform

MASK = 2**64 - 1


def philox4x64(counter, key):
    """Philox4x64-10 as published (Salmon et al., SC 2011, section 3.3): four 64-bit words from a counter and a key."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c[0], 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * c[2], 2**64)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c


def expected_uniform(seed, size):
    """The top 24 bits of each word of the counters 1, 2, ... on a grid of 2**24 steps from -1 to 1."""
    words = [w for block in range(1, size // 4 + 2) for w in philox4x64((block, 0, 0, 0), (seed, 0))]
    return [(word >> 40) / 2**23 - 1 for word in words[:size]]


def test_reference_gives_the_known_answer():
    # The first known-answer vector for philox4x64, 10 rounds, that is published with Random123.
    zeros = philox4x64((0, 0, 0, 0), (0, 0))
    assert zeros == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]


@pytest.mark.parametrize("seed", [0, 1, 7, 2**63 + 5])
def test_is_published_philox(seed):
    assert uniform(seed, 41).tolist() == expected_uniform(seed, 41)


def test_is_numpys_raw_stream():
    bits = np.random.Philox(key=3).random_raw(1000)
    assert uniform(3, 1000).tolist() == [(int(b) >> 40) / 2**23 - 1 for b in bits]


def test_first_values_of_seed_0():
    # Pinned: adapters already saved are rebuilt from these.
    assert uniform(0, 4).tolist() == [-0.9769065380096436, -0.5169016122817993, -0.7771483659744263, 0.1288292407989502]


def test_checksum_is_sha256_of_little_endian_floats():
    values = [0.5, -1.25, 3.0]
    expected = hashlib.sha256(struct.pack("<3f", *values)).hexdigest()[:16]
    assert checksum(torch.tensor(values)) == expected
    assert checksum(torch.tensor([[*values]]).repeat(2, 1)[1]) == expected
    assert checksum(torch.tensor([values]).T.contiguous().T) == expected


def test_checksum_of_a_thousand_numbers_of_seed_0():
    assert checksum(uniform(0, 1000)) == "8ae680248755f637"


def test_range_and_moments():
    values = uniform(11, 200_000).double()
    assert values.min() >= -1
    assert values.max() < 1
    assert uniform(11, 5).dtype == torch.float32
    # Uniform on [-1, 1): mean 0, variance 1/3, fourth moment 1/5; four standard errors of each.
    for power, moment, variance in [(1, 0, 1 / 3), (2, 1 / 3, 1 / 5 - 1 / 9), (4, 1 / 5, 1 / 9 - 1 / 25)]:
        assert abs(values.pow(power).mean() - moment) < 4 * (variance / len(values)) ** 0.5
    counts = torch.histc(values, bins=20, min=-1, max=1)
    assert ((counts - 10_000).abs() < 5 * 10_000**0.5).all()


def test_seeds_differ_and_a_longer_draw_begins_like_a_shorter_one():
    assert not torch.equal(uniform(0, 8), uniform(1, 8))
    assert torch.equal(uniform(0, 100)[:8], uniform(0, 8))


def test_global_random_state_is_left_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    uniform(5, 100)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
