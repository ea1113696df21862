"""What is said where the time was too short for an epoch."""

from __future__ import annotations

import pytest

from manyfit.fitting.length import no_time_for_an_epoch


@pytest.mark.parametrize(
    ("limit", "predicted", "words"),
    [
        (1.0, None, ["fit(max_seconds=1): got 1 s", "one epoch at least", "max_seconds=10,"]),
        (5.0, 8.0, ["the step that did not fit takes 8 s or more", "max_seconds=80,"]),
        (None, None, ["fit(): got no epoch", "max_seconds=60,"]),
    ],
)
def test_the_error_says_how_long_it_would_take(limit, predicted, words):
    text = str(no_time_for_an_epoch(limit, predicted))
    assert all(each in text for each in words), text
