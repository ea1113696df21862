"""KerasTuner's project files: old projects are read, and the same files can be written beside the store.

`oracle.json` holds the space and the order of trials, `trial_<id>/trial.json` a trial with one observation per metric,
`<tuner id>.json` the state of a tuner's subclass, `trial_<id>/checkpoint.weights.h5` the weights of its best epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from manyfit.core import seeds
from manyfit.core.errors import ProjectError, explain
from manyfit.core.files import written_whole
from manyfit.core.lifecycle import TrialStatus
from manyfit.core.records import Ending, Plan, Result
from manyfit.core.untrusted import plain_file, read_json
from manyfit.oracles.commits import RELOADING
from manyfit.oracles.keras_tuner.style import KerasTunerOracle
from manyfit.oracles.trial import Trial
from manyfit.store import ProjectStore
from manyfit.store.layout import ProjectLayout, check_id
from manyfit.store.project import READ_FROM_KERAS_TUNER, WRITTEN_FOR_KERAS_TUNER

# Reading -------------------------------------------------------------------------------------------------------


def read_project(oracle: KerasTunerOracle, store: ProjectStore) -> bool:
    """Takes a project of KerasTuner's into the store, once; its files stay as they are.

    Trials that had not ended run again from their start. A promoted trial of Hyperband is a trial of its own, as it was
    there; Manyfit's Hyperband starts its brackets anew, and knows the results.

    Args:
        oracle: gets the trials. It has been opened on the store.
        store: of the project's folder.

    Returns:
        Whether there was one that the store did not know.

    Raises:
        ProjectError: the files cannot be read, or are those of another search.
    """
    path = store.layout.oracle_file
    if store.get("space") is not None or store.is_beside_keras_tuner or not path.exists():
        return False
    state = _read(path)
    try:
        oracle.set_state(state)
        trials = [_trial(oracle, file, _read(file)) for file in _trial_files(store.layout, state["start_order"])]
        ends = {trial_id: place for place, trial_id in enumerate(state["end_order"])}
    except (KeyError, TypeError) as error:
        raise ProjectError(
            explain(
                RELOADING,
                f"{path}, which lacks {error}",
                "the files of a search with the same tuner",
                "If you did not mean to reload it, pass `overwrite=True` or another project_name=.",
            )
        ) from error
    for trial in trials:
        oracle.trials[trial.trial_id] = trial
        _add_execution(oracle, trial)
        if trial.trial_id in ends and trial.has_ended:
            # The files know an order of ends and no times, so all have the time of the file.
            trial.ended_at, trial.end_number = path.stat().st_mtime, 1 + ends[trial.trial_id]
    states = {file.stem: _read(file) for file in store.layout.tuner_files()}
    oracle.book.save(
        trials,
        space=oracle.hyperparameters.get_config(),
        seed=oracle.seed,
        **{READ_FROM_KERAS_TUNER: True},
        **oracle.own_facts(),
        **({"tuner_state": next(iter(states.values()))} if states else {}),
    )
    oracle.reload()
    return True


def _read(path: Path) -> Any:
    try:
        return read_json(plain_file(path).read_text())
    except (OSError, ValueError) as error:
        raise ProjectError(
            explain(
                RELOADING,
                f"{path}, which is not whole ({error})",
                "files as KerasTuner writes them",
                "Restore the file from a copy, or pass `overwrite=True` to start anew.",
            )
        ) from error


def _trial_files(layout: ProjectLayout, order: Iterable[str]) -> list[Path]:
    """The files of trials in the order of their start."""
    found = layout.trial_files()
    ids = [trial_id for trial_id in order if trial_id in found]
    return [found[trial_id] for trial_id in [*ids, *sorted(set(found) - set(ids))]]


def _trial(oracle: KerasTunerOracle, path: Path, state: Mapping[str, Any]) -> Trial:
    trial = Trial.from_state(state)
    # The id becomes part of paths. That of the folder is known to be harmless; KerasTuner writes the same twice.
    if path != ProjectLayout(path.parent.parent).trial_file(check_id(trial.trial_id)):
        raise ProjectError(
            explain(
                RELOADING,
                f"{path}, which tells of trial {trial.trial_id!r}",
                "files as KerasTuner writes them",
                "Restore the file from a copy, or pass another project_name=.",
            )
        )
    trial.number = len(oracle.trials)
    oracle.trials[trial.trial_id] = trial
    if not trial.has_ended:
        trial.status = TrialStatus.RUNNING
        trial.forget_reports()
    return trial


def _add_execution(oracle: KerasTunerOracle, trial: Trial) -> None:
    """One execution with what KerasTuner kept of all of them: the means at the best epoch."""
    if not trial.is_completed:
        return
    history: dict[str, list[float | None]] = {}
    for name, tracked in trial.metrics.metrics.items():
        if name == oracle.objective.name or name != "multi_objective":
            observations = {each.step: each.mean() for each in tracked.get_history()}
            history[name] = [observations.get(step) for step in range(max(observations, default=-1) + 1)]
    seed = seeds.seed_of(oracle.seed, "execution", trial.trial_id, 0, 0)
    # KerasTuner's own score stands: it was computed from executions that its files do not keep.
    score, best_step = trial.score, trial.best_step
    oracle.book.add_execution(Result(Plan(trial.trial_id, 0, trial.hyperparameters, seed), Ending.COMPLETED, history))
    trial.score, trial.best_step = score, best_step


# Writing -------------------------------------------------------------------------------------------------------


def write_project(
    oracle: KerasTunerOracle, store: ProjectStore, tuner_states: Mapping[str, Any], trials: Iterable[Trial]
) -> None:
    """Writes KerasTuner's JSON files beside the store.

    Args:
        oracle: whose state goes to `oracle.json`.
        store: of the project's folder.
        tuner_states: tuner id -> its state.
        trials: those that have changed.
    """
    known = store.get(WRITTEN_FOR_KERAS_TUNER, [])
    if new := sorted(set(tuner_states).difference(known)):
        oracle.book.put(**{WRITTEN_FOR_KERAS_TUNER: [*known, *new]})
    for trial in trials:
        _write(store.layout.trial_file(trial.trial_id), trial.get_state())
    _write(store.layout.oracle_file, {**oracle.get_state(), "display": _NO_DISPLAY})
    for tuner_id, state in tuner_states.items():
        _write(store.layout.tuner_file(tuner_id), state)


#: What KerasTuner writes there while no trial is on display.
_NO_DISPLAY: dict[str, Any] = {"search_start": None, "trial_start": {}, "trial_number": {}}


def _write(path: Path, state: Mapping[str, Any]) -> None:
    with written_whole(path, "KerasTuner's file") as partial:
        partial.write_text(json.dumps(state))
