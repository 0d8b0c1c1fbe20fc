"""What holds for every map alike."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpeft.errors import ConfigError
from qpeft.generators.frames import FRAMES, GivensFrame, NeumannFrame, TaylorFrame
from tests.generators.frames.maps import IDS, LIE, MAPS, VARIANTS, generate, jacobian_rank, of_norm

SIZES = [(2, 1, 1), (2, 2, 2), (5, 5, 5), (12, 3, 3), (12, 4, 1), (257, 4, 4), (768, 6, 2)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_registry_names_them():
    names = ["exponential", "taylor", "cayley", "neumann", "householder", "givens"]
    assert [FRAMES[name] for name in names] == list(MAPS)


@pytest.mark.parametrize(("map_", "options"), VARIANTS, ids=IDS)
@pytest.mark.parametrize(("size", "columns", "rank"), SIZES)
def test_columns_are_orthonormal(map_, options, size, columns, rank):
    order = {"order": 400} if map_ is NeumannFrame else {}  # 0.9 ** 401 is below 1e-18
    frame = of_norm(map_(size, columns, 2, rank, **options, **order), 0.9 if order else 1)
    frames = frame()
    assert frames.shape == (2, size, columns)
    assert not torch.allclose(frames[0], frames[1])
    torch.testing.assert_close(frames.mT @ frames, torch.eye(columns).double().expand(2, -1, -1), atol=1e-10, rtol=0)
    assert frame.orthogonality_error().shape == (2,)
    assert (frame.orthogonality_error() < 1e-10).all()


@given(
    st.sampled_from([variant for variant in VARIANTS if not issubclass(variant[0], TaylorFrame | NeumannFrame)]),
    st.integers(2, 9).flatmap(
        lambda size: st.tuples(st.just(size), st.integers(1, size)).flatmap(
            lambda pair: st.tuples(st.just(pair[0]), st.just(pair[1]), st.integers(1, pair[1]))
        )
    ),
    st.floats(0, 30),
    st.integers(0, 9),
)
def test_exact_maps_are_orthonormal_wherever_training_takes_them(variant, sizes, scale, seed):
    torch.manual_seed(seed)
    map_, options = variant
    size, columns, rank = sizes
    frame = map_(size, columns, 2, rank, init_scale=scale, **options).double()
    assert (frame.orthogonality_error() < 1e-10).all()


@pytest.mark.parametrize(("map_", "options"), VARIANTS, ids=IDS)
def test_float32_at_16384(map_, options):
    frame = map_(16384, 4, **options)
    frames = frame()
    assert frames.dtype == torch.float32
    # N rotations one after another round as often; every other map ends near the precision of one number.
    assert frame.orthogonality_error() < (4e-5 if map_ is GivensFrame else 2e-6)
    torch.testing.assert_close(frames.double(), frame.double()(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("map_", LIE)
def test_columns_of_very_different_length_cost_no_accuracy(map_):
    frame = map_(64, 3, init_scale=0).double()
    with torch.no_grad():
        frame.entries[:, 3:] = torch.randn(61, 3).mul(torch.tensor([0.1, 1e-4, 1e-8])).flatten()
    exact = frame()
    torch.testing.assert_close(frame.float()().double(), exact, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("map_", "options"), VARIANTS, ids=IDS)
@pytest.mark.parametrize(("columns", "rank", "triangle"), [(3, 3, "strict"), (3, 1, "strict"), (3, 2, "diagonal")])
def test_gradients(map_, options, columns, rank, triangle):
    frame = map_(5, columns, 2, rank, triangle=triangle, **options).double()
    assert torch.autograd.gradcheck(lambda entries: generate(frame, entries), frame.entries.detach().requires_grad_())


@pytest.mark.parametrize(("map_", "options"), VARIANTS, ids=IDS)
def test_gradients_are_finite_and_alive_at_zero(map_, options):
    frame = map_(6, 3, init_scale=0, **options).double()
    assert torch.autograd.gradcheck(lambda entries: generate(frame, entries), frame.entries.detach().requires_grad_())
    (frame() * torch.randn(6, 3)).sum().backward()
    assert frame.entries.grad.abs().max() > 0


@pytest.mark.parametrize(("map_", "options"), VARIANTS, ids=IDS)
def test_every_number_moves_the_frame_its_own_way(map_, options):
    assert jacobian_rank(map_(12, 3, **options)) == 30  # the dimension of 3 orthonormal columns of 12 rows
    assert jacobian_rank(map_(12, 4, 1, 1, **options)) == 11


@pytest.mark.parametrize("map_", MAPS)
@pytest.mark.parametrize(
    ("size", "columns", "rank", "strict"), [(12, 3, 3, 30), (12, 4, 1, 11), (768, 4, 4, 3062), (5, 5, 5, 10)]
)
def test_counts(map_, size, columns, rank, strict):
    assert map_(size, columns, 3, rank).num_parameters == 3 * strict
    assert map_(size, columns, 3, rank, triangle="diagonal").num_parameters == 3 * (strict + rank)


@pytest.mark.parametrize("map_", MAPS)
def test_zero_is_the_identity_up_to_the_reflections_sign(map_):
    frame = map_(6, 3, 2, 2, init_scale=0).double()
    expected = torch.eye(6, 3).double()
    if map_ is FRAMES["householder"]:
        expected = expected * torch.tensor([-1, -1, 1])
    torch.testing.assert_close(frame(), expected.expand(2, -1, -1), atol=1e-15, rtol=0)


@pytest.mark.parametrize(("map_", "options"), VARIANTS, ids=IDS)
def test_frames_of_one_call_are_those_of_single_calls(map_, options):
    together = map_(7, 3, 3, 2, **options).double()
    alone = map_(7, 3, 1, 2, **options).double()
    for entries, frame in zip(together.entries.detach(), together(), strict=True):
        torch.testing.assert_close(generate(alone, entries[None])[0], frame, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("map_", "options"), VARIANTS, ids=IDS)
def test_copies_and_saved_states_give_the_same_frames(map_, options):
    frame, other = map_(7, 3, 2, **options), map_(7, 3, 2, **options)
    assert not torch.equal(frame(), other())
    assert torch.equal(copy.deepcopy(frame)(), frame())
    assert list(frame.state_dict()) == ["entries"]
    other.load_state_dict(frame.state_dict())
    assert torch.equal(other(), frame())


@pytest.mark.parametrize(("map_", "options"), VARIANTS, ids=IDS)
def test_memory_stays_far_below_n_by_n(map_, options):
    size = 4096
    largest = 0

    def watch(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(watch, lambda tensor: tensor):
        map_(size, 4, **options)().sum().backward()
    assert 0 < largest <= 4 * 4 * size


@pytest.mark.parametrize("map_", MAPS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 1, "columns": 1}, r"needs size N >= 2, got 1"),
        ({"size": 4, "columns": 5}, r"size N = 4 has K = 1 to 4 columns, got 5"),
        ({"size": 4, "columns": 0}, r"size N = 4 has K = 1 to 4 columns, got 0"),
        ({"size": 4, "columns": 2, "count": 0}, r"count must be at least 1 frame, got 0"),
        ({"size": 4, "columns": 2, "intrinsic_rank": 3}, r"K' must be from 1 to K = 2, got 3"),
        ({"size": 4, "columns": 2, "intrinsic_rank": 0}, r"K' must be from 1 to K = 2, got 0"),
        ({"size": 4, "columns": 2, "triangle": "upper"}, r"triangle must be 'strict' or 'diagonal', got 'upper'"),
        ({"size": 4, "columns": 2, "init_scale": -1.0}, r"init_scale must be finite and at least 0, got -1.0"),
        ({"size": 4, "columns": 2, "init_scale": float("nan")}, r"init_scale must be finite and at least 0, got nan"),
    ],
)
def test_bad_sizes_are_named(map_, arguments, message):
    with pytest.raises(ConfigError, match=message):
        map_(**arguments)


@pytest.mark.parametrize("map_", [TaylorFrame, NeumannFrame])
def test_bad_order_is_named(map_):
    with pytest.raises(ConfigError, match=r"order P must be at least 1, got 0"):
        map_(4, 2, order=0)


@pytest.mark.parametrize("name", ["householder", "givens"])
def test_bad_truncation_is_named(name):
    with pytest.raises(ConfigError, match=r"truncate must be 'columns' or 'rows', got 'both'"):
        FRAMES[name](4, 2, truncate="both")


def test_options_are_shown():
    assert repr(TaylorFrame(6, 3, 2, 1, order=4)) == (
        "TaylorFrame(size=6, columns=3, count=2, intrinsic_rank=1, triangle='strict', order=4)"
    )
    assert repr(GivensFrame(6, 3, truncate="rows")) == (
        "GivensFrame(size=6, columns=3, count=1, intrinsic_rank=3, triangle='strict', truncate='rows')"
    )


@pytest.mark.parametrize(("map_", "options"), VARIANTS, ids=IDS)
def test_frames_made_without_memory_are_filled_from_a_saved_state(map_, options):
    saved = map_(7, 3, 2, **options)
    with torch.device("meta"):
        frame = map_(7, 3, 2, **options)
    frame.load_state_dict(saved.state_dict(), assign=True)
    assert torch.equal(frame(), saved())
