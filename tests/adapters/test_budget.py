import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpeft.adapters.budget import shares
from qpeft.errors import ConfigError

COUNTS = st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 10**6)), min_size=2, max_size=6)


@given(COUNTS, st.integers(0, 10**5))
def test_no_more_than_the_budget_and_no_less_than_the_least(generators, spare):
    least, sizes = zip(*generators, strict=True)
    budget = sum(least) + spare
    found = shares(budget, least, sizes)
    assert budget - len(sizes) < sum(found) <= budget  # all but what rounding down leaves
    assert all(share >= smallest for share, smallest in zip(found, least, strict=True))


def test_larger_targets_get_more():
    assert shares(1000, [100, 100, 100], [1, 2, 4]) == [200, 300, 500]


def test_one_generator_gets_all_and_too_little_is_refused():
    assert shares(5, [10], [300]) == [5]  # its own sizes refuse it, with the smallest there is
    with pytest.raises(ConfigError, match=r"the smallest 2 generators .* train 20\. Raise the budget"):
        shares(19, [10, 10], [1, 1])
