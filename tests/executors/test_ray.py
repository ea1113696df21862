"""`RayExecutor` on real clusters of this machine: small, without a dashboard, ended by the tests that start them."""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import remote_work
import restarts
import tiny

import manyfit as kt
from manyfit.core.errors import UsageError
from manyfit.data.call import Call
from manyfit.executors import ray as executors_ray
from manyfit.testing.executors import check_executor, make_scripted, plans
from manyfit.testing.fakes import ListSupply
from manyfit.training.base import Task

ray = pytest.importorskip("ray", reason="needs Ray: pip install manyfit[ray]")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")

SMALL = {"num_cpus": 2, "num_gpus": 2, "object_store_memory": 150 << 20}  # the accelerators are only counted


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, with two processors and two accelerators by its own count."""
    executor = kt.RayExecutor(max_workers=2, max_losses=2, **SMALL)
    executor.connect()
    yield executor
    executor.close()


def test_conformance(cluster):
    check_executor(cluster)


def test_a_search_finds_what_one_process_finds_though_a_worker_dies(cluster, tmp_path):
    x, y = remote_work.rows()
    tuners = []
    for name, executor in (("here", None), ("there", cluster)):
        tuner = kt.Hyperband(
            remote_work.build, "val_loss", 4, 2, seed=0, directory=tmp_path, project_name=name, executor=executor
        )
        callbacks = [remote_work.Killing(str(tmp_path))] if executor else []
        tuner.search(x, y, validation_data=(x, y), verbose=0, callbacks=callbacks)
        tuners.append(tuner)
    here, there = tuners
    assert (tmp_path / "killed-0").exists()
    # Which trial is started when may differ; what is tried, how long, and how it goes may not.
    assert outcomes(there) == outcomes(here)
    best_here, best_there = (tuner.get_best_models(1)[0].evaluate(x, y, verbose=0)[0] for tuner in tuners)
    assert best_there == pytest.approx(best_here, rel=1e-5)
    there.close()


def outcomes(tuner):
    return sorted(
        (
            sorted((name, value) for name, value in trial.hyperparameters.values.items() if "tuner/" not in name),
            trial.executions[0].num_epochs,
            round(trial.score, 5),
        )
        for trial in tuner.oracle.trials.values()
    )


@pytest.mark.parametrize(("gpus", "devices", "share"), [(0.5, 1, 0.45), (2, 2, 0.0)])
def test_accelerators_are_shared_or_reserved_together(cluster, tmp_path, gpus, devices, share):
    executor = kt.RayExecutor(resources_per_worker={"CPU": 0.5, "GPU": gpus}, max_workers=2)
    tuner = remote_work.Devices(
        objective="loss", max_trials=4, hyperparameters=remote_work.space(), directory=tmp_path, executor=executor
    )
    tuner.search(verbose=0)
    tuner.close()
    metrics = [trial.executions[0].metrics for trial in tuner.oracle.trials.values()]
    assert {row["devices"] for row in metrics} == {devices}
    assert {row["share"] for row in metrics} == {share}
    assert len({row["pid"] for row in metrics}) == (2 if gpus < 1 else 1)


def test_a_cap_on_memory_holds(cluster, tmp_path):
    hp = kt.HyperParameters()
    hp.Choice("megabytes", [1, 1500, 2])
    executor = kt.RayExecutor(resources_per_worker={"CPU": 1, "memory": 1300 << 20}, max_workers=1)
    tuner = remote_work.Leaking(
        objective="loss", max_trials=None, hyperparameters=hp, directory=tmp_path, executor=executor
    )
    tuner.search(verbose=0)
    tuner.close()
    endings = {trial.hyperparameters.get("megabytes"): trial.ending for trial in tuner.oracle.trials.values()}
    assert endings == {1: "completed", 1500: "out of memory", 2: "completed"}


def test_a_driver_that_is_killed_and_started_again_finds_the_same(cluster, tmp_path):
    """On a cluster that outlives it, where Ray ends the workers of the dead one."""
    address = ray.get_runtime_context().gcs_address
    restarts.check(f'kt.RayExecutor(address="{address}", max_workers=2)', tmp_path)


def test_more_accelerators_than_there_are_are_refused(cluster, project):
    executor = kt.RayExecutor(resources_per_worker={"GPU": 3})
    tuner = remote_work.Numbers(objective="loss", hyperparameters=remote_work.space(), executor=executor, **project)
    with pytest.raises(UsageError, match="GPU: 2") as caught:
        tuner.search(verbose=0)
    tiny.four_parts(caught.value)


def test_data_lie_once_in_the_object_store(cluster):
    puts = []

    class Counting(executors_ray.RayPool):
        def share(self, array):
            puts.append(array.nbytes)
            return super().share(array)

    x = np.zeros(1 << 20)
    original, executors_ray.RayPool = executors_ray.RayPool, Counting
    try:
        trainer = cluster.trainer(make_scripted, notify=print, folder=Path("."), keeps_programs=False)
        for _ in range(2):
            trainer.train(ListSupply(plans(4)), Task(call=Call((x,)), build=len))
        trainer.close()
    finally:
        executors_ray.RayPool = original
    assert puts == [x.nbytes]


def test_without_ray_the_message_names_the_extra(monkeypatch):
    monkeypatch.setattr(executors_ray, "ray", None)
    with pytest.raises(UsageError, match=r"pip install manyfit\[ray\]") as caught:
        kt.RayExecutor()
    tiny.four_parts(caught.value)


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_an_address_where_nobody_listens(monkeypatch, prefix):
    monkeypatch.setattr(executors_ray.ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UsageError, match="refused") as caught:
        kt.RayExecutor(f"{prefix}127.0.0.1:{port}").connect()
    tiny.four_parts(caught.value)


def test_an_address_that_does_not_answer_has_a_time_limit(monkeypatch):
    monkeypatch.setattr(executors_ray.ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        with pytest.raises(UsageError, match="no answer within 3 seconds") as caught:
            kt.RayExecutor(f"127.0.0.1:{server.getsockname()[1]}", timeout_seconds=3).connect()
        assert time.monotonic() - started < 30
    tiny.four_parts(caught.value)


@pytest.mark.parametrize("resources", [{"GPU": -1}, {"GPU": "all"}, {"GPU": 1.5}])
def test_resources_that_cannot_be(resources):
    with pytest.raises(UsageError) as caught:
        kt.RayExecutor(resources_per_worker=resources)
    tiny.four_parts(caught.value)


def run_program(name, argument, folder):
    """Runs a program of this folder in a process of its own: what it printed, and its complaints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(name)), str(argument)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, done.stderr[-3000:]


def test_a_search_through_a_client_server_finds_what_one_process_finds(tmp_path):
    printed, complaints = run_program("through_client.py", tmp_path, tmp_path)
    there, here = (ast.literal_eval(line) for line in printed.strip().splitlines()[-2:])
    assert there == pytest.approx(here, abs=2e-4), complaints
    assert len(set(here)) == 3


def test_the_example_of_the_docs_runs_on_two_machines_of_which_one_dies_and_one_joins(tmp_path):
    """Two raylets on loopback are two machines to Ray."""
    text = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(# A Ray cluster.*?)```", text, re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example, encoding="utf-8")
    printed, complaints = run_program("two_machines.py", script, tmp_path)
    assert "12 trials completed; workers on 3 machines" in printed, printed + complaints
