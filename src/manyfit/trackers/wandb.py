"""Weights & Biases: a group for the project, and a run per trial. The only file that imports wandb."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from manyfit.core.checks import check_extra
from manyfit.core.records import Values
from manyfit.core.signatures import checked_arguments
from manyfit.report.snapshot import Snapshot
from manyfit.trackers.base import TrackedEnd, TrackedEpoch, Tracker

_MOST_LETTERS = 120  # of a name


class WandB(Tracker):
    """Tells Weights & Biases: values and curves of each trial as a run, score, spread, confirmed mean in its summary.

    Args:
        project: its name there; None: that of Manyfit's project.
        mode: "offline" writes files that `wandb sync` uploads; "online" is for those who have logged in.
        folder: of the files; None: as wandb is set (`WANDB_DIR`, or the folder of the program).

    Raises:
        ImportError: `pip install manyfit[wandb]`.
    """

    @checked_arguments()
    def __init__(self, project: str | None = None, mode: str = "offline", folder: str | None = None) -> None:
        check_extra("wandb", "wandb")
        self.project = project
        self.mode = mode
        self.folder = folder
        self._group = self._known_by = ""
        self._runs: dict[str, Any] = {}  # of trials that train
        self._values: dict[str, Values] = {}
        self._confirmed: dict[str, float] = {}  # means that were told

    def begin(self, snapshot: Snapshot) -> frozenset[str]:
        """See `Tracker`."""
        folder = snapshot.folder.resolve()
        self._group = folder.name[-_MOST_LETTERS:]
        self.project = self.project or self._group
        # The same in every process, so that a search that goes on goes on in its runs.
        self._known_by = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
        return frozenset()

    def _open(self, trial_id: str) -> Any:
        import wandb

        # Many at once, since trials train together; and nothing of the program's own output is taken.
        settings = wandb.Settings(silent=True, console="off")
        return wandb.init(
            project=self.project,
            group=self._group,
            name=f"trial {trial_id}",
            id=f"{self._known_by}-{trial_id}",
            # A hyperparameter may be called "trial", too: its value is what people look for.
            config={"trial": trial_id, **self._values.get(trial_id, {})},
            mode=self.mode,
            dir=self.folder,
            reinit="create_new",
            # Offline nobody knows what was there; files of one id are joined when they are uploaded.
            resume="allow" if self.mode == "online" else None,
            settings=settings,
        )

    def trial_began(self, trial_id: str, values: Values) -> None:
        """See `Tracker`."""
        self._values[trial_id] = values
        if trial_id not in self._runs:
            self._runs[trial_id] = self._open(trial_id)
            # An epoch is reported by several executions, one after another; wandb's own steps only go up.
            self._runs[trial_id].define_metric("*", step_metric="epoch")

    def epochs_ended(self, epochs: Sequence[TrackedEpoch]) -> None:
        """See `Tracker`."""
        for one in epochs:
            if (run := self._runs.get(one.trial_id)) is not None:
                run.log({"epoch": one.epoch, **{one.prefix + name: value for name, value in one.metrics.items()}})

    def trial_ended(self, trial_id: str, end: TrackedEnd) -> None:
        """See `Tracker`."""
        run = self._runs.pop(trial_id, None)
        if run is None:
            return
        self._summarise(run, {"score": end.score, "spread": end.spread, "reason": end.reason})
        run.finish(exit_code=1 if end.score is None else 0)

    def call_ended(self, snapshot: Snapshot) -> None:
        """See `Tracker`. The runs of trials that were confirmed are opened once more."""
        for trial in snapshot.trials:
            facts = trial.confirmed or {}
            mean = facts.get("score")
            if mean is None or self._confirmed.get(trial.trial_id) == mean:
                continue
            self._confirmed[trial.trial_id] = mean
            self._values[trial.trial_id] = trial.values
            run = self._open(trial.trial_id)
            known = {"confirmed": mean, **{f"confirmed_{end}": facts.get(end) for end in ("low", "high")}}
            self._summarise(run, known)
            run.finish(exit_code=0)

    def _summarise(self, run: Any, facts: Mapping[str, object]) -> None:
        run.summary.update({name: value for name, value in facts.items() if value is not None})
