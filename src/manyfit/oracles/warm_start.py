"""Trials of earlier searches: where a new search looks first.

They are copied into the project when they are taken, so a search that was killed goes on with the same knowledge,
whatever became of the earlier project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from manyfit.core.errors import UsageError, explain
from manyfit.core.objective import Objective, ParetoObjective
from manyfit.core.records import SEARCH, Ending, Observation
from manyfit.oracles.commits import Store
from manyfit.samplers.base import Sampler


class EarlierProject(Protocol):
    """What is read of an earlier project; `manyfit.store.ProjectStore` is one."""

    def trials(self) -> list[dict[str, Any]]: ...
    def executions(self) -> list[dict[str, Any]]: ...


class Notes(Protocol):
    """Where facts are committed; `TrialBook` is one."""

    def put(self, **facts: Any) -> None: ...


def check_learns(sampler: Sampler | None, search: str) -> None:
    """Checks that trials of earlier searches are of use.

    Args:
        sampler: of the search; None: a user's `populate_space` decides.
        search: what the user calls it.

    Raises:
        UsageError: it would not look at them.
    """
    if sampler is None or not sampler.uses_earlier:
        raise UsageError(
            explain(
                "warm_start(source)",
                f"a search by {search}, which does not learn from trials",
                "a search that learns",
                "Type kt.BayesianOptimization, kt.Search or kt.Evolution.",
            )
        )


class EarlierTrials:
    """The trials that were taken from earlier searches, as observations."""

    def __init__(self) -> None:
        self.observations: list[Observation] = []

    def take(self, source: EarlierProject, objective: Objective, notes: Notes) -> int:
        """Takes the trials of an earlier project that ran in full and have this search's objective.

        Args:
            source: the project.
            objective: of this search; the earlier one may have ranked by another.
            notes: keeps what was taken.

        Returns:
            How many trials were new.

        Raises:
            UsageError: no trial of the project has the metrics of the objective.
        """
        found = _observations(source, objective)
        if not found:
            raise UsageError(
                explain(
                    "warm_start(source)",
                    f"a project none of whose trials ended in full with {', '.join(objective.names)}",
                    "a project whose trials logged the objective of this search",
                    "See tuner.results() of the earlier search for the metrics that it has.",
                )
            )
        new = [each for each in found if not any(_same(each, known) for known in self.observations)]
        self.observations += new
        notes.put(earlier=[_facts(each) for each in self.observations])
        return len(new)

    def load(self, store: Store) -> None:
        """Reads what was taken before."""
        self.observations = [_observation(**facts) for facts in store.get("earlier", [])]


def _observations(source: EarlierProject, objective: Objective) -> list[Observation]:
    """Trials of an earlier project as samplers read them.

    They are scored anew by this search's objective from the metrics that were kept, since the earlier search may have
    had another one; trials that lack it, or did not run in full, say nothing comparable and are left out.
    """
    runs: dict[str, list[Mapping[str, float]]] = {}
    for run in source.executions():
        # Runs that were stopped early have another budget: their losses would say that long training is what helps.
        full = run["ending"] == Ending.COMPLETED and run["phase"] == SEARCH
        if full and all(name in run["metrics"] for name in objective.names):
            runs.setdefault(run["trial_id"], []).append(run["metrics"])
    found = []
    for row in source.trials():
        metrics = runs.get(row["id"])
        if metrics and row["outcome"]["ending"] == Ending.COMPLETED:
            # "tuner/epochs" and the like are the earlier scheduler's notes, no hyperparameters of this search.
            values = {name: value for name, value in row["values"].items() if not name.startswith("tuner/")}
            vectors = [objective.losses(each) for each in metrics] if isinstance(objective, ParetoObjective) else []
            losses = [objective.loss(objective.get_value(each)) for each in metrics]
            means = {name: sum(each.get(name, float("nan")) for each in metrics) / len(metrics) for name in metrics[0]}
            found.append(_observation(row["id"], values, losses, vectors, means))
    return found


def _observation(
    trial_id: str,
    values: Mapping[str, Any],
    losses: Sequence[float],
    vectors: Sequence[Sequence[float]],
    metrics: Mapping[str, float],
) -> Observation:
    return Observation(
        trial_id,
        dict(values),
        Ending.COMPLETED,
        tuple(losses),
        metrics=dict(metrics),
        vectors=tuple(map(tuple, vectors)),
        earlier=True,
    )


def _facts(observation: Observation) -> dict[str, Any]:
    return {
        "trial_id": observation.trial_id,
        "values": dict(observation.values),
        "losses": observation.losses,
        "vectors": observation.vectors,
        "metrics": dict(observation.metrics),
    }


def _same(one: Observation, other: Observation) -> bool:
    return dict(one.values) == dict(other.values) and one.losses == other.losses
