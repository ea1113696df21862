"""The display for people: chosen, refused, or told from the terminal."""

from __future__ import annotations

import sys

import pytest
import tiny

from manyfit.core.errors import UsageError
from manyfit.report.colours import is_rich


@pytest.mark.parametrize(("display", "terminal", "rich"), [
    ("auto", True, True), ("auto", False, False), ("plain", True, False), ("rich", False, True),
])  # fmt: skip
def test_an_interactive_terminal_gets_it_unless_told_otherwise(display, terminal, rich, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert is_rich(display) is rich


def test_a_search_shows_tables_in_place_of_keras_tuners_lines(tmp_path, capsys):
    tiny.numbers(lambda trial: 1.5, max_trials=2, seed=0, directory=tmp_path, display="rich").search()
    shown = capsys.readouterr().out
    assert "Trial 0: completed in 00h 00m" in shown and "2 of 2 trials, best default_objective 1.5" in shown
    assert "Search: Running Trial" not in shown


def test_another_name_is_refused(tmp_path):
    with pytest.raises(UsageError, match="plain"):
        tiny.numbers(lambda trial: 1.0, directory=tmp_path, display="loud")
