"""What a winner is and how good it is, in sentences, from the evidence that there is.

Whatever has fresh runs is told with all three kinds of luck in its score; an ensemble with the rows that its weights
did not see; and what nobody has measured again with a warning in place of an interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

from manyfit.core.errors import UsageError
from manyfit.ensemble.choosing.choice import MethodChoice
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.members import is_keras
from manyfit.ensemble.problem import EnsembleProblem
from manyfit.evidence import sentences as say
from manyfit.finish.evaluation import Evaluation
from manyfit.finish.submitting import AskedSearch
from manyfit.fitting.card import shortened, values_in_words
from manyfit.oracles import Oracle, Trial
from manyfit.report.confirmation import Confirmation
from manyfit.report.finalists import Finalist, Numbers
from manyfit.stats.influence import components_of, influence_of
from manyfit.stats.intervals import Interval
from manyfit.store import ProjectStore
from manyfit.store.predictions import Archive


class FittedSearch(Protocol):
    """What a winner asks of the tuner that it comes from; `Tuner` is one."""

    oracle: Oracle
    store: ProjectStore
    trust: bool

    @property
    def model_origins(self) -> MutableMapping[Any, str]:
        """The trials that models come from."""

    @property
    def project_dir(self) -> str:
        """The project's folder."""

    @property
    def predictions_archive(self) -> Archive:
        """Where the predictions of the search are kept."""

    @property
    def latest_search(self) -> AskedSearch | None:
        """What it has searched in this process."""

    def counted(self, model: Any) -> Any:
        """The model, whose own `evaluate` is a look at test rows, too."""

    # No method: what a caller of `Winner.evaluate` asks for besides is handed on as it comes.
    @property
    def evaluate(self) -> Callable[..., Evaluation]:
        """The held-out score of models, counted as a look at test rows."""


def trial_of(model: object, search: FittedSearch | None) -> Trial | None:
    """The trial that a model has its configuration from; None where nobody knows."""
    if search is None or model not in search.model_origins:
        return None
    return search.oracle.trials.get(search.model_origins[model])


def described(predictor: Any, search: FittedSearch | None) -> str:
    """What predicts: a Keras model, an estimator or an ensemble, in one sentence."""
    if isinstance(predictor, Ensemble):
        return _described_ensemble(predictor)
    if is_keras(predictor):
        what = f"a Keras model with {predictor.count_params():,} parameters"
    else:
        what = type(predictor).__name__
    trial = trial_of(predictor, search)
    if trial is None:
        return f"{what}."
    return f"{what}, trial {trial.trial_id}: {values_in_words(trial.hyperparameters.values) or 'the defaults'}."


def _described_ensemble(ensemble: Ensemble) -> str:
    used = [ensemble.members[index] for index in ensemble.pool.support]
    num_models = sum(len(member.models) for member in used)
    models = "1 model" if num_models == 1 else f"{num_models} models"
    if len(used) == 1:
        return f"{used[0].name}, {models} together." if num_models > 1 else f"{used[0].name}."
    shares = sorted(((abs(ensemble.weights[member.name]), member.name) for member in used), reverse=True)
    return f"{len(used)} configurations together, {models}: {shortened([f'{n} {w:.2g}' for w, n in shares])}."


def quality_of(predictor: Any, confirmation: Confirmation | None, search: FittedSearch | None) -> tuple[str, ...]:
    """How good it is and how sure that is, the most important sentence first.

    Args:
        predictor: a Keras model, an estimator or an ensemble.
        confirmation: of the finalists; None: nothing was confirmed.
        search: where it comes from; None: nobody knows.
    """
    if isinstance(predictor, Ensemble):
        return _of_ensemble(predictor)
    trial = trial_of(predictor, search)
    finalist = None if trial is None else _finalist(confirmation, trial.trial_id)
    if confirmation is not None and finalist is not None and finalist.estimate is not None:
        return _of_finalist(confirmation, finalist)
    if trial is None or trial.score is None or search is None:
        return ("How good it is, nobody has measured yet: call winner.evaluate(x_test, y_test).",)
    return (_of_search(trial.score, search.oracle),)


def _of_search(score: float, oracle: Oracle) -> str:
    count, name = len(oracle.book.by_search_score()), oracle.objective.name
    if count <= 1:
        luck = "one run on the validation rows, so nobody can tell how much of it is luck"
    else:
        luck = f"the best of {count} noisy scores, so too good, by an unknown amount"
    return f"{name} {score:.4g} in the search: {luck}; nothing was confirmed on fresh seeds."


def _finalist(confirmation: Confirmation | None, trial_id: str) -> Finalist | None:
    rows = () if confirmation is None else confirmation.rows
    return next((row for row in rows if row.trial_id == trial_id), None)


def _of_finalist(confirmation: Confirmation, finalist: Finalist) -> tuple[str, ...]:
    estimate = finalist.estimate
    assert estimate is not None  # our bug: asked before
    interval = estimate.of_a_new_model()
    number = Numbers([] if interval is None else [interval.half_width])
    lines = [say.sources(confirmation.objective, estimate, number)]
    if len(confirmation.rows) > 1:
        lines.append(confirmation.sentences()[0])
    return tuple(lines)


def _of_ensemble(ensemble: Ensemble) -> tuple[str, ...]:
    choice, problem = ensemble.choice, ensemble.problem
    if choice is None or problem is None:
        return ("How good it is, nobody has measured here: call winner.evaluate(x_test, y_test).",)
    interval = _by_rows(ensemble, choice, problem)
    number = Numbers([choice.gain.high - choice.gain.estimate] if interval is None else [interval.half_width])
    ends = "" if interval is None else f" [{number(interval.low)}, {number(interval.high)}] on new rows (95 %)"
    rows = f"{problem.num_rows:,} rows that no model of it trained on"
    first = f"{ensemble.metric.name} {number(choice.score)}{ends}, from {rows}."
    if ensemble.refused or len(ensemble.members) == 1:
        return (first,)
    gain = choice.gain
    sure = "proven" if gain.proven else "likely, not proven"
    ends = f"{gain.estimate:.2g} [{gain.low:.2g}, {gain.high:.2g}]"
    return first, f"Better than its best member alone by {ends}: {sure}."


def _by_rows(ensemble: Ensemble, choice: MethodChoice, problem: EnsembleProblem) -> Interval | None:
    """Where the score lies on further rows of the same kind; None where no row tells."""
    combined = ensemble.pool(problem.predictions, problem.task)
    try:
        found = influence_of(ensemble.metric.name, problem.target, combined, sample_weight=problem.row_weight)
    except UsageError:  # a metric of the user's, or an answer for every pixel
        return None
    if found.reason:
        return None
    # Around the cross-fitted score: on the rows that the weights were learned from they do a little too well.
    return components_of([dataclasses.replace(found, value=choice.score)]).interval(0.95)
