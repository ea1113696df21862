"""Any sampler of Optuna as a sampler of ours: the only file that imports Optuna (an optional extra).

Optuna's samplers live inside studies, and some remember there, or in themselves, what they did: CMA-ES its
distribution, NSGA-II its generations. Each call here makes a new sampler and a new study from the recorded history, so
an adapted sampler is a pure function of history, and a search that was killed goes on as if it had not been:

- samplers that read finished trials and nothing else are shown them (`study.add_trials`);
- all others live through the history once more: for each trial they are asked, get the values that were tried in place
  of their own answer, and are told the loss.

Random states, wherever a sampler keeps some, start from the generator that is handed in.
"""

from __future__ import annotations

import copy
import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Observation, Value, Values
from manyfit.samplers.base import Sampler
from manyfit.samplers.candidates import draw_new, tried
from manyfit.space.encoding import Dimension, Encoding
from manyfit.space.hyperparameters import HyperParameters

_MAX_STEPS = 64  # longer orders are offered as a continuum, and snapped
_MAX_ATTEMPTS = 10  # duplicates in a row before chance takes over
_WHERE = "OptunaSearch(sampler=...)"
#: Samplers whose proposals depend on the trials of a study alone: to live through each of them again would cost a
#: model's fit per trial.
_READ_TRIALS_ONLY = ("BruteForceSampler", "GPSampler", "RandomSampler", "TPESampler")
#: Samplers that are told names and values of parameters, which are ours here, or count the calls of one study.
_INSTEAD = {
    "GridSampler": "Type kt.GridSearch(...).",
    "PartialFixedSampler": 'Type hp.Fixed("name", value) in the build function, and sampler= the sampler inside it.',
    "QMCSampler": "Type kt.QuasiRandomSearch(...).",
}

OptunaSamplerLike: TypeAlias = Any
"""A class in `optuna.samplers` by its name or itself, one of its objects, or a function from a seed to one. `Any`,
since Optuna is an optional extra."""


class OptunaSampler(Sampler):
    """Lets a sampler of Optuna decide.

    Optuna sees the unit cube of the space: continua as numbers from 0 to 1 on their own scale, orders as indices,
    categories as categories, conditional hyperparameters only where they are active. Failed and diverged trials are
    failed trials there, trials that a scheduler stopped are pruned ones with their learning curve.

    Args:
        sampler: "TPESampler", say, or such a class; an object, as in `optuna.create_study(sampler=...)`, of which a
            copy is used; or a function that takes a seed and returns one.
        settings: arguments of a name or a class, JSON only; `seed` is set by us, in objects too.

    Raises:
        UsageError: Optuna is not installed, or has no such sampler, or it does not take these settings; or the sampler
            cannot be copied, or works only with a study of its own.
    """

    def __init__(self, sampler: OptunaSamplerLike = "TPESampler", settings: Mapping[str, Any] | None = None) -> None:
        self.sampler_settings = dict(settings or {})
        self._make = self._maker(sampler)
        self.sampler_name = type(self._made(0)).__name__
        if self.sampler_name in _INSTEAD:
            allowed = "a sampler that needs no names of parameters and no study of its own"
            raise UsageError(explain(_WHERE, self.sampler_name, allowed, _INSTEAD[self.sampler_name]))

    def settings(self) -> dict[str, Any]:
        """The adapter's name, the sampler's, and its settings."""
        return {"name": type(self).__name__, "sampler": self.sampler_name, "settings": self.sampler_settings}

    def propose(
        self,
        space: HyperParameters,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        count: int,
        rng: np.random.Generator,
    ) -> list[dict[str, Value]]:
        """Up to `count` new configurations; see `Sampler.propose`.

        Raises:
            UsageError: the sampler raised an exception.
        """
        encoding = Encoding(space)
        taken = tried(encoding, completed, pending)
        if not len(encoding):
            return draw_new(encoding, taken, count, rng)
        found: list[dict[str, Value]] = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # experimental samplers, and storage notes that are not the user's
                study, translator = self._study(encoding, completed, pending, int(rng.integers(2**31)))
                attempts = 0
                while len(found) < count and attempts < _MAX_ATTEMPTS:
                    values = translator.suggested(study.ask())
                    key = encoding.key(values)
                    attempts = attempts + 1 if key in taken else 0
                    if key not in taken:
                        taken.add(key)
                        found.append(values)
        except Exception as error:  # whatever it is: it is the sampler's, and ends the search with what finished kept
            raise UsageError(
                explain(
                    _WHERE,
                    f"{self.sampler_name}, which raised {type(error).__name__}: {error}",
                    "a sampler that can propose in this space",
                    'Type sampler="TPESampler", which takes every space, or use kt.BayesianOptimization.',
                )
            ) from error
        return found + draw_new(encoding, taken, count - len(found), rng)

    def _study(
        self, encoding: Encoding, completed: Sequence[Observation], pending: Sequence[Values], seed: int
    ) -> tuple[Any, _Translator]:
        """A new study with this history: one that is kept would hold what a restart lacks."""
        study = _optuna().create_study(sampler=self._made(seed))
        # A brute force counts steps, so that it is offered every order as one; the others prefer a continuum.
        translator = _Translator(encoding, math.inf if self.sampler_name == "BruteForceSampler" else _MAX_STEPS)
        if self.sampler_name in _READ_TRIALS_ONLY:
            study.add_trials([translator.ended(each) for each in completed])
            study.add_trials([translator.running(values) for values in pending])
            return study, translator
        for each in completed:
            translator.relive(study, each.values, each)
        for values in pending:
            translator.relive(study, values, None)
        return study, translator

    def _maker(self, sampler: OptunaSamplerLike) -> Callable[[int], Any]:
        """Seed -> sampler."""
        optuna = _optuna()
        base = optuna.samplers.BaseSampler
        if isinstance(sampler, str):
            kind = getattr(optuna.samplers, sampler, None)
            if not isinstance(kind, type) or not issubclass(kind, base):
                raise UsageError(
                    explain(_WHERE, repr(sampler), "a class in optuna.samplers", 'Type sampler="TPESampler", say.')
                )
            return _OfClass(kind, self.sampler_settings)
        if isinstance(sampler, type) and issubclass(sampler, base):
            return _OfClass(sampler, self.sampler_settings)
        if self.sampler_settings:
            raise UsageError(
                explain(
                    _WHERE,
                    f"sampler_settings={self.sampler_settings} besides {type(sampler).__name__}",
                    "settings of a sampler that is given by its name or class",
                    "Give the object its settings where it is made, and leave sampler_settings out.",
                )
            )
        if isinstance(sampler, base):
            return _CopyOf(sampler)
        if callable(sampler):
            function: Callable[[int], Any] = sampler
            return function
        raise UsageError(
            explain(
                _WHERE,
                f"{sampler!r} of type {type(sampler).__name__}",
                "a name, a class or an object of optuna.samplers, or a function from a seed to one",
                'Type sampler="TPESampler", or sampler=optuna.samplers.TPESampler(multivariate=True).',
            )
        )

    def _made(self, seed: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = self._make(seed)
        if not isinstance(made, _optuna().samplers.BaseSampler):
            got = f"a function that returned {type(made).__name__}"
            allowed = "a function from a seed to a sampler of Optuna"
            instead = "Type sampler=lambda seed: optuna.samplers.TPESampler(seed=seed), say."
            raise UsageError(explain(_WHERE, got, allowed, instead))
        return made


class _OfClass:
    """Makes samplers of a class, with these settings and a seed."""

    def __init__(self, kind: type, settings: Mapping[str, Any]) -> None:
        self._kind = kind
        self._settings = settings

    def __call__(self, seed: int) -> Any:
        try:
            return self._kind(seed=seed, **self._settings)
        except (TypeError, ValueError) as error:
            name, got = self._kind.__name__, f"sampler_settings={dict(self._settings)}"
            raise UsageError(explain(_WHERE, got, f"what {name} takes", f"Look at its arguments: {error}")) from error
        except ImportError as error:
            name = self._kind.__name__
            raise UsageError(
                explain(_WHERE, f"{name} without what it needs", f"what {name} imports", f"pip install: {error}")
            ) from error


class _CopyOf:
    """Makes copies of a sampler as it was handed in, with other random states."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = self._copy(sampler)  # the user's own study may go on with the original

    def __call__(self, seed: int) -> Any:
        sampler = self._copy(self._sampler)
        _reseed(sampler, np.random.default_rng(seed), set())
        return sampler

    @staticmethod
    def _copy(sampler: Any) -> Any:
        try:
            return copy.deepcopy(sampler)
        except Exception as error:  # locks, connections, whatever the user's class holds
            name = type(sampler).__name__
            raise UsageError(
                explain(
                    _WHERE,
                    f"a {name} that cannot be copied ({type(error).__name__}: {error})",
                    "a sampler that copy.deepcopy copies, or a function from a seed to one",
                    f"Type sampler=lambda seed: {name}(seed=seed).",
                )
            ) from error


def _reseed(part: Any, rng: np.random.Generator, seen: set[int]) -> None:
    """Starts every random state inside an object anew.

    Public methods do not: `BaseSampler.reseed_rng` takes a seed from the clock. So states are looked for where they
    are, in the attributes of the sampler and of its parts, always in the same order.
    """
    if id(part) in seen:
        return
    seen.add(id(part))
    # Optuna makes its state when it is first asked for, by an attribute of this name.
    lazy = getattr(part, "rng", None)
    for state in (part, lazy):
        if isinstance(state, np.random.RandomState | random.Random):
            state.seed(int(rng.integers(2**31)))
        elif isinstance(state, np.random.Generator):
            state.bit_generator.state = type(state.bit_generator)(int(rng.integers(2**31))).state
    if isinstance(part, Mapping):
        inside: list[Any] = list(part.values())
    elif isinstance(part, list | tuple):
        inside = list(part)
    else:
        inside = list(getattr(part, "__dict__", {}).values()) if not isinstance(part, type) else []
    for each in inside:
        _reseed(each, rng, seen)


class _Translator:
    """Between our points and Optuna's trials."""

    def __init__(self, encoding: Encoding, max_steps: float) -> None:
        self._optuna = _optuna()
        self._encoding = encoding
        self._max_steps = max_steps
        self._names = [f"{j} {each.name}" for j, each in enumerate(encoding.dimensions)]
        self._distributions = [self._distribution(each) for each in encoding.dimensions]

    def _distribution(self, dimension: Dimension) -> Any:
        distributions = self._optuna.distributions
        count = dimension.num_values
        if dimension.kind == "unordered":
            return distributions.CategoricalDistribution(list(range(count or 0)))
        if count is None or count > self._max_steps:
            return distributions.FloatDistribution(0.0, 1.0)
        return distributions.IntDistribution(0, count - 1)

    def _parameter(self, column: int, position: float) -> Any:
        """What Optuna sees of a coordinate."""
        if isinstance(self._distributions[column], self._optuna.distributions.FloatDistribution):
            return float(position)
        return int(self._encoding.dimensions[column].hyperparameter.indices(position))

    def _described(self, values: Values) -> dict[str, dict[str, Any]]:
        point = self._encoding.encode(self._encoding.adapt(values))
        active = np.flatnonzero(~np.isnan(point)).tolist()
        return {
            "params": {self._names[j]: self._parameter(j, point[j]) for j in active},
            "distributions": {self._names[j]: self._distributions[j] for j in active},
        }

    def ended(self, observation: Observation) -> Any:
        """A finished trial for a study."""
        state = self._optuna.trial.TrialState
        described: dict[str, Any] = self._described(observation.values)
        if not math.isfinite(observation.loss):
            return self._optuna.trial.create_trial(state=state.FAIL, **described)
        if observation.full:
            return self._optuna.trial.create_trial(state=state.COMPLETE, value=observation.loss, **described)
        curve = {i: loss for i, loss in enumerate(observation.curve) if math.isfinite(loss)}
        described["intermediate_values"] = curve or {(observation.epochs or 1) - 1: observation.loss}
        return self._optuna.trial.create_trial(state=state.PRUNED, **described)

    def running(self, values: Values) -> Any:
        """A pending trial for a study."""
        return self._optuna.trial.create_trial(state=self._optuna.trial.TrialState.RUNNING, **self._described(values))

    def relive(self, study: Any, values: Values, observation: Observation | None) -> None:
        """Has a study's sampler go through a trial: asked, answered for, and told the outcome, if there is one."""
        described = self._described(values)
        study.enqueue_trial(described["params"])
        trial = study.ask()
        # Some write down there where they stand (a generation, a distribution), and Optuna 5 asks only when it has to.
        _ = trial.relative_params
        for name, distribution in described["distributions"].items():
            self._asked(trial, name, distribution)
        if observation is None:
            return
        ended = self.ended(observation)
        for step, loss in ended.intermediate_values.items():
            trial.report(loss, step)
        study.tell(trial, ended.value if ended.state == self._optuna.trial.TrialState.COMPLETE else None, ended.state)

    def suggested(self, trial: Any) -> dict[str, Value]:
        """The configuration that Optuna suggests, asked for one active dimension after another."""
        point = np.full(len(self._encoding), np.nan)
        for j, dimension in enumerate(self._encoding.dimensions):
            if np.isnan(self._encoding.snap(point[None, :])[0, j]):
                continue
            distribution = self._distributions[j]
            answer = self._asked(trial, self._names[j], distribution)
            continuous = isinstance(distribution, self._optuna.distributions.FloatDistribution)
            point[j] = answer if continuous else dimension.hyperparameter.centres(answer)
        return self._encoding.decode(point)

    def _asked(self, trial: Any, name: str, distribution: Any) -> Any:
        """What a trial of Optuna's answers for a parameter."""
        if isinstance(distribution, self._optuna.distributions.FloatDistribution):
            return trial.suggest_float(name, distribution.low, distribution.high)
        if isinstance(distribution, self._optuna.distributions.IntDistribution):
            return trial.suggest_int(name, distribution.low, distribution.high)
        return trial.suggest_categorical(name, distribution.choices)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            explain(_WHERE, "no Optuna in this environment", "optuna >= 4", "pip install manyfit[optuna]")
        ) from error
    if optuna.logging.get_verbosity() < optuna.logging.WARNING:
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it reports each trial otherwise; ours are reported
    return optuna
