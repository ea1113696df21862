"""Optuna's samplers, adapted, against the conformance suite; needs the optional extra (`make test-extras`)."""

from __future__ import annotations

import functools
import threading

import manyfit as kt  # isort: skip

import numpy as np
import pytest
import tiny

from manyfit.core.errors import UsageError
from manyfit.core.records import Ending
from manyfit.samplers.base import Sampler
from manyfit.samplers.optuna_adapter import OptunaSampler
from manyfit.testing.samplers import SamplerSuite, finite_space, mixed_space, observe, random_history

optuna = pytest.importorskip("optuna", reason="the optional extra manyfit[optuna] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


class TestTreeParzenEstimator(SamplerSuite):
    def make(self) -> Sampler:
        return OptunaSampler("TPESampler", {"constant_liar": True})


class TestObject(SamplerSuite):
    def make(self) -> Sampler:
        return OptunaSampler(optuna.samplers.TPESampler(multivariate=True, n_startup_trials=3))


class TestSamplerThatRemembersInItsStudy(SamplerSuite):
    def make(self) -> Sampler:
        return OptunaSampler(optuna.samplers.NSGAIISampler, {"population_size": 4})


class Centred(optuna.samplers.RandomSampler):
    """A sampler of a user's: half of the way to the best values that it was told of, which only it remembers."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(seed)
        self.best: tuple[float, dict[str, float]] = (float("inf"), {})

    def sample_independent(self, study, trial, param_name, param_distribution):
        drawn = super().sample_independent(study, trial, param_name, param_distribution)
        known = self.best[1].get(param_name)
        return (drawn + known) / 2 if isinstance(drawn, float) and known is not None else drawn

    def after_trial(self, study, trial, state, values):
        if values and values[0] < self.best[0]:
            self.best = (values[0], dict(trial.params))


def test_what_a_sampler_remembers_decides() -> None:
    space = mixed_space()
    history = random_history(space, 6)
    near = [observe(each.values, i, 0.0 if i == 2 else 1.0) for i, each in enumerate(history)]
    far = [observe(each.values, i, 0.0 if i == 4 else 1.0) for i, each in enumerate(history)]
    sampler = OptunaSampler(Centred())
    one, other = (sampler.propose(space, told, [], 1, np.random.default_rng(0))[0] for told in (near, far))
    assert one["dropout"] != other["dropout"]
    apart = history[2].values["dropout"] - history[4].values["dropout"]
    assert one["dropout"] - other["dropout"] == pytest.approx(apart / 2)


def test_the_evolution_strategy_learns() -> None:
    pytest.importorskip("cmaes", reason="what Optuna's CmaEsSampler needs is not installed")
    space = kt.HyperParameters()
    for name in "ab":
        space.Float(name, 0.0, 1.0)

    def distance(values) -> float:
        return sum((value - 0.2) ** 2 for value in values.values())

    history: list = []
    sampler = OptunaSampler(optuna.samplers.CmaEsSampler(n_startup_trials=2))
    for number in range(40):
        [values] = sampler.propose(space, history, [], 1, np.random.default_rng(number))
        history.append(observe(values, number, distance(values)))
    # A strategy that forgot its generations would draw the last ten as it drew the first: .2 on average.
    assert np.mean([each.loss for each in history[-10:]]) < 0.05


@pytest.mark.parametrize(
    "sampler",
    [
        "RandomSampler",
        optuna.samplers.RandomSampler,
        optuna.samplers.RandomSampler(),
        lambda seed: optuna.samplers.RandomSampler(seed + 1),
        functools.partial(optuna.samplers.RandomSampler),
    ],
    ids=["name", "class", "object", "function", "partial"],
)
def test_every_way_to_give_a_sampler_and_the_seed_is_ours(tmp_path, sampler) -> None:
    def tuner(folder: str, seed: int):
        made = tiny.numbers(
            lambda trial: {"loss": trial.hyperparameters.get("units")},
            kt.OptunaSearch,
            objective="loss",
            sampler=sampler,
            max_trials=4,
            seed=seed,
            directory=tmp_path / folder,
        )
        made.search(verbose=0)
        return tiny.proposals(made)

    assert tuner("one", 0) == tuner("again", 0) != tuner("other", 1)


def test_a_search_with_an_object_goes_on_where_it_was_ended(tmp_path) -> None:
    def tuner(folder: str, max_trials: int):
        made = tiny.numbers(
            lambda trial: {"loss": (trial.hyperparameters.get("units") - 20) ** 2},
            kt.OptunaSearch,
            objective="loss",
            sampler=Centred(),
            max_trials=max_trials,
            seed=0,
            directory=tmp_path / folder,
        )
        made.search(verbose=0)
        made.close()
        return tiny.proposals(made)

    assert tuner("short", 4) == tuner("whole", 9)[:4]
    assert tuner("short", 9) == tuner("whole", 9), "with another object, whose memory is empty"


def test_the_object_stays_the_users() -> None:
    sampler = Centred()
    adapted = OptunaSampler(sampler)
    adapted.propose(mixed_space(), random_history(mixed_space(), 5), [], 2, np.random.default_rng(0))
    assert sampler.best == (float("inf"), {})


def test_brute_force_tries_every_configuration_and_says_what_it_cannot() -> None:
    sampler, space = OptunaSampler("BruteForceSampler"), finite_space()
    proposals = sampler.propose(space, [], [], 9, np.random.default_rng(0))
    assert len(proposals) == 9
    history = [observe(values, i) for i, values in enumerate(proposals)]
    assert sampler.propose(space, history, [], 1, np.random.default_rng(0)) == []
    with pytest.raises(UsageError, match="BruteForceSampler, which raised ValueError") as caught:
        sampler.propose(mixed_space(), [], [], 1, np.random.default_rng(0))
    tiny.four_parts(caught.value)


def test_failed_and_stopped_trials_are_lived_through_as_such() -> None:
    seen: list[tuple[str, dict[int, float]]] = []

    class Watching(optuna.samplers.RandomSampler):
        def after_trial(self, study, trial, state, values):
            seen.append((state.name, dict(trial.intermediate_values)))

    space = mixed_space()
    good, bad, stopped = random_history(space, 3)
    bad = observe(bad.values, 1, ending=Ending.FAILED)
    stopped = type(stopped)("2", stopped.values, Ending.STOPPED, (0.5,), epochs=2, full=False, curve=(0.7, 0.5))
    OptunaSampler(Watching()).propose(space, [good, bad, stopped], [], 1, np.random.default_rng(0))
    assert seen == [("COMPLETE", {}), ("FAIL", {}), ("PRUNED", {0: 0.7, 1: 0.5})]


class Locked(optuna.samplers.RandomSampler):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("sampler", "settings", "text"),
    [
        ("MagicSampler", None, r"a class in optuna\.samplers"),
        ("BaseSampler", None, "what BaseSampler takes"),
        ("TPESampler", {"magic": 1}, "what TPESampler takes"),
        ("GridSampler", {"search_space": {"a": [1]}}, "kt.GridSearch"),
        (optuna.samplers.QMCSampler, None, "kt.QuasiRandomSearch"),
        (optuna.samplers.RandomSampler(), {"seed": 1}, "besides RandomSampler"),
        (Locked(), None, "cannot be copied"),
        (lambda seed: seed, None, "returned int"),
        (5, None, "a function from a seed"),
    ],
)
def test_what_cannot_be_is_refused(sampler, settings, text) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        OptunaSampler(sampler, settings)
    tiny.four_parts(caught.value)
