"""What `model.fit` compiles is left when the time is up, and kept for the next model of that structure."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import threading

import pytest
import tiny
from marks import needs_jax

from manyfit.core.clock import Clock
from manyfit.core.threads import LeavableThreads
from manyfit.training import in_time, known_costs

pytestmark = needs_jax


class Times:
    """A time that goes when it is told to."""

    now = 0.0

    def __call__(self):
        return self.now


def started(seconds, times):
    clock = Clock(seconds, now=times)
    clock.start()
    return clock


@pytest.fixture(autouse=True)
def _nothing_is_remembered(monkeypatch):
    monkeypatch.setattr(known_costs, "cache_folder", lambda *parts: None)


@pytest.mark.parametrize("pauses", [False, True], ids=["in the thread of the call", "in one that can be paused"])
def test_a_compilation_that_runs_over_is_named_and_left(pauses, project, rows, monkeypatch, capsys):
    times, released, ended = Times(), threading.Event(), []

    class Slow(LeavableThreads):
        def submit(self, compilation, /, *args):
            def slowly():
                times.now += 1000.0
                assert released.wait(60)
                ended.append(compilation())
                return ended[-1]

            return super().submit(slowly)

    monkeypatch.setattr(in_time, "LeavableThreads", Slow)
    options = {"scheduler": "asha"} if pauses else {}
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=2, seed=0, population=False, **options, **project)
    with tuner.limited(started(0.5, times)):
        tuner.search(*rows, epochs=2, validation_split=0.25)
    assert not ended and tuner.ended_by == "max_seconds" and tuner.oracle.clock.refused_seconds == 1000
    said = capsys.readouterr().out
    assert "the time was up while trials 0 waited for a program (Dense, Dense; " in said
    assert not [run for run in tuner.results() if run.num_epochs]
    released.set()
    monkeypatch.undo()
    tuner.search(*rows, epochs=2, validation_split=0.25, verbose=0)
    assert [run.score is not None for run in tuner.results()] == [True, True]


def test_a_second_model_of_a_structure_compiles_nothing(tmp_path, rows, monkeypatch):
    monkeypatch.setenv("MANYFIT_CACHE_DIR", str(tmp_path / "cache"))
    kept = []
    for rate in (0.1, 0.2):
        tuner = kt.RandomSearch(
            tiny.build, "val_loss", max_trials=1, population=False, directory=tmp_path, project_name=str(rate)
        )
        tuner.enqueue({"units": 3, "learning_rate": rate})
        tuner.search(*rows, epochs=1, validation_split=0.25, verbose=0)
        kept.append({path.name for path in (tmp_path / "cache" / "programs").iterdir() if "train_step" in path.name})
    assert kept[0] == kept[1] and len(kept[0]) == 1
