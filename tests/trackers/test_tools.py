"""Each tool, told live and afterwards, says of a search what the search says: read back with its own library."""

from __future__ import annotations

import dataclasses
import json
import math
import struct

import manyfit as kt  # isort: skip

import pytest
import tiny

from manyfit.report import words
from manyfit.trackers.base import tell_all

ODD = "[bold]<b>x\x1b[31m" + "y" * 200
CONFIRMED = {"score": 0.25, "low": 0.2, "high": 0.3, "rank": 0, "num_executions": 3, "in_winning_set": True}


def space():
    hp = kt.HyperParameters()
    hp.Int("units", 1, 50)
    hp.Choice("kind", ["a", "b"])
    hp.Float("rate", 1e-4, 1e-1, sampling="log")
    hp.Boolean(ODD)
    return hp


class Project:
    """A search of two executions per trial, one of whose trials failed; who has told of it live; and its snapshot."""

    def __init__(self, folder, tracker):
        def fail(plan):
            return ValueError("too [wide]") if plan.trial_id == "2" else None

        trainer = tiny.Formula(num_epochs=3, fail=fail)
        self.tuner = tiny.searched(
            trainer, hyperparameters=space(), max_trials=4, seed=0, executions_per_trial=2, directory=str(folder),
            project_name="a search",
        )  # fmt: skip
        self.tuner.search(epochs=3, verbose=0, trackers=[tracker])
        best = self.tuner.oracle.get_best_trials(1)[0]
        self.tuner.close()
        self.seen = kt.open_project(self.tuner.project_dir)
        self.best = self.seen.trial(best.trial_id)

    def confirmed(self):
        """The same, as if fresh seeds had confirmed the best trial."""
        known = dataclasses.replace(self.best, confirmed=CONFIRMED)
        trials = tuple(known if trial is self.best else trial for trial in self.seen.trials)
        return dataclasses.replace(self.seen, trials=trials)


def mean_free(trial):
    return [run.score for run in trial.searched]


# MLflow -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory):
    """The address of a database, the client, a project that was told to it live, and a second one told afterwards."""
    library = pytest.importorskip("mlflow", reason="MLflow is not installed: make test-extras")
    folder = tmp_path_factory.mktemp("mlflow")
    address = f"sqlite:///{folder}/mlflow.db"
    project = Project(folder, kt.trackers.MLflow(address, experiment="live"))
    client = library.MlflowClient(address)
    tell_all(project.seen, kt.trackers.MLflow(address, experiment="afterwards"))
    return client, project


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("experiment", ["live", "afterwards"])
def test_mlflow_has_a_nested_run_per_trial(mlflow, experiment):
    client, project = mlflow
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    [parent] = [run for run in runs if "manyfit.trial" not in run.data.tags]
    nested = {run.data.tags["manyfit.trial"]: run for run in runs if run is not parent}
    assert parent.info.run_name == "a search" and parent.info.status == "FINISHED"
    assert parent.data.metrics["best_score"] == pytest.approx(project.best.score)
    assert set(nested) == {trial.trial_id for trial in project.seen.trials}
    for trial in project.seen.trials:
        run = nested[trial.trial_id]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == ("FINISHED" if trial.is_completed else "FAILED")
        assert run.data.params["units"] == str(trial.values["units"])
        odd = next(value for name, value in run.data.params.items() if name.startswith("_bold__b_x"))
        assert odd == str(trial.values[ODD])
        if trial.is_completed:
            assert run.data.metrics["score"] == pytest.approx(trial.score)
            first, second = mean_free(trial)
            assert run.data.metrics["spread"] == pytest.approx(abs(first - second) / math.sqrt(2))
            told = client.get_metric_history(run.info.run_id, "loss")
            assert [one.value for one in sorted(told, key=lambda one: one.step)] == trial.runs[0].curves["loss"]
            assert "run2/loss" in run.data.metrics
        else:
            assert "too [wide]" in run.data.tags["manyfit.reason"]


@pytest.mark.filterwarnings("default")
def test_mlflow_goes_on_in_the_runs_that_it_has_and_hears_of_confirmed_means(mlflow):
    client, project = mlflow
    experiment = client.get_experiment_by_name("live").experiment_id
    before = {run.info.run_id for run in client.search_runs([experiment])}
    address = client.tracking_uri
    tell_all(project.confirmed(), kt.trackers.MLflow(address, experiment="live"))
    runs = client.search_runs([experiment])
    assert {run.info.run_id for run in runs} == before
    [run] = [run for run in runs if run.data.tags.get("manyfit.trial") == project.best.trial_id]
    assert [run.data.metrics[name] for name in ("confirmed", "confirmed_low", "confirmed_high")] == [0.25, 0.2, 0.3]


# Weights & Biases -------------------------------------------------------------------------------------------------


def offline_records(path):
    """All records of a file that wandb wrote: a log of LevelDB's format, whose blocks have 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts, found = path.read_bytes(), 7, [], []
    assert data.startswith(b":W&B")
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # the rest of a block is empty
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(wandb_internal_pb2.Record.FromString(b"".join(parts)))
            parts = []
    return found


@pytest.mark.filterwarnings("default")
def test_wandb_has_a_run_per_trial_in_files_that_can_be_uploaded(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed: make test-extras")
    project = Project(tmp_path, kt.trackers.WandB(folder=str(tmp_path)))
    told = {}
    for path in (tmp_path / "wandb").glob("offline-run-*/*.wandb"):
        records = offline_records(path)
        [run] = [one.run for one in records if one.WhichOneof("record_type") == "run"]
        told[run.display_name] = (run, records)
    assert set(told) == {f"trial {trial.trial_id}" for trial in project.seen.trials}
    for trial in project.seen.trials:
        run, records = told[f"trial {trial.trial_id}"]
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert (run.run_group, run.project) == ("a search", "a search")
        assert {name: config[name] for name in trial.values} == dict(trial.values)
        history = [item for one in records if one.WhichOneof("record_type") == "history" for item in [one.history.item]]
        rows = [{item.key or item.nested_key[0]: json.loads(item.value_json) for item in row} for row in history]
        summary = {}
        for one in records:
            for item in one.summary.update:
                summary[item.key or item.nested_key[0]] = json.loads(item.value_json)
        if trial.is_completed:
            curve = {row["epoch"]: row["loss"] for row in rows if "loss" in row}
            assert [curve[epoch] for epoch in range(3)] == pytest.approx(trial.runs[0].curves["loss"])
            assert summary["score"] == pytest.approx(trial.score) and "spread" in summary
        else:
            assert "too [wide]" in summary["reason"]


# Optuna -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
def test_optuna_has_a_trial_with_its_epochs_and_its_attributes(tmp_path):
    optuna = pytest.importorskip("optuna", reason="Optuna is not installed: make test-extras")
    from manyfit.trackers.optuna import export_study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    project = Project(tmp_path, kt.trackers.OptunaStudy(tmp_path / "live.db"))
    export_study(project.confirmed(), tmp_path / "after.db", "other")
    export_study(project.seen, tmp_path / "after.db", "other")  # adds nothing
    live = optuna.load_study(study_name="a search", storage=f"sqlite:///{tmp_path}/live.db")
    after = optuna.load_study(study_name="other", storage=f"sqlite:///{tmp_path}/after.db")
    for study in (live, after):
        assert study.direction.name == "MINIMIZE" and study.best_value == pytest.approx(project.best.score)
        known = {one.user_attrs["manyfit.trial"]: one for one in study.trials}
        assert set(known) == {trial.trial_id for trial in project.seen.trials} and len(study.trials) == 4
        for trial in project.seen.trials:
            one = known[trial.trial_id]
            assert one.params == dict(trial.values)
            assert one.state.name == ("COMPLETE" if trial.is_completed else "FAIL")
            if trial.is_completed:
                first, second = mean_free(trial)
                assert one.value == pytest.approx(trial.score)
                assert one.user_attrs["spread"] == pytest.approx(abs(first - second) / math.sqrt(2))
                assert list(one.intermediate_values.values()) == trial.runs[0].curves["loss"]
        assert isinstance(known["0"].distributions["rate"], optuna.distributions.FloatDistribution)
        assert known["0"].distributions["rate"].log and known["0"].distributions["kind"].choices == ("a", "b")
        assert study.user_attrs["verdict"] == list(words.verdict(project.seen))
    best = next(one for one in after.trials if one.user_attrs["manyfit.trial"] == project.best.trial_id)
    assert [best.user_attrs[name] for name in ("confirmed", "confirmed_low", "confirmed_high")] == [0.25, 0.2, 0.3]
