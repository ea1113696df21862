"""Ready oracles: a sampler each, with KerasTuner's arguments in KerasTuner's order.

Arguments that all of them share are described at `Oracle`. `**limits` takes `scheduler`, `max_seconds`,
`max_total_epochs` and `compat`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyfit.core.errors import UsageError, explain
from manyfit.core.objective import ObjectiveLike
from manyfit.core.signatures import at_least, checked_arguments
from manyfit.oracles.checks import UNTYPED_TRIALS
from manyfit.oracles.keras_tuner.style import check_keys
from manyfit.oracles.oracle import Oracle
from manyfit.samplers.base import Belief, Constraint, Sampler
from manyfit.samplers.evolution import EvolutionSampler
from manyfit.samplers.gp.sampler import GaussianProcessSampler
from manyfit.samplers.non_adaptive import GridSampler, QuasiRandomSampler, RandomSampler
from manyfit.samplers.optuna_adapter import OptunaSampler, OptunaSamplerLike
from manyfit.samplers.portfolio import PortfolioSampler
from manyfit.schedulers.hyperband import HyperbandScheduler
from manyfit.space.hyperparameters import HyperParameters


class RandomSearchOracle(Oracle):
    """Draws configurations at random, none twice while a new one is left."""

    @checked_arguments(skip=("objective", "compat"))
    def __init__(
        self,
        objective: ObjectiveLike = None,
        max_trials: int | None = UNTYPED_TRIALS,
        seed: int | None = None,
        hyperparameters: HyperParameters | None = None,
        allow_new_entries: bool = True,
        tune_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        *,
        constraints: Sequence[Constraint] = (),
        **limits: Any,
    ) -> None:
        self.constraints = tuple(constraints)  # `_make_sampler` needs it
        super().__init__(
            objective,
            max_trials,
            hyperparameters,
            allow_new_entries,
            tune_new_entries,
            seed,
            max_retries_per_trial,
            max_consecutive_failed_trials,
            sampler=self._make_sampler(max_trials),
            constraints=constraints,
            **limits,
        )

    # A method, since `Oracle` needs the sampler while it is made, and some samplers need `max_trials` or what a
    # constructor below has noted before it called this one.
    def _make_sampler(self, max_trials: int | None) -> Sampler:
        del max_trials
        return RandomSampler()


class GridSearchOracle(RandomSearchOracle):
    """Tries every configuration of the grid once, in a stable order. `max_trials=None` tries them all."""

    def __init__(
        self, objective: ObjectiveLike = None, max_trials: int | None = None, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(objective, max_trials, *args, **kwargs)

    def _make_sampler(self, max_trials: int | None) -> Sampler:
        del max_trials
        return GridSampler()


class QuasiRandomSearchOracle(RandomSearchOracle):
    """Fills the space evenly (a scrambled Sobol sequence)."""

    def _make_sampler(self, max_trials: int | None) -> Sampler:
        del max_trials
        return QuasiRandomSampler()


class SearchOracle(RandomSearchOracle):
    """Picks the sampler by space and budget; `describe()` says which, and why.

    When a finite space is tried in full, the rest of the budget repeats the contenders until their order is settled.
    """

    replicates = True

    @checked_arguments()
    def __init__(
        self,
        objective: ObjectiveLike = None,
        max_trials: int | None = UNTYPED_TRIALS,
        *args: Any,
        beliefs: Sequence[Belief] = (),
        **kwargs: Any,
    ) -> None:
        self.beliefs = tuple(beliefs)
        super().__init__(objective, max_trials, *args, **kwargs)

    def _make_sampler(self, max_trials: int | None) -> Sampler:
        return PortfolioSampler(max_trials, constraints=self.constraints, beliefs=self.beliefs)

    def describe(self) -> str:
        """Which sampler decides now, and why."""
        assert isinstance(self.sampler, PortfolioSampler)  # our bug: __init__ makes it
        return self.sampler.choose(self.get_space(), len(self.trials)).reason


class EvolutionOracle(RandomSearchOracle):
    """Regularised evolution: mutates and crosses the best of the latest `num_parents` trials."""

    @checked_arguments(num_parents=at_least(1, 24))
    def __init__(
        self,
        objective: ObjectiveLike = None,
        max_trials: int | None = UNTYPED_TRIALS,
        *args: Any,
        num_parents: int = 24,
        **kwargs: Any,
    ) -> None:
        self.num_parents = num_parents
        super().__init__(objective, max_trials, *args, **kwargs)

    def _make_sampler(self, max_trials: int | None) -> Sampler:
        del max_trials
        return EvolutionSampler(self.num_parents, constraints=self.constraints)


class BayesianOptimizationOracle(RandomSearchOracle):
    """Asks a Gaussian process where the most improvement is to be expected.

    When a finite space is tried in full, the rest of the budget repeats the contenders until their order is settled.

    Args:
        objective: see `Oracle`.
        max_trials: see `Oracle`.
        num_initial_points: trials before the model decides; None: dimensions + 1, between 3 and 8.
            Trials of earlier searches count (`warm_start`).
        alpha: noise variance that is expected, relative to the objective's; the data decide.
        beta: None for expected improvement; a number for KerasTuner's confidence bound.
        *args: seed and so on, as in `RandomSearchOracle`.
        beliefs: where good values are expected; they steer early and fade.
        **kwargs: likewise.
    """

    replicates = True

    @checked_arguments(num_initial_points=at_least(1, 8))
    def __init__(
        self,
        objective: ObjectiveLike = None,
        max_trials: int | None = UNTYPED_TRIALS,
        num_initial_points: int | None = None,
        alpha: float = 1e-4,
        beta: float | None = None,
        *args: Any,
        beliefs: Sequence[Belief] = (),
        **kwargs: Any,
    ) -> None:
        self.beliefs = tuple(beliefs)
        self.num_initial_points = num_initial_points
        self.alpha = alpha
        self.beta = beta
        super().__init__(objective, max_trials, *args, **kwargs)

    def _make_sampler(self, max_trials: int | None) -> Sampler:
        del max_trials
        return GaussianProcessSampler(
            self.num_initial_points,
            alpha=self.alpha,
            beta=self.beta,
            constraints=self.constraints,
            beliefs=self.beliefs,
        )

    def get_state(self) -> dict[str, Any]:
        """See `KerasTunerOracle.get_state`."""
        settings = {"num_initial_points": self.num_initial_points, "alpha": self.alpha, "beta": self.beta}
        return {**super().get_state(), **settings}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """See `KerasTunerOracle.set_state`. The settings are those of the constructor, not of the file."""
        check_keys(state, "num_initial_points", "alpha", "beta")
        super().set_state(state)


class OptunaOracle(RandomSearchOracle):
    """Lets a sampler of Optuna decide what to try; needs `pip install manyfit[optuna]`.

    Args:
        objective: see `Oracle`; one objective.
        max_trials: see `Oracle`.
        *args: seed and so on, as in `RandomSearchOracle`.
        sampler: a class in `optuna.samplers` by its name or itself, an object of one, or a function from a seed to one;
            see `OptunaSampler`.
        sampler_settings: arguments of a name or a class, JSON only.
        **kwargs: likewise.

    Raises:
        UsageError: several objectives, or as `OptunaSampler` says.
    """

    @checked_arguments(skip=("sampler",))
    def __init__(
        self,
        objective: ObjectiveLike = None,
        max_trials: int | None = UNTYPED_TRIALS,
        *args: Any,
        sampler: OptunaSamplerLike = "TPESampler",
        sampler_settings: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # Here and not in `_make_sampler`, so that a sampler that Optuna does not have is refused first.
        self._made = OptunaSampler(sampler, sampler_settings)
        super().__init__(objective, max_trials, *args, **kwargs)
        if len(self.objective.terms) > 1:
            raise UsageError(
                explain(
                    "OptunaOracle",
                    f"the objectives {list(self.objective.names)}",
                    "one objective: Optuna is told one loss per trial",
                    "Type kt.MultiObjective([...]) for their sum, or use kt.BayesianOptimization.",
                )
            )

    def _make_sampler(self, max_trials: int | None) -> Sampler:
        del max_trials
        return self._made


class HyperbandOracle(RandomSearchOracle):
    """Starts many trials on few epochs and promotes the best; promoted trials continue where they stood.

    Args:
        objective: see `Oracle`.
        max_epochs: epochs of a trial that reaches the last rung.
        factor: one in so many trials is promoted, and trains so many times as long.
        hyperband_iterations: how often all brackets are run; 0 or None: until a limit ends it.
        *args: seed and so on, as in `RandomSearchOracle`.
        min_epochs: the shortest first rung.
        max_trials: most trials; None: as many as the brackets ask for.
        **kwargs: likewise.
    """

    @checked_arguments(skip=("objective",))
    def __init__(
        self,
        objective: ObjectiveLike = None,
        max_epochs: int = 100,
        factor: int = 3,
        hyperband_iterations: int | None = 1,
        *args: Any,
        min_epochs: int = 1,
        max_trials: int | None = None,
        **kwargs: Any,
    ) -> None:
        if "scheduler" in kwargs:
            got, instead = f"scheduler={kwargs['scheduler']!r}", "Type kt.RandomSearch(..., scheduler=...) instead."
            raise UsageError(explain(type(self).__name__, got, "no scheduler: it is one itself", instead))
        if factor < 2:
            got = f"{factor!r}; factor needs to be a int larger than 1."
            raise UsageError(explain("Hyperband(factor=...)", got, "2 or more", "Type factor=3, say."))
        scheduler = HyperbandScheduler(max_epochs, factor, hyperband_iterations or None, min_epochs=min_epochs)
        self.max_epochs, self.min_epochs, self.factor = max_epochs, min_epochs, factor
        self.hyperband_iterations = hyperband_iterations
        super().__init__(objective, max_trials, *args, scheduler=scheduler, **kwargs)

    def get_state(self) -> dict[str, Any]:
        """See `KerasTunerOracle.get_state`. Brackets follow from the trials, so none is listed."""
        names = ("hyperband_iterations", "max_epochs", "min_epochs", "factor")
        settings = {name: getattr(self, name) for name in names}
        return {**super().get_state(), **settings, "brackets": [], "current_bracket": 0, "current_iteration": 0}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """See `KerasTunerOracle.set_state`. The settings are those of the constructor, not of the file."""
        check_keys(state, "max_epochs", "factor", "brackets")
        super().set_state(state)
