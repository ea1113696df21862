"""Kinds of data by steps: each cell is what plain Keras gives, or one error in four parts before training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
from kinds_of_data import (
    ALL,
    CASES,
    FIRST,
    LAST,
    NUM_ROWS,
    TOLERANCE,
    TRAIN,
    VALID,
    WHOLE,
    Case,
    OwnStep,
    W,
    X,
    Y,
    close,
    new_tuner,
    plain,
    plain_scores,
    predicted,
    rate_of,
    refused,
    right_score,
    search,
)
from marks import needs_jax

from manyfit.data import kinds

pytestmark = [
    needs_jax,
    pytest.mark.filterwarnings("ignore:Your input ran out of data"),  # Keras, at the end of data without a length
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def searched(request, tmp_path_factory) -> tuple[Case, kt.Tuner]:
    """A tuner that has searched such data; all steps of a kind begin here."""
    case = request.param
    tuner = new_tuner(case, tmp_path_factory.mktemp("table"))
    search(tuner, case)
    return case, tuner


def test_search(searched):
    case, tuner = searched
    trials = list(tuner.oracle.trials.values())
    assert len(trials) == 2
    close([trial.score for trial in trials], [right_score(case, rate_of(trial), FIRST, LAST) for trial in trials])
    members = [record.members for record in getattr(tuner.programs(), "records", [])]
    assert members == ([2] if case.population else [])


def test_search_by_model_fit(searched, tmp_path):
    case, _ = searched
    tuner = new_tuner(case, tmp_path, population=False, max_trials=1)
    search(tuner, case)
    (trial,) = tuner.oracle.trials.values()
    close(trial.score, right_score(case, rate_of(trial), FIRST, LAST))


def test_search_with_folds(searched, tmp_path):
    case, _ = searched
    tuner = new_tuner(case, tmp_path, max_trials=1)
    args, kwargs = case.search_arguments()
    if case.split:
        kwargs.pop("validation_split")
    if not case.can("search(cross_validation=3)"):
        refused(lambda: tuner.search(*args, **{**kwargs, "validation_data": None}, cross_validation=2), tuner)
        return
    folds = [(np.arange(8), np.arange(8, 16)), (np.arange(8, 16), np.arange(8))]
    x, *rest = case.given(TRAIN)
    weights = {"sample_weight": rest.pop()} if len(rest) > 1 else {}
    kwargs = {name: value for name, value in kwargs.items() if name not in ("validation_data", "sample_weight")}
    tuner.search(x, *rest, **weights, **kwargs, cross_validation=TwoHalves(folds))
    (trial,) = tuner.oracle.trials.values()
    rate = rate_of(trial)
    close(trial.scores, [right_score(case, rate, (0, 8), (8, 16)), right_score(case, rate, (8, 16), (0, 8))])


class TwoHalves:
    """A splitter of the rows into these folds."""

    def __init__(self, folds: Any) -> None:
        self.folds = folds

    def split(self, x: Any, y: Any = None, groups: Any = None) -> Any:
        return self.folds

    def get_n_splits(self) -> int:
        return len(self.folds)


def confirmed_scores(tuner: kt.Tuner, **arguments: Any) -> tuple[float, list[float]]:
    """The rate of the best trial, and its scores in a confirmation of two runs."""
    trial_id = tuner.oracle.get_best_trials(1)[0].trial_id
    tuner.confirm(top=1, max_executions=2, proof_executions=1, **arguments)
    best = tuner.oracle.get_trial(trial_id)  # another tuner may have been at the project, so it was read anew
    return rate_of(best), [run.score for kind in best.replicates.values() for run in kind.values()]


def test_confirm(searched):
    case, tuner = searched
    rate, scores = confirmed_scores(tuner)
    # Neither weights nor order depend on the seed here, so a run on a fresh seed repeats the search's.
    assert scores
    close(scores, [right_score(case, rate, FIRST, LAST)] * len(scores))


def test_confirm_on_folds(searched):
    case, tuner = searched
    folds = TwoHalves(halved())
    if not case.can("confirm(cross_validation=3)"):
        refused(lambda: confirmed_scores(tuner, cross_validation=folds), tuner)
        return
    rate, scores = confirmed_scores(tuner, cross_validation=folds)
    right = [right_score(case, rate, FIRST, LAST), right_score(case, rate, LAST, FIRST)]
    assert scores and all(min(abs(score - one) for one in right) < TOLERANCE for score in scores)


def halved() -> Any:
    return [(np.arange(16), np.arange(16, 24)), (np.arange(16, 24), np.arange(16))]


def retrained_equals(case: Case, tuner: kt.Tuner, model: keras.Model) -> None:
    best = tuner.oracle.get_best_trials(1)[0]
    right = plain(case.equals, rate_of(best), *WHOLE, len(model.history.history["loss"]))
    close(model.predict(case.parts(ALL)[0], verbose=0), predicted(case, right), 1e-3)


def test_retrain_on_the_data_of_the_search(searched):
    case, tuner = searched
    if not case.can("retrain()"):
        refused(lambda: tuner.retrain(verbose=0), tuner)
        return
    (model,) = tuner.retrain(verbose=0)
    retrained_equals(case, tuner, model)


def test_retrain_on_other_data(searched):
    case, tuner = searched
    x, *rest = case.given(ALL)
    weights = {"sample_weight": rest.pop()} if len(rest) > 1 else {}
    (model,) = tuner.retrain(1, x, *rest, **weights, **case.steps(ALL, "steps_per_epoch"), verbose=0)
    retrained_equals(case, tuner, model)


def test_evaluate(searched):
    case, tuner = searched
    best = tuner.oracle.get_best_trials(1)[0]
    x, *rest = case.given(ALL)
    weights = {"sample_weight": rest.pop()} if len(rest) > 1 else {}
    found = tuner.evaluate(x, *rest, models=tuner.get_best_models(1), **weights, **case.steps(ALL, "steps"))
    scores = {name: interval.estimate for name, interval in next(iter(found.scores.values())).items()}
    whole = plain_scores(case.equals, rate_of(best), FIRST, WHOLE)
    close([scores[name] for name in sorted(scores)], [whole[name] for name in sorted(scores)])
    assert found.num_rows == (None if case.kind is kinds.ENDLESS_GENERATOR else NUM_ROWS)


def test_predict_save_and_load(searched, tmp_path):
    case, tuner = searched
    model = tuner.get_best_models(1)[0]
    right = predicted(case, plain(case.equals, rate_of(tuner.oracle.get_best_trials(1)[0]), *FIRST))
    x, *_ = case.given(ALL)
    close(model.predict(x, verbose=0, **case.steps(ALL, "steps")), right)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", custom_objects={"OwnStep": OwnStep})
    close(again.predict(case.parts(ALL)[0], verbose=0), right)


def test_kept_predictions(searched):
    case, tuner = searched
    archive = tuner.predictions_archive
    if not case.can("keep_predictions=True"):
        assert archive.labels() is None
        return
    for trial in tuner.oracle.trials.values():
        right = predicted(case, plain(case.equals, rate_of(trial), *FIRST))
        # In half precision, and of pipelines in the order of what is in the rows.
        close(in_order(archive.get(trial.trial_id, [0]).predictions), in_order(right, VALID), 2e-3)
    close(in_order(archive.labels().y), in_order(case.y(VALID)))


def in_order(arrays: Any, rows: slice = ALL) -> list[np.ndarray]:
    return [np.sort(np.asarray(array)[rows], axis=0) for array in keras.tree.flatten(arrays)]


@pytest.fixture(scope="module")
def ensembled(searched) -> kt.Ensemble:
    """From what the search kept; where it keeps nothing, from the same rows as arrays."""
    case, tuner = searched
    if case.can("ensemble()"):
        return tuner.ensemble(method="uniform")
    x, y = case.x(ALL), case.y(ALL)
    return tuner.ensemble(tuner.get_best_models(2), x, x if y is None else y, method="uniform")


def pooled(case: Case, tuner: kt.Tuner, ensemble: kt.Ensemble) -> list[np.ndarray]:
    """What the models of `model.fit` say of all rows, output by output, weighed as the ensemble weighs its members."""
    said = [keras.tree.flatten(right) for right in right_answers(case, tuner, ensemble)]
    weights = list(ensemble.weights.values())
    return [np.tensordot(weights, np.stack(outputs), 1) for outputs in zip(*said, strict=True)]


def right_answers(case: Case, tuner: kt.Tuner, ensemble: kt.Ensemble) -> list[Any]:
    """What `model.fit`'s models of the members' hyperparameters say of all rows."""
    rates = [rate_of(tuner.oracle.get_trial(member.name.split()[1])) for member in ensemble.members]
    return [predicted(case, plain(case.equals, rate, *FIRST)) for rate in rates]


def test_ensemble(searched, ensembled):
    case, tuner = searched
    if not case.can("ensemble()"):
        refused(lambda: tuner.ensemble(method="uniform"), tuner)
        return
    for member, right in zip(ensembled.members, right_answers(case, tuner, ensembled), strict=True):
        close(in_order(member.predictions), in_order(right, VALID), 2e-3)


def test_ensemble_predicts(searched, ensembled):
    case, tuner = searched
    x, *_ = case.given(ALL)
    if not case.can("ensemble.predict(x)"):
        refused(lambda: ensembled.predict(x), tuner)
        return
    close(ensembled.predict(x), pooled(case, tuner, ensembled))


def test_ensemble_evaluates(searched, ensembled):
    case, tuner = searched
    x, *rest = case.given(ALL)
    if not case.can("ensemble.evaluate(x, y)"):
        refused(lambda: ensembled.evaluate(x, *rest), tuner)
        return
    weight = [W] if case.equals == "weights" and case.pipeline is not None else []  # those of a pipeline go along
    kind, *size = pooled(case, tuner, ensembled)
    right = float(keras.losses.BinaryCrossentropy()(Y, kind.reshape(Y.shape), *weight))
    right += sum(float(keras.losses.MeanSquaredError()(X[:, :2], one)) for one in size)
    close(ensembled.evaluate(x, *rest[:1])["loss"], right)


def test_ensemble_is_saved_and_loaded(searched, ensembled, tmp_path):
    case, tuner = searched
    ensembled.save(tmp_path / "ensemble")
    again = kt.Ensemble.load(tmp_path / "ensemble", custom_objects={"OwnStep": OwnStep})
    close(again.predict(case.x(ALL)), pooled(case, tuner, ensembled))


def test_ensemble_on_other_rows(searched):
    case, tuner = searched
    models = tuner.get_best_models(2)
    x, *rest = case.given(ALL)
    if not case.can("ensemble(models, x, y)"):
        refused(lambda: tuner.ensemble(models, x, *rest[:1], method="uniform"), tuner)
        return
    ensemble = tuner.ensemble(models, x, *rest[:1], method="uniform")
    for member, right in zip(ensemble.members, right_answers(case, tuner, ensemble), strict=True):
        close(member.predictions, right)


def test_resume(searched):
    case, tuner = searched
    again = new_tuner(case, tuner.directory)
    search(again, case)
    trials = list(again.oracle.trials.values())
    close([trial.score for trial in trials], [tuner.oracle.get_trial(trial.trial_id).score for trial in trials])
    assert len(trials) == 2


ELSEWHERE = """
import json, sys
from kinds_of_data import ALL, CASES, new_tuner, search
import keras
for case in CASES:
    if (name := case.name) in sys.argv[2:]:
        tuner = new_tuner(case, f"{sys.argv[1]}/{name}")
        search(tuner, case)
        ensemble = tuner.ensemble(method="uniform")
        said = [output.tolist() for output in keras.tree.flatten(ensemble.predict(case.given(ALL)[0]))]
        scores = {trial.trial_id: trial.score for trial in tuner.oracle.trials.values()}
        print("told", json.dumps([name, scores, ensemble.weights, said]))
"""


def test_resume_in_another_process(tmp_path):
    """A new process reads what was finished, and its ensemble of what was kept is the one of this process."""
    cases = [case for case in CASES if case.name in ("arrays", "several outputs", "PyDataset")]
    here = {case.name: new_tuner(case, tmp_path / case.name) for case in cases}
    for case in cases:
        search(here[case.name], case)
        here[case.name].close()
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path), *here],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line.removeprefix("told ")) for line in done.stdout.splitlines() if line.startswith("told ")]
    assert len(told) == len(cases)
    for case, (name, scores, weights, said) in zip(cases, told, strict=True):
        ensemble = here[name].ensemble(method="uniform")
        assert name == case.name and len(scores) == 2
        assert scores == {trial.trial_id: trial.score for trial in here[name].oracle.trials.values()}
        assert weights == ensemble.weights
        close([np.array(output) for output in said], pooled(case, here[name], ensemble))


def test_the_page_shows_the_table_of_the_registry():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    shown = page.split("table() -->\n")[1].split("\n<!-- end")[0]
    assert shown == kinds.table()


def test_every_kind_of_the_table_is_tried():

    tried = {case.kind for case in CASES} | {kinds.GENERATOR}
    assert [kind.name for kind in kinds.KINDS if kind not in tried and f"| {kind.name} |" in kinds.table()] == []
