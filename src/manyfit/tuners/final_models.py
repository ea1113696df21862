"""The models that a tuner hands out: how they are called, where they come from, and who looks at test rows with them.

A look at test rows is one on every path. Ensembles of a tuner and Keras models that it hands out count what their own
`evaluate` is called with, as `tuner.evaluate` does, for as long as the tuner is there and its project is open.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import keras

from manyfit.core.errors import ManyfitError, UsageError, explain
from manyfit.data.rows import Rows
from manyfit.ensemble.ensemble import Ensemble
from manyfit.finish import evaluation as evaluating
from manyfit.finish.artefacts import Artefacts, weights_hash
from manyfit.finish.export import Artefact
from manyfit.finish.retrain import Retraining
from manyfit.training.estimators import is_estimator
from manyfit.training.keras_internals.building import OF_FIT
from manyfit.tuners.finished import FinishedTuner

Named: TypeAlias = Mapping[str, Any]
"""Keras models, estimators or ensembles by the name that tables show."""


_is_counted: contextvars.ContextVar[bool] = contextvars.ContextVar("is_counted", default=False)


class FinalModels:
    """The models of a tuner that its user may measure, save or combine.

    Args:
        tuner: whose models these are.
        say: takes one line of text for people.

    Attributes:
        latest: by name, what was made last by `retrain` or `ensemble`: what `evaluate` and `export` take by default.
    """

    def __init__(self, tuner: FinishedTuner, say: Callable[[str], None]) -> None:
        self.latest: dict[str, Any] = {}
        self._tuner = tuner
        self._say = say

    def note_retrained(self, retrained: Iterable[tuple[Any, Retraining]]) -> None:
        """Writes down how models were made, so that they are known again, in other processes, too."""
        made = [(model, {"trial": how.trial_id, "origin": _retrained(how)}) for model, how in retrained]
        Artefacts(self._tuner.store).note(made)

    def note_bag(self, bag: Ensemble) -> None:
        """Writes down that the models of a bag's members were trained on folds."""
        origins = self._tuner.model_origins
        models = [model for member in bag.members for model in member.models if model in origins]
        told = [
            (model, {"trial": origins[model], "origin": f"A model of a fold, trial {origins[model]}."})
            for model in models
        ]
        Artefacts(self._tuner.store).note(told)

    def counted(self, model: Any) -> Any:
        """The model, whose `evaluate` counts as a look at test rows from now on; an ensemble comes back as another."""
        if isinstance(model, Ensemble):
            return model.with_witness(_Witness(self))
        if isinstance(model, keras.Model):
            model.evaluate = _CountedEvaluate(model, self)
        return model

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Within it the caller counts, and models do not."""
        token = _is_counted.set(True)
        try:
            yield
        finally:
            _is_counted.reset(token)

    def look(self, model: Any, rows: Rows, numbers: Mapping[str, float]) -> None:
        """Writes down that a model was measured by its own `evaluate`; says so if it was not the first on these rows.

        Args:
            model: which.
            rows: on which.
            numbers: what came out.
        """
        with self.counting():
            try:
                [name] = self.named(model)
                told = evaluating.record(name, model, rows, self._tuner.store, numbers)
            except (
                ManyfitError,
                TypeError,
                ValueError,
            ) as error:  # a look that cannot be counted is a look all the same
                self._say(f"This look at test rows is not counted: {str(error).splitlines()[0]}")
                return
        if told.earlier:
            for sentence in told.sentences():
                self._say(sentence)

    def named(self, models: object) -> Named:
        """Names for a model, a list of them or a mapping; None: what was made last, else the search's best."""
        origins = self._tuner.model_origins
        if models is None:
            return self.latest or {f"trial {origins[one]}": one for one in self._tuner.get_best_models(1)}
        if isinstance(models, Mapping):
            return dict(models)
        several = list(models) if isinstance(models, list | tuple) else [models]
        if wrong := [one for one in several if not (hasattr(one, "evaluate") or is_estimator(one))]:
            got, allowed = f"{wrong[0]!r}"[:80], "models, estimators, ensembles, a list or a dictionary of these"
            raise UsageError(explain("evaluate(models=...)", got, allowed, "Leave it out for the final models."))
        known = [one in origins for one in several]
        names = [
            f"trial {origins[one]}" if of_trial else type(one).__name__.lower()
            for one, of_trial in zip(several, known, strict=True)
        ]
        return {
            name if names.count(name) == 1 else f"{name} ({number + 1})": one
            for number, (name, one) in enumerate(zip(names, several, strict=True))
        }

    def last(self) -> Any:
        """The ensemble that was made last, else the first model of `retrain`, else the search's best.

        Raises:
            UsageError: there is none of these.
        """
        named = self.named(None)
        if not named:
            got, instead = "a project without a model", "Call tuner.search(...) first."
            raise UsageError(explain("the final model", got, "at least one completed trial", instead))
        return named.get("ensemble", next(iter(named.values())))

    def artefact(self, model: object) -> Artefact:
        """What a card says of a model: an ensemble's trials are those of its members with weight.

        Raises:
            UsageError: a model that this tuner did not make.
        """
        artefacts = Artefacts(self._tuner.store)
        if isinstance(model, Ensemble):
            used = [model.members[index] for index in model.pool.support]
            inside = [self.artefact(one) for member in used for one in member.models]
            trials = {trial.trial_id: trial for one in inside for trial in one.trials}
            weights = {name: weight for name, weight in model.weights.items() if weight != 0}
            shares = ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items())
            counts = collections.Counter(one.origin for one in inside)
            members = "".join(f"\n- {count} x {told}" if count > 1 else f"\n- {told}" for told, count in counts.items())
            origin = f"An ensemble of {len(used)} members ({model.pool.describe()}; {shares}):\n{members}\n"
            return Artefact(list(trials.values()), artefacts.of(model), origin)
        digest = artefacts.of(model)
        facts = artefacts.facts(digest)
        trial_id = self._tuner.model_origins.get(model) if facts is None else facts["trial"]
        if trial_id is None:
            raise UsageError(
                explain(
                    "export(model)",
                    "a model that this tuner did not make",
                    "one from tuner.retrain(), tuner.get_best_models() or tuner.ensemble()",
                    "Save other models with model.save(path).",
                )
            )
        trial = self._tuner.oracle.get_trial(trial_id)
        if facts is not None:
            origin = facts["origin"]
        elif self._is_of_search(model, trial, digest):
            origin = f"Trained by the search, trial {trial_id}: the weights of its best epoch."
        else:
            origin = (
                f"**Its weights were changed since Manyfit made it.** It has the configuration of trial {trial_id}; "
                "what this card says of runs and confirmations is of that configuration, and not of this model."
            )
        return Artefact([trial], digest, origin)

    def _is_of_search(self, model: object, trial: Any, digest: str) -> bool:
        """Whether a model has the weights that the search kept."""
        if not isinstance(model, keras.Model):
            return True  # an estimator is what it is: nobody sets weights in it
        kept = [number for number in trial.executions if self._tuner.has_model(trial, number)]
        return any(weights_hash(self._tuner.load_model(trial, number)) == digest for number in kept)


class _CountedEvaluate:
    """Stands in the place of a Keras model's `evaluate`, calls it, and counts.

    Neither the model nor the tuner is kept alive by it.
    """

    def __init__(self, model: keras.Model, final: FinalModels) -> None:
        self._model, self._final = weakref.ref(model), weakref.ref(final)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model, final = self._model(), self._final()
        assert model is not None  # who calls it has the model
        found = type(model).evaluate(model, *args, **kwargs)
        # Within `fit` Keras validates by its own `evaluate`, and hands over what it has kept of the rows.
        if final is not None and not _is_counted.get() and OF_FIT not in kwargs:
            given = inspect.signature(type(model).evaluate).bind(model, *args, **kwargs).arguments
            rows = Rows(given.get("x"), given.get("y"), given.get("sample_weight"), given.get("steps"))
            final.look(model, rows, model.get_metrics_result())
        return found


class _Witness:
    """What an ensemble of a tuner tells of its `evaluate`."""

    def __init__(self, final: FinalModels) -> None:
        self._final = weakref.ref(final)

    def __call__(self, ensemble: Ensemble, rows: Rows, numbers: Mapping[str, float]) -> None:
        if (final := self._final()) is not None and not _is_counted.get():
            final.look(ensemble, rows, numbers)


def names_of(retrainings: Sequence[Retraining], executions: int) -> list[str]:
    """What retrained models are called: by trial, with a number where there are several of each."""
    if executions == 1:
        return [f"trial {one.trial_id}" for one in retrainings]
    seen: collections.Counter[str] = collections.Counter()
    names = []
    for one in retrainings:
        seen[one.trial_id] += 1
        names.append(f"trial {one.trial_id} ({seen[one.trial_id]})")
    return names


def _retrained(how: Retraining) -> str:
    """How a model was retrained, for its card."""
    rows = how.changes.get("rows")
    more = ""
    if rows is not None and isinstance(rows[0], int) and isinstance(rows[1], int) and rows[1] > rows[0]:
        share = f"{rows[1] / rows[0] - 1:.0%}"
        more = f" It has seen {share} more rows than the runs that were measured: usually a little better, not counted."
    return f"Retrained, {how}, seed {how.seed}.{more}"
