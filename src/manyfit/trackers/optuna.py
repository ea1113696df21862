"""A study of Optuna's, for its dashboard and plots: epochs as intermediate values, spread and confirmed mean as
attributes. Samplers of Optuna's are another matter: `samplers/optuna_adapter.py`."""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyfit.core.checks import check_extra
from manyfit.core.records import Value, Values
from manyfit.core.signatures import checked_arguments
from manyfit.report import words
from manyfit.report.snapshot import RecordedTrial, Snapshot
from manyfit.space.categorical import Boolean, Choice, Fixed
from manyfit.space.hyperparameter import HyperParameter
from manyfit.space.hyperparameters import HyperParameters
from manyfit.space.numerical import Float, Int, Numerical
from manyfit.trackers.base import TrackedEnd, TrackedEpoch, Tracker, end_of

_TRIAL = "manyfit.trial"


class OptunaStudy(Tracker):
    """Tells a study of Optuna's: a trial when it has ended, with the objective at each epoch of its first execution.

    Optuna does not change trials that have ended: what a confirmation finds later is an attribute of the study, and of
    the trials of a study that is exported afterwards.

    Args:
        storage: a file ("study.db") or an address that Optuna knows ("sqlite:///study.db"); None: "optuna.db" in the
            folder of the program.
        study: its name; None: the project's.

    Raises:
        ImportError: `pip install manyfit[optuna]`.
    """

    @checked_arguments()
    def __init__(self, storage: str | os.PathLike[str] | None = None, study: str | None = None) -> None:
        check_extra("optuna", "optuna")
        self.storage = storage_address("optuna.db" if storage is None else storage)
        self.study_name = study
        self.study: Any = None
        self._folder = Path()
        self._objective = ""
        self._space: Distributions | None = None
        self._values: dict[str, Values] = {}
        self._curves: dict[str, dict[int, float]] = {}
        self._began: dict[str, datetime.datetime] = {}

    def begin(self, snapshot: Snapshot) -> frozenset[str]:
        """See `Tracker`."""
        self.study = open_study(snapshot, self.storage, self.study_name)
        self._folder, self._objective = snapshot.folder, snapshot.objective
        self._space = Distributions(snapshot)
        return frozenset(str(one.user_attrs.get(_TRIAL)) for one in self.study.get_trials(deepcopy=False))

    def trial_began(self, trial_id: str, values: Values) -> None:
        """See `Tracker`."""
        self._values[trial_id], self._curves[trial_id] = values, {}
        self._began[trial_id] = datetime.datetime.now()

    def epochs_ended(self, epochs: Sequence[TrackedEpoch]) -> None:
        """See `Tracker`."""
        for one in epochs:
            value = one.metrics.get(self._objective)
            if not one.prefix and value is not None and one.trial_id in self._curves:
                self._curves[one.trial_id][one.epoch] = float(value)

    def trial_ended(self, trial_id: str, end: TrackedEnd) -> None:
        """See `Tracker`."""
        # Told at once, and not epoch by epoch: a trial that runs has no place for its beginning's time.
        values = self._values.pop(trial_id, {})
        assert self._space is not None  # our bug: `begin` comes first
        if not self._space.knows(values):  # a hyperparameter that a later build has asked for
            self._space = Distributions(Snapshot.of(self._folder))
        began = self._began.pop(trial_id, datetime.datetime.now())
        found = self._space.trial(
            values, end, self._curves.pop(trial_id, {}), {_TRIAL: trial_id}, (began, datetime.datetime.now())
        )
        self.study.add_trial(found)

    def call_ended(self, snapshot: Snapshot) -> None:
        """See `Tracker`."""
        confirmed = {one.trial_id: one.confirmed.get("score") for one in snapshot.trials if one.confirmed}
        self.study.set_user_attr("objective", snapshot.objective)
        self.study.set_user_attr("confirmed", confirmed)
        self.study.set_user_attr("verdict", words.verdict(snapshot))


@checked_arguments()
def export_study(snapshot: Snapshot, storage: str | os.PathLike[str], study: str | None = None) -> Any:
    """Writes a project as a study of Optuna's; trials that are there already are left as they are.

    Args:
        snapshot: of the project.
        storage: a file, or an address that Optuna knows.
        study: its name; None: the project's.

    Returns:
        The `optuna.Study`.

    Raises:
        ImportError: `pip install manyfit[optuna]`.
    """
    check_extra("optuna", "optuna")
    made = open_study(snapshot, storage_address(storage), study)
    known = {one.user_attrs.get(_TRIAL) for one in made.get_trials(deepcopy=False)}
    space = Distributions(snapshot)
    ended = [one for one in snapshot.trials if one.ended_at is not None and one.trial_id not in known]
    made.add_trials([_exported(space, trial, snapshot.objective) for trial in ended])
    made.set_user_attr("objective", snapshot.objective)
    made.set_user_attr("verdict", words.verdict(snapshot))
    return made


def _exported(space: Distributions, trial: RecordedTrial, objective: str) -> Any:
    first = next((run for run in trial.searched if run.execution == 0), None)
    curve = [] if first is None else first.curves.get(objective, [])
    facts = trial.confirmed or {}
    known = {"confirmed": facts.get("score"), "confirmed_low": facts.get("low"), "confirmed_high": facts.get("high")}
    attributes = {_TRIAL: trial.trial_id, **{name: value for name, value in known.items() if value is not None}}
    attributes |= {name: value for name, value in trial.metrics.items() if name != objective}
    when = tuple(datetime.datetime.fromtimestamp(at) for at in (trial.started_at, trial.ended_at or trial.started_at))
    values = {epoch: value for epoch, value in enumerate(curve) if value is not None}
    return space.trial(trial.values, end_of(trial), values, attributes, (when[0], when[1]))


@checked_arguments()
def storage_address(storage: str | os.PathLike[str]) -> str:
    """A storage of Optuna's: an address stays as it is, a file is a database of SQLite's.

    Example:

    >>> storage_address("sqlite:///study.db"), storage_address("study.db").startswith("sqlite:////")
    ('sqlite:///study.db', True)
    """
    text = os.fspath(storage)
    return text if "://" in text else f"sqlite:///{Path(text).resolve()}"


def open_study(snapshot: Snapshot, storage: str, name: str | None) -> Any:
    """The study of a project, made where it is not there."""
    import optuna

    direction = "maximize" if snapshot.direction == "max" else "minimize"
    name = name or snapshot.folder.resolve().name
    return optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)


class Distributions:
    """A search space in Optuna's words. Bounds are as wide as any trial's values are.

    Args:
        snapshot: of the project.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        import optuna

        self._optuna = optuna
        config = snapshot.facts.get("space")
        space = HyperParameters() if config is None else HyperParameters.from_config(config)
        by_name: dict[str, list[HyperParameter]] = {}
        for each in space.space:
            by_name.setdefault(each.name, []).append(each)
        tried: dict[str, list[Value]] = {}
        for trial in snapshot.trials:
            for name, value in trial.values.items():
                tried.setdefault(name, []).append(value)
        self._known = {name: self._distribution(kinds, tried.get(name, [])) for name, kinds in by_name.items()}

    def knows(self, values: Values) -> bool:
        """Whether all of the values have their place."""
        return all(name in self._known for name in values)

    def _distribution(self, kinds: Sequence[HyperParameter], tried: Sequence[Value]) -> Any:
        made = self._optuna.distributions
        if any(isinstance(each, Choice | Boolean | Fixed) or not isinstance(each, Numerical) for each in kinds):
            choices = [value for each in kinds for value in getattr(each, "values", (each.default,))]
            return made.CategoricalDistribution(list(dict.fromkeys([*choices, *tried])))
        numbers = [each for each in kinds if isinstance(each, Numerical)]
        # Bounds may depend on other values: Optuna refuses a value outside of them.
        low = min([each.min_value for each in numbers] + [float(one) for one in tried])
        high = max([each.max_value for each in numbers] + [float(one) for one in tried])
        is_log = all(each.sampling in ("log", "reverse_log") for each in numbers)
        if all(isinstance(each, Int) for each in numbers):
            return made.IntDistribution(int(low), int(high), log=is_log and low >= 1)
        assert any(isinstance(each, Float) for each in numbers)  # our bug: there are two kinds of numbers
        return made.FloatDistribution(float(low), float(high), log=is_log and low > 0)

    def trial(
        self,
        values: Values,
        end: TrackedEnd,
        curve: Mapping[int, float],
        attributes: Mapping[str, Any],
        when: tuple[datetime.datetime, datetime.datetime],
    ) -> Any:
        """A trial that has ended, as Optuna keeps it.

        Args:
            values: its hyperparameters; what the space does not know becomes an attribute.
            end: how it ended.
            curve: the objective by epoch.
            attributes: further facts.
            when: it began and ended.
        """
        states = self._optuna.trial.TrialState
        # Optuna's completed trials have a finite value; of one that was cut short it takes any.
        has_score = end.score is not None and math.isfinite(end.score)
        state = states.FAIL if not has_score else states.PRUNED if end.is_cut_short else states.COMPLETE
        params = {name: value for name, value in values.items() if name in self._known and self._fits(name, value)}
        others = {f"value:{name}": value for name, value in values.items() if name not in params}
        known = {"spread": end.spread, "reason": None if end.reason is None else words.plain(end.reason.strip(), 400)}
        return self._optuna.trial.FrozenTrial(
            number=-1,  # the study gives it one
            trial_id=-1,
            state=state,
            value=float(end.score) if has_score and end.score is not None else None,
            datetime_start=when[0],
            datetime_complete=max(when),
            params=params,
            distributions={name: self._known[name] for name in params},
            intermediate_values={epoch: float(value) for epoch, value in curve.items()},
            user_attrs={**attributes, **others, **{name: value for name, value in known.items() if value is not None}},
            system_attrs={},
        )

    def _fits(self, name: str, value: Value) -> bool:
        distribution = self._known[name]
        if isinstance(distribution, self._optuna.distributions.CategoricalDistribution):
            return value in distribution.choices
        return isinstance(value, int | float) and distribution.low <= value <= distribution.high
