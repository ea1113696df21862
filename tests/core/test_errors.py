"""The error family."""

import pytest

from manyfit.core import errors


def test_the_text_has_four_parts_in_order():
    text = errors.explain('Int("units")', 3, "an even number", "Type 4.")
    assert text == 'Int("units"): got 3. Allowed: an even number. Type 4.'


def test_a_text_that_came_in_is_shown_as_it_is():
    assert "got min=3. Allowed" in errors.explain("where", "min=3", "less", "Do.")


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.UsageError, ValueError),
        (errors.UsageTypeError, TypeError),
        (errors.UsageKeyError, KeyError),
        (errors.ProjectError, RuntimeError),
        (errors.SearchError, RuntimeError),
        (errors.FatalValueError, ValueError),
        (errors.FatalTypeError, TypeError),
        (errors.FatalRuntimeError, RuntimeError),
    ],
)
def test_each_error_is_caught_as_pythons_own(error, builtin):
    with pytest.raises(builtin) as caught:
        raise error("text")
    assert isinstance(caught.value, errors.ManyfitError)


def test_fatal_errors_are_fatal_and_failed_trials_are_not():
    assert issubclass(errors.FatalValueError, errors.FatalError)
    assert not issubclass(errors.FailedTrialError, errors.FatalError)


def test_a_key_error_shows_its_text_without_quotes():
    assert str(errors.UsageKeyError("no such name")) == "no such name"
    assert str(errors.UsageKeyError()) == ""
