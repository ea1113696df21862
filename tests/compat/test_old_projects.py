"""Projects that KerasTuner 1.4.8 wrote (see `projects/make.py`) open, go on, and can be written again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import manyfit as kt  # isort: skip

import numpy as np
import pytest

from manyfit.core.errors import ProjectError

HERE = Path(__file__).parent / "projects"


def build(hp):
    """The build function of `projects/make.py`."""
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(hp.Int("units", 1, 3)), keras.layers.Dense(1)])
    hp.Choice("optimizer", ["sgd", "adam"])
    with hp.conditional_scope("optimizer", ["sgd"]):
        hp.Float("momentum", 0.0, 0.9, step=0.3)
    hp.Boolean("flag")
    hp.Fixed("batch", 4)
    model.compile(keras.optimizers.SGD(hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")), "mse", metrics=["mae"])
    return model


def data():
    x = np.linspace(-1, 1, 32).reshape(16, 2)
    y = x.sum(axis=1, keepdims=True)
    return x[:8], y[:8], (x[8:], y[8:])


def opened(name, tmp_path, tuner=kt.RandomSearch, **arguments):
    if not (tmp_path / name).exists():
        shutil.copytree(HERE / name, tmp_path / name)
    arguments = {"objective": "val_loss", "directory": tmp_path, "project_name": name, **arguments}
    return tuner(build, population=False, **arguments)


def written(name):
    """The trials as KerasTuner wrote them, by id."""
    files = sorted((HERE / name).glob("trial_*/trial.json"))
    return {state["trial_id"]: state for state in map(json.loads, (file.read_text() for file in files))}


TUNERS = {
    "random": (kt.RandomSearch, {"max_trials": 3}),
    "bayesian": (kt.BayesianOptimization, {"max_trials": 4}),
    "grid": (kt.GridSearch, {"max_trials": 3}),
    "hyperband": (kt.Hyperband, {"max_epochs": 3}),
}


@pytest.mark.parametrize("name", TUNERS)
def test_results_and_best_hyperparameters_are_there(name, tmp_path, capsys):
    tuner_class, arguments = TUNERS[name]
    tuner = opened(name, tmp_path, tuner_class, **arguments)
    assert "Reloading Tuner from" in capsys.readouterr().out
    states = written(name)
    assert list(tuner.oracle.trials) == json.loads((HERE / name / "oracle.json").read_text())["start_order"]
    for trial_id, state in states.items():
        trial = tuner.oracle.trials[trial_id]
        assert (trial.score, trial.best_step, trial.status) == (state["score"], state["best_step"], "COMPLETED")
        assert trial.hyperparameters.values == state["hyperparameters"]["values"]
        observed = state["metrics"]["metrics"]["val_mae"]["observations"][0]["value"]
        assert trial.metrics["val_mae"] == pytest.approx(np.mean(observed))
    best = min(states.values(), key=lambda state: state["score"])
    assert tuner.get_best_hyperparameters()[0].values == best["hyperparameters"]["values"]
    tuner.results_summary(1)
    shown = capsys.readouterr().out
    assert f"Trial {best['trial_id']} summary" in shown and f"Score: {best['score']}" in shown


def test_the_best_model_has_the_weights_that_keras_tuner_kept(tmp_path):
    tuner = opened("random", tmp_path, max_trials=3)
    model = tuner.get_best_models()[0]
    loss = model.evaluate(*data()[2], verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(0.17603564262390137, rel=1e-5)  # what make.py printed on KerasTuner


def test_the_search_goes_on(tmp_path):
    """Trial 1 had failed, trial 3 was interrupted: it runs again, then the rest."""
    tuner = opened("interrupted", tmp_path, max_trials=6)
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED", "FAILED", "COMPLETED", "RUNNING"]
    assert "made to fail" in tuner.oracle.trials["1"].message
    values = dict(tuner.oracle.trials["3"].hyperparameters.values)
    x, y, validation = data()
    tuner.search(x, y, validation_data=validation, epochs=1, verbose=0)
    assert list(tuner.oracle.trials) == list("012345")
    assert [trial.status for trial in tuner.oracle.trials.values()] == [
        "COMPLETED", "FAILED", "COMPLETED", "COMPLETED", "COMPLETED", "COMPLETED",
    ]  # fmt: skip
    assert tuner.oracle.trials["3"].hyperparameters.values == values
    tried = [tuple(trial.hyperparameters.values.items()) for trial in tuner.oracle.trials.values()]
    assert len(set(tried)) == 6
    tuner.close()
    again = opened("interrupted", tmp_path, max_trials=6)  # from the store now
    assert [trial.score for trial in again.oracle.trials.values()] == [
        trial.score for trial in tuner.oracle.trials.values()
    ]


def test_the_state_of_a_subclass_is_handed_back(tmp_path):
    class Remembers(kt.RandomSearch):
        def set_state(self, state):
            self.note = state["note"]

        def get_state(self):
            return {"note": self.note}

    assert opened("interrupted", tmp_path, Remembers, max_trials=6).note == "kept by a subclass"


def test_a_project_of_another_tuner_is_refused(tmp_path):
    with pytest.raises(ProjectError, match=r"(?s)Error reloading `Oracle`.*num_initial_points.*pass `overwrite=True`"):
        opened("random", tmp_path, kt.BayesianOptimization, max_trials=3)


def test_a_truncated_file_is_named(tmp_path):
    """A truncated `oracle.json` is a raw JSONDecodeError in KerasTuner."""
    shutil.copytree(HERE / "random", tmp_path / "random")
    file = tmp_path / "random" / "oracle.json"
    file.write_text(file.read_text()[:100])
    with pytest.raises(ProjectError, match=r"oracle\.json, which is not whole"):
        opened("random", tmp_path, max_trials=3)


def test_keras_tuners_files_beside_the_store(tmp_path):
    shutil.copytree(HERE / "random", tmp_path / "random")
    tuner = opened("random", tmp_path, max_trials=4, keras_tuner_files=True)
    x, y, validation = data()
    tuner.search(x, y, validation_data=validation, epochs=1, verbose=0)
    oracle = json.loads((tmp_path / "random" / "oracle.json").read_text())
    assert set(oracle) == set(json.loads((HERE / "random" / "oracle.json").read_text()))
    assert oracle["start_order"] == oracle["end_order"] == list("0123")
    state = json.loads((tmp_path / "random" / "trial_3" / "trial.json").read_text())
    assert set(state) == set(written("random")["0"])
    assert state["score"] == tuner.oracle.trials["3"].score
    assert state["metrics"]["metrics"]["val_loss"]["observations"] == [{"value": [state["score"]], "step": 0}]
    assert json.loads((tmp_path / "random" / "tuner0.json").read_text()) == {}


def test_without_asking_no_such_file_is_written(tmp_path):
    class Numbers(kt.RandomSearch):
        def run_trial(self, trial):
            return 1.0

    hp = kt.HyperParameters()
    hp.Int("a", 1, 9)
    tuner = Numbers(max_trials=1, hyperparameters=hp, directory=tmp_path)
    tuner.search()
    assert not list(Path(tuner.project_dir).rglob("*.json")) or all(
        "manyfit" in file.name for file in Path(tuner.project_dir).rglob("*.json")
    )
