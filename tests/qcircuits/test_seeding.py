"""Statistical tests have a fixed seed and reject a correct generator with a chance below 1e-6."""

import itertools

import numpy as np
import pytest
from scipy import stats

from qpeft.errors import ConfigError
from qpeft.qcircuits.seeding import Draws, Purpose, Stream

ADDRESSES = list(itertools.product((0, 1, 2**64 - 1), (0, 1, 2**63, 2**63 + 1, 2**64 - 1), Purpose))


def test_a_stream_starts_alike_every_time():
    stream = Stream(seed=5, call=7, purpose=Purpose.GRADIENT)
    assert stream.generator().random(9).tolist() == stream.generator().random(9).tolist()
    assert stream.integer() == stream.integer()


def test_streams_of_another_seed_call_or_purpose_differ():
    drawn = [tuple(Stream(*address).generator().integers(2**63, size=4)) for address in ADDRESSES]
    assert len(set(drawn)) == len(ADDRESSES)
    flat = [number for numbers in drawn for number in numbers]
    assert len(set(flat)) == len(flat)  # nor does one stream begin within another


def test_no_stream_is_that_of_a_frozen_factor():
    factor = np.random.Philox(key=7).random_raw(4).tolist()
    for purpose in Purpose:
        assert Stream(7, 0, purpose).generator().bit_generator.random_raw(4).tolist() != factor


def test_a_seed_for_other_libraries_fits_31_bits():
    seeds = [Stream(1, call, Purpose.FORWARD).integer() for call in range(200)]
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert len(set(seeds)) == 200


@pytest.mark.parametrize("axis", ["seed", "call"])
def test_neighbouring_streams_are_uniform_and_uncorrelated(axis):
    rows = np.stack([Stream(**({"seed": 3, "call": 3} | {axis: k}), purpose=Purpose.FORWARD).generator().random(4)
                     for k in range(4000)])  # fmt: skip
    for column in rows.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-7
    assert stats.pearsonr(rows[:-1].ravel(), rows[1:].ravel()).pvalue > 1e-7


def test_draws_count_calls_and_can_be_set():
    draws = Draws(seed=2)
    assert [draws.next(), draws.next(), draws.call] == [0, 1, 2]
    draws.call = 1
    assert draws.next() == 1
    assert draws.stream(4, Purpose.DIRECTION) == Stream(2, 4, Purpose.DIRECTION)
    draws.call = 2**64 - 1
    assert [draws.next(), draws.next()] == [2**64 - 1, 0]


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "1", None, True], ids=repr)
def test_a_seed_is_a_whole_number_of_64_bits(seed):
    with pytest.raises(ConfigError, match=r"seed is .*; it must be a whole number of at least 0, below 2\*\*64"):
        Draws(seed)
