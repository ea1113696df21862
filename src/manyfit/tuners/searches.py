"""Ready tuners: an oracle each, with KerasTuner's arguments in KerasTuner's order.

`RandomSearch` describes the arguments that all of them take.
"""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Unpack

from manyfit.core.objective import ObjectiveLike
from manyfit.core.signatures import checked_arguments
from manyfit.data.rows import FitData
from manyfit.fitting.winner import Winner
from manyfit.oracles import Oracle
from manyfit.oracles import searches as oracles
from manyfit.oracles.checks import UNTYPED_TRIALS
from manyfit.samplers.base import Belief
from manyfit.samplers.optuna_adapter import OptunaSamplerLike
from manyfit.space.hyperparameters import HyperParameters
from manyfit.tuners.keras_tuner.base_tuner import BaseTuner
from manyfit.tuners.keras_tuner.hypermodel import BuildFunction, HyperModel
from manyfit.tuners.options import FitOptions, ReadyOptions, SearchOptions, described_by, spelled_out
from manyfit.tuners.tuner import Tuner

#: What the parts that these go to answer for, in better words.
_CHECKED_LATER = ("hypermodel", "objective", "executor", "display", "precision", "devices", "jit_compile", "compat")


class ReadySearch(Tuner):
    """What the ready tuners share: an oracle is made of the arguments, and KerasTuner's order of them is kept.

    Each method derives from this class and none from another, so that `isinstance(tuner, kt.RandomSearch)` means random
    search. A further one names its oracle's class and the arguments that go to it. One that has arguments of its own
    hands them on in a mapping, since they are not among the `ReadyOptions`, and what comes by its place as it comes.
    """

    _oracle_class: ClassVar[type[Oracle]] = Oracle  # each ready tuner names its own
    #: Arguments by name that go to the oracle; the others go to `Tuner`.
    _oracle_arguments: ClassVar[frozenset[str]] = frozenset(
        {"scheduler", "max_seconds", "max_total_epochs", "constraints", "compat"}
    )

    @spelled_out(SearchOptions, Tuner, BaseTuner, Oracle)
    @checked_arguments(skip=_CHECKED_LATER)
    def __init__(
        self,
        hypermodel: HyperModel | BuildFunction | None = None,
        objective: ObjectiveLike = None,
        max_trials: int | None = UNTYPED_TRIALS,
        seed: int | None = None,
        hyperparameters: HyperParameters | None = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        **options: Unpack[SearchOptions],
    ) -> None:
        given: dict[str, Any] = {**options}
        oracle = self._oracle_class(
            objective=objective,
            max_trials=max_trials,
            seed=seed,
            hyperparameters=hyperparameters,
            tune_new_entries=tune_new_entries,
            allow_new_entries=allow_new_entries,
            max_retries_per_trial=max_retries_per_trial,
            max_consecutive_failed_trials=max_consecutive_failed_trials,
            # Taken out here, so that what is left over is refused by `BaseTuner` with a message that names it.
            **{name: given.pop(name) for name in list(given) if name in self._oracle_arguments},
        )
        super().__init__(oracle, hypermodel, **given)


#: What follows `max_trials`, or arguments of a method's own, by its place as in KerasTuner.
_PLACES = tuple(inspect.signature(ReadySearch).parameters)[3:9]


@described_by(Tuner, BaseTuner, Oracle)
class RandomSearch(ReadySearch):
    """Random search: the baseline that everything else has to beat.

    Args:
        hypermodel: a function that takes `HyperParameters` and returns a compiled Keras model, or a `HyperModel`.
        objective: a metric's name (its direction is told from the name), an `Objective`, or a list of these, none of
            which is traded for another: `get_best_*` then return the Pareto front.
        max_trials: configurations at most; None: no limit.
        seed: of the whole search; 0 is a seed, None draws one.
        hyperparameters: ranges that win over those of the build function.
        tune_new_entries: whether what the build function adds to them is searched.
        allow_new_entries: whether it may add anything.
        max_retries_per_trial: how often a failed trial runs again.
        max_consecutive_failed_trials: after so many exceptions in a row the search gives up.
        **options: everything of `Tuner`, and of `Oracle` `scheduler`, `max_seconds`, `max_total_epochs`, `constraints`
            and `compat`.

    Raises:
        UsageError: an argument of another name, or outside of what is allowed.
        ProjectError: the project cannot be used: see `ProjectStore` and `Oracle.open`.

    Example: `kt.RandomSearch(build_model, "val_accuracy", max_trials=10)`; docs/tutorials/keras-tuner.md runs one.
    """

    _oracle_class = oracles.RandomSearchOracle


# KerasTuner's `GridSearch` tries the whole grid unless told otherwise, hence another default for `max_trials`.
@described_by(RandomSearch)
class GridSearch(ReadySearch):
    """Grid search: all of a finite space, each configuration once, in a stable order.

    Ranges without a step are tried at ten values and the default.

    Args:
        max_trials: configurations at most; None: the whole grid.
        **options: as in `RandomSearch`.

    Example: `kt.GridSearch(build_model, "val_accuracy")`; docs/confirm.md runs one.
    """

    _oracle_class = oracles.GridSearchOracle

    @spelled_out(ReadyOptions, ReadySearch, Tuner, BaseTuner, Oracle, places=_PLACES)
    def __init__(
        self,
        hypermodel: HyperModel | BuildFunction | None = None,
        objective: ObjectiveLike = None,
        max_trials: int | None = None,
        *places: Any,
        **options: Unpack[ReadyOptions],
    ) -> None:
        given: dict[str, Any] = {**options}
        super().__init__(hypermodel, objective, max_trials, *places, **given)


@described_by(RandomSearch)
class QuasiRandomSearch(ReadySearch):
    """Fills the space evenly (a scrambled Sobol sequence): better than random with few trials, and as parallel.

    Args:
        **options: as in `RandomSearch`.

    Example: `kt.QuasiRandomSearch(build_model, "val_accuracy", max_trials=10)`; docs/confirm.md runs some.
    """

    _oracle_class = oracles.QuasiRandomSearchOracle


@described_by(RandomSearch)
class Search(ReadySearch):
    """Picks the method by space and budget, and says which: grid, Bayesian optimisation or evolution.

    Args:
        beliefs: a list of `kt.Belief`: where good values are expected.
        **options: as in `RandomSearch`.

    Example: `kt.Search(build_model, "val_accuracy")`; docs/minutes.md runs one.
    """

    _oracle_class = oracles.SearchOracle
    _oracle_arguments = ReadySearch._oracle_arguments | {"beliefs"}  # noqa: SLF001  # of this module's own class

    @spelled_out(ReadyOptions, ReadySearch, Tuner, BaseTuner, Oracle, places=_PLACES)
    def __init__(
        self,
        hypermodel: HyperModel | BuildFunction | None = None,
        objective: ObjectiveLike = None,
        max_trials: int | None = UNTYPED_TRIALS,
        *places: Any,
        beliefs: Sequence[Belief] = (),
        **options: Unpack[ReadyOptions],
    ) -> None:
        given: dict[str, Any] = {"beliefs": beliefs, **options}
        super().__init__(hypermodel, objective, max_trials, *places, **given)

    def on_search_begin(self) -> None:
        """Says which method decides."""
        assert isinstance(self.oracle, oracles.SearchOracle)  # our bug: __init__ makes it
        self._display.say(f"Search: {self.oracle.describe()}")


@described_by(RandomSearch)
class Evolution(ReadySearch):
    """Regularised evolution (a genetic algorithm): for large budgets and odd spaces.

    Args:
        num_parents: how many of the latest trials are kept to descend from.
        **options: as in `RandomSearch`.

    Example: `kt.Evolution(build_model, "val_accuracy", max_trials=1000)`.
    """

    _oracle_class = oracles.EvolutionOracle
    _oracle_arguments = ReadySearch._oracle_arguments | {"num_parents"}  # noqa: SLF001  # of this module's own class

    @spelled_out(ReadyOptions, ReadySearch, Tuner, BaseTuner, Oracle, places=_PLACES)
    def __init__(
        self,
        hypermodel: HyperModel | BuildFunction | None = None,
        objective: ObjectiveLike = None,
        max_trials: int | None = UNTYPED_TRIALS,
        *places: Any,
        num_parents: int = 24,
        **options: Unpack[ReadyOptions],
    ) -> None:
        given: dict[str, Any] = {"num_parents": num_parents, **options}
        super().__init__(hypermodel, objective, max_trials, *places, **given)


@described_by(RandomSearch)
class BayesianOptimization(ReadySearch):
    """Bayesian optimisation with a Gaussian process: the fewest trials.

    Args:
        hypermodel: a function that takes `HyperParameters` and returns a compiled Keras model, or a `HyperModel`.
        objective: a metric's name, such as "val_accuracy", an `Objective`, or a list of these.
        max_trials: configurations at most; None: no limit.
        num_initial_points: trials before the model decides; None: dimensions + 1, between 3 and 8.
            Trials of earlier searches count (`warm_start`).
        alpha: noise variance that is expected, relative to the objective's; the data decide.
        beta: None for expected improvement; a number for KerasTuner's confidence bound.
        beliefs: a list of `kt.Belief`: where good values are expected.
        **options: as in `RandomSearch`; KerasTuner's users may pass `seed` and so on by their places.

    Raises:
        UsageError: an argument of another name, or outside of what is allowed.
        ProjectError: the project cannot be used: see `ProjectStore` and `Oracle.open`.

    Example: `kt.BayesianOptimization(build_model, "val_loss", max_trials=30, seed=0)`; docs/searching.md runs some.
    """

    _oracle_class = oracles.BayesianOptimizationOracle
    _oracle_arguments = ReadySearch._oracle_arguments | {"num_initial_points", "alpha", "beta", "beliefs"}  # noqa: SLF001  # of this module's own class

    @spelled_out(ReadyOptions, ReadySearch, Tuner, BaseTuner, Oracle, places=_PLACES)
    def __init__(
        self,
        hypermodel: HyperModel | BuildFunction | None = None,
        objective: ObjectiveLike = None,
        max_trials: int | None = UNTYPED_TRIALS,
        num_initial_points: int | None = None,
        alpha: float = 1e-4,
        beta: float | None = None,
        *places: Any,
        beliefs: Sequence[Belief] = (),
        **options: Unpack[ReadyOptions],
    ) -> None:
        given: dict[str, Any] = {
            "num_initial_points": num_initial_points,
            "alpha": alpha,
            "beta": beta,
            "beliefs": beliefs,
            **options,
        }
        super().__init__(hypermodel, objective, max_trials, *places, **given)


@described_by(RandomSearch)
class OptunaSearch(ReadySearch):
    """Lets any sampler of Optuna decide what to try; needs `pip install manyfit[optuna]`.

    The seed of the search decides in each case, and a search that was killed goes on as if it had not been: of an
    object copies are used, as it was handed in, and what such a copy remembers comes from the trials that it lives
    through again.

    Args:
        sampler: a class in `optuna.samplers` by its name or itself, an object as in `optuna.create_study(sampler=...)`,
            or a function that takes a seed and returns one.
        sampler_settings: arguments of a name or a class, JSON only.
        **options: as in `RandomSearch`.

    Raises:
        UsageError: Optuna is not installed, or has no such sampler, or it does not take these settings; or a sampler
            that needs a study of its own (`GridSampler`, `QMCSampler`, `PartialFixedSampler`).

    Example: `kt.OptunaSearch(build_model, "val_loss", max_trials=30, sampler="CmaEsSampler")`.
    """

    _oracle_class = oracles.OptunaOracle
    _oracle_arguments = ReadySearch._oracle_arguments | {"sampler", "sampler_settings"}  # noqa: SLF001  # of this module's own class

    @spelled_out(ReadyOptions, ReadySearch, Tuner, BaseTuner, Oracle, places=_PLACES)
    def __init__(
        self,
        hypermodel: HyperModel | BuildFunction | None = None,
        objective: ObjectiveLike = None,
        max_trials: int | None = UNTYPED_TRIALS,
        *places: Any,
        sampler: OptunaSamplerLike = "TPESampler",
        sampler_settings: Mapping[str, Any] | None = None,
        **options: Unpack[ReadyOptions],
    ) -> None:
        given: dict[str, Any] = {"sampler": sampler, "sampler_settings": sampler_settings, **options}
        super().__init__(hypermodel, objective, max_trials, *places, **given)


@described_by(RandomSearch)
class Hyperband(ReadySearch):
    """Hyperband: many trials on few epochs, the best of them on more.

    A promoted trial continues: weights, optimizer, schedules, the patience of callbacks, the order of the data.

    Args:
        hypermodel: see `RandomSearch`.
        objective: see `RandomSearch`.
        max_epochs: epochs of a trial that reaches the last rung; `search(epochs=...)` is not needed.
        factor: one in so many trials is promoted, and trains so many times as long.
        hyperband_iterations: how often all brackets are run; 0 or None: until `max_trials`, `max_total_epochs` or
            `max_seconds` ends it.
        max_trials: configurations at most; None: as many as the brackets ask for.
        min_epochs: the shortest first rung.
        **options: as in `RandomSearch`; KerasTuner's users may pass `seed` and so on by their places.

    Example: `kt.Hyperband(build_model, "val_loss", max_epochs=81)`; docs/how-long.md runs one.
    """

    _oracle_class = oracles.HyperbandOracle
    _oracle_arguments = ReadySearch._oracle_arguments | {"max_epochs", "factor", "hyperband_iterations", "min_epochs"}  # noqa: SLF001  # of this module's own class

    @spelled_out(ReadyOptions, ReadySearch, Tuner, BaseTuner, Oracle, places=_PLACES)
    def __init__(
        self,
        hypermodel: HyperModel | BuildFunction | None = None,
        objective: ObjectiveLike = None,
        max_epochs: int = 100,
        factor: int = 3,
        hyperband_iterations: int | None = 1,
        *places: Any,
        max_trials: int | None = None,  # by name only: KerasTuner's Hyperband has none
        min_epochs: int = 1,
        **options: Unpack[ReadyOptions],
    ) -> None:
        given: dict[str, Any] = {
            "max_epochs": max_epochs,
            "factor": factor,
            "hyperband_iterations": hyperband_iterations,
            "min_epochs": min_epochs,
            **options,
        }
        super().__init__(hypermodel, objective, max_trials, *places, **given)


@described_by(Tuner.fit)
@spelled_out(FitOptions, Tuner.fit)
@checked_arguments()
def fit(
    hypermodel: HyperModel | BuildFunction,
    x: FitData,
    y: FitData = None,
    objective: ObjectiveLike = None,
    *,
    max_seconds: float | None = None,
    seed: int | None = None,
    directory: str | os.PathLike[str] | None = None,
    project_name: str | None = None,
    overwrite: bool = False,
    **options: Unpack[FitOptions],
) -> Winner:
    """The best model that there is after some seconds, for who wants no tuner: `Search(...).fit(...)` in one call.

    Args:
        hypermodel: a function that takes `HyperParameters` and returns a compiled Keras model or an estimator.
        x: rows to train on; validation rows are held out of them, unless they are given as `validation_data=(x, y)`.
        y: their targets.
        objective: a metric's name, or a `kt.Objective`.
        max_seconds: the limit, for all of it.
        seed: of the whole search; 0 is a seed, None draws one.
        directory: where the project lies, so that the same call goes on after a kill; None: in a new folder for
            temporary files, which `winner.search.project_dir` names.
        project_name: the project's folder in it.
        overwrite: delete an earlier search of that name instead of going on with it.
        **options: further arguments of `Tuner.fit`.

    Returns:
        The winner: print it. `predict`, `evaluate` and `save` are what people want of it; `search` is the tuner.

    Raises:
        UsageError: several objectives, no limit at all, data of which nothing can be held out, or an argument of
            another name or outside of what is allowed.
        SearchError: all trials failed, or the time was too short for one epoch.

    Example: `kt.fit(build_model, x, y, "val_accuracy", max_seconds=600)`; the README runs one.
    """
    where = tempfile.mkdtemp(prefix="manyfit-") if directory is None else directory
    tuner = Search(hypermodel, objective, seed=seed, directory=where, project_name=project_name, overwrite=overwrite)
    return tuner.fit(x, y, max_seconds=max_seconds, **options)
