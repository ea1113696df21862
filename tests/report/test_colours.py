"""The display for people: chosen, refused, or told from the terminal."""

from __future__ import annotations

import sys

import pytest
import tiny

from manyfit.core.errors import UsageError
from manyfit.report.colours import style_of


@pytest.mark.parametrize(("display", "terminal", "redraws", "style"), [
    ("auto", True, True, "live"), ("auto", True, False, "tables"), ("auto", False, True, "lines"),
    ("auto", False, False, "lines"), ("plain", True, True, "plain"), ("rich", False, True, "tables"),
    ("rich", True, True, "live"), ("lines", True, True, "lines"),
])  # fmt: skip
def test_standard_output_decides_unless_told_otherwise(display, terminal, redraws, style, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert style_of(display, redraws=redraws) == style


def test_programs_of_keras_tuner_that_print_into_files_keep_its_lines(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert style_of("auto", redraws=True, keras_tuner=True) == "plain"
    assert style_of("lines", redraws=True, keras_tuner=True) == "lines"


def test_a_search_shows_tables_in_place_of_keras_tuners_lines(tmp_path, capsys):
    tiny.numbers(lambda trial: 1.5, max_trials=2, seed=0, directory=tmp_path, display="rich").search()
    shown = capsys.readouterr().out
    assert "Trial 0: completed in 00h 00m" in shown and "2 of 2 trials, best default_objective 1.5" in shown
    assert "Search: Running Trial" not in shown


def test_another_name_is_refused(tmp_path):
    with pytest.raises(UsageError, match="plain"):
        tiny.numbers(lambda trial: 1.0, directory=tmp_path, display="loud")
