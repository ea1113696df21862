"""Other libraries behind one small interface, with their default settings.

A searcher is asked for configurations and told their losses; `recommend` says which one it would return.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from lcbench import Parameter


class Searcher(Protocol):
    """What the benchmark needs of a search library."""

    def ask(self, count: int) -> list[list[float]]:
        """Up to `count` configurations to evaluate, in the order of the parameters."""

    def tell(self, configurations: list[list[float]], losses: list[float]) -> None:
        """The losses of configurations that were asked for, in that order."""

    def recommend(self) -> list[float]:
        """The configuration that the library would hand to its user."""


class BestSeen:
    """A searcher that recommends what it saw win, as the libraries do that have no notion of noise."""

    def __init__(self) -> None:
        self._best: tuple[float, list[float]] | None = None

    def _note(self, configurations: list[list[float]], losses: list[float]) -> None:
        for loss, configuration in zip(losses, configurations, strict=True):
            if self._best is None or loss < self._best[0]:
                self._best = (loss, configuration)

    def recommend(self) -> list[float]:
        if self._best is None:
            raise RuntimeError("nothing was told yet")
        return self._best[1]


class Optuna(BestSeen):
    """A study with one of Optuna's samplers."""

    def __init__(self, parameters: Sequence[Parameter], seed: int, sampler: str) -> None:
        super().__init__()
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        made = {
            "tpe": optuna.samplers.TPESampler,
            "gp": optuna.samplers.GPSampler,
            "random": optuna.samplers.RandomSampler,
        }[sampler](seed=seed)
        self._study = optuna.create_study(sampler=made)
        self._space = {
            p.name: optuna.distributions.IntDistribution(int(p.lower), int(p.upper), log=p.log)
            if p.whole
            else optuna.distributions.FloatDistribution(p.lower, p.upper, log=p.log)
            for p in parameters
        }
        self._pending: list = []

    def learn(self, configurations: list[list[float]], losses: list[float]) -> None:
        """Takes trials that it did not ask for."""
        import optuna

        for configuration, loss in zip(configurations, losses, strict=True):
            values = dict(zip(self._space, configuration, strict=True))
            params = {
                name: int(values[name]) if isinstance(each, optuna.distributions.IntDistribution) else values[name]
                for name, each in self._space.items()
            }
            self._study.add_trial(optuna.trial.create_trial(params=params, distributions=self._space, value=loss))

    def ask(self, count: int) -> list[list[float]]:
        asked = [self._study.ask(self._space) for _ in range(count)]
        self._pending = asked
        return [[trial.params[name] for name in self._space] for trial in asked]

    def tell(self, configurations: list[list[float]], losses: list[float]) -> None:
        for trial, loss in zip(self._pending, losses, strict=True):
            self._study.tell(trial, loss)
        self._note(configurations, losses)


class Smac(BestSeen):
    """SMAC's facade for hyperparameter optimisation (a random forest), by ask and tell."""

    def __init__(self, parameters: Sequence[Parameter], seed: int, noisy: bool, num_trials: int) -> None:
        super().__init__()
        import ConfigSpace
        import smac

        logging.getLogger("smac").setLevel(logging.ERROR)
        space = ConfigSpace.ConfigurationSpace(seed=seed)
        for p in parameters:
            kind = ConfigSpace.Integer if p.whole else ConfigSpace.Float
            bounds = (int(p.lower), int(p.upper)) if p.whole else (p.lower, p.upper)
            space.add(kind(p.name, bounds, log=p.log))
        self._names = [p.name for p in parameters]
        self._folder = tempfile.TemporaryDirectory()
        scenario = smac.Scenario(
            space,
            deterministic=not noisy,
            n_trials=num_trials,
            seed=seed,
            output_directory=pathlib.Path(self._folder.name),
        )
        self._facade = smac.HyperparameterOptimizationFacade(
            scenario, lambda config, seed=0: 0.0, logging_level=logging.ERROR, overwrite=True
        )
        self._pending: list = []

    def ask(self, count: int) -> list[list[float]]:
        self._pending = [self._facade.ask() for _ in range(count)]
        return [[info.config[name] for name in self._names] for info in self._pending]

    def tell(self, configurations: list[list[float]], losses: list[float]) -> None:
        from smac.runhistory import TrialValue

        for info, loss in zip(self._pending, losses, strict=True):
            self._facade.tell(info, TrialValue(cost=loss))
        self._note(configurations, losses)

    def recommend(self) -> list[float]:
        incumbent = self._facade.intensifier.get_incumbent()
        return super().recommend() if incumbent is None else [incumbent[name] for name in self._names]


class KerasTuner(BestSeen):
    """KerasTuner's Bayesian or random oracle, without a tuner around it."""

    def __init__(self, parameters: Sequence[Parameter], seed: int, num_trials: int) -> None:
        super().__init__()
        os.environ.setdefault("KERAS_BACKEND", "jax")
        import keras_tuner

        warnings.filterwarnings("ignore", module="sklearn")
        hp = keras_tuner.HyperParameters()
        for p in parameters:
            sampling = "log" if p.log else "linear"
            if p.whole:
                hp.Int(p.name, int(p.lower), int(p.upper), sampling=sampling)
            else:
                hp.Float(p.name, p.lower, p.upper, sampling=sampling)
        self._names = [p.name for p in parameters]
        self._folder = tempfile.TemporaryDirectory()
        self._oracle = keras_tuner.oracles.BayesianOptimizationOracle(
            keras_tuner.Objective("loss", "min"), max_trials=num_trials, hyperparameters=hp, seed=seed
        )
        self._oracle.verbose = False
        self._oracle._set_project_dir(self._folder.name, "search")
        self._pending: list = []

    def ask(self, count: int) -> list[list[float]]:
        self._pending = [self._oracle.create_trial(f"worker{i}") for i in range(count)]
        return [[trial.hyperparameters.values[name] for name in self._names] for trial in self._pending]

    def tell(self, configurations: list[list[float]], losses: list[float]) -> None:
        for trial, loss in zip(self._pending, losses, strict=True):
            self._oracle.update_trial(trial.trial_id, {"loss": loss})
            trial.status = "COMPLETED"
            self._oracle.end_trial(trial)
        self._note(configurations, losses)


class Manyfit:
    """Our own sampler, as the oracle would call it."""

    def __init__(self, parameters: Sequence[Parameter], seed: int, sampler: str) -> None:
        from manyfit.samplers.evolution import EvolutionSampler
        from manyfit.samplers.gp.sampler import GaussianProcessSampler
        from manyfit.samplers.non_adaptive import QuasiRandomSampler, RandomSampler
        from manyfit.space.hyperparameters import HyperParameters

        self._sampler = {
            "gp": GaussianProcessSampler,
            "random": RandomSampler,
            "sobol": QuasiRandomSampler,
            "evolution": EvolutionSampler,
        }[sampler]()
        self._space = HyperParameters()
        for p in parameters:
            sampling = "log" if p.log else "linear"
            default = (p.lower * p.upper) ** 0.5 if p.log else 0.5 * (p.lower + p.upper)
            if p.whole:
                self._space.Int(p.name, int(p.lower), int(p.upper), sampling=sampling, default=round(default))
            else:
                self._space.Float(p.name, p.lower, p.upper, sampling=sampling, default=default)
        self._names = [p.name for p in parameters]
        self._seed = seed
        self._told: list = []

    def ask(self, count: int) -> list[list[float]]:
        from manyfit.core import seeds

        rng = seeds.generator(self._seed, "sampler", len(self._told))
        proposals = self._sampler.propose(self._space, self._told, [], count, rng)
        return [[values[name] for name in self._names] for values in proposals]

    def tell(self, configurations: list[list[float]], losses: list[float]) -> None:
        from manyfit.core.records import Ending, Observation

        for configuration, loss in zip(configurations, losses, strict=True):
            values = dict(zip(self._names, configuration, strict=True))
            self._told.append(Observation(f"{len(self._told):04d}", values, Ending.COMPLETED, (loss,)))

    def learn(self, configurations: list[list[float]], losses: list[float]) -> None:
        """Takes trials that it did not ask for."""
        self.tell(configurations, losses)

    def recommend(self) -> list[float]:
        rank = getattr(self._sampler, "rank", None)
        best = min(self._told, key=lambda each: each.loss) if rank is None else rank(self._space, self._told)[0]
        return [best.values[name] for name in self._names]


def make(name: str, parameters: Sequence[Parameter], *, seed: int, num_trials: int, noisy: bool) -> Searcher:
    """The searcher of this name."""
    family, _, variant = name.partition("-")
    makers: dict[str, Callable[[], Searcher]] = {
        "manyfit": lambda: Manyfit(parameters, seed, variant),
        "optuna": lambda: Optuna(parameters, seed, variant),
        "smac": lambda: Smac(parameters, seed, noisy, num_trials),
        "kerastuner": lambda: KerasTuner(parameters, seed, num_trials),
        "random": lambda: Optuna(parameters, seed, "random"),
    }
    return makers[family]()


def version(name: str) -> str:
    """The searcher's library and its version."""
    if name.startswith("manyfit"):
        return f"manyfit {importlib.metadata.version('manyfit')} ({_digest()})"
    package = {"kerastuner": "keras-tuner", "random": "optuna"}.get(name.partition("-")[0], name.partition("-")[0])
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return package


def _digest() -> str:
    """Eight letters that change with our samplers and the encoding of spaces."""
    from manyfit import samplers, space

    folders = [pathlib.Path(package.__path__[0]) for package in (samplers, space)]
    files = sorted(file for folder in folders for file in folder.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


def seed_of(task_index: int, seed: int) -> int:
    """One seed for each run, the same for all libraries."""
    return int(np.random.SeedSequence([task_index, seed]).generate_state(1)[0] % 2**31)
