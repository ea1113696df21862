"""Where the files of a project lie. No other file spells these names, so a later version can move one in one place.

```
project/
  manyfit.sqlite              facts, trials, executions, epochs (schema.py)
  manyfit.lock                held by the one process that writes
  manyfit.holder.json         who that is, for messages
  weights/3-0.npz             the best epoch of trial 3, execution 0 (training/weights.py)
  weights/3-0.state           what continues it, while it is paused (training/stored_state.py)
  weights/3-0.pickle          instead of the weights, an estimator (training/estimators.py)
  weights/3-confirm-0.npz     likewise of an execution that confirmed it
  predictions/3-0.npz         what that model said of rows it did not train on (predictions.py)
  predictions/labels.npz      the targets of those rows
  trial_3/                    files of the user's own; KerasTuner's weights; the estimator of a SklearnTuner
  oracle.json, tuner0.json    KerasTuner's files, where they are asked for
```
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

DATABASE_NAME = "manyfit.sqlite"
_TRIAL = "trial_"


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
        middle = "" if phase == "search" else f"{phase}-"
        return self.folder / "weights" / f"{trial_id}-{middle}{execution}.npz"

    def of_models(self, trial_id: str) -> Iterator[Path]:
        """Every file that was kept of a trial's models: weights, states, estimators, of all phases."""
        return (self.folder / "weights").glob(f"{trial_id}-*")

    @property
    def predictions(self) -> Path:
        """The folder of kept predictions."""
        return self.folder / "predictions"

    # Of single trials, and KerasTuner's ------------------------------------------------------------------------

    def trial_folder(self, trial_id: str) -> Path:
        """A folder for files of one trial, for users who write their own."""
        return self.folder / f"{_TRIAL}{trial_id}"

    def trial_file(self, trial_id: str) -> Path:
        """A trial as KerasTuner writes it."""
        return self.trial_folder(trial_id) / "trial.json"

    def trial_files(self) -> dict[str, Path]:
        """Those that are there, by trial."""
        return self._by_trial("trial.json")

    def keras_weights(self, trial_id: str) -> Path:
        """A trial's weights where KerasTuner keeps them, in Keras's own format."""
        return self.trial_folder(trial_id) / "checkpoint.weights.h5"

    def pickled(self, trial_id: str) -> Path:
        """The estimator of a trial of a `SklearnTuner`."""
        return self.trial_folder(trial_id) / "model.pickle"

    def all_pickled(self) -> dict[str, Path]:
        """Those that are there, by trial."""
        return self._by_trial("model.pickle")

    @property
    def oracle_file(self) -> Path:
        """KerasTuner's space and order of trials."""
        return self.folder / "oracle.json"

    def tuner_file(self, tuner_id: str) -> Path:
        """KerasTuner's state of a tuner."""
        return self.folder / f"{tuner_id}.json"

    def tuner_files(self) -> list[Path]:
        """Those that are there. KerasTuner gives them the tuner's name, so they are told by what they are not."""
        return [path for path in self.folder.glob("*.json") if path not in (self.oracle_file, self.holder)]

    def _by_trial(self, name: str) -> dict[str, Path]:
        return {path.parent.name.removeprefix(_TRIAL): path for path in self.folder.glob(f"{_TRIAL}*/{name}")}


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

    def of(self, trial_id: str, execution: int) -> Path:
        """What the model of one execution said."""
        return self.folder / f"{trial_id}-{execution}.npz"

    def executions(self, trial_id: str) -> list[int]:
        """The executions of a trial that have a file, in order."""
        return sorted(int(path.stem.rpartition("-")[2]) for path in self.folder.glob(f"{trial_id}-*.npz"))


def state_beside(weights: Path) -> Path:
    """Where the state of a paused execution lies, given where its weights do.

    Example:

    >>> state_beside(Path("weights/3-0.npz")).name
    '3-0.state'
    """
    return weights.with_suffix(".state")
