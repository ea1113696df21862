import pytest

from manyfit.core.errors import UsageError
from manyfit.stats.ranking import expected_maximum


@pytest.mark.parametrize(
    ("count", "expected"),
    # Harter 1961, expected values of normal order statistics, 5 decimals.
    [(1, 0.0), (2, 0.56419), (3, 0.84628), (5, 1.16296), (10, 1.53875), (20, 1.86748), (100, 2.50759)],
)
def test_expected_maximum_is_the_tables(count, expected):
    assert expected_maximum(count) == pytest.approx(expected, abs=6e-6)


def test_expected_maximum_of_nobody_is_refused():
    with pytest.raises(UsageError, match="1 or more"):
        expected_maximum(0)
