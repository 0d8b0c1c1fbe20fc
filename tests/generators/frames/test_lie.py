import math

import pytest
import torch

from qpeft.errors import ConfigError
from qpeft.generators.frames import CayleyFrame, ExponentialFrame, NeumannFrame, TaylorFrame
from tests.generators.frames import dense
from tests.generators.frames.maps import LIE, of_norm

SIZES = [(2, 1, 1), (2, 2, 2), (5, 5, 5), (9, 4, 4), (9, 4, 1), (24, 5, 3)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(1)


def both(frame, function):
    """The frames, and the first K columns of `function` of each dense A."""
    expected = torch.stack([function(dense.skew(block))[:, : frame.columns] for block in frame.block().detach()])
    return frame().detach(), expected


def distance(frame, other):
    """Largest spectral distance, `other` having the numbers of `frame`."""
    other.double().load_state_dict(frame.state_dict())
    return float(torch.linalg.matrix_norm(frame().detach() - other().detach(), ord=2).max())


@pytest.mark.parametrize(("size", "columns", "rank"), SIZES)
@pytest.mark.parametrize("norm", [1e-3, 1, 6])
def test_exponential_is_that_of_the_dense_matrix(size, columns, rank, norm):
    frame = of_norm(ExponentialFrame(size, columns, 2, rank), norm)
    torch.testing.assert_close(*both(frame, torch.linalg.matrix_exp), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("size", "columns", "rank"), SIZES)
@pytest.mark.parametrize("norm", [1e-3, 1, 6])
def test_cayley_is_that_of_the_dense_matrix(size, columns, rank, norm):
    frame = of_norm(CayleyFrame(size, columns, 2, rank), norm)
    torch.testing.assert_close(*both(frame, dense.cayley), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("size", "columns", "rank"), SIZES)
@pytest.mark.parametrize("order", [1, 2, 3, 18])
def test_taylor_is_that_of_the_dense_matrix(size, columns, rank, order):
    frame = of_norm(TaylorFrame(size, columns, 2, rank, order=order), 1.5)
    torch.testing.assert_close(*both(frame, lambda A: dense.taylor(A, order)), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("size", "columns", "rank"), SIZES)
@pytest.mark.parametrize("order", [1, 2, 3, 18])
def test_neumann_is_that_of_the_dense_matrix(size, columns, rank, order):
    frame = of_norm(NeumannFrame(size, columns, 2, rank, order=order), 0.9)
    torch.testing.assert_close(*both(frame, lambda A: dense.neumann(A, order)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("order", [1, 3, 6])
@pytest.mark.parametrize("norm", [0.5, 1, 2.5])
def test_taylor_keeps_its_documented_distances(order, norm):
    frame = of_norm(TaylorFrame(12, 3, 2, order=order), norm)
    remainder = norm ** (order + 1) / math.factorial(order + 1)
    assert distance(frame, ExponentialFrame(12, 3, 2)) <= remainder
    assert (frame.orthogonality_error() <= 2 * remainder + remainder**2).all()


def test_taylor_tends_to_the_exponential():
    distances = []
    for order in (2, 6, 12, 24):
        distances.append(distance(of_norm(TaylorFrame(12, 12, order=order), 2), ExponentialFrame(12, 12)))
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 1e-1
    assert distances[-1] < 1e-13


@pytest.mark.parametrize("norm", [0.2, 0.8])
def test_neumann_tends_to_cayley_as_documented(norm):
    for order in (1, 4, 16):
        frame = of_norm(NeumannFrame(12, 12, order=order), norm)
        # All columns of one skew matrix: the largest distance is the bound itself.
        assert distance(frame, CayleyFrame(12, 12)) == pytest.approx(norm ** (order + 1), rel=1e-6)


def test_neumann_refuses_a_norm_of_one_by_name():
    frame = of_norm(NeumannFrame(12, 3, 2), 0.99)
    frame()
    with torch.no_grad():
        frame.entries[1] *= 1.25 / 0.99
    with pytest.raises(ConfigError, match=r"needs \|\|A\|\|_2 < 1, and frame 2 of 2 has 1.2[345]\d*; take the Cayley"):
        frame()


@pytest.mark.parametrize(("size", "rank"), [(2, 1), (6, 6), (40, 4), (768, 16)])
def test_neumann_starts_below_norm_one(size, rank):
    NeumannFrame(size, rank, 5)()


@pytest.mark.parametrize("map_", LIE)
@pytest.mark.parametrize(("size", "columns", "rank"), SIZES)
def test_spectral_norm_is_that_of_the_dense_matrix(map_, size, columns, rank):
    frame = map_(size, columns, 2, rank, init_scale=2.0).double()
    expected = [torch.linalg.matrix_norm(dense.skew(block), ord=2) for block in frame.block().detach()]
    torch.testing.assert_close(frame.spectral_norm(), torch.stack(expected), atol=1e-7, rtol=1e-12)


@pytest.mark.parametrize("map_", LIE)
def test_norm_at_the_start_is_the_init_scale_whatever_the_size(map_):
    norms = [map_(size, 2, 8, init_scale=0.7).spectral_norm().mean() for size in (1024, 8192)]
    assert norms == pytest.approx([0.7, 0.7], rel=0.1)


@pytest.mark.parametrize("map_", LIE)
def test_rows_are_the_columns_of_minus_b(map_):
    """Why these maps have no `truncate`: f(A)^T = f(-A)."""
    frame = of_norm(map_(7, 7), 0.5)
    whole = frame()
    with torch.no_grad():
        frame.entries.neg_()
    torch.testing.assert_close(frame(), whole.mT, atol=1e-12, rtol=0)


@pytest.mark.parametrize("map_", LIE)
def test_a_diagonal_cancels(map_):
    frame = map_(6, 3, 2, triangle="diagonal", init_scale=0.2).double()
    (frame() * torch.randn(6, 3)).sum().backward()
    on_diagonal = torch.zeros(6, 3).bool().fill_diagonal_(True)[torch.tril(torch.ones(6, 3)).bool()]
    torch.testing.assert_close(frame.entries.grad[:, on_diagonal], torch.zeros(2, 3).double(), atol=1e-14, rtol=0)
    assert (frame.entries.grad[:, ~on_diagonal].abs() > 1e-6).all()


def test_two_axes_turn_by_the_entry():
    frame = ExponentialFrame(2, 2, init_scale=0).double()
    with torch.no_grad():
        frame.entries.fill_(0.3)
    cos, sin = math.cos(0.3), math.sin(0.3)
    torch.testing.assert_close(
        frame()[0], torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64), atol=1e-15, rtol=0
    )
