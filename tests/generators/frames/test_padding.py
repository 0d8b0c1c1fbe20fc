import copy

import pytest
import torch
from torch.autograd import gradcheck

from qpeft.errors import ConfigError
from qpeft.generators.frames.base import Frame
from qpeft.generators.frames.cayley import CayleyFrame
from qpeft.generators.frames.padding import PaddedFrame
from qpeft.generators.frames.pauli import PauliFrame

SIZES = [12, 28, 257, 768, 3072, 14336]


@pytest.mark.parametrize("size", [12, 28, 257])
def test_is_the_padded_layers_update(size):
    """The rows adapt a layer as the padded frames adapt the layer padded with zeros."""
    torch.manual_seed(0)
    left, right = (PaddedFrame(rows, 3, orthonormalize=False) for rows in (size, 20))
    x, diagonal = torch.randn(20), torch.randn(3)
    padded_x = torch.cat([x, torch.zeros(32 - 20)])
    expected = (left.padded()[0] * diagonal @ (right.padded()[0].T @ padded_x))[:size]
    torch.testing.assert_close(left()[0] * diagonal @ (right()[0].T @ x), expected)


@pytest.mark.parametrize("size", SIZES)
def test_cut_alone_the_rows_are_not_orthonormal_and_say_so(size):
    torch.manual_seed(size)
    frame = PaddedFrame(size, 3, 2, orthonormalize=False).double()
    U = frame().detach()
    assert U.shape == (2, size, 3)
    error = (U.mT @ U - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))
    torch.testing.assert_close(frame.orthogonality_error(), error)
    assert error.min() > 1e-3
    assert error.max() <= 1


@pytest.mark.parametrize("size", SIZES)
def test_orthonormalized(size):
    torch.manual_seed(size)
    frame, cut = PaddedFrame(size, 3, 2).double(), PaddedFrame(size, 3, 2, orthonormalize=False).double()
    cut.load_state_dict(frame.state_dict())
    assert frame.orthogonality_error().max() < 1e-12
    U, P = frame().detach(), cut().detach()
    torch.testing.assert_close(U @ (U.mT @ P), P)  # the same column space


@pytest.mark.parametrize(("size", "columns"), [(9, 9), (5, 5), (12, 12), (768, 4), (513, 16)])
def test_orthonormal_in_single_precision_with_as_many_columns_as_rows_too(size, columns):
    """Of the squared cut, float32 has lost the smallest of its singular values."""
    torch.manual_seed(0)
    frame = PaddedFrame(size, columns, 200 if size < 100 else 8)
    frames = frame()
    assert frames.dtype == torch.float32
    assert frame.orthogonality_error().max() < 1e-5
    (frames * torch.randn_like(frames)).sum().backward()
    assert frame.padded.angles.grad.isfinite().all()


def test_the_columns_are_those_of_gram_and_schmidt():
    """With a positive diagonal of R, they do not jump between signs as the numbers move."""
    torch.manual_seed(1)
    frame, cut = PaddedFrame(12, 5, 7).double(), PaddedFrame(12, 5, 7, orthonormalize=False).double()
    cut.load_state_dict(frame.state_dict())
    for U, P in zip(frame().detach(), cut().detach(), strict=True):
        columns = []
        for column in P.T:
            left = column - sum((other @ column) * other for other in columns)
            columns.append(left / left.norm())
        torch.testing.assert_close(U, torch.stack(columns, 1))


class Permuted(Frame):
    """The first columns of a permutation; the third column is below row 12."""

    def __init__(self, size, columns, count):
        super().__init__(size, columns, count)
        self.scale = torch.nn.Parameter(torch.ones(count))

    def forward(self):
        return torch.eye(16)[:, [0, 3, 15]].expand(self.count, -1, -1) * self.scale[:, None, None]


def test_columns_that_depend_on_each_other_are_named():
    with pytest.raises(ConfigError, match=r"first 12 of 16 rows of frame 0 of 2 .* not have 3 independent .*'single'"):
        PaddedFrame(12, 3, 2, node=Permuted)()


def test_a_power_of_two_is_the_frame_itself():
    frame = PaddedFrame(16, 3, 2).double()
    torch.testing.assert_close(frame(), frame.padded())
    assert frame.orthogonality_error().max() < 1e-12


def test_counts_are_the_padded_frames():
    assert [PaddedFrame(size, 3).num_parameters for size in (768, 3072)] == [28, 34]  # 3 q - 2
    # the 72 adapted matrices of DeBERTa-base with K = 3
    a, b = 28, 34
    assert 12 * (4 * (2 * a + 3) + 2 * (a + b + 3)) == 4392


@pytest.mark.parametrize("orthonormalize", [False, True])
def test_gradcheck(orthonormalize):
    torch.manual_seed(0)
    frame = PaddedFrame(6, 2, 2, orthonormalize=orthonormalize).double()
    assert gradcheck(
        lambda angles: torch.func.functional_call(frame, {"padded.angles": angles}, ()), (frame.padded.angles,)
    )


def test_other_nodes():
    assert PaddedFrame(12, 2, node=CayleyFrame).padded.size == 16


def test_state_and_copies():
    frame, other = (PaddedFrame(12, 3, 2) for _ in range(2))
    assert not torch.equal(frame(), other())
    other.load_state_dict(frame.state_dict())
    assert torch.equal(frame(), other()) and torch.equal(frame(), copy.deepcopy(frame)())


def test_refused():
    with pytest.raises(ConfigError, match="1 frames of 16 x 2; asked for 3 of 16 x 2"):
        PaddedFrame(12, 2, 3, node=lambda size, columns, count: PauliFrame(size, columns))
    with pytest.raises(ConfigError, match=r"K = 1 to 12 columns, got 13"):
        PaddedFrame(12, 13)
