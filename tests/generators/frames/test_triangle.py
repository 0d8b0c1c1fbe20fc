import pytest
import torch

from qpeft.generators.frames import ExponentialFrame, triangle_parameters


@pytest.mark.parametrize(("size", "rank"), [(2, 1), (5, 5), (9, 4), (12, 1)])
@pytest.mark.parametrize(("triangle", "offset"), [("strict", -1), ("diagonal", 0)])
def test_block_holds_each_number_once_below_the_diagonal(size, rank, triangle, offset):
    frame = ExponentialFrame(size, rank, 2, triangle=triangle)
    block = frame.block()
    assert block.shape == (2, size, rank)
    mask = torch.tril(torch.ones(size, rank), offset).bool()
    assert (block[:, ~mask] == 0).all()
    torch.testing.assert_close(block[:, mask], frame.entries)
    assert frame.entries.shape[1] == int(mask.sum()) == triangle_parameters(size, rank, triangle)


def test_gradient_of_a_masked_square_is_the_blocks():
    """Only the first K' columns train: the same map of a full B, masked as the paper says, has this gradient."""
    frame = ExponentialFrame(6, 4, 1, 2).double()
    weights = torch.randn(6, 4).double()
    (frame() * weights).sum().backward()
    B = torch.zeros(6, 6).double()
    B[:, :2] = frame.block().detach()[0]
    B.requires_grad_()
    mask = torch.tril(torch.ones(6, 6).double(), -1) * (torch.arange(6) < 2)
    (torch.linalg.matrix_exp(B * mask - (B * mask).T)[:, :4] * weights).sum().backward()
    assert (B.grad[:, 2:] == 0).all()
    torch.testing.assert_close(frame.entries.grad[0], B.grad[mask.bool()], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("rank", "published"),
    [(1, 37056), (2, 73872), (3, 110640), (4, 147360), (5, 184032), (6, 220656), (7, 257232), (8, 293760)],
)
def test_published_counts_include_the_diagonal(rank, published):
    """Table 8 of arXiv 2503.05431, in full: 24 matrices of 768 x 768, each with two frames and 8 numbers more."""
    assert 24 * (2 * triangle_parameters(768, rank, "diagonal") + 8) == published


def test_two_strict_frames_and_a_diagonal_are_the_papers_svd():
    for size, columns in [(12, 3), (768, 8)]:
        assert 2 * triangle_parameters(size, columns) + columns == 2 * size * columns - columns**2


def test_start_has_the_scale_asked_for():
    torch.manual_seed(0)
    entries = ExponentialFrame(400, 8, 4, init_scale=3.0).entries.detach()
    assert entries.std() == pytest.approx(3 / 20, rel=0.05)
    assert entries.mean() == pytest.approx(0, abs=0.01)
