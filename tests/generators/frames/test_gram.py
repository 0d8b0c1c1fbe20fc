import pytest
import torch

from qpeft.generators.frames.gram import gram


@pytest.mark.parametrize(("size", "columns"), [(2, 1), (127, 3), (128, 3), (129, 2), (768, 4)])
def test_is_the_product_with_the_transpose(size, columns):
    block = torch.randn(2, size, columns, dtype=torch.float64)
    torch.testing.assert_close(gram(block), block.mT @ block, atol=1e-11, rtol=0)


def test_float32_loses_nothing_over_many_rows():
    torch.manual_seed(0)
    block = torch.randn(3, 16384, 4) / 128
    exact = block.double().mT @ block.double()
    assert (gram(block) - exact).abs().max() < 4e-7  # a few units in the last place of 1
