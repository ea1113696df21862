"""How an ensemble was fitted: kept with it, so that it can be fitted again for models that are trained anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from manyfit.core.environment import one_thread
from manyfit.core.errors import UsageError, explain
from manyfit.ensemble.alignment import Aligned, aligned
from manyfit.ensemble.choosing.calibration import of_a_bag, with_temperature
from manyfit.ensemble.choosing.choice import Judging, MethodChoice, best_ensemble, choose, steadiest
from manyfit.ensemble.choosing.methods import SHRUNK, Fit, for_retrained, menu_named, within
from manyfit.ensemble.choosing.thresholds import sharpened_thresholds
from manyfit.ensemble.members import EnsembleMember
from manyfit.ensemble.pools import TemperedPool
from manyfit.ensemble.problem import EnsembleProblem, PredictionTask
from manyfit.ensemble.settings import EnsembleSettings, MemberCosts, RowCuts, member_costs

_FEWEST_SEEN_AGAIN = 50  # rows with two predictions that tell anything of averaging
_FEWEST_FOLDS = 3  # the choice leaves out two, and fits on the rest


@dataclasses.dataclass(frozen=True, eq=False)
class Fitting:
    """Everything that the choice of a pool follows from.

    Attributes:
        told: the members that can be used, as one problem; those without models come last.
        method: "auto", "shrunk", or a method's name.
        settings: fine points.
        costs: of the members of `told` that have models.
        seed: of folds and random methods.
        model_folds: see `Judging`. So for the last two.
        num_kept: members that have models; see `CrossFit`.
    """

    told: Aligned
    method: str
    settings: EnsembleSettings
    costs: MemberCosts
    seed: int
    model_folds: tuple[tuple[EnsembleProblem, np.ndarray], ...] = ()
    num_kept: int | None = None
    num_models: int | None = None
    again: tuple[EnsembleProblem, float] | None = None

    def choice(self, *, retrained: bool = False) -> MethodChoice:
        """Chooses a method and fits it.

        Args:
            retrained: the weights are for models of the same configurations that are trained anew. What is stated is
                the gain of weights that are learned and carried over, not of those of the models at hand.
        """
        problem, metric, settings = self.told.problem, self.told.metric, self.settings
        fit: Fit = menu_named(self.method, problem, metric, settings).fit
        if retrained:
            fit = for_retrained(fit, model_folds=bool(self.model_folds))
        fit = within(fit, settings.budget, self.costs)
        judging = Judging(
            steadiest if self.method == SHRUNK else best_ensemble,
            insist=self.method not in ("auto", SHRUNK),
            model_folds=self.model_folds,
            num_kept=self.num_kept,
            num_models=None if retrained else self.num_models,
            again=None if retrained else self.again,
            # Like a temperature it dies with the models, unless it was tried on others than it was learned from.
            thresholds=not retrained or bool(self.model_folds),
        )
        with one_thread():  # L-BFGS factorises matrices of twenty rows: 1.2 s of processor time instead of 8
            found = choose(problem, fit, metric, settings, self.seed, judging)
        if not retrained and self.num_models is not None:
            return self._of_bags(found)
        if not retrained or self.model_folds:
            return found
        # On average carried weights gain what they gain here. But all rows were predicted by the same models, so
        # nothing tells how far others may fall from that: no such gain is proven.
        return found.unproven()

    def _of_bags(self, found: MethodChoice) -> MethodChoice:
        """A choice among bags, of which each row was predicted by one model, or by one of every repeat."""
        repeats, problem = len(self.model_folds), self.told.problem
        if repeats < 2 or self.num_models is None:
            # What bags gain together is less than what single models do, since each has averaged its own noise away:
            # how much less, one prediction of each row does not tell.
            return found if self.num_models == repeats else found.unproven()
        if not self.settings.temperature or not isinstance(found.pool, TemperedPool):
            return found
        kept = np.arange(problem.num_members if self.num_kept is None else self.num_kept)
        known = with_temperature(found.pool, problem.members(kept))
        if not isinstance(known, TemperedPool) or known.inverse_temperature == 1.0:
            return found
        # The mean of a few is sharper than that of many, so what it needs is carried on to these.
        alone = [with_temperature(found.pool, one.members(kept)) for one, _ in self.model_folds]
        single = float(np.mean([one.inverse_temperature for one in alone if isinstance(one, TemperedPool)]))
        beta = of_a_bag(single, known.inverse_temperature, repeats, self.num_models)
        told, before = found.thresholds, found.pool.inverse_temperature
        return dataclasses.replace(
            found,
            pool=dataclasses.replace(found.pool, inverse_temperature=beta),
            thresholds=None if told is None else sharpened_thresholds(told, beta / before),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Offered:
    """Members and rows as they come from whoever wants an ensemble of them; see `Ensemble.fit`."""

    members: Sequence[EnsembleMember]
    y: Any
    sample_weight: Any
    metric: object
    task: PredictionTask | str | None
    cuts: RowCuts
    num_kept: int

    def fitting(self, method: str, settings: EnsembleSettings, seed: int, *, x: object = None) -> Fitting:
        """Brings members and rows together.

        Args:
            method: "auto", "shrunk", or a method's name.
            settings: fine points.
            seed: of folds and random methods.
            x: rows to time members with.

        Raises:
            UsageError: members, labels, rows, metric or cuts do not fit together; the message says how.
        """
        count, folds = len(self.members), self._folds()
        # What each repeat's models predicted goes along as if it were further members: the same rows and positions.
        apart = [
            dataclasses.replace(one, name=f"{one.name}, repeat {number + 1}", predictions=one.repeats[number])
            for number in range(len(folds) if len(folds) > 1 else 0)
            for one in self.members
        ]
        seen = np.zeros(0, bool) if len(folds) != 1 or self.cuts.again is None else np.asarray(self.cuts.again, bool)
        if seen.sum() >= _FEWEST_SEEN_AGAIN:
            apart = [dataclasses.replace(one, name=f"{one.name}, again", predictions=one.again) for one in self.members]
        told = aligned(
            [*self.members, *apart],
            self.y,
            task=self.task,
            sample_weight=self.sample_weight,
            metric=self.metric,
            settings=settings,
            seed=seed,
        )
        problem = told.problem.grouped(self._groups(told.problem.num_rows))
        usable = told.usable[told.usable < count]
        own = dataclasses.replace(told, problem=problem.members(np.arange(len(usable))), usable=usable)
        if self.cuts.folds is not None and not folds:
            own.notes.append("Fewer than three folds of models: the gain is that of these models on new rows.")
        for fold in folds:
            _one_per_row("folds", fold, problem.num_rows)
        runs = [
            own.problem
            if len(folds) == 1
            else problem.members(np.searchsorted(told.usable, usable + (1 + number) * count))
            for number in range(len(folds))
        ]
        again = None
        if len(folds) == 1 and apart:
            other = problem.members(np.searchsorted(told.usable, usable + count))
            again = other, float(problem.row_weight[seen].sum())
        kept = usable[usable < self.num_kept]
        if not len(kept):
            raise UsageError(
                explain(
                    "Ensemble.fit(predictions)",
                    "NaN or inf in the predictions of every member that has a model",
                    "at least one member with finite predictions",
                    "Leave out members that diverged, and check the preprocessing of x.",
                )
            )
        return Fitting(
            own,
            method,
            settings,
            member_costs([self.members[index] for index in kept], settings.budget, x),
            seed,
            tuple((one, np.unique(fold, return_inverse=True)[1]) for one, fold in zip(runs, folds, strict=True)),
            len(kept),
            self.cuts.num_models if folds else None,
            again,
        )

    def _folds(self) -> list[np.ndarray]:
        """The fold of each row in each repeat; none, where there are too few for a choice to be cross-fitted."""
        folds = [] if self.cuts.folds is None else list(np.atleast_2d(np.asarray(self.cuts.folds)))
        return folds if all(len(np.unique(fold)) >= _FEWEST_FOLDS for fold in folds) else []

    def _groups(self, num_rows: int) -> np.ndarray | None:
        if self.cuts.groups is None:
            return None
        groups = _one_per_row("groups", np.asarray(self.cuts.groups), num_rows)
        if (found := len(np.unique(groups))) < _FEWEST_FOLDS:
            raise UsageError(
                explain(
                    "Ensemble.fit(cuts)",
                    f"{found} groups of rows",
                    "at least three: some to learn from, some to choose by, some to measure with",
                    "Leave the groups out if their rows are independent, or give rows of more groups.",
                )
            )
        return groups


def _one_per_row(name: str, labels: np.ndarray, num_rows: int) -> np.ndarray:
    if labels.shape == (num_rows,):
        return labels
    raise UsageError(
        explain(
            f"Ensemble.fit(cuts), {name}",
            f"labels of shape {labels.shape} for {num_rows} rows",
            "one label per predicted row",
            "Give them for exactly the rows that were predicted, in their order.",
        )
    )
