import pytest
import torch

from qpeft.generators.frames import GivensFrame
from tests.generators.frames import dense
from tests.generators.frames.maps import jacobian_rank


@pytest.mark.parametrize(
    ("size", "columns", "rank"), [(2, 1, 1), (2, 2, 2), (5, 5, 5), (9, 4, 4), (9, 4, 1), (17, 5, 3)]
)
@pytest.mark.parametrize("triangle", ["strict", "diagonal"])
def test_equals_the_product_of_rotations(size, columns, rank, triangle):
    torch.manual_seed(0)
    frame = GivensFrame(size, columns, 2, rank, triangle=triangle).double()
    other = GivensFrame(size, columns, 2, rank, triangle=triangle, truncate="rows").double()
    with torch.no_grad():
        frame.entries.uniform_(-6, 6)
    other.load_state_dict(frame.state_dict())
    for block, of_columns, of_rows in zip(frame.block().detach(), frame(), other(), strict=True):
        torch.testing.assert_close(of_columns, dense.givens_for_columns(block)[:, :columns], atol=1e-12, rtol=0)
        torch.testing.assert_close(of_rows, dense.printed_givens(block)[:columns].T, atol=1e-12, rtol=0)


def test_printed_product_moves_its_rows_freely_but_not_its_columns():
    """Why columns have a chain of their own: the printed one leaves them 9 of 30 directions."""
    torch.manual_seed(0)
    angles = (2 + torch.randn(12, 3).double()).tril(-1)
    step = 1e-6
    rows, columns = [], []
    for n, k in torch.tril_indices(12, 3, -1).T.tolist():
        ahead, behind = angles.clone(), angles.clone()
        ahead[n, k] += step
        behind[n, k] -= step
        slope = (dense.printed_givens(ahead) - dense.printed_givens(behind)) / (2 * step)
        rows.append(slope[:3].flatten())
        columns.append(slope[:, :3].flatten())
    assert int(torch.linalg.matrix_rank(torch.stack(rows), rtol=1e-7)) == 30
    assert int(torch.linalg.matrix_rank(torch.stack(columns), rtol=1e-7)) == 9
    assert jacobian_rank(GivensFrame(12, 3, truncate="rows")) == 30
    assert jacobian_rank(GivensFrame(12, 3, truncate="columns")) == 30


def test_two_axes_turn_by_half_the_entry():
    frame = GivensFrame(2, 2).double()
    torch.testing.assert_close(frame()[0], dense.ry(2, 1, frame.entries.item()), atol=1e-12, rtol=0)


@pytest.mark.parametrize("triangle", ["strict", "diagonal"])
def test_start_reaches_every_axis_evenly(triangle):
    torch.manual_seed(0)
    frames = GivensFrame(64, 2, 500, triangle=triangle)().detach()
    # Entries of a uniformly random unit vector have mean 0 and variance 1 / N.
    torch.testing.assert_close(64 * frames.square().mean(0), torch.ones(64, 2), atol=0.35, rtol=0)
    torch.testing.assert_close(8 * frames.mean(0), torch.zeros(64, 2), atol=0.2, rtol=0)


def test_init_scale_shrinks_the_angles():
    torch.manual_seed(0)
    wide = GivensFrame(6, 3).entries
    torch.manual_seed(0)
    torch.testing.assert_close(GivensFrame(6, 3, init_scale=0.25).entries, 0.25 * wide)
