"""Which files of a project nobody will miss: models and predictions of trials behind the best."""

from __future__ import annotations

from pathlib import Path

from manyfit.report.snapshot import Snapshot
from manyfit.store.layout import ProjectLayout


def prunable(snapshot: Snapshot, keep: int) -> list[Path]:
    """Weights, states and kept predictions of trials that have ended and are not among the best.

    Args:
        snapshot: the project.
        keep: how many of the best keep theirs; members of the latest ensemble do besides.
    """
    members = (snapshot.ensemble or {}).get("weights", {})
    # "trial 7", or "project, trial 7" where searches were joined: then more may stay than have to.
    in_ensemble = {name.rpartition("trial ")[2] for name in members}
    kept = {trial.trial_id for trial in snapshot.best(keep)} | in_ensemble
    dropped = [one.trial_id for one in snapshot.trials if one.ended_at is not None and one.trial_id not in kept]
    layout = ProjectLayout.of(snapshot.folder)
    return [*layout.of_models(*dropped), *layout.of_predictions(*dropped)] if dropped else []
