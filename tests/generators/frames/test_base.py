import pytest
import torch
from torch import nn

from qpeft.errors import ConfigError
from qpeft.generators.frames import Frame


class Given(Frame):
    """A frame that is whatever it is given: nothing makes its columns orthonormal."""

    def __init__(self, frames):
        super().__init__(frames.shape[1], frames.shape[2], frames.shape[0])
        self.frames = nn.Parameter(frames)

    def forward(self):
        return self.frames


def test_orthogonality_error_is_the_largest_entry_of_each_frame():
    exact = torch.eye(3, 2)
    longer = exact * torch.tensor([1.0, 1.1])  # U^T U = diag(1, 1.21)
    leaning = exact + torch.tensor([[0.0, -0.5], [0.0, 0.0], [0.0, 0.0]])  # U^T U = [[1, -0.5], [-0.5, 1.25]]
    errors = Given(torch.stack([exact, longer, leaning])).orthogonality_error()
    assert not errors.requires_grad
    torch.testing.assert_close(errors, torch.tensor([0, 0.21, 0.5], dtype=torch.float64), atol=1e-6, rtol=0)


def test_numbers_of_all_frames_are_counted():
    assert Given(torch.zeros(4, 3, 2)).num_parameters == 24


@pytest.mark.parametrize(
    ("shape", "named"), [((1, 1, 1), "got 1"), ((1, 3, 4), "1 to 3 columns, got 4"), ((0, 3, 2), "got 0")]
)
def test_impossible_sizes_are_named(shape, named):
    with pytest.raises(ConfigError, match=named):
        Given(torch.zeros(shape))


def test_sizes_are_shown():
    assert repr(Given(torch.zeros(4, 3, 2))) == "Given(size=3, columns=2, count=4)"
