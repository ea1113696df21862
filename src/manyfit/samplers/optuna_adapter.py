"""Any sampler of Optuna as a sampler of ours: the only file that imports Optuna (an optional extra).

Optuna's samplers live inside studies. Each call builds a study in memory from the recorded history, so an adapted
sampler is a pure function of history too; its random state comes from the generator that is handed in.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Observation, Value, Values
from manyfit.samplers.base import Sampler
from manyfit.samplers.candidates import draw_new, tried
from manyfit.space.encoding import Dimension, Encoding
from manyfit.space.hyperparameters import HyperParameters

_MAX_STEPS = 64  # longer orders are offered as a continuum, and snapped
_MAX_ATTEMPTS = 10  # duplicates in a row before chance takes over


class OptunaSampler(Sampler):
    """Lets a sampler of Optuna decide, by the name of its class in ``optuna.samplers``.

    Optuna sees the unit cube of the space: continua as numbers from 0 to 1 on their own scale, orders as indices,
    categories as categories, conditional hyperparameters only where they are active. Failed and diverged trials are
    failed trials there, trials that a scheduler stopped are pruned ones with their learning curve.

    Args:
        name: class name, for instance "TPESampler" or "GPSampler".
        settings: its arguments, JSON only; `seed` is set by us.

    Raises:
        UsageError: Optuna is not installed, or has no such sampler, or it does not take these settings.
    """

    def __init__(self, name: str = "TPESampler", settings: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.sampler_settings = dict(settings or {})
        self._made(0)

    def settings(self) -> dict[str, Any]:
        """The adapter's name, the sampler's, and its settings."""
        return {"name": type(self).__name__, "sampler": self.name, "settings": self.sampler_settings}

    def propose(
        self,
        space: HyperParameters,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        count: int,
        rng: np.random.Generator,
    ) -> list[dict[str, Value]]:
        """Up to `count` new configurations; see `Sampler.propose`."""
        optuna = _optuna()
        encoding = Encoding(space)
        taken = tried(encoding, completed, pending)
        if not len(encoding):
            return draw_new(encoding, taken, count, rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental samplers, and storage notes that are not the user's
            # A new study per call: one that is kept would hold state that a restart lacks.
            study = optuna.create_study(sampler=self._made(int(rng.integers(2**31))))
            translator = _Translator(encoding)
            study.add_trials([translator.ended(each) for each in completed])
            study.add_trials([translator.running(values) for values in pending])
            found: list[dict[str, Value]] = []
            attempts = 0
            while len(found) < count and attempts < _MAX_ATTEMPTS:
                values = translator.suggested(study.ask())
                key = encoding.key(values)
                attempts = attempts + 1 if key in taken else 0
                if key not in taken:
                    taken.add(key)
                    found.append(values)
        return found + draw_new(encoding, taken, count - len(found), rng)

    def _made(self, seed: int) -> Any:
        optuna = _optuna()
        kind = getattr(optuna.samplers, self.name, None)
        if kind is None:
            raise UsageError(
                explain(
                    "OptunaSampler", f"name={self.name!r}", "a class in optuna.samplers", 'Type name="TPESampler", say.'
                )
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return kind(seed=seed, **self.sampler_settings)
        except TypeError as error:
            raise UsageError(
                explain("OptunaSampler", f"settings={self.sampler_settings}", f"what {self.name} takes", str(error))
            ) from error


class _Translator:
    """Between our points and Optuna's trials."""

    def __init__(self, encoding: Encoding) -> None:
        self._optuna = _optuna()
        self._encoding = encoding
        self._names = [f"{j} {each.name}" for j, each in enumerate(encoding.dimensions)]
        self._distributions = [self._distribution(each) for each in encoding.dimensions]

    def _distribution(self, dimension: Dimension) -> Any:
        distributions = self._optuna.distributions
        count = dimension.num_values
        if dimension.kind == "unordered":
            return distributions.CategoricalDistribution(list(range(count or 0)))
        if count is None or count > _MAX_STEPS:
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

    def suggested(self, trial: Any) -> dict[str, Value]:
        """The configuration that Optuna suggests, asked for one active dimension after another."""
        point = np.full(len(self._encoding), np.nan)
        for j, dimension in enumerate(self._encoding.dimensions):
            if np.isnan(self._encoding.snap(point[None, :])[0, j]):
                continue
            distribution, name = self._distributions[j], self._names[j]
            if isinstance(distribution, self._optuna.distributions.FloatDistribution):
                point[j] = trial.suggest_float(name, 0.0, 1.0)
            elif isinstance(distribution, self._optuna.distributions.IntDistribution):
                point[j] = dimension.hyperparameter.centres(trial.suggest_int(name, 0, distribution.high))
            else:
                point[j] = dimension.hyperparameter.centres(trial.suggest_categorical(name, distribution.choices))
        return self._encoding.decode(point)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            explain("OptunaSampler", "no Optuna in this environment", "optuna >= 4", "pip install manyfit[optuna]")
        ) from error
    if optuna.logging.get_verbosity() < optuna.logging.WARNING:
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it reports each trial otherwise; ours are reported
    return optuna
