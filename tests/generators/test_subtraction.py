import pytest
import torch

from qpeft.generators.subtraction import factors_less_start


@pytest.mark.parametrize("batch", [(), (3,)])
def test_the_product_is_the_difference_and_exactly_zero_at_the_start(batch):
    torch.manual_seed(0)
    (B, B0), (A, A0) = torch.randn(2, *batch, 7, 2), torch.randn(2, *batch, 2, 5)
    left, right = factors_less_start(B, A, B0, A0)
    assert left.shape == (*batch, 7, 4) and right.shape == (*batch, 4, 5)
    torch.testing.assert_close(left @ right, B @ A - B0 @ A0)
    left, right = factors_less_start(B, A, B, A)
    assert torch.equal(left @ right, torch.zeros(*batch, 7, 5))
