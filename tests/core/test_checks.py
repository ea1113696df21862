"""Whole numbers: which count as one, and what is said of the others."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from manyfit.core.checks import is_whole, whole_number, whole_number_or_none
from manyfit.core.errors import FatalValueError, UsageError


@pytest.mark.parametrize("value", [1, 10**30, np.int64(4), np.uint8(1)])
def test_whole_numbers(value):
    assert is_whole(value)
    found = whole_number("f(n)", value, instead="Type 1.")
    assert found == value and type(found) is int


@pytest.mark.parametrize("value", [True, np.True_, 2.0, np.float64(2), "2", None, [2], 0, -3])
def test_what_is_none_or_too_small_is_refused(value):
    with pytest.raises(UsageError) as caught:
        whole_number("f(n)", value, instead="Type 1.")
    where, got, allowed, instead = tiny.four_parts(caught.value)
    assert (where, got, allowed, instead) == ("f(n)", repr(value), "a whole number of at least 1", "Type 1.")


def test_none_stays_none_where_it_is_allowed():
    assert whole_number_or_none("f(n)", None, instead="Leave it out.") is None
    assert whole_number_or_none("f(n)", 0, least=0, instead="Leave it out.") == 0
    with pytest.raises(UsageError, match="a whole number of at least 1, or None"):
        whole_number_or_none("f(n)", 0, instead="Leave it out.")


def test_another_error_and_other_words():
    with pytest.raises(FatalValueError, match="two folds, or a splitter"):
        whole_number("f(n)", 1, least=2, allowed="two folds, or a splitter", instead="Type 5.", error=FatalValueError)
