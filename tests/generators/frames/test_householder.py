import pytest
import torch

from qpeft.generators.frames import HouseholderFrame
from tests.generators.frames import dense


@pytest.mark.parametrize(
    ("size", "columns", "rank"), [(2, 1, 1), (2, 2, 2), (5, 5, 5), (9, 4, 4), (9, 4, 1), (24, 5, 3)]
)
@pytest.mark.parametrize("triangle", ["strict", "diagonal"])
@pytest.mark.parametrize("scale", [0.1, 5.0])
def test_equals_the_product_of_reflections(size, columns, rank, triangle, scale):
    torch.manual_seed(0)
    frame = HouseholderFrame(size, columns, 2, rank, triangle=triangle, init_scale=scale).double()
    other = HouseholderFrame(size, columns, 2, rank, triangle=triangle, truncate="rows").double()
    other.load_state_dict(frame.state_dict())
    for block, of_columns, of_rows in zip(frame.block().detach(), frame(), other(), strict=True):
        Q = dense.reflections(block)
        torch.testing.assert_close(of_columns, Q[:, :columns], atol=1e-12, rtol=0)
        torch.testing.assert_close(of_rows, Q[:columns].T, atol=1e-12, rtol=0)


def test_determinant_counts_the_reflections():
    for rank, sign in [(1, -1), (2, 1), (3, -1)]:
        frame = HouseholderFrame(5, 5, 1, rank).double()
        assert torch.linalg.det(frame())[0].item() == pytest.approx(sign)


def test_scaling_a_normal_moves_nothing():
    """A trained pivot only rescales: 1 + diagonal and the rest of a column times c are the same reflection."""
    frame = HouseholderFrame(3, 1, triangle="diagonal").double()
    with torch.no_grad():
        frame.entries.copy_(torch.tensor([[0.0, 0.4, -0.7]]))
        once = frame()
        frame.entries.copy_(torch.tensor([[1.0, 0.8, -1.4]]))
    torch.testing.assert_close(frame(), once, atol=1e-7, rtol=0)
