"""What is seen of a search while it runs, in lines and on a terminal; and that nothing of it stops a search."""

from __future__ import annotations

import io
import logging
import re
import sys
import time

import manyfit as kt  # isort: skip

import keras
import pytest
import tiny
from marks import needs_jax
from rich.cells import cell_len

from manyfit.core.events import EpochsEnded, Events, ExecutionsEnded, StepBegan, StepEnded, TrialEnded, TrialsBegan
from manyfit.core.objective import Objective
from manyfit.core.records import Plan
from manyfit.report.pages import console
from manyfit.show.board import Board
from manyfit.show.progress import LineProgress, LiveProgress
from manyfit.show.screen import MOST_LINES, layout
from manyfit.store.facts import Leader, SearchPlan
from manyfit.tuners import display as displays


class Clock:
    """Seconds that go on when a test says so."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


class Fixed:
    """What a board asks of a search, as a test sets it."""

    def __init__(self, **known):
        self.objective = Objective("val_accuracy", "max")
        self.known = {"plan": SearchPlan(16, None, 20, 1), "leader": None, "programs": [], "left": float("inf")} | known

    def plan(self):
        return self.known["plan"]

    def leader(self):
        return self.known["leader"]

    def programs(self):
        return self.known["programs"]

    def spent(self):
        return {"store": 0.5}

    def left(self):
        return self.known["left"]


def plans(count):
    return [Plan(f"{number:02}", 0, {}, seed=number) for number in range(count)]


def begun(count=12, epochs=0, ended=(), clock=None, **known):
    """A board of a search with so many members, so many epochs into their training."""
    clock = clock or Clock()
    board = Board(Fixed(**known), now=clock)
    board.hear(StepBegan("a search"))
    board.hear(TrialsBegan({plan.trial_id: {"rate": 0.1 * plan.seed, "same": 1} for plan in plans(count)}))
    for epoch in range(epochs):
        clock.seconds += 1
        board.hear(EpochsEnded([(plan, epoch, {"val_accuracy": 0.5 + plan.seed / 100}) for plan in plans(count)]))
    for plan, score in zip(plans(count), ended, strict=False):
        board.hear(ExecutionsEnded([plan]))
        board.hear(TrialEnded(plan.trial_id, score, None if score is not None else "Traceback\nValueError: too wide"))
    return board


def drawn(board, width=80):
    file = io.StringIO()
    screen = console(file, width=width)
    screen.print(layout(board, width))
    return file.getvalue()


# On a terminal -----------------------------------------------------------------------------------------------------


def test_before_the_first_epoch_it_says_what_takes_so_long():
    page = drawn(begun(4))
    assert "0 of 16 trials" in page and "building, tracing and compiling the first program" in page


def test_members_are_a_table_of_what_differs():
    page = drawn(begun(12, epochs=6))
    rows = re.findall(r"^(\d\d) +6/20 +0\.\d+ +0\.\d+ +\S+ +(\S+)$", page, re.MULTILINE)
    assert len(rows) == 6 and "… and 6 more" in page and "rate" in page and "same" not in page
    assert "trial 11 is ahead: val_accuracy 0.61" in page


def test_time_left_is_that_of_the_epochs_that_are_left_or_of_the_limit():
    """Outside witness: 12 epochs per second after the first; 16 x 20 - 72 are left."""
    board = begun(12, epochs=6)
    assert board.seconds_left() == pytest.approx((16 * 20 - 72) / 12)
    assert begun(12, epochs=6, left=3.0).seconds_left() == 3.0
    assert begun(12, epochs=2).seconds_left() is None  # the first epochs tell too little
    assert begun(12, epochs=6, plan=SearchPlan(None, None, 20, 1)).seconds_left() is None


def test_the_best_is_shown_with_its_luck_and_who_is_within_it():
    leader = Leader("02", 0.815, 3, noise=0.0086)
    page = drawn(begun(12, epochs=6, ended=(0.80, 0.75, 0.815), leader=leader))
    assert "Best so far: trial 02, val_accuracy 0.815 ±0.017 by luck; within that: 00" in page
    unknown = drawn(begun(12, epochs=6, ended=(0.80, 0.75, 0.9832477841515216)))
    assert "trial 02, val_accuracy 0.983 (its luck is not known yet)" in unknown


@pytest.mark.parametrize("width", [40, 80, 120])
def test_it_never_has_more_than_sixteen_lines_nor_is_wider_than_the_terminal(width):
    programs = [{"members": 12, "compile_seconds": 2.1}]
    board = begun(12, epochs=6, ended=(0.8, None, 0.7), programs=programs, leader=Leader("00", 0.8, 2, noise=0.01))
    lines = drawn(board, width).splitlines()
    assert len(lines) <= MOST_LINES and max(map(len, lines)) <= width
    if width >= 80:
        assert "12 executions trained as 1 program, compiled in 2.1 s" in "\n".join(lines)
        assert any(line.startswith("1 trial failed, the newest: ValueError: too wide") for line in lines)


def test_a_score_of_a_part_of_the_rows_is_the_best_as_long_as_there_is_no_other():
    board = begun(3)
    board.hear(TrialEnded("00", 0.9, "trained on 10 of 90 rows", num_rows=10))
    board.hear(TrialEnded("01", 0.7, "trained on 10 of 90 rows", num_rows=10))
    assert board.best() == ("00", 0.9) and board.step.num_ended == 2
    board.hear(TrialEnded("01", 0.8, None))  # anew, on all rows
    assert board.best() == ("01", 0.8) and board.step.num_ended == 2


def test_names_and_messages_cannot_reach_the_terminal():
    board = begun(2, epochs=6)
    for place, member in enumerate(board.members.values()):
        member.values = {"[red]a\x1b[31m": f"\x07[b]{place}"}
    board.hear(TrialEnded("01", None, "[bold]\x1b]0;mine\x07"))
    page = drawn(board)
    assert "[red]" in page and not [letter for letter in page if not (letter.isprintable() or letter == "\n")]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_it_vanishes_when_the_step_is_over(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    file, board = Terminal(), begun(2, epochs=6)
    live = LiveProgress(Fixed(), file=file, board=board)
    live.hear(StepBegan("a search"))
    assert "search" in file.getvalue() and "\x1b[?25l" in file.getvalue()  # the cursor is hidden
    live.hear(StepEnded("a search"))
    end = file.getvalue()[-400:]
    assert "\x1b[2K" in end and "\x1b[?25h" in end  # its lines are erased, and the cursor is back


def test_it_is_drawn_while_the_search_is_in_the_middle_of_something_long(project, monkeypatch):
    """A trial that ends once it was drawn three more times: if only events drew, nobody would ever draw again."""
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()

    def run(trial):
        drawn, deadline = len(file.getvalue()), time.monotonic() + 60
        for _ in range(3):
            while len(file.getvalue()) == drawn and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(file.getvalue()) > drawn
            drawn = len(file.getvalue())
        return 1.0

    tuner = tiny.numbers(run, max_trials=1, seed=0, **project)
    tuner.oracle.book.events.listen(LiveProgress(Fixed(), file=file))
    tuner.search(verbose=0)
    assert tuner.oracle.get_best_trials(1) and "building, tracing and compiling" in file.getvalue()
    assert file.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in file.getvalue()[-80:]  # the cursor is back


def test_ctrl_c_leaves_a_clean_terminal(project, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()

    def run(trial):
        raise KeyboardInterrupt

    tuner = tiny.numbers(run, max_trials=1, seed=0, **project)
    tuner.oracle.book.events.listen(LiveProgress(Fixed(), file=file))
    with pytest.raises(KeyboardInterrupt):
        tuner.search(verbose=0)
    assert "\x1b[2K" in file.getvalue()[-400:] and "\x1b[?25h" in file.getvalue()[-400:]


def test_columns_stand_below_their_headings_whatever_letters_names_have():
    board = begun(3, epochs=6)
    for place, member in enumerate(board.members.values()):
        member.values = {"学習率": 10.0**place, "rate": "x" * (5 * place + 1)}
    heading, *rows = [line for line in drawn(board, 120).splitlines() if re.match(r"trial|\d\d  ", line)]
    ends = {cell_len(heading[: heading.index("rate") + 4])}
    assert ends == {cell_len(row.rstrip()) for row in rows} and "学習率" in heading


def test_a_screen_that_cannot_be_drawn_is_empty_and_is_logged(monkeypatch, caplog):
    monkeypatch.setenv("TERM", "xterm")
    sources = Fixed()
    live = LiveProgress(sources, file=Terminal())
    sources.known["plan"] = None
    with caplog.at_level(logging.WARNING, "manyfit"):
        live.hear(StepBegan("a search"))
        live.hear(StepEnded("a search"))
    assert [record.name for record in caplog.records] == ["manyfit"] and "drawn" in caplog.text


# In files and pipes --------------------------------------------------------------------------------------------------


def in_lines(clock, **known):
    file, board = io.StringIO(), begun(3, epochs=6, clock=clock, **known)
    return LineProgress(Fixed(**known), file=file, board=board, beats=False), file


def test_a_line_per_trial_and_a_heartbeat_after_thirty_seconds_of_silence():
    clock = Clock()
    lines, file = in_lines(clock)
    lines.hear(TrialEnded("00", 0.8, None))
    clock.seconds += 29
    lines.beat()
    assert len(file.getvalue().splitlines()) == 1
    clock.seconds += 2
    lines.beat()
    lines.beat()
    first, second = file.getvalue().splitlines()
    assert first == "[1/16] trial 00: val_accuracy 0.8; best 0.8 (trial 00) (rate 0, same 1)"
    assert second.startswith("37 s: search: 1 trial ended, 3 train, 18 epochs, about ")
    assert "\x1b" not in file.getvalue()


def test_a_failed_trial_has_its_cause():
    lines, file = in_lines(Clock())
    lines.hear(TrialEnded("01", None, "Traceback ...\nValueError: too wide"))
    assert file.getvalue() == "[1/16] trial 01 failed: ValueError: too wide (rate 0.1, same 1)\n"


# In a search ----------------------------------------------------------------------------------------------------------


def build(hp):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(keras.optimizers.SGD(hp.Float("rate", 0.001, 1.0)), "binary_crossentropy", metrics=["accuracy"])
    return model


class Broken:
    """A listener that fails at once."""

    def __init__(self):
        self.heard = 0

    def hear(self, event):
        self.heard += 1
        raise OSError("the terminal is gone")


def test_a_listener_that_fails_stops_nothing_and_is_told_nothing_more(project, caplog):
    tuner = tiny.numbers(lambda trial: 1.0, max_trials=3, seed=0, **project)
    broken = Broken()
    tuner.oracle.book.events.listen(broken)
    with caplog.at_level(logging.WARNING, "manyfit"):
        tuner.search(verbose=0)
    assert len(tuner.oracle.get_best_trials(9)) == 3 and broken.heard == 1
    assert "Broken is told nothing more" in caplog.text and "the terminal is gone" in caplog.text


def test_events_are_told_in_their_order_once_committed(project):
    """Each is checked against the database: what an event tells is there for whoever looks."""
    tuner = tiny.numbers(lambda trial: 1.0, max_trials=2, seed=0, **project)
    seen = []

    class Looks:
        def hear(self, event):
            if not isinstance(event, StepBegan):
                trials = kt.open_project(tuner.project_dir).trials
                seen.append((type(event).__name__, len(trials), sum(trial.ended_at is not None for trial in trials)))

    events = tuner.oracle.book.events
    assert isinstance(events, Events)
    events.listen(Looks())
    tuner.search(verbose=0)
    told = [name for name, _, _ in seen if name not in ("EpochsEnded", "ExecutionsEnded")]
    assert told[0] == "CallBegan" and told[-1] == "CallEnded"
    assert told[1:-1] == ["TrialsBegan", "TrialEnded", "TrialsBegan", "TrialEnded", "StepEnded"]
    assert [(begun, ended) for name, begun, ended in seen if name == "TrialEnded"] == [(1, 1), (2, 2)]


@needs_jax
def test_a_display_that_fails_in_the_middle_leaves_the_search_alone(project, monkeypatch, caplog, rows):
    def fail(self, event):
        raise OSError("the terminal is gone")

    monkeypatch.setattr(LineProgress, "hear", fail)
    tuner = kt.RandomSearch(build, "accuracy", max_trials=2, seed=1, display="lines", **project)
    with caplog.at_level(logging.WARNING, "manyfit"):
        tuner.search(*rows, epochs=1)
    assert len(tuner.oracle.get_best_trials(2)) == 2 and "the progress is shown no more" in caplog.text


@pytest.mark.parametrize(("display", "is_said"), [("auto", True), ("rich", True), ("lines", False), ("plain", False)])
def test_a_tuner_that_builds_for_long_says_so_at_a_terminal(display, is_said, project, monkeypatch):
    """The build function goes on once the line is there; where none may come, once it would have come elsewhere."""
    monkeypatch.setattr(displays, "_SOON_SECONDS", 0.0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)

    def waits(hp):
        deadline = time.monotonic() + (60 if is_said else 0.2)
        while not terminal.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        return build(hp)

    kt.RandomSearch(waits, "accuracy", max_trials=2, display=display, **project)
    said = "Running the build function, to find the hyperparameters …\n"
    assert terminal.getvalue() == (said if is_said else "")


def test_a_tuner_that_is_made_is_silent_in_files(project, monkeypatch, capsys):
    monkeypatch.setattr(displays, "_SOON_SECONDS", 0.0)
    kt.RandomSearch(lambda hp: (time.sleep(0.1), build(hp))[1], "accuracy", max_trials=2, **project)
    assert capsys.readouterr().out == ""
