"""`ProcessExecutor` with real tuners."""

from __future__ import annotations

import os
import socket
import time

import numpy as np
import pytest
import remote_work
import restarts
import tiny

import manyfit as kt
from manyfit.core.errors import UsageError
from manyfit.core.events import EpochsEnded
from manyfit.executors import process
from manyfit.oracles.requests import RequestDesk
from manyfit.store.requests import ask


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A random search on two processes, one of which is killed in the middle of an epoch, and the same one here."""
    folder = tmp_path_factory.mktemp("searches")
    x, y = remote_work.rows()
    tuners = []
    for name, executor in (("here", None), ("there", kt.ProcessExecutor(workers=2))):
        tuner = kt.RandomSearch(
            remote_work.build, "val_loss", 6, seed=0, directory=folder, project_name=name, executor=executor
        )
        callbacks = [remote_work.Killing(str(folder))] if executor else []
        tuner.search(x, y, epochs=3, validation_data=(x, y), verbose=0, callbacks=callbacks)
        tuners.append(tuner)
    assert (folder / "killed-0").exists()
    tuners[1].programs_of_search = tuners[1].programs()  # what follows trains more
    yield tuners
    tuners[1].close()


@pytest.mark.backends
def test_processes_find_what_one_process_finds(searched):
    here, there = searched
    assert tiny.proposals(there) == tiny.proposals(here)
    for trial_id, trial in here.oracle.trials.items():
        other = there.oracle.trials[trial_id]
        assert other.score == pytest.approx(trial.score, rel=1e-5)
        assert other.executions[0].num_epochs == 3


def test_weights_and_programs_come_back(searched):
    x, y = remote_work.rows()
    here, there = (tuner.get_best_models(1)[0].evaluate(x, y, verbose=0)[0] for tuner in searched)
    assert there == pytest.approx(here, rel=1e-5)
    runs = [run for trial in searched[1].oracle.trials.values() for run in trial.executions.values()]
    assert sum(record.members for record in searched[1].programs_of_search.records) == len(runs)


@pytest.mark.backends
def test_confirming_runs_there_too(searched):
    here, there = (tuner.confirm(top=2, max_executions=11) for tuner in searched)
    assert there.winning_set == here.winning_set
    for ours, theirs in zip(there.rows, here.rows, strict=True):
        assert ours.trial_id == theirs.trial_id
        assert ours.score == pytest.approx(theirs.score, rel=1e-5)


@pytest.mark.backends
def test_retraining_runs_there_too(searched):
    x, y = remote_work.rows()
    here, there = (
        tuner.retrain(top=1, x=x, y=y, verbose=0, callbacks=[])[0].evaluate(x, y, verbose=0)[0] for tuner in searched
    )
    assert there == pytest.approx(here, rel=1e-5)


class Asks:
    """Asks something of the project when a trial's first epoch of a phase is in its book."""

    def __init__(self, folder, **asked):
        self.folder, self.asked = folder, asked  # phase and trial -> what is asked

    def hear(self, event):
        if isinstance(event, EpochsEnded):
            for plan, _, _ in event.epochs:
                for what, details in self.asked.pop(f"{plan.phase}_{plan.trial_id}", ()):
                    ask(self.folder, what, **details)


def test_requests_are_heard_there_too(tmp_path):
    """A trial stops, then the search, then a retraining: the driver takes requests, and workers are told."""
    x, y = remote_work.rows()
    tuner = kt.RandomSearch(
        remote_work.build, "val_loss", 3, seed=0, directory=tmp_path, project_name="p",
        executor=kt.ProcessExecutor(workers=1),
    )  # fmt: skip
    tuner.oracle.requests = RequestDesk(tuner.oracle, now=iter(range(10**6)).__next__)  # it looks each time
    stop = [("stop", {})]
    asks = Asks(tmp_path / "p", search_0=[("stop_trial", {"trial_id": "0"})], search_1=stop)
    with tuner.oracle.book.events.listening(asks):
        tuner.search(x, y, epochs=500, validation_data=(x, y), verbose=0)
    assert tuner.ended_by == "stopped"
    assert all(1 <= tuner.oracle.trials[trial_id].executions[0].num_epochs < 500 for trial_id in ("0", "1"))
    best = tuner.oracle.get_best_trials(1)[0].trial_id
    with tuner.oracle.book.events.listening(Asks(tmp_path / "p", **{f"retrain_{best}": stop})):
        [model] = tuner.retrain(epochs=500, verbose=0)
    assert 1 <= len(model.history.history["loss"]) < 500
    assert [one["is_done"] for one in kt.open_project(tmp_path / "p").requests] == [True] * 3
    tuner.close()


def test_memory_goes_back_and_a_cap_holds(tmp_path):
    """One search of formulas: trials that leak are followed by a new process, one that takes too much ends."""
    hp = kt.HyperParameters()
    hp.Choice("megabytes", [1, 700, 1500, 2])
    executor = kt.ProcessExecutor(workers=1, max_memory_bytes=1300 << 20)
    tuner = remote_work.Leaking(
        objective="loss", max_trials=None, hyperparameters=hp, directory=tmp_path, executor=executor
    )
    tuner.search(verbose=0)
    tuner.close()
    by_size = {trial.hyperparameters.get("megabytes"): trial for trial in tuner.oracle.trials.values()}
    assert by_size[1500].ending == "out of memory" and "the cap is 1.3 GiB" in by_size[1500].message
    held = {size: by_size[size].executions[0].metrics["held_megabytes"] for size in (1, 700, 2)}
    assert held[700] == 701, "a trial after a small one runs in the same process"
    assert held[2] == 2, "a trial after a large one does not"


def test_memory_goes_back_after_each_trial_without_a_new_process(tmp_path):
    """Trials that leave much to be collected, in cycles and in small pieces; what is held is measured at the next."""
    hp = kt.HyperParameters()
    hp.Choice("megabytes", [1, 300, 301, 2])
    tuner = remote_work.Littering(
        objective="loss",
        max_trials=None,
        hyperparameters=hp,
        directory=tmp_path,
        executor=kt.ProcessExecutor(workers=1),
    )
    tuner.search(verbose=0)
    tuner.close()
    runs = [trial.executions[0].metrics for trial in tuner.oracle.trials.values()]
    assert len(runs) == 4 and len({run["pid"] for run in runs}) == 1
    used = [run["used_megabytes"] for run in runs]
    assert min(used[1:3]) > 250, used
    held = [run["held_megabytes"] for run in runs]
    assert max(held) - held[0] < 40, held


def test_a_driver_that_is_killed_and_started_again_finds_the_same_and_leaves_no_process(tmp_path):
    """A script without `if __name__`, with a class of its own."""
    children = restarts.check("kt.ProcessExecutor(workers=2)", tmp_path)
    until = time.monotonic() + 60
    while time.monotonic() < until and any(map(alive, children)):
        time.sleep(0.1)
    assert children and not any(map(alive, children))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    "arguments", [{"workers": 0}, {"workers": 1.5}, {"max_memory_bytes": 0}, {"recycle_after": -1}]
)
def test_numbers_out_of_range_are_refused(arguments):
    with pytest.raises(UsageError) as caught:
        kt.ProcessExecutor(**arguments)
    tiny.four_parts(caught.value)


def test_a_cap_that_nobody_could_watch_is_refused(monkeypatch):
    monkeypatch.setattr(process, "held_bytes", lambda: 0)  # as on macOS
    with pytest.raises(UsageError, match="Linux") as caught:
        kt.ProcessExecutor(max_memory_bytes=1 << 30)
    tiny.four_parts(caught.value)


def test_what_is_no_executor_is_refused(project):
    with pytest.raises(UsageError, match="ProcessExecutor") as caught:
        kt.RandomSearch(tiny.build, "loss", executor="processes", **project)
    tiny.four_parts(caught.value)


# -- who may connect -----------------------------------------------------------------------------------------------


def test_nobody_can_connect_to_a_worker_or_read_what_it_shares():
    """A worker is reached by a pair of sockets without a name, and arrays by a file without one, or of the user's."""
    pool = process.ProcessPool(kt.ProcessExecutor(workers=1))
    try:
        name = pool.start()
        descriptor = pool._workers[name].line.fileno()
        with socket.socket(fileno=os.dup(descriptor)) as line:
            assert line.family == socket.AF_UNIX and not line.getsockname() and not line.getpeername()
            assert not line.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        handle = pool.share(np.zeros(3))
        assert os.stat(pool._folder.name).st_mode & 0o077 == 0
        # Others may not look into /proc/<pid>/fd of this user's process, nor into a file of rights 0600.
        assert handle.path.startswith(f"/proc/{os.getpid()}/fd/") or os.stat(handle.path).st_mode & 0o077 == 0
    finally:
        pool.close()
