"""MLflow: a run for the project, and a nested run per trial. The only file that imports mlflow."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from manyfit.core.checks import check_extra
from manyfit.core.records import Values
from manyfit.core.signatures import checked_arguments
from manyfit.report import words
from manyfit.report.snapshot import Snapshot
from manyfit.trackers.base import TrackedEnd, TrackedEpoch, Tracker

_MOST_LETTERS = 250  # of a name
_MOST_OF_VALUE = 6000
_MOST_AT_ONCE = 1000  # metrics in one request
_PROJECT, _TRIAL = "manyfit.project", "manyfit.trial"


class MLflow(Tracker):
    """Tells MLflow: parameters and curves of each trial as a nested run, score, spread and confirmed mean as metrics.

    A project is one run, known again by its folder, so a search that goes on goes on there, too.

    Args:
        tracking_uri: a server, or a file: "sqlite:///mlflow.db". None: as MLflow is set (`MLFLOW_TRACKING_URI`).
        experiment: its name; None: the project's.

    Raises:
        ImportError: `pip install manyfit[mlflow]`.
    """

    @checked_arguments()
    def __init__(self, tracking_uri: str | None = None, experiment: str | None = None) -> None:
        check_extra("mlflow", "mlflow")
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self._client: Any = None
        self._experiment_id = ""
        self._parent = ""
        self._runs: dict[str, str] = {}  # trial id -> run id

    def begin(self, snapshot: Snapshot) -> frozenset[str]:
        """See `Tracker`."""
        from mlflow import MlflowClient

        self._client = MlflowClient(self.tracking_uri)
        name = self.experiment or snapshot.folder.resolve().name
        known = self._client.get_experiment_by_name(name)
        self._experiment_id = self._client.create_experiment(name) if known is None else known.experiment_id
        project, ended = str(snapshot.folder.resolve()), set()
        runs = [run for run in self._all_runs() if run.data.tags.get(_PROJECT) == project]
        for run in runs:
            if (trial_id := run.data.tags.get(_TRIAL)) is None:
                self._parent = run.info.run_id
            else:
                self._runs[trial_id] = run.info.run_id
                ended |= {trial_id} if run.info.status in ("FINISHED", "FAILED") else set()
        # By tags and not by names: a name may be taken by another project.
        tags = {_PROJECT: project, "manyfit.objective": snapshot.objective, "manyfit.direction": snapshot.direction}
        if not self._parent:
            self._parent = self._create(snapshot.folder.resolve().name, tags)
        self._client.update_run(self._parent, status="RUNNING")
        self._tags = {_PROJECT: project, "mlflow.parentRunId": self._parent}
        return frozenset(ended)

    def _all_runs(self) -> list[Any]:
        found, token = [], None
        while True:
            page = self._client.search_runs([self._experiment_id], max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(self._experiment_id, run_name=name, tags=dict(tags))
        return str(run.info.run_id)

    def trial_began(self, trial_id: str, values: Values) -> None:
        """See `Tracker`."""
        from mlflow.entities import Param

        if trial_id in self._runs:  # it goes on; parameters cannot change
            self._client.update_run(self._runs[trial_id], status="RUNNING")
            return
        self._runs[trial_id] = self._create(f"trial {trial_id}", {**self._tags, _TRIAL: trial_id})
        named = names_for(values)
        params = [Param(named[name], str(value)[:_MOST_OF_VALUE]) for name, value in values.items()]
        for first in range(0, len(params), 100):  # no more are taken at once
            self._client.log_batch(self._runs[trial_id], params=params[first : first + 100])

    def epochs_ended(self, epochs: Sequence[TrackedEpoch]) -> None:
        """See `Tracker`."""
        from mlflow.entities import Metric

        # One request per run and epoch of a population: a server answers some ten of them in a second.
        now, by_run = int(1000 * time.time()), dict[str, list[Any]]()
        for one in epochs:
            if one.trial_id not in self._runs:
                continue
            named = names_for(one.metrics)
            by_run.setdefault(self._runs[one.trial_id], []).extend(
                Metric(one.prefix + named[name], float(value), now, one.epoch) for name, value in one.metrics.items()
            )
        for run_id, metrics in by_run.items():
            for first in range(0, len(metrics), _MOST_AT_ONCE):
                self._client.log_batch(run_id, metrics=metrics[first : first + _MOST_AT_ONCE])

    def trial_ended(self, trial_id: str, end: TrackedEnd) -> None:
        """See `Tracker`."""
        run_id = self._runs.get(trial_id)
        if run_id is None:
            return
        self._log(run_id, {"score": end.score, "spread": end.spread})
        if end.reason:
            self._client.set_tag(run_id, "manyfit.reason", words.plain(end.reason.strip(), _MOST_OF_VALUE // 2))
        self._client.set_terminated(run_id, "FAILED" if end.score is None else "FINISHED")

    def call_ended(self, snapshot: Snapshot) -> None:
        """See `Tracker`."""
        for trial in snapshot.trials:
            facts, run_id = trial.confirmed, self._runs.get(trial.trial_id)
            if facts is not None and run_id is not None:
                known = {"confirmed": facts.get("score")}
                known |= {f"confirmed_{end}": facts.get(end) for end in ("low", "high")}
                self._log(run_id, known)
        best = snapshot.best(1)
        if best:
            self._log(self._parent, {"best_score": best[0].score})
            self._client.set_tag(self._parent, "manyfit.best_trial", best[0].trial_id)
        self._client.set_tag(self._parent, "manyfit.verdict", " ".join(words.verdict(snapshot)))
        self._client.set_terminated(self._parent, "FINISHED")

    def _log(self, run_id: str, numbers: Mapping[str, float | None]) -> None:
        for name, value in numbers.items():
            # A server of theirs keeps NaN as 0, which a loss might be.
            if value is not None and math.isfinite(value):
                self._client.log_metric(run_id, name, float(value))


def names_for(names: Mapping[str, object]) -> dict[str, str]:
    """Names that MLflow takes: letters, digits, `_-. :/`, not too long, and each only once.

    Example:

    >>> names_for({"rate": 1, "<b>rate": 2, "[b]rate": 3})
    {'rate': 'rate', '<b>rate': '_b_rate', '[b]rate': '_b_rate_2'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)[: _MOST_LETTERS - 40].strip("/. ") or "_"
        own, number = plain, 1
        while own in taken:
            number += 1
            own = f"{plain}_{number}"
        taken.add(own)
        found[name] = own
    return found
