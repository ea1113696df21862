"""Out-of-fold predictions of every method, nested ones of the whole procedure, and the losses of both.

A method that was fitted on some rows is scored on others (*cross-fitting*). The best score of many methods is itself
too good to be true, so the choice is cross-fitted as well (*nesting*): without fold a, every method is scored on the
remaining folds b by fits that saw neither a nor b; the winner of that, fitted without a, predicts a. So k folds take
fits without each fold, without each pair of folds, and on everything: k + k(k - 1)/2 + 1 per method.

What is left out with a fold depends on who is to use the weights. Where members are models of a cross-validation, a
fold of rows has *models* of its own, which leave with it: weights that live on the luck of one model fail there.
Elsewhere the same models are on both sides, and what is measured is the gain of these models on new rows, not that of
others like them.

A metric of decisions has a threshold besides, which is learned last: for fold a from predictions of the folds b by fits
that saw neither (`thresholds`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from manyfit.core.seeds import generator
from manyfit.data.folds import by_groups
from manyfit.ensemble.choosing.losses import Averaged, Losses, Means
from manyfit.ensemble.choosing.methods import Context, Fit, learnable
from manyfit.ensemble.choosing.thresholds import decides, learned, moved
from manyfit.ensemble.metrics import Metric
from manyfit.ensemble.pools import Pool
from manyfit.ensemble.problem import EnsembleProblem, PredictionTask
from manyfit.ensemble.settings import EnsembleSettings
from manyfit.ensemble.weights.greedy import own_losses


def folds_of(problem: EnsembleProblem, num_folds: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) fold of each row: groups stay together, or else classes are spread evenly over the folds."""
    if problem.groups is not None:
        return by_groups(problem.groups, num_folds, rng)
    order = rng.permutation(problem.num_rows)
    # Sorted by class after the shuffle, so that dealing rows out in turn gives every fold its share of each class: with
    # ninety rows a fold without one of the classes would decide the choice.
    if problem.task in (PredictionTask.MULTICLASS, PredictionTask.BINARY) and not problem.positions:
        order = order[np.argsort(problem.target.reshape(-1)[order], kind="stable")]
    fold = np.empty(problem.num_rows, dtype=np.int64)
    fold[order] = np.arange(problem.num_rows) % num_folds
    return fold


Pick = Callable[[Losses, Mapping[str, int]], tuple[str, str]]
"""From losses and numbers of members to the names of the chosen method and of the baseline that it is compared with."""


class CrossFit:
    """Fits of every method without each fold and without each pair of folds, made when they are first asked for.

    Args:
        problem: the rows, with every member that could have been taken.
        fit: fits every method, by name.
        metric: what counts.
        settings: how many folds.
        seed: of the folds and of the random methods.
        fold: (n,) which fold's models predicted each row; None: the same models predicted all, and folds are drawn.
        means: of several models of each member; None: a member is one model, or nobody knows what averaging changes.
        num_kept: of so many members, the first ones, there are models; the others were not kept since they were worse
            on these very rows. Each fit picks as many anew, from its own rows, so that this choice is cross-fitted,
            too.
        thresholds: whether one is learned for a metric of decisions.
    """

    def __init__(
        self,
        problem: EnsembleProblem,
        fit: Fit,
        metric: Metric,
        settings: EnsembleSettings,
        *,
        seed: int,
        fold: np.ndarray | None = None,
        means: Means | None = None,
        num_kept: int | None = None,
        thresholds: bool = True,
    ) -> None:
        self.problem = problem
        self.means = means
        self.fit = fit
        self.metric = metric
        self.settings = settings
        self.seed = seed
        self.num_kept = problem.num_members if num_kept is None else num_kept
        if fold is None:
            groups = problem.num_rows if problem.groups is None else len(np.unique(problem.groups))
            fold = folds_of(problem, min(settings.folds(problem.num_rows), groups), generator(seed, "folds"))
        self.fold = fold
        self.num_folds = int(fold.max()) + 1
        self._fitted: dict[tuple[int, ...], Mapping[str, Pool]] = {}
        self.decides = thresholds and decides(metric, problem.task)
        self._picks: dict[int, tuple[str, str]] = {}
        self._thresholds: dict[tuple[int, str], np.ndarray | None] = {}

    def final(self) -> Mapping[str, Pool]:
        """Every method's pool of the kept members, fitted on all rows."""
        return self._fit(self.problem.members(np.arange(self.num_kept)))

    def pools(self, *left_out: int) -> Mapping[str, Pool]:
        """Every method's pool, fitted on the rows outside the folds `left_out`."""
        # Kept, since `predictions` and `nested` ask for the same fits: pairs of folds are asked for twice each.
        key = tuple(sorted(left_out))
        if key not in self._fitted:
            rows = self.problem.rows(np.flatnonzero(~np.isin(self.fold, key)))
            everybody = rows.num_members
            best = np.argsort(own_losses(rows, self.metric), kind="stable")[: self.num_kept]
            chosen = np.arange(everybody) if self.num_kept == everybody else np.sort(best)
            pools = self._fit(rows.members(chosen), *key)
            self._fitted[key] = {name: pool.expand(chosen, everybody) for name, pool in pools.items()}
        return self._fitted[key]

    def _fit(self, problem: EnsembleProblem, *key: int) -> Mapping[str, Pool]:
        # Addressed by the folds, not drawn in turn: what a fit draws does not depend on which was asked for first.
        rng, metric = generator(self.seed, "methods", *key), self.metric
        # Of all rows, so that every fold fits for the same.
        near = learnable(metric, self.problem)
        judged = None if near is metric else metric
        return self.fit(problem, Context(near, self.settings, rng, judged))

    def predictions(self, without: int | None = None, *, of: EnsembleProblem | None = None) -> dict[str, np.ndarray]:
        """(n * K, C) out-of-fold predictions of every method.

        Args:
            without: a fold that neither fits nor predicts; its rows are left out of the answer.
            of: what the pools combine of the same rows; None: what this cross-fit's models said.
        """
        told = self.problem if of is None else of
        answer: dict[str, np.ndarray] = {}
        for k in range(self.num_folds):
            if k == without:
                continue
            rows = np.flatnonzero(self.fold == k)
            answers = self.problem.answers_of(rows)
            part = told.predictions[:, answers]
            for name, pool in (self.pools(k) if without is None else self.pools(k, without)).items():
                # Not zeros: every row is in one fold, so all is written, but for the rows that are left out below.
                empty = np.empty(self.problem.predictions.shape[1:])
                answer.setdefault(name, empty)[answers] = pool(part, self.problem.task)
        if without is None:
            return answer
        kept = self.problem.answers_of(np.flatnonzero(self.fold != without))
        return {name: array[kept] for name, array in answer.items()}

    def _averaged(self, without: int) -> Averaged | None:
        return averaged_of([self], lambda run, of: run.predictions(without, of=of))

    def nested(self, pick: Pick, *, of: EnsembleProblem | None = None, decided: bool = False) -> dict[str, np.ndarray]:
        """(n * K, C) predictions of the procedure, its baseline and the single best, each on rows unseen by them.

        Args:
            pick: names the method and the baseline, from losses on rows that the fits they name did not see.
            of: see `predictions`.
            decided: for a metric of decisions, move those of procedure and baseline so that one half is where the
                threshold of the other folds was; the single best stays as it is.
        """
        told = self.problem if of is None else of
        shape = self.problem.predictions.shape[1:]
        answer = {name: np.empty(shape) for name in ("procedure", "baseline", "single best")}
        for k in range(self.num_folds):
            rows = np.flatnonzero(self.fold == k)
            answers, pools = self.problem.answers_of(rows), self.pools(k)
            part = told.predictions[:, answers]
            sizes = {name: len(pool.support) for name, pool in pools.items()}
            others = self.problem.rows(np.flatnonzero(self.fold != k))
            # Within each fold the choice only needs an order; the many resamples are for what is stated.
            if k not in self._picks:
                averaged = self._averaged(without=k)
                losses = Losses(self.metric, others, [self.predictions(without=k)], averaged=averaged, precise=False)
                self._picks[k] = pick(losses, sizes)
            for role, name in zip(answer, (*self._picks[k], "single best"), strict=True):
                own = decided and self.decides and role != "single best"
                told_by_others = self._learned(k, name, others) if own else None
                answer[role][answers] = moved(pools[name](part, self.problem.task), told_by_others)
        return answer

    def _learned(self, without: int, name: str, others: EnsembleProblem) -> np.ndarray | None:
        """The threshold of a method for a fold that neither it nor its fits have seen."""
        key = without, name
        if key not in self._thresholds:
            fold = self.fold[self.fold != without]
            said = self.predictions(without=without)[name]
            self._thresholds[key] = learned(said, others, fold, self.metric)
        return self._thresholds[key]

    def threshold(self, name: str) -> np.ndarray | None:
        """The threshold of a method that was fitted on all rows; of means of several models, where there are some."""
        if not self.decides:
            return None
        means = None if self.means is None else self.means.problem
        return learned(self.predictions(of=means)[name], self.problem, self.fold, self.metric)


def averaged_of(
    runs: Sequence[CrossFit], predict: Callable[[CrossFit, EnsembleProblem], Mapping[str, np.ndarray]]
) -> Averaged | None:
    """What averaging changes of the predictions of some cross-fits; None where nobody knows.

    Args:
        runs: the cross-fits.
        predict: what one of them says of the predictions of a problem.
    """
    means = runs[0].means
    if means is None:
        return None
    several = [predict(run, means.problem) for run in runs]
    partner = means.partner
    return Averaged(several, means.factor, None if partner is None else [predict(run, partner) for run in runs])
