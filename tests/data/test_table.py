"""Kinds of data by steps: each cell is what plain Keras gives, or one error in four parts before training."""

from __future__ import annotations

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
    W,
    Y,
    close,
    new_tuner,
    own_step,
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
    best = tuner.oracle.get_best_trials(1)[0]
    tuner.confirm(top=1, max_executions=2, proof_executions=1, **arguments)
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


def test_evaluate_predict_and_load(searched, tmp_path):
    case, tuner = searched
    model = tuner.get_best_models(1)[0]
    best = tuner.oracle.get_best_trials(1)[0]
    right = predicted(case, plain(case.equals, rate_of(best), *FIRST))
    x, *rest = case.given(ALL)
    weights = {"sample_weight": rest.pop()} if len(rest) > 1 else {}
    found = tuner.evaluate(x, *rest, models=model, **weights, **case.steps(ALL, "steps"))
    scores = {name: interval.estimate for name, interval in next(iter(found.scores.values())).items()}
    whole = plain_scores(case.equals, rate_of(best), FIRST, WHOLE)
    close([scores[name] for name in sorted(scores)], [whole[name] for name in sorted(scores)])
    assert found.num_rows == (None if case.kind is kinds.ENDLESS_GENERATOR else NUM_ROWS)
    x, *_ = case.given(ALL)
    close(model.predict(x, verbose=0, **case.steps(ALL, "steps")), right)
    if case.build is not own_step:  # a class of a test's own is not registered
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        close(again.predict(case.parts(ALL)[0], verbose=0), right)


def members_are_right(case: Case, tuner: kt.Tuner, ensemble: Any) -> list[np.ndarray]:
    """Compares the members' models with those of `model.fit`; what these say of all rows."""
    said = []
    for member in ensemble.members:
        rate = rate_of(tuner.oracle.get_trial(member.name.split()[1]))
        said.append(predicted(case, plain(case.equals, rate, *FIRST)))
        for model in member.models:
            close(model.predict(case.parts(ALL)[0], verbose=0), said[-1])
    return said


def test_ensemble(searched):
    case, tuner = searched
    if not case.can("ensemble()"):
        refused(lambda: tuner.ensemble(method="uniform"), tuner)
        return
    ensemble = tuner.ensemble(method="uniform")
    said = members_are_right(case, tuner, ensemble)
    for member, right in zip(ensemble.members, said, strict=True):
        # In half precision, and of pipelines in the order of what is in the rows.
        close(np.sort(member.predictions, axis=0), np.sort(right[VALID], axis=0), 2e-3)
    x, *rest = case.given(ALL)
    whole = ensemble.predict(case.parts(ALL)[0])
    close(ensemble.predict(x), whole)
    weight = [W] if case.equals == "weights" and case.pipeline is not None else []  # those of a pipeline go along
    found = keras.losses.BinaryCrossentropy()(Y, whole.reshape(Y.shape), *weight)
    close(ensemble.evaluate(x, *rest[:1])["loss"], float(found))


def test_ensemble_on_other_rows(searched):
    case, tuner = searched
    models = tuner.get_best_models(2)
    x, *rest = case.given(ALL)
    if not case.can("ensemble(models, x, y)"):
        refused(lambda: tuner.ensemble(models, x, *rest[:1], method="uniform"), tuner)
        return
    ensemble = tuner.ensemble(models, x, *rest[:1], method="uniform")
    for member, right in zip(ensemble.members, members_are_right(case, tuner, ensemble), strict=True):
        close(member.predictions, right)


def test_resume(searched):
    case, tuner = searched
    again = new_tuner(case, tuner.directory)
    search(again, case)
    trials = list(again.oracle.trials.values())
    close([trial.score for trial in trials], [tuner.oracle.get_trial(trial.trial_id).score for trial in trials])
    assert len(trials) == 2


def test_the_page_shows_the_table_of_the_registry():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    shown = page.split("table() -->\n")[1].split("\n<!-- end")[0]
    assert shown == kinds.table()


def test_every_kind_of_the_table_is_tried():

    tried = {case.kind for case in CASES} | {kinds.GENERATOR}
    assert [kind.name for kind in kinds.KINDS if kind not in tried and f"| {kind.name} |" in kinds.table()] == []
