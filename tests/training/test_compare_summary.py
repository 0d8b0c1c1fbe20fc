import math

import pytest

from qpeft.training.compare_summary import EMPTY, SeedMean


def test_the_interval_is_students():
    found = SeedMean.of([1.0, 2.0, 4.0])  # deviations -4/3, -1/3, 5/3: variance (16 + 1 + 25) / 9 / 2 = 7 / 3
    assert (found.mean, found.std) == pytest.approx((7 / 3, (7 / 3) ** 0.5))
    assert found.half_width == pytest.approx(4.302653 * (7 / 9) ** 0.5)  # t(0.975, 2) = 4.302653, from a table


@pytest.mark.parametrize(("values", "text"), [([], EMPTY), ([2.0], "2.00"), ([2.0, 2.0], "2.00 ± 0.00")])
def test_an_interval_needs_two_values(values, text):
    assert SeedMean.of(values).text(".2f") == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, math.nan], "nan"), ([math.nan], "nan"), ([1.0, math.inf, 2.0], "inf"), ([-math.inf, -1.0], "-inf"),
        ([math.inf, -math.inf], "nan"),
    ],
)  # fmt: skip
def test_what_is_not_finite_shows_and_has_no_interval(values, text):
    found = SeedMean.of(values)
    assert found.text(".3f") == found.mean_text(".3f") == text
    assert found.std is None and found.half_width is None
