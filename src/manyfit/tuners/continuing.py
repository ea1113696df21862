"""The best models of a search, trained further, beside what they were: one ensemble of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyfit.core.clock import Clock
from manyfit.core.errors import SearchError, UsageError, explain
from manyfit.data.identity import row_identities
from manyfit.data.kinds import as_arrays, is_nested, map_leaves
from manyfit.data.rows import Rows
from manyfit.ensemble.choosing.methods import SHRUNK
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.members import EnsembleMember
from manyfit.finish.continuing import ContinuedModel, continue_training, trial_of
from manyfit.oracles import Trial
from manyfit.tuners import ensembling
from manyfit.tuners.finished import FinishedTuner, Training, working
from manyfit.tuners.searched import SearchedProject, models_of


class Continuing:
    """The part of a tuner that trains the models of its search further.

    Args:
        project: the tuner's, as an ensemble takes it.
        tuner: whose models and trials these are.
        training: how it trains.
    """

    def __init__(self, project: SearchedProject, tuner: FinishedTuner, training: Training) -> None:
        self._project, self._tuner, self._training = project, tuner, training
        self._oracle = tuner.oracle

    def go_on(
        self,
        hand: Ensemble | None,
        top: int | Sequence[EnsembleMember],
        *,
        max_seconds: float | None,
        options: Mapping[str, Any],
    ) -> Ensemble:
        """Trains the best models further, and weighs what comes of it together with what is there.

        Args:
            hand: what the search's models were combined to; None: its best model is what there is.
            top: how many models, the best first; or members that have trained further already.
            max_seconds: it ends by then.
            options: of `Ensemble.fit`.

        Raises:
            UsageError: a search in folds, or by code of the user's; its models are gone, or validated on other rows.
            SearchError: none has trained any further: there was no time for an epoch, or all failed.
        """
        clock = Clock.started(max_seconds, within=self._tuner.limits)
        trials = self._with_weights(top if isinstance(top, int) else 1)
        task = self._tuner.searched_task("fit, training on", trials)
        latest, rows = self._tuner.latest_search, task.call.validation_rows()
        if task.fit is not None or rows is None or (latest is not None and latest.folds is not None):
            got = "a search in folds, without validation rows, or by a fit of the user's"
            allowed = "models that were validated on the same rows"
            raise UsageError(explain("fit, training on", got, allowed, "Call tuner.retrain()."))
        if not isinstance(top, int):
            return self._combined(self._members(hand), top, rows, options)
        layout, task = self._tuner.store.layout, dataclasses.replace(task, clock=clock)

        def start(trial: Trial) -> Path:
            return layout.weights(trial.trial_id, 0)

        with working(self._oracle, "further training", clock):
            found = continue_training(trials, start, self._oracle, task, self._training.trainer_for(task))
        if not found:
            raise SearchError("no model of the search has trained any further in the time that was left.")
        return self._combined(self._members(hand), [self._member(one) for one in found], rows, options)

    def _with_weights(self, top: int) -> list[Trial]:
        layout = self._tuner.store.layout
        best = self._oracle.get_best_trials(max(1, len(self._oracle.trials)))
        return [trial for trial in best if layout.weights(trial.trial_id, 0).exists()][:top]

    def _members(self, hand: Ensemble | None) -> list[EnsembleMember]:
        """What there was before, with models."""
        # Those without weight have no model, and to load them costs more than they are worth.
        if hand is not None:
            return [member for member in hand.members if member.models]
        return [
            dataclasses.replace(one.member(np.arange(len(one.foretold.kept.row_ids))), model=one.load())
            for one in models_of(self._project)[:1]
            if one.load is not None
        ]

    def _combined(
        self,
        before: Sequence[EnsembleMember],
        further: Sequence[EnsembleMember],
        rows: Rows,
        options: Mapping[str, Any],
    ) -> Ensemble:
        """The ensemble of members that have predicted the rows that validate, and of others that predict them now."""
        own = row_identities(rows.x, rows.y)
        row_ids = np.asarray(before[0].row_ids) if before else own
        # Rows with equal features and targets have equal predictions, so any of them will do.
        order = np.argsort(own, kind="stable")
        place = order[np.minimum(np.searchsorted(own[order], row_ids), len(order) - 1)]
        if not np.array_equal(own[place], row_ids):
            got = "models of an earlier search that validated on other rows"
            raise UsageError(explain("fit, training on", got, "the rows of the search", "Search with the same rows."))

        def placed(leaf: np.ndarray) -> np.ndarray:
            return leaf[place]

        members = list(before)
        for one in further:
            said = map_leaves(placed, one.predict(rows.x))
            members.append(dataclasses.replace(one, predictions=said, row_ids=row_ids))
        y, weight = (map_leaves(placed, as_arrays(part)) for part in (rows.y, rows.sample_weight))
        metric = ensembling.metric_of(self._oracle.objective)
        known: dict[str, Any] = {"sample_weight": weight, "method": SHRUNK, "seed": self._oracle.seed}
        known |= {} if metric is None or is_nested(y) else {"metric": metric}
        ensemble = Ensemble.fit(members, y, **known | dict(options))
        origins = [(self._project, trial_of(one.name)) for one in members]
        ensemble = ensemble.with_retrainer(ensembling.retrainer_of(origins))
        return ensembling.with_class_names(ensemble, self._tuner.store)

    def _member(self, one: ContinuedModel) -> EnsembleMember:
        self._tuner.model_origins[one.model] = one.trial_id
        values = self._oracle.trials[one.trial_id].hyperparameters.values
        return EnsembleMember(one.name, one.model, configuration=dict(values))
