"""Projects of every released version open, say what they said, and go on (see `golden/make.py`)."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import manyfit as kt  # isort: skip

import numpy as np
import pytest
from marks import only_on

HERE = Path(__file__).parent / "golden"
VERSIONS = sorted(folder.name for folder in HERE.iterdir() if (folder / "recorded.json").exists())
BY_TRAINER = {"hyperband": "one after another", "asha": "population"}

pytestmark = only_on("jax", "the projects were written on JAX")


def _make():
    spec = importlib.util.spec_from_file_location("golden_make", HERE / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _make()


@pytest.fixture(params=VERSIONS)
def golden(request, tmp_path):
    """A copy of a version's projects, and what was recorded of them."""
    shutil.copytree(HERE / request.param, tmp_path / "golden")
    return tmp_path / "golden", json.loads((HERE / request.param / "recorded.json").read_text())


def plain(facts):
    """As JSON brings it back."""
    return json.loads(json.dumps(facts))


def read_now(recorded, name):
    """What was recorded of a project, without the epoch that its score, its weights and its state do not know.

    Trial 2 of the Hyperband search was killed one epoch after it had gone on from its pause. 0.1.0 counted that epoch
    as if the pause had come after it; since 0.2.0 the pause is where the state is, and the epoch runs again.
    """
    if name != "hyperband":
        return recorded[name]
    rows = [row | {"num_epochs": 1} if row["trial_id"] == "2" else row for row in recorded[name]["rows"]]
    curves = [point for point in recorded[name]["curves"] if point["trial_id"] != "2" or point["epoch"] < 1]
    return recorded[name] | {"rows": rows, "curves": curves}


@pytest.mark.parametrize("name", ["bayesian", "hyperband", "asha"])
def test_a_project_says_what_it_said(name, golden, capsys):
    folder, recorded = golden
    tuner = getattr(make, name)(folder)
    assert "Reloading Tuner from" in capsys.readouterr().out
    assert plain(make.facts(tuner)) == {key: read_now(recorded, name)[key] for key in make.facts(tuner)}
    tuner.close()


def test_the_best_model_has_its_weights(golden, capsys):
    folder, recorded = golden
    tuner = make.bayesian(folder)
    assert make.evaluated(tuner) == pytest.approx(recorded["bayesian"]["best model"], rel=1e-5)


def test_confirmation_runs_are_not_run_again(golden, capsys):
    folder, recorded = golden
    tuner = make.bayesian(folder)
    tuner.search(**make.data(), epochs=3)  # nothing is left to try: it brings the data
    before = recorded["confirmation"]
    known = {trial_id: dict(tuner.oracle.trials[trial_id].replicates) for trial_id, *_ in before["rows"]}
    confirmation = tuner.confirm(2, max_executions=12, max_rounds=before["rounds"])
    assert confirmation.num_executions == before["executions"] and confirmation.rounds == before["rounds"]
    for trial_id, mean, count, _ in before["rows"]:
        runs = tuner.oracle.trials[trial_id].replicates
        assert runs["confirm"] == known[trial_id]["confirm"] and len(runs["confirm"]) >= count
        assert np.mean([runs["confirm"][index].score for index in range(count)]) == pytest.approx(mean)
    # Their rows were not kept then; those of the search were, so that the new test can be made of what is there.
    assert confirmation.recommended.trial_id == before["recommended"]
    assert all(row.low < row.score < row.high for row in confirmation.rows)
    tuner.close()
    again = make.bayesian(folder)
    assert [set(family.trial_ids) for family in again.oracle.book.evidence.families] == [set(known)]


def test_an_ensemble_is_made_of_what_was_kept(golden, capsys):
    folder, recorded = golden
    tuner = make.bayesian(folder)
    members = tuner.ensemble(method="uniform").weights
    assert {name.split(" (")[0] for name in members} == {f"trial {one}" for one in recorded["bayesian"]["ranking"][:3]}


def test_a_saved_ensemble_predicts_what_it_predicted(golden):
    folder, recorded = golden
    ensemble = kt.Ensemble.load(folder / "ensemble")
    np.testing.assert_allclose(ensemble.predict(make.data()["x"]), recorded["ensemble"], rtol=1e-4, atol=1e-6)


def test_a_finished_search_goes_on(golden, capsys):
    folder, recorded = golden
    known = len(recorded["bayesian"]["trials"])
    tuner = make.bayesian(folder, max_trials=9)
    tuner.search(**make.data(), epochs=3)
    facts = plain(make.facts(tuner))
    assert list(facts["trials"]) == [str(number) for number in range(9)]
    assert {k: v for k, v in facts["trials"].items() if int(k) < known} == recorded["bayesian"]["trials"]
    assert facts["rows"][: len(recorded["bayesian"]["rows"])] == recorded["bayesian"]["rows"]
    assert all(status in ("COMPLETED", "FAILED") for status, *_ in facts["trials"].values())


@pytest.mark.parametrize("name", BY_TRAINER)
def test_an_interrupted_search_goes_on_from_its_stored_states(name, golden, capsys):
    folder, recorded = golden
    assert sorted(folder.glob(f"{name}/weights/*.state"))
    make.BEGUN.clear()
    tuner = getattr(make, name)(folder)
    tuner.search(**make.data(), **({"callbacks": [make.Epochs()]} if name == "hyperband" else {}))
    facts = plain(make.facts(tuner))
    assert all(status in ("COMPLETED", "FAILED") for status, *_ in facts["trials"].values())
    assert facts["ranking"] and max(row["num_epochs"] for row in facts["rows"]) == 9
    curves = {(point["trial_id"], point["execution"], point["epoch"]): point for point in facts["curves"]}
    for point in recorded[name]["curves"]:  # nobody trained again what was known
        assert curves[point["trial_id"], point["execution"], point["epoch"]] == point
    if name == "hyperband":  # a state that cannot be read would have the trial start again from epoch 0
        paused = [row for row in recorded[name]["rows"] if row["ending"] == "paused"]
        assert len(paused) >= 3
        fresh = len(facts["trials"]) - len(recorded[name]["trials"])
        never_ended = sum(row["num_epochs"] == 0 and row["status"] == "RUNNING" for row in recorded[name]["rows"])
        assert make.BEGUN.count(0) <= fresh + never_ended
