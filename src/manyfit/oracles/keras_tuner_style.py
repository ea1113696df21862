"""KerasTuner's side of an oracle: its attributes, its helpers for `populate_space`, its state as a dict."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyfit.core.records import Value
from manyfit.space.hyperparameters import HyperParameters
from manyfit.store import ProjectStore
from manyfit.store.layout import Layout

if TYPE_CHECKING:
    from manyfit.oracles.trial import Trial

#: After so many draws in a row that were tried before, `_random_values` gives up.
_MAX_COLLISIONS = 20


class KerasTunerStyle:
    """The base of `Oracle` that holds KerasTuner's side of it. Nothing here decides anything in Manyfit's own oracles.

    Attributes:
        tuner_ids: the tuners that have asked for trials.
        multi_worker: always False: one process owns the search.
        should_report: always True.
        verbose: 0 prints nothing; "auto" is 1.
    """

    if TYPE_CHECKING:
        seed: int
        trials: Any
        waiting: list[str]
        ongoing_trials: dict[str, Trial]
        hyperparameters: HyperParameters
        start_order: Any
        end_order: Any
        tune_new_entries: bool
        book: Any
        populate_space: Any
        score_trial: Any
        open: Any
        get_space: Any

    directory: str | None = None
    project_name: str | None = None
    multi_worker = False
    should_report = True
    _max_collisions = _MAX_COLLISIONS
    _verbose: Any = 1

    def _init_style(self) -> None:
        self.tuner_ids: set[str] = set()
        self._seed_state = self.seed
        self._tried_so_far: set[str] = set()

    @property
    def verbose(self) -> Any:
        """How much is printed."""
        return self._verbose

    @verbose.setter
    def verbose(self, value: Any) -> None:
        self._verbose = 1 if value == "auto" else value

    def overrides(self, *names: str) -> list[str]:
        """Those of these methods that a subclass has written anew."""
        from manyfit.oracles.oracle import Oracle

        return [name for name in names if name in vars(self) or getattr(type(self), name) is not getattr(Oracle, name)]

    # Older names -----------------------------------------------------------------------------------------------

    def _populate_space(self, trial_id: str) -> dict[str, Any]:
        warnings.warn("`_populate_space` is deprecated: call `populate_space`.", DeprecationWarning, stacklevel=2)
        return self.populate_space(trial_id)

    def _score_trial(self, trial: Trial) -> None:
        warnings.warn("`_score_trial` is deprecated: call `score_trial`.", DeprecationWarning, stacklevel=2)
        self.score_trial(trial)

    # A project without a tuner ---------------------------------------------------------------------------------

    def _set_project_dir(self, directory: str | os.PathLike[str], project_name: str) -> None:
        """Opens a project for an oracle that no tuner owns."""
        self.open(ProjectStore(Path(directory) / project_name))

    @property
    def _project_dir(self) -> str:
        assert self.book.store is not None  # our bug: only an oracle with a project is asked
        return str(self.book.store.folder)

    def _get_trial_dir(self, trial_id: str) -> str:
        return str(Layout.of(self._project_dir).trial_folder(trial_id))

    def _get_oracle_fname(self) -> str:
        return str(Layout.of(self._project_dir).oracle_file)

    # Helpers of `populate_space` -------------------------------------------------------------------------------

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

        Each draw has its own seed, counted up from the oracle's, as in KerasTuner.
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

    # State -----------------------------------------------------------------------------------------------------

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

    def _remembers_more(self) -> bool:
        """Whether a subclass has a state of its own."""
        base = KerasTunerStyle.get_state
        return type(self).get_state is not base and type(self).get_state not in _OWN_STATES

    def _facts(self) -> dict[str, Any]:
        """What the store keeps of a subclass's state."""
        return {"oracle_state": self.get_state()} if self._remembers_more() else {}


_OWN_STATES: set[Any] = set()


def own_state(method: Any) -> Any:
    """Marks a `get_state` of ours, which adds settings only: nothing of it needs to be stored."""
    _OWN_STATES.add(method)
    return method


def check_keys(state: Mapping[str, Any], *names: str) -> None:
    """Checks that a state is one of this oracle's.

    Raises:
        KeyError: a name that is not in it.
    """
    for name in names:
        if name not in state:
            raise KeyError(name)
