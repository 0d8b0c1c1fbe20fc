import copy
from functools import partial

import pytest
import torch

from qpeft.errors import ConfigError, UnknownNameError
from qpeft.generators.frames import CayleyFrame, FramePool, PauliFrame, ShannonFrame, TaylorFrame
from qpeft.generators.frames.traced import TracedFrame
from qpeft.generators.packed_state import pack_on_save

SIZES = [8, 4, 8, 16, 4]
MAKE = {"pauli": PauliFrame, "cayley": CayleyFrame, "taylor": partial(TaylorFrame, order=4, intrinsic_rank=1)}


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("count", [1, 3])
def test_frames_are_those_of_single_frames_in_the_order_asked_for(name, count):
    pool = FramePool(SIZES, 2, MAKE[name], count=count)
    frames = pool()
    assert [frame.shape for frame in frames] == [(count, size, 2) for size in SIZES]
    seen = {}
    for size, frame in zip(SIZES, frames, strict=True):
        alone = MAKE[name](size, 2, count)
        first = seen.get(size, 0)
        seen[size] = first + count
        own = {k: v[first : first + count] for k, v in pool.by_size[str(size)].state_dict().items()}
        alone.load_state_dict(own)
        torch.testing.assert_close(frame, alone())


def test_one_call_a_size(monkeypatch):
    pool, calls = FramePool(SIZES, 2, PauliFrame), []
    generate = TracedFrame.__call__
    monkeypatch.setattr(
        TracedFrame, "__call__", lambda self, values: calls.append(self.frame.size) or generate(self, values)
    )
    pool()
    assert sorted(calls) == [4, 8, 16]
    assert {size: frame.count for size, frame in pool.by_size.items()} == {"4": 2, "8": 2, "16": 1}


def test_gradients_reach_every_frames_own_numbers_alone():
    pool = FramePool(SIZES, 2, CayleyFrame)
    pool()[2].square().mul(torch.arange(8.0)[:, None]).sum().backward()
    entries = pool.by_size["8"].entries.grad
    assert torch.equal(entries[0], torch.zeros_like(entries[0]))
    assert entries[1].abs().max() > 0
    assert all(not p.grad.any() for size in ("4", "16") if (p := pool.by_size[size].entries).grad is not None)


def test_initial_frames_stay_and_are_saved():
    pool = FramePool([12, 4, 12], 2, of_two_kinds, keep_initial=True)
    start = [frame.detach().clone() for frame in pool()]
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.add_(0.3)
    assert all(not torch.allclose(now, then, atol=1e-3) for now, then in zip(pool(), start, strict=True))
    for again in (pool, copy.deepcopy(pool)):
        assert all(torch.equal(now, then) for now, then in zip(again.initial(), start, strict=True))
    assert not any(frame.requires_grad for frame in pool.initial())
    other = FramePool([12, 4, 12], 2, of_two_kinds, keep_initial=True)
    other.load_state_dict(pool.state_dict())
    for made in ("initial", "forward"):
        found, expected = getattr(other, made)(), getattr(pool, made)()
        assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
    assert pool.num_kept == sum(p.numel() for p in pool.parameters())
    assert FramePool([4], 2, PauliFrame).num_kept == 0


def of_two_kinds(size, columns, count):
    return (PauliFrame if size == 4 else ShannonFrame)(size, columns, count)


PACKINGS = {"plain": {"bits": 2, "group": 13}, "adaptive": {"bits": 3, "group": 6, "kappa": 1.0}}


def packed_pool(name, sizes=(8, 8)):
    return FramePool(sizes, 2, CayleyFrame, pack=partial(pack_on_save, **PACKINGS[name]), keep_initial=True)


@pytest.mark.parametrize("name", PACKINGS)
def test_packed_numbers_are_quantised_and_packed_at_the_start_too(name):
    pool = packed_pool(name)
    state = pool.state_dict()
    parts = ("bits", "codes", "scale", "zero")
    assert sorted(state) == [f"{key}.{part}" for key in ("by_size.8.entries", "initial_8_entries") for part in parts]
    for part in parts:
        assert torch.equal(state[f"initial_8_entries.{part}"], state[f"by_size.8.entries.{part}"])
    plain = FramePool([8, 8], 2, CayleyFrame)
    with torch.no_grad():
        plain.by_size["8"].entries.copy_(pool.by_size["8"].entries)
    assert not torch.allclose(pool()[0], plain()[0], atol=1e-3)
    for now, then in zip(pool(), pool.initial(), strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("name", PACKINGS)
@pytest.mark.parametrize("again", [lambda pool: pool, copy.deepcopy], ids=["itself", "copy"])
def test_a_packed_start_is_the_same_after_saving_and_loading_twice(name, again):
    pool = packed_pool(name)
    with torch.no_grad():
        pool.by_size["8"].entries.add_(torch.randn(2, 13))
    pool, expected = again(pool), [pool(), pool.initial()]
    for _ in range(2):
        loaded = packed_pool(name)
        loaded.load_state_dict(pool.state_dict())
        for found, frames in zip([loaded(), loaded.initial()], expected, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(found, frames, strict=True))
        torch.testing.assert_close(loaded.state_dict(), pool.state_dict(), rtol=0, atol=0)
        pool = loaded


@pytest.mark.parametrize("make", [copy.deepcopy, lambda pool: pool.double()], ids=["copy", "double"])
def test_copies_and_double_precision(make):
    pool = FramePool(SIZES, 2, PauliFrame)
    expected = [frame.detach().clone() for frame in pool()]
    twin = make(pool)
    for one, other in zip(twin(), expected, strict=True):
        torch.testing.assert_close(one.float(), other)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.5)
    assert not torch.allclose(twin()[0].float(), expected[0], atol=1e-2)


@pytest.mark.parametrize(
    ("sizes", "columns", "options", "kind", "message"),
    [
        ([8, 12], 2, {}, ConfigError, "frames of size N = 12: a circuit's frame has a power of two as size"),
        ([8, 1], 1, {}, ConfigError, "frames of size N = 1: .* N >= 2"),
        ([8, 4], 5, {}, ConfigError, "frames of size N = 4: .* K = 1 to 4 columns, got 5"),
        (
            [8, 4], 2, {"pack": partial(pack_on_save, bits=2, group=7)}, ConfigError,
            "frames of size N = 4: a quantisation group of 7 is larger than angles, which has 4 numbers .* of 1 to 4",
        ),
        ([4], 2, {"frame": partial(PauliFrame, ansatz="x")}, UnknownNameError, "frames of size N = 4: unknown ansatz"),
    ],
    ids=["size", "narrow", "columns", "group", "name"],
)  # fmt: skip
def test_errors_name_the_size(sizes, columns, options, kind, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        FramePool(sizes, columns, **{"frame": PauliFrame, **options})
    assert type(refusal.value) is kind
