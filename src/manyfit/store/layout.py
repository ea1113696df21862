"""Where the files of a project lie, and which are Manyfit's. No other file spells these names.

A folder may hold files of others: the user's, another program's, a stranger's. So what is deleted is what `own_files`
lists, a link is never followed (`links`), and a trial's id becomes part of a path only if it cannot lead elsewhere
(`is_safe_id`).

```
project/
  manyfit.sqlite              facts, trials, executions, epochs (schema.py)
  manyfit.lock                held by the one process that writes
  manyfit.holder.json         who that is, for messages
  weights/3-0.npz             the best epoch of trial 3, execution 0 (training/weights.py)
  weights/3-0.state           what continues it, while it is paused (training/stored_state.py)
  weights/3-0.state.earlier   likewise of the pause before, until the store knows of the later one
  weights/3-0.pickle          instead of the weights, an estimator (training/estimators.py)
  weights/3-confirm-0.npz     likewise of an execution that confirmed it
  predictions/3-0.npz         what that model said of rows it did not train on (predictions.py)
  predictions/3-confirm-0.npz what an execution that confirmed it scored on each of those rows
  predictions/3-fold-0.npz    likewise of a model of a fold that was trained after the search
  predictions/3-0.test.npz    what it said of the rows of `search(predict=...)`
  predictions/labels.npz      the targets of the rows of the search
  predictions/test.npz        which rows those of `predict=` are
  requests/                   what is asked of the search from outside, one file each (requests.py)
  winner/                     the best model that a `fit` has come to (fitting/winner_files.py)
  trial_3/                    files of the user's own; KerasTuner's weights; the estimator of a SklearnTuner
  oracle.json, tuner0.json    KerasTuner's files, where they are asked for
```
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Collection
from pathlib import Path

from manyfit.core.errors import ProjectError, UsageError, explain
from manyfit.core.files import EARLIER, PARTIAL

DATABASE_NAME = "manyfit.sqlite"
_TRIAL = "trial_"
_TRIAL_JSON, _ESTIMATOR = "trial.json", "model.pickle"
_KERAS_WEIGHTS, _KERAS_SHAPES = "checkpoint.weights.h5", "build_config.json"
_BESIDE_DATABASE = ("-wal", "-shm", "-journal")  # SQLite's own

#: Phases whose weights are kept beside those of the search.
_PHASES = ("confirm", "proof", "fold")
_ENDING = rf"\d+(?:\.test)?\.(?:npz|state(?:{re.escape(EARLIER)})?|pickle)"
_AFTER_ID_OF_SEARCH = f"-{_ENDING}"
_AFTER_ID = rf"-(?:(?:{'|'.join(_PHASES)})-)?{_ENDING}"
_WINNER = r"winner\.(?:keras|npz|pickle|json)|fit\.json"
_REQUEST = r"\d{20}-[0-9a-f]{8}"
_OF_ENSEMBLE = r"(?:manifest|manyfit)\.json|pool\.npz|member_\d+_\d+\.(?:keras|pickle)"
#: Ids as oracles give them, for projects whose own list of trials cannot be read.
_NUMBERED = r"\d+"


def is_safe_id(trial_id: object) -> bool:
    """Whether a trial's id can be part of a file's name, and of no other file's than this trial's.

    Example:

    >>> is_safe_id("0003"), is_safe_id("../3"), is_safe_id("3-confirm")
    (True, False, False)
    """
    if not isinstance(trial_id, str) or not 0 < len(trial_id) <= 128:
        return False
    leads_elsewhere = trial_id[0] in ".~" or any(letter in '/\\:*?"<>|' or letter < " " for letter in trial_id)
    return not leads_elsewhere and not trial_id.endswith(tuple(f"-{phase}" for phase in _PHASES))


def check_id(trial_id: object) -> str:
    """The id, once it is known to be safe.

    Raises:
        UsageError: it could lead out of the project's folder, or to another trial's files.
    """
    if is_safe_id(trial_id):
        return str(trial_id)
    raise UsageError(
        explain(
            "trial id",
            repr(trial_id),
            "up to 128 letters, digits and signs that can be part of a file's name",
            'Type ids such as "0003" in your oracle; open no project whose trials have others.',
        )
    )


@dataclasses.dataclass(frozen=True)
class ProjectLayout:
    """The paths of a project. Nothing is made, and nothing has to be there.

    Args:
        folder: the project's.

    Example:

    >>> layout = ProjectLayout(Path("run/search"))
    >>> layout.weights("3", 0).as_posix(), layout.weights("3", 1, phase="confirm").as_posix()
    ('run/search/weights/3-0.npz', 'run/search/weights/3-confirm-1.npz')
    """

    folder: Path

    @classmethod
    def of(cls, folder: str | os.PathLike[str]) -> ProjectLayout:
        """The layout of a folder, however it is named."""
        return cls(Path(folder))

    @classmethod
    def around(cls, weights: str | os.PathLike[str]) -> ProjectLayout:
        """The layout of the project that a file of weights belongs to: all that a worker is told."""
        return cls(Path(weights).parent.parent)

    @property
    def database(self) -> Path:
        """Everything but arrays."""
        return self.folder / DATABASE_NAME

    @property
    def lock(self) -> Path:
        """The file that the writing process has locked. It stays: deleting it would let two processes in."""
        return self.folder / "manyfit.lock"

    @property
    def holder(self) -> Path:
        """Who holds the lock."""
        return self.folder / "manyfit.holder.json"

    def weights(self, trial_id: str, execution: int, *, phase: str = "search") -> Path:
        """The weights of an execution's best epoch."""
        # Those of the search came first, and their names have no phase; old projects have to open.
        assert phase in ("search", *_PHASES), phase  # else nobody would know whose file it is
        middle = "" if phase == "search" else f"{phase}-"
        return self._models / f"{check_id(trial_id)}-{middle}{int(execution)}.npz"

    @property
    def _models(self) -> Path:
        return self.folder / "weights"

    def of_models(self, *trial_ids: str, of_search_only: bool = False) -> list[Path]:
        """Every file that was kept of the models of trials: weights, states, estimators, of all phases or one."""
        ids = "|".join(re.escape(check_id(trial_id)) for trial_id in trial_ids)
        after = _AFTER_ID_OF_SEARCH if of_search_only else _AFTER_ID
        return _matching(self._models, f"(?:{ids}){after}") if trial_ids else []

    def of_some_trial(self) -> list[Path]:
        """Files of models and of what they said, whosever they are."""
        return [*_matching(self._models, ".+" + _AFTER_ID), *_matching(self.predictions, ".+" + _AFTER_ID)]

    def of_predictions(self, *trial_ids: str) -> list[Path]:
        """Every file that was kept of what models of trials said of rows, of all phases."""
        ids = "|".join(re.escape(check_id(trial_id)) for trial_id in trial_ids)
        return _matching(self.predictions, f"(?:{ids}){_AFTER_ID}")

    def of_execution(self, trial_id: str, execution: int, *, phase: str = "search") -> list[Path]:
        """Where the files lie that stay as they are once an execution has ended: its own, and those of its rows."""
        if phase not in ("search", *_PHASES):  # a longer training: nothing of it is kept here
            return []
        weights, kept = self.weights(trial_id, execution, phase=phase), PredictionFiles(self.predictions)
        found = [weights, weights.with_suffix(".pickle"), kept.of(trial_id, execution, phase=phase)]
        if phase == "search":
            found += [kept.of_asked_rows(trial_id, execution), kept.labels, kept.asked_rows, self.pickled(trial_id)]
        return found

    @property
    def predictions(self) -> Path:
        """The folder of kept predictions."""
        return self.folder / "predictions"

    @property
    def winner(self) -> Path:
        """The folder of the best model that a `fit` has come to."""
        return self.folder / "winner"

    @property
    def requests(self) -> Path:
        """The folder of what is asked of the search from outside."""
        return self.folder / "requests"

    def request(self, name: str) -> Path:
        """The file of one request; its name says when it was made, and sorts by that."""
        assert re.fullmatch(_REQUEST, name), name  # our bug: `store.requests` makes them
        return self.requests / f"{name}.json"

    def waiting_requests(self) -> dict[str, Path]:
        """Requests that nobody has taken yet, by name, in their order; links too, for whoever reads them to refuse."""
        try:
            names = sorted(os.listdir(self.requests))
        except OSError:  # there is no such folder before the first request
            return {}
        return {name[:-5]: self.requests / name for name in names if re.fullmatch(rf"{_REQUEST}\.json", name)}

    # What is Manyfit's -------------------------------------------------------------------------------------------

    def own_files(self, trial_ids: Collection[str] | None, *, of_keras_tuner: Collection[str] = ()) -> list[Path]:
        """The files that are there and that Manyfit has written, without database and lock. No other is ever deleted.

        Args:
            trial_ids: the project's trials; None where that list cannot be read: those that are numbered.
            of_keras_tuner: the tuners whose KerasTuner files Manyfit has written.
        """
        ids = _NUMBERED if trial_ids is None else "|".join(re.escape(trial_id) for trial_id in sorted(trial_ids))
        ids = f"(?:{PARTIAL})?(?:{ids})"
        found = _matching(self._models, ids + _AFTER_ID)
        found += _matching(self.predictions, rf"{ids}{_AFTER_ID}|(?:{PARTIAL})?(?:labels|test)\.npz")
        found += _matching(self.winner, rf"(?:{PARTIAL})?{_WINNER}")
        found += [path for folder in self._winner_folders() for path in _matching(folder, _OF_ENSEMBLE)]
        found += _matching(self.requests, rf"(?:{PARTIAL})?{_REQUEST}\.json")
        for folder in self._trial_folders(trial_ids):
            paths = [folder / _ESTIMATOR, folder / _KERAS_WEIGHTS, *([folder / _TRIAL_JSON] if of_keras_tuner else [])]
            found += [path for path in paths if _is_plain(path)]
        if of_keras_tuner:
            paths = [self.oracle_file, *map(self.tuner_file, of_keras_tuner)]
            found += [path for path in paths if _is_plain(path)]
        return found

    def remove_partial_files(self) -> None:
        """Removes what a process that was killed has left half written. Nobody writes here meanwhile."""
        for folder, names in (
            (self._models, ".+" + _AFTER_ID),
            (self.predictions, rf".+{_AFTER_ID}|(?:labels|test)\.npz"),
            (self.winner, _WINNER),
        ):
            for path in _matching(folder, f"{PARTIAL}(?:{names})"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def own_folders(self, trial_ids: Collection[str] | None) -> list[Path]:
        """The folders that `own_files` lie in: to be removed once they are empty."""
        folders = [self._models, self.predictions, *self._winner_folders(), self.winner, self.requests]
        folders += self._trial_folders(trial_ids)
        return [folder for folder in folders if folder.is_dir() and not folder.is_symlink()]

    def _winner_folders(self) -> list[Path]:
        """Ensembles that have been winners, each in a folder of its own."""
        if self.winner.is_symlink():
            return []
        return [path for path in self.winner.glob("ensemble-*") if path.is_dir() and not path.is_symlink()]

    def database_files(self) -> list[Path]:
        """The database, and what SQLite keeps beside it."""
        paths = [self.database, *(self.folder / f"{DATABASE_NAME}{ending}" for ending in _BESIDE_DATABASE)]
        return [path for path in paths if _is_plain(path)]

    def _trial_folders(self, trial_ids: Collection[str] | None) -> list[Path]:
        known = None if trial_ids is None else set(trial_ids)
        folders = [path for path in self.folder.glob(f"{_TRIAL}*") if path.is_dir() and not path.is_symlink()]
        ids = {path: path.name.removeprefix(_TRIAL) for path in folders}
        if known is None:
            return [path for path, trial_id in ids.items() if re.fullmatch(_NUMBERED, trial_id)]
        return [path for path, trial_id in ids.items() if trial_id in known]

    def links(self) -> list[Path]:
        """Links in the places of files and folders of the project: what is written there would land elsewhere."""
        places = [self.database, *(self.folder / f"{DATABASE_NAME}{ending}" for ending in _BESIDE_DATABASE)]
        places += [self.lock, self.holder, self.oracle_file, self._models, self.predictions]
        places += [self.winner, *self.winner.glob("*"), self.requests]
        found = [path for path in places if path.is_symlink()]
        for folder, names in (
            (self._models, ".+" + _AFTER_ID),
            (self.predictions, rf".+{_AFTER_ID}|(?:labels|test)\.npz"),
        ):
            if not folder.is_symlink():
                found += _matching(folder, names, links=True)
        for folder in self.folder.glob(f"{_TRIAL}*"):
            inside = [folder / name for name in (_TRIAL_JSON, _ESTIMATOR, _KERAS_WEIGHTS, _KERAS_SHAPES)]
            found += [path for path in (folder, *inside) if path.is_symlink()]
        return found

    def refuse_links(self) -> None:
        """Checks that there are none. Nobody but a stranger has a reason to put them there.

        Raises:
            ProjectError: there is one.
        """
        links = self.links()
        if links:
            got = f"{links[0].relative_to(self.folder)}, a link to {os.readlink(links[0])}"
            allowed = "files and folders that lie in the project's folder"
            instead = "Put the file or folder itself there, or remove the link."
            raise ProjectError(explain(f'project "{self.folder}"', got, allowed, instead))

    def refuse_to_clear_others(self) -> None:
        """Checks that what `overwrite=True` would clear is a project.

        Raises:
            ProjectError: the folder has files, and none that tells a project, KerasTuner's included, from any folder.
        """
        entries = [entry for entry in self.folder.iterdir() if entry not in (self.lock, self.holder)]
        if entries and self.database not in entries and self.oracle_file not in entries:
            where = f'overwrite=True with the project folder "{self.folder}"'
            got = f"a folder with {entries[0].name} and no project in it"
            instead = "Type another project_name= or directory=, or empty the folder yourself."
            raise ProjectError(explain(where, got, "an empty folder, or a project's", instead))

    # Of single trials, and KerasTuner's ------------------------------------------------------------------------

    def trial_folder(self, trial_id: str) -> Path:
        """A folder for files of one trial, for users who write their own."""
        return self.folder / f"{_TRIAL}{check_id(trial_id)}"

    def trial_file(self, trial_id: str) -> Path:
        """A trial as KerasTuner writes it."""
        return self.trial_folder(trial_id) / _TRIAL_JSON

    def trial_files(self) -> dict[str, Path]:
        """Those that are there, by trial."""
        return self._by_trial(_TRIAL_JSON)

    def keras_weights(self, trial_id: str) -> Path:
        """A trial's weights where KerasTuner keeps them, in Keras's own format."""
        return self.trial_folder(trial_id) / _KERAS_WEIGHTS

    def pickled(self, trial_id: str) -> Path:
        """The estimator of a trial of a `SklearnTuner`."""
        return self.trial_folder(trial_id) / _ESTIMATOR

    def all_pickled(self) -> dict[str, Path]:
        """Those that are there, by trial."""
        return self._by_trial(_ESTIMATOR)

    @property
    def oracle_file(self) -> Path:
        """KerasTuner's space and order of trials."""
        return self.folder / "oracle.json"

    def tuner_file(self, tuner_id: str) -> Path:
        """KerasTuner's state of a tuner."""
        return self.folder / f"{tuner_id}.json"

    def tuner_files(self) -> list[Path]:
        """Those that are there. KerasTuner gives them the tuner's name, so they are told by what they are not."""
        known = (self.oracle_file, self.holder)
        return [path for path in self.folder.glob("*.json") if path not in known and _is_plain(path)]

    def _by_trial(self, name: str) -> dict[str, Path]:
        paths = {path.parent.name.removeprefix(_TRIAL): path for path in self.folder.glob(f"{_TRIAL}*/{name}")}
        return {trial_id: path for trial_id, path in paths.items() if is_safe_id(trial_id)}


@dataclasses.dataclass(frozen=True)
class PredictionFiles:
    """The files in a folder of kept predictions.

    Args:
        folder: `ProjectLayout.predictions`.
    """

    folder: Path

    @property
    def labels(self) -> Path:
        """The targets, once for all executions."""
        return self.folder / "labels.npz"

    @property
    def asked_rows(self) -> Path:
        """Which rows those of `search(predict=...)` are."""
        return self.folder / "test.npz"

    def of(self, trial_id: str, execution: int, *, phase: str = "search") -> Path:
        """What the model of one execution said; of a confirmation, what it scored on each row."""
        assert phase in ("search", *_PHASES), phase  # else nobody would know whose file it is
        middle = "" if phase == "search" else f"{phase}-"
        return self.folder / f"{check_id(trial_id)}-{middle}{int(execution)}.npz"

    def of_asked_rows(self, trial_id: str, execution: int) -> Path:
        """What the model of one execution of the search said of the rows of `search(predict=...)`."""
        return self.folder / f"{check_id(trial_id)}-{int(execution)}.test.npz"

    def executions(self, trial_id: str) -> list[int]:
        """The executions of a trial that have a file, in order."""
        paths = _matching(self.folder, re.escape(check_id(trial_id)) + r"-\d+\.npz")
        return sorted(int(path.stem.rpartition("-")[2]) for path in paths)


def state_beside(weights: Path) -> Path:
    """Where the state of a paused execution lies, given where its weights do.

    Example:

    >>> state_beside(Path("weights/3-0.npz")).name
    '3-0.state'
    """
    return weights.with_suffix(".state")


def states_beside(weights: Path) -> list[Path]:
    """All files of such a state: that of the pause before, too."""
    state = state_beside(weights)
    return [state, state.with_name(state.name + EARLIER)]


def _matching(folder: Path, names: str, *, links: bool = False) -> list[Path]:
    """The files in a folder whose whole name matches, in order; links instead, where they are asked for."""
    pattern = re.compile(names)
    if folder.is_symlink() or not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        named = [entry for entry in entries if pattern.fullmatch(entry.name)]
        kept = [entry for entry in named if (entry.is_symlink() if links else entry.is_file(follow_symlinks=False))]
    return sorted(folder / entry.name for entry in kept)


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
