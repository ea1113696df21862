"""KerasTuner's side of an oracle: what programs written for KerasTuner read of it, call and override.

**What may be overridden** in a subclass of `kt.Oracle`, or of a ready oracle such as `RandomSearchOracle`:

| method | what it decides | what becomes of the search |
|---|---|---|
| `populate_space(trial_id)` | what to try | the sampler is asked only through `super()` |
| `score_trial(trial)` | a trial's score and best step | called when a trial ends, and after further executions |
| `update_trial(trial_id, metrics, step)` | what is heard of a running trial | trials run one after another |
| `create_trial(tuner_id)` | which trial runs now | trials run one after another |
| `end_trial(trial)` | what a trial's end means | the store and the retries are in `super()` |
| `get_state()`, `set_state(state)` | what is remembered besides trials | stored as `oracle_state` |
| `save()`, `reload()` | when the space is stored, and all is read again | |

`_populate_space` and `_score_trial` are older names of two of them. `_random_values`, `_duplicate`, `_record_values`
and `_compute_values_hash` are helpers that KerasTuner's programs call, mostly in `populate_space`.
"""

from __future__ import annotations

import abc
import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyfit.core.objective import Objective
from manyfit.core.records import Value
from manyfit.core.signatures import at_least, checked_arguments
from manyfit.oracles.book import TrialBook
from manyfit.oracles.commits import Store
from manyfit.oracles.trial import Trial, trial_named
from manyfit.samplers.base import Constraint
from manyfit.space.hyperparameters import HyperParameters
from manyfit.store import ProjectStore
from manyfit.store.layout import ProjectLayout

#: After so many draws in a row that were tried before, `_random_values` gives up.
_MAX_COLLISIONS = 20


class KerasTunerOracle(abc.ABC):
    """The base of `Oracle`: the space and the book under KerasTuner's names. Nothing here decides anything by itself.

    It is a base class and not a part since all of it is *self* to the programs that use it: they read
    `self.hyperparameters`, call `self._random_values()` and extend `get_state` in a subclass of theirs.

    Args:
        objective: what is ranked.
        constraints: what trials have to keep besides.
        hyperparameters: the search space as known at the start.
        tune_new_entries: whether hyperparameters that are found later are searched.
        seed: of the whole search.

    Attributes:
        book: all trials.
        waiting: ids of trials to run (again) before anything new is proposed.
        ongoing_trials: tuner id -> the trial that it was given last, while it runs.
        tuner_ids: the tuners that have asked for trials.
        multi_worker: always False: one process owns the search.
        should_report: always True.
        verbose: 0 prints nothing; "auto" is 1.
    """

    directory: str | None = None
    project_name: str | None = None
    multi_worker = False
    should_report = True
    _max_collisions = _MAX_COLLISIONS
    _verbose: int | str = 1

    def __init__(
        self,
        objective: Objective,
        constraints: Sequence[Constraint],
        *,
        hyperparameters: HyperParameters,
        tune_new_entries: bool,
        seed: int,
    ) -> None:
        self.objective = objective
        self.constraints = tuple(constraints)
        self.hyperparameters = hyperparameters
        self.tune_new_entries = tune_new_entries
        self.seed = seed
        self.book = TrialBook(objective, self.constraints)
        self.waiting: list[str] = []
        self.ongoing_trials: dict[str, Trial] = {}
        self.tuner_ids: set[str] = set()
        self._seed_state = seed
        self._tried_so_far: set[str] = set()

    # What an oracle does: see `Oracle` ---------------------------------------------------------------------------

    @abc.abstractmethod
    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """What to try in a trial."""

    @abc.abstractmethod
    def score_trial(self, trial: Trial) -> None:
        """Sets a trial's score and best step."""

    @abc.abstractmethod
    def open(self, store: Store) -> bool:
        """Joins the oracle to a project's store."""

    @abc.abstractmethod
    def reload(self) -> None:
        """Reads the store again."""

    # What is read of it ------------------------------------------------------------------------------------------

    @property
    def trials(self) -> dict[str, Trial]:
        """All trials by id, in the order of their start."""
        return self.book.trials

    @trials.setter
    def trials(self, trials: dict[str, Trial]) -> None:
        self.book.trials = trials

    @property
    def start_order(self) -> list[str]:
        """Ids in the order of their start."""
        return list(self.book.trials)

    @property
    def end_order(self) -> list[str]:
        """Ids in the order of their end."""
        return list(self.book.ended)

    @property
    def verbose(self) -> int | str:
        """How much is printed."""
        return self._verbose

    @verbose.setter
    def verbose(self, value: int | str) -> None:
        self._verbose = 1 if value == "auto" else value

    def get_space(self) -> HyperParameters:
        """A copy of the search space as known so far."""
        return self.hyperparameters.copy()

    @checked_arguments()
    def get_trial(self, trial_id: str) -> Trial:
        """The trial of this id."""
        return trial_named(trial_id, self.trials)

    @checked_arguments(num_trials=at_least(0))
    def get_best_trials(self, num_trials: int | None = None) -> list[Trial]:
        """The best completed trials, best first: by front where there are several objectives.

        Args:
            num_trials: how many; None: the best one, or with several objectives all that no other trial dominates.

        Returns:
            Trials that keep the constraints, if any trial does.
        """
        several = len(self.objective.terms) > 1
        if num_trials is None and several:
            return self.book.front()
        return self.book.best(1 if num_trials is None else num_trials)

    # Older names -------------------------------------------------------------------------------------------------

    def _populate_space(self, trial_id: str) -> dict[str, Any]:
        warnings.warn("`_populate_space` is deprecated: call `populate_space`.", DeprecationWarning, stacklevel=2)
        return self.populate_space(trial_id)

    def _score_trial(self, trial: Trial) -> None:
        warnings.warn("`_score_trial` is deprecated: call `score_trial`.", DeprecationWarning, stacklevel=2)
        self.score_trial(trial)

    # A project without a tuner -----------------------------------------------------------------------------------

    def _set_project_dir(self, directory: str | os.PathLike[str], project_name: str) -> None:
        """Opens a project for an oracle that no tuner owns."""
        self.open(ProjectStore(Path(directory) / project_name))

    @property
    def _project_dir(self) -> str:
        assert isinstance(self.book.store, ProjectStore)  # our bug: only an oracle with a project is asked
        return str(self.book.store.folder)

    def _get_trial_dir(self, trial_id: str) -> str:
        return str(ProjectLayout.of(self._project_dir).trial_folder(trial_id))

    def _get_oracle_fname(self) -> str:
        return str(ProjectLayout.of(self._project_dir).oracle_file)

    # Helpers of `populate_space` ---------------------------------------------------------------------------------

    def _compute_values_hash(self, values: Mapping[str, Value]) -> str:
        """A text that is equal for equal values."""
        text = ",".join(f"{name}={values[name]}" for name in sorted(values))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _duplicate(self, values: Mapping[str, Value]) -> bool:
        """Whether these values were tried, or are being tried."""
        wanted = self._compute_values_hash(values)
        if wanted in self._tried_so_far:
            return True
        return any(self._compute_values_hash(trial.searched_values) == wanted for trial in self.trials.values())

    def _record_values(self, trial: Trial) -> None:
        """Has a trial's values count as tried."""
        self._tried_so_far.add(self._compute_values_hash(trial.searched_values))

    def _random_values(self) -> dict[str, Value] | None:
        """Random values that were not tried before; None where none is found.

        Each draw has its own seed, counted up from the oracle's, as in KerasTuner: the values of its programs stay.
        """
        for _ in range(self._max_collisions + 1):
            drawn = HyperParameters()
            for hp in self.hyperparameters.space:
                drawn.merge([hp])
                if drawn.is_active(hp):
                    drawn.values[hp.name] = hp.random_sample(self._seed_state)
                    self._seed_state += 1
            if not self._duplicate(drawn.values):
                return drawn.values
        return None

    # State -------------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """The oracle's state as JSON, with KerasTuner's keys. Override it to add what your oracle has to remember.

        Trials and executions lie in the project's store and are not part of it.
        """
        hashes = {trial_id: self._compute_values_hash(trial.searched_values) for trial_id, trial in self.trials.items()}
        return {
            "ongoing_trials": {tuner_id: trial.trial_id for tuner_id, trial in self.ongoing_trials.items()},
            "hyperparameters": self.hyperparameters.get_config(),
            "start_order": self.start_order,
            "end_order": self.end_order,
            "run_times": {trial_id: trial.attempt + 1 for trial_id, trial in self.trials.items()},
            "retry_queue": list(self.waiting),
            "seed": self.seed,
            "seed_state": self._seed_state,
            "tried_so_far": sorted({*self._tried_so_far, *hashes.values()}),
            "id_to_hash": hashes,
            "display": {
                "search_start": None,
                "trial_start": {trial_id: trial.started_at for trial_id, trial in self.trials.items()},
                "trial_number": {trial_id: trial.number + 1 for trial_id, trial in self.trials.items()},
            },
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `get_state`, as far as the store does not know better: space, seed, values tried."""
        space = HyperParameters.from_config(state["hyperparameters"])
        if self.tune_new_entries:
            self.hyperparameters.widen(space)
        self.seed = state["seed"]
        self._seed_state = state["seed_state"]
        known = {self._compute_values_hash(trial.searched_values) for trial in self.trials.values()}
        self._tried_so_far = set(state["tried_so_far"]) - known

    def remembers_more(self) -> bool:
        """Whether a subclass of the user's has a state of its own.

        The ready oracles extend `get_state`, too, but by settings, which their constructor knows. Storing the whole
        state with every trial is quadratic in their number, so it is done only where somebody needs it.
        """
        return not type(self).get_state.__module__.startswith("manyfit.")

    def own_facts(self) -> dict[str, Any]:
        """What the store keeps of the state of a subclass of the user's."""
        return {"oracle_state": self.get_state()} if self.remembers_more() else {}


def overridden(instance: object, base: type, names: Sequence[str]) -> list[str]:
    """Those of these methods of `base` that a subclass, or the instance itself, has written anew."""
    return [
        name for name in names if name in vars(instance) or getattr(type(instance), name) is not getattr(base, name)
    ]


def check_keys(state: Mapping[str, Any], *names: str) -> None:
    """Checks that a state is one of this oracle's.

    Raises:
        KeyError: a name that is not in it.
    """
    for name in names:
        if name not in state:
            raise KeyError(name)
