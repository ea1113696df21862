"""Every call shows its progress: what is counted of each, what stays of it; in lines, in a notebook, from outside."""

from __future__ import annotations

import io
import re

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny
from marks import needs_jax

from manyfit.core.events import (
    CallBegan,
    CallEnded,
    EpochsEnded,
    ExecutionsEnded,
    PhaseBegan,
    RunsPlanned,
    StepBegan,
    StepEnded,
    TrialsBegan,
)
from manyfit.core.objective import Objective
from manyfit.core.records import Plan
from manyfit.report.pages import console
from manyfit.show.board import Board
from manyfit.show.notebook import NotebookProgress
from manyfit.show.outside import WatchedProject
from manyfit.show.screen import MOST_LINES, layout
from manyfit.store.facts import SearchPlan


class Clock:
    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


class Sources:
    """A search of at most 16 trials, of whose seconds so many are left."""

    objective = Objective("val_accuracy", "max")

    def __init__(self, left=float("inf")):
        self.seconds_left = left

    def plan(self):
        return SearchPlan(16, None, 20, 1)

    def leader(self):
        return None

    def programs(self):
        return []

    def spent(self):
        return {}

    def left(self):
        return self.seconds_left


def drawn(board, width=120):
    file = io.StringIO()
    console(file, width=width).print(layout(board, width))
    return file.getvalue()


def told(board, *events):
    for event in events:
        board.hear(event)


def test_the_phases_of_fit_have_their_seconds_and_those_that_are_kept_for_later_ones():
    clock = Clock()
    board = Board(Sources(left=20.0), now=clock)
    told(board, CallBegan("a fit"), PhaseBegan("search", 60.0), CallBegan("a search"), StepBegan("a search"))
    clock.seconds += 30
    first, second, *_ = drawn(board).splitlines()
    # 60 s in all, 30 of them gone, 20 of the rest for the search.
    assert re.match(r"fit +━+─+ 30 s of 1 min 0 s: search 30 s; 10 s are kept$", first)
    assert re.match(r"search +─+ 0 of 16 trials · 30 s · about 20 s left$", second)
    told(board, StepEnded("a search"), CallEnded("a search"), PhaseBegan("bag", 28.0), CallBegan("a bag"))
    told(board, RunsPlanned(10, 40), StepBegan("a bag"))
    clock.seconds += 4
    plans = [Plan("03", number, {}, seed=number, phase="fold") for number in range(2)]
    told(board, EpochsEnded([(plan, 0, {"val_accuracy": 0.5}) for plan in plans]), ExecutionsEnded(plans[:1]))
    first, second, *rest = drawn(board).splitlines()
    assert "34 s of 58 s: search 30 s, bag 4.0 s" in first
    assert re.match(r"bag +━+─+ 1 of 10 runs · 4.0 s · about 24 s left$", second)
    assert any(line.startswith("03/2") for line in rest)  # the second run of trial 03
    told(board, StepEnded("a bag"), CallEnded("a bag"), CallEnded("a fit"))
    assert board.phase_seconds() == {"search": 30.0, "bag": 4.0}


@pytest.mark.parametrize("width", [40, 80])
def test_no_phase_makes_it_longer_or_wider_than_it_may_be(width):
    board = Board(Sources(left=20.0), now=Clock())
    told(board, CallBegan("a fit"), PhaseBegan("x" * 200, 60.0), CallBegan("a search"))
    plans = [Plan(f"{number:02}", 0, {}, seed=number) for number in range(9)]
    told(board, TrialsBegan({plan.trial_id: {"[b]" + "n" * 200: plan.seed} for plan in plans}))
    told(board, EpochsEnded([(plan, 0, {"val_accuracy": 0.5}) for plan in plans]))
    lines = drawn(board, width).splitlines()
    assert len(lines) <= MOST_LINES and max(map(len, lines)) <= width


class Cell:
    """A cell's outputs: each is a list of what it has shown."""

    def __init__(self):
        self.outputs = []

    def open(self, bundle):
        shown = [bundle]
        self.outputs.append(shown)

        class Handle:
            def update(self, bundle, *, raw):
                shown.append(bundle)

        return Handle()


def test_a_notebook_has_one_output_that_is_updated_in_place():
    cell = Cell()
    progress = NotebookProgress(Sources(), open_with=cell.open, draws=False, says_trials=True)
    for event in (CallBegan("a search"), StepBegan("a search"), TrialsBegan({"00": {"<script>": "</pre>"}})):
        progress.hear(event)
    progress.draw()
    progress.say("precision: float32")
    progress.draw()
    progress.hear(StepEnded("a search"))
    progress.hear(CallEnded("a search"))
    progress.finish(["Trial 00 leads."])
    progress.draw()  # of a thread that was late
    [shown] = cell.outputs
    assert "0 of 16 trials" in shown[0]["text/plain"] and "precision: float32" in shown[2]["text/plain"]
    assert shown[-1]["text/plain"] == "precision: float32\nTrial 00 leads."
    assert all(one["text/html"].count("<") == 2 for one in shown)  # <pre> and </pre>: nothing else is markup


def test_a_project_is_watched_from_outside(project):
    trainer = tiny.Formula(num_epochs=4)
    tuner = tiny.searched(trainer, max_trials=3, seed=0, **project)
    screens = []

    class Looks:
        def hear(self, event):
            if isinstance(event, EpochsEnded):
                watched = WatchedProject(tuner.store.layout.folder)
                screens.append((watched.is_worked_on, drawn(watched.board), watched.drawn(80)))

    tuner.oracle.book.events.listen(Looks())
    tuner.search(epochs=4, verbose=0)
    working, page, _ = screens[-1]
    assert working and len(screens) == 12
    assert "2 of 3 trials" in page and "12 of 12" in page and "Best so far: trial" in page
    assert re.search(r"^2 +4/4 ", page, re.MULTILINE)
    after = WatchedProject(tuner.store.layout.folder)
    assert not after.is_worked_on and not after.board.members


# In a search and in the steps after it ------------------------------------------------------------------------------


def build(hp):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(keras.optimizers.SGD(hp.Float("rate", 0.001, 1.0)), "binary_crossentropy", metrics=["accuracy"])
    return model


def data(count):
    x = np.random.default_rng(0).normal(size=(count, 3)).astype("float32")
    return x, (x.sum(axis=1) > 0).astype("int32")


@needs_jax
def test_into_a_file_each_call_has_a_first_line_and_what_stays_of_it(project, capsys):
    """`display` is left out: standard output is no terminal here."""
    tuner = kt.RandomSearch(build, "val_accuracy", max_trials=5, seed=1, **project)
    tuner.search(*data(60), epochs=2, validation_split=0.5)
    best = tuner.oracle.get_best_trials(1)[0].trial_id
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "search: begun" and [line[:5] for line in lines[1:6]] == [f"[{n}/5]" for n in range(1, 6)]
    assert lines[6] == "The search ended after 5 trials: max_trials=5 is reached."
    assert re.match(rf"Trained afresh, trial {best} should show val_accuracy 0\.\d+ \[0\.\d+, [01]\.\d+\]", lines[7])
    assert [line.split()[0] for line in lines[8:]] == ["Values:", "Time", "Next:"]
    tuner.confirm(top=2, max_executions=8, proof_executions=0)
    lines = capsys.readouterr().out.splitlines()
    best = tuner.oracle.get_best_trials(1)[0].trial_id
    assert lines[0] == "confirmation: begun" and lines[-1].startswith("Next: tuner.retrain() trains trial " + best)
    assert re.match(r"Trained afresh, trial \S+ should show val_accuracy \S+ \[.*by \d fresh seeds", lines[1])
    assert re.fullmatch(r"Time \S+ s: [68] runs", lines[3])
    models = tuner.retrain(top=2, epochs=3)
    lines = capsys.readouterr().out.splitlines()
    assert len(models) == 2 and lines[0] == "retraining: begun"
    assert lines[-4].startswith("2 models trained anew on all rows, of trials ")
    assert re.fullmatch(r"Time \S+ s: 6 epochs", lines[-2])
    tuner.ensemble()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ensemble: begun" and re.match(r"\d members?: accuracy 0?1?\.\d+", lines[1])
    tuner.search(*data(60), epochs=2, validation_split=0.5)
    assert capsys.readouterr().out.splitlines()[1].startswith("Nothing is left to search.")
    tuner.confirm(top=2, max_executions=8, proof_executions=0, verbose=0)
    tuner.ensemble(verbose=0)
    assert capsys.readouterr().out == ""


def test_keras_prints_no_bars_beside_the_lines_and_does_where_its_lines_are_asked_for(tmp_path, rows, capfd):
    for display in ("auto", "plain"):
        tuner = kt.RandomSearch(
            build, "loss", max_trials=1, seed=0, population=False, display=display, directory=tmp_path / display
        )
        tuner.search(*rows, epochs=1)
        out = capfd.readouterr().out
        assert ("s/step" in out) is (display == "plain"), out
        assert ("[1/1] trial 0: loss" in out) is (display == "auto")
        tuner.close()


def test_a_call_that_fails_leaves_no_verdict(project, rows, capsys):
    tuner = kt.RandomSearch(build, "loss", max_trials=1, seed=0, **project)
    with pytest.raises(kt.errors.UsageError):
        tuner.confirm()
    assert capsys.readouterr().out == "confirmation: begun\n"
