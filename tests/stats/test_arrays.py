import numpy as np
import pytest

from manyfit.core.errors import UsageError
from manyfit.stats import arrays


@pytest.mark.parametrize(
    ("values", "part"),
    [([[1.0]], "shape"), ([], "0 numbers"), ([1.0, np.nan], "NaN or infinity"), ([np.inf, 1.0], "NaN or infinity")],
)
def test_vector_refuses(values, part):
    with pytest.raises(UsageError, match=part):
        arrays.vector("here", values)


@pytest.mark.parametrize("scores", [[1.0, 2.0], np.empty((0, 3)), 1.0])
def test_score_table_wants_contenders_by_seeds(scores):
    with pytest.raises(UsageError, match="One row per contender"):
        arrays.score_table("here", scores)


def test_score_table_knows_no_minus_infinity():
    with pytest.raises(UsageError, match="flip the sign"):
        arrays.score_table("here", [[-np.inf]])
    assert np.isnan(arrays.score_table("here", [[np.inf, np.nan]])[0, 1])


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, "0.95", True, float("nan")])
def test_confidence_level_refuses(confidence):
    with pytest.raises(UsageError, match=r"Type 0\.95 for 95 %"):
        arrays.confidence_level("here", confidence)
