"""Two methods against each other: each with its own search, at equal budget, over several seeds.

What is compared is not two models but two ways to get one: what a method's search, choice and training come to, once
per seed. The noise of such a result has many sources (initial weights, the order of the data, what the search proposed,
which rows were trained, validated and tested on), and whatever was the same in all repetitions is not covered by an
interval (Bouthillier et al. 2021). So the result says what was varied.

| notation | meaning |
|---|---|
| d_i | score of method a less that of method b, in repetition i of n |
| P(a > b) | chance that a's result is better than b's in one more repetition; ties count half |

Where the test rows are the same in all repetitions and their losses are kept, the interval of the mean of d covers
other seeds *and* other rows (`manyfit.stats.components.paired`); else it is Student's over repetitions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from manyfit.core.checks import is_whole
from manyfit.core.errors import UsageError, explain
from manyfit.core.objective import Direction
from manyfit.core.records import SEARCH
from manyfit.core.signatures import checked_arguments
from manyfit.evidence.test_rows import Look, Looks
from manyfit.report import terminal
from manyfit.stats.components import paired
from manyfit.stats.intervals import Interval, Scale, confidence_level, mean_interval, scaled_interval
from manyfit.store import ProjectStore
from manyfit.store.reading import rows_told

Kind = Literal["held-out", "confirmed", "search"]
_KINDS: tuple[Kind, ...] = ("held-out", "confirmed", "search")  # what is trusted most comes first
_MEANINGFUL = 0.75  # P(a > b) from which on a difference matters (Bouthillier 2021, section 5)
_ENOUGH = 29  # repetitions that find it with errors of 5 % (Noether 1987)
_EQUAL_BUDGET = 0.1  # budgets that differ by less are equal


class HasStore(Protocol):
    """A tuner."""

    store: ProjectStore


Project: TypeAlias = str | os.PathLike[str] | HasStore
"""A project: its folder, or the tuner that has it open."""


@dataclasses.dataclass(frozen=True, eq=False)
class Repetition:
    """What one search of a method came to.

    Attributes:
        project: its folder, for messages.
        metric: of the objective.
        direction: "max" or "min".
        seed: of the search.
        data: fingerprints of the training and validation rows; empty where they cannot be told.
        budget: trials, training runs and epochs that the search spent.
        scores: by kind, as far as they are there.
        look: the first at test rows; None: there was none, or it measured something else.
        num_trials: that have a score: the search's is the best of so many.
    """

    project: str
    metric: str
    direction: Direction
    seed: int
    data: Mapping[str, str]
    budget: Mapping[str, int]
    scores: Mapping[Kind, float]
    look: Look | None
    num_trials: int


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Method a against method b. Print it.

    Attributes:
        names: of the two methods.
        metric: what is compared.
        direction: "max" or "min".
        kind: "held-out" (the first look at test rows), "confirmed" (on fresh seeds), or "search".
        scores: (n, 2) of each repetition.
        difference: of the means, a less b, with its interval; infinite ends where it is not known.
        wins: P(a > b) with its interval.
        covers: what else the interval covers besides further repetitions: "rows", or nothing.
        varied: what differed between repetitions.
        fixed: what was the same in all of them.
        notes: what differs between the two methods besides the method.
    """

    names: tuple[str, str]
    metric: str
    direction: Direction
    kind: Kind
    scores: np.ndarray
    difference: Interval
    wins: Interval
    covers: str
    varied: tuple[str, ...]
    fixed: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def better(self) -> str | None:
        """The method that is better, at the confidence of the interval; None: neither is shown to be."""
        if self.difference.low <= 0 <= self.difference.high:
            return None
        first = (self.difference.estimate > 0) == (self.direction == "max")
        return self.names[0 if first else 1]

    def sentences(self) -> list[str]:
        """The result in words, most important first."""
        count, (a, b) = len(self.scores), self.names
        where = " and other rows" if self.covers == "rows" else ""
        lines = [f"{a} less {b}, {self.kind} {self.metric} of {count} repetitions: {self.difference}."]
        if count < 2:
            lines = [f"One search each: {a} {self.scores[0, 0]:.4g}, {b} {self.scores[0, 1]:.4g} ({self.kind} "
                     f"{self.metric}). That says nothing of the methods: run each with further seeds."]  # fmt: skip
            if math.isfinite(self.difference.half_width):
                lines.append(f"These two models differ by {self.difference} on other rows.")
        elif not math.isfinite(self.difference.half_width):
            lines.append("It was the same in every repetition, so how much it varies was not seen.")
        elif self.better is None:
            lines.append(f"Neither is shown to be better on other seeds{where} ({self.difference.confidence:.0%}).")
        else:
            lines.append(f"{self.better} is better on other seeds{where} ({self.difference.confidence:.0%}).")
        if count > 1:
            lines.append(
                f"P({a} > {b}) = {self.wins}; from {_MEANINGFUL} on a difference matters, and {_ENOUGH} repetitions "
                "show that with errors of 5 %."
            )
            fixed = (
                f"; the same in all: {', '.join(self.fixed)}, so that nothing is said of others" if self.fixed else ""
            )
            lines.append(f"Varied between repetitions: {', '.join(self.varied) or 'nothing that is known'}{fixed}.")
        return [*lines, *self.notes]

    def table(self) -> list[dict[str, Any]]:
        """One mapping per repetition, for people."""
        a, b = self.names
        rows = enumerate(self.scores.tolist())
        return [{"repetition": place + 1, a: one, b: other, "difference": one - other} for place, (one, other) in rows]

    def __str__(self) -> str:
        return "\n".join(
            [terminal.table(self.table(), ["repetition", *self.names, "difference"]), "", *self.sentences()]
        )


@checked_arguments()
def compare(
    a: Project | Sequence[Project],
    b: Project | Sequence[Project],
    *,
    names: tuple[str, str] = ("a", "b"),
    confidence: float = 0.95,
) -> Comparison:
    """Compares two methods by the projects in which each of them was run, once per seed.

    Of each project the most trustworthy score that all have is taken: the first look at test rows, else the confirmed
    score, else that of the search.

    Args:
        a: projects of the first method, folders or tuners: one per seed. No build function is needed.
        b: those of the second, in the same order: what stands at the same place is a pair, searched on the same data.
        names: of the methods.
        confidence: of the intervals.

    Returns:
        A `Comparison`: print it.

    Raises:
        UsageError: a folder without a project, or a project without a completed trial; another number of projects;
            a project twice, or a seed twice in one method on the same data; objectives that differ, or several in one
            search; pairs that were validated on different rows, where that is what is compared; or a confidence
            outside (0, 1).

    Source: Bouthillier et al. 2021, "Accounting for variance in machine learning benchmarks".

    Example: `print(kt.compare(["runs/random-0", "runs/random-1"], ["runs/bayes-0", "runs/bayes-1"]))`.
    """
    confidence = confidence_level("compare", confidence)
    given = _several(a), _several(b)
    _check_counts(*map(len, given))  # before any is opened, which leaves a trace of who held it
    one, other = ([_read(project) for project in projects] for projects in given)
    _check(one, other)
    pairs = list(zip(one, other, strict=True))
    everything = [*one, *other]
    shares = all(x.look is not None and y.look is not None and x.look.shares_rows(y.look) for x, y in pairs)
    kind = next(
        each for each in _KINDS if all(each in run.scores for run in everything) and (each != "held-out" or shares)
    )
    if kind != "held-out":
        _check_rows(pairs, kind)
    scores = np.array([[run.scores[kind] for run in pair] for pair in pairs])
    difference, covers = _difference(pairs, scores, kind, confidence)
    sign = 1 if one[0].direction == "max" else -1
    ahead = sign * (scores[:, 0] - scores[:, 1])
    share = float((ahead > 0).mean() + 0.5 * (ahead == 0).mean())
    count = len(pairs)
    spread = share * (1 - share) / count
    wins = scaled_interval(
        share, spread, math.inf, scale=Scale.WILSON, confidence=confidence, num_rows=count, most_rows=count
    )
    varied, fixed = _sources(pairs, kind)
    metric = one[0].metric.removeprefix("val_") if kind == "held-out" else one[0].metric
    return Comparison(
        names,
        metric,
        one[0].direction,
        kind,
        scores,
        difference,
        wins,
        covers,
        varied,
        fixed,
        _notes(pairs, names, kind),
    )


def _several(projects: Project | Sequence[Project]) -> list[Project]:
    return list(projects) if isinstance(projects, list | tuple) else [projects]  # type: ignore[list-item]


# Reading -----------------------------------------------------------------------------------------------------------


def _read(project: Project) -> Repetition:
    store = getattr(project, "store", None)
    if store is not None:
        return _repetition(store)
    if not isinstance(project, str | os.PathLike) or not ProjectStore.exists(project):
        raise UsageError(
            explain(
                "compare(a, b)",
                f"{project!r}, where no project is",
                "folders of projects (directory/project_name), or tuners",
                'Type kt.compare("runs/random", "runs/bayes"), say.',
            )
        )
    with contextlib.closing(ProjectStore(project)) as opened, rows_told(f'compare("{project}")'):
        return _repetition(opened)


def _repetition(store: ProjectStore) -> Repetition:
    name, direction = _objective(store)
    completed = [trial["outcome"].get("score") for trial in store.trials() if trial["status"] == "COMPLETED"]
    scores = [score for score in completed if score is not None and math.isfinite(score)]
    if not scores:
        got = f'"{store.folder}", in which no trial was completed'
        raise UsageError(explain("compare(a, b)", got, "searches that found something", "Search first."))
    found: dict[Kind, float] = {"search": max(scores) if direction == "max" else min(scores)}
    stored = store.get("confirmation")
    if stored is not None and (confirmed := stored["rows"][0]["score"]) is not None:
        found["confirmed"] = confirmed
    look = next(iter(Looks(store).all()), None)
    if look is not None and look.rows is not None:
        held_out = next(iter(look.models.values())).scores.get(name.removeprefix("val_"))
        if held_out is not None and math.isfinite(held_out):
            found["held-out"] = held_out
    runs = [run for run in store.executions() if run["phase"] == SEARCH]
    epochs = sum(row["phase"] == SEARCH for row in store.epochs())
    budget = {"trials": len(store.trials()), "training runs": len(runs), "epochs": epochs}
    if not is_whole(seed := store.get("seed")):
        raise ValueError(f"the seed {seed!r}")
    searched = store.get("searched_data", [])
    prints = {name: str(text) for name, text in searched[-1]["prints"].items() if text} if searched else {}
    return Repetition(
        str(store.folder), name, direction, seed, prints, budget, found,
        look if "held-out" in found else None, len(scores),
    )  # fmt: skip


def _objective(store: ProjectStore) -> tuple[str, Direction]:
    text = (store.get("search") or {}).get("objective", "")
    match = re.fullmatch(r'Objective\(name="(.+)", direction="(max|min)"\)', text)
    if match is None:
        got = f'"{store.folder}", which was searched by {text or "no objective"}'
        raise UsageError(explain("compare(a, b)", got, "searches by one metric", "Search by one of them."))
    return match[1], "max" if match[2] == "max" else "min"


# What may be compared ----------------------------------------------------------------------------------------------


def _check_counts(num_a: int, num_b: int) -> None:
    if num_a != num_b or not num_a:
        got = f"{num_a} projects of a and {num_b} of b"
        raise UsageError(explain("compare(a, b)", got, "as many of each, one per seed", "Give them in the same order."))


def _check(one: Sequence[Repetition], other: Sequence[Repetition]) -> None:
    where = "compare(a, b)"
    everything = [*one, *other]
    folders = [run.project for run in everything]
    if twice := [folder for folder in dict.fromkeys(folders) if folders.count(folder) > 1]:
        raise UsageError(explain(where, f'"{twice[0]}" twice', "each project once", "Search again with another seed."))
    for runs in (one, other):
        keys = [(str(run.seed), *sorted(run.data.items())) for run in runs]
        if len(set(keys)) < len(keys):
            got = f"two searches of one method with seed {next(key[0] for key in keys if keys.count(key) > 1)}"
            raise UsageError(explain(where, got, "another seed for each, or other rows", "Type seed=1, 2, ..."))
    objectives = dict.fromkeys(f"{run.metric} ({run.direction})" for run in everything)
    if len(objectives) > 1:
        got = f"searches by {' and by '.join(objectives)}"
        raise UsageError(explain(where, got, "one objective for both", "Search with the same objective=."))


def _check_rows(pairs: Sequence[tuple[Repetition, Repetition]], kind: Kind) -> None:
    for x, y in pairs:
        if x.data.get("validation") != y.data.get("validation"):
            got = f'"{x.project}" and "{y.project}", which were validated on different rows'
            raise UsageError(
                explain(
                    "compare(a, b)",
                    f"{kind} scores of {got}",
                    "pairs that were validated on the same rows, or were both evaluated on the same test rows",
                    "Call tuner.evaluate(x_test, y_test) once in each project, or search both on the same rows.",
                )
            )


def _difference(
    pairs: Sequence[tuple[Repetition, Repetition]], scores: np.ndarray, kind: Kind, confidence: float
) -> tuple[Interval, str]:
    """a less b with its interval, and what that covers besides further repetitions."""
    table = _losses(pairs) if kind == "held-out" else None
    if table is not None:
        components = paired(*table)
        found = components.interval(confidence)
        # The mean over all rows is what was printed; on the rows that all share it may differ a little.
        mean = float((scores[:, 0] - scores[:, 1]).mean())
        shift = mean - found.estimate
        return dataclasses.replace(found, estimate=mean, low=found.low + shift, high=found.high + shift), "rows"
    differences = scores[:, 0] - scores[:, 1]
    found = mean_interval(differences, confidence)
    if len(differences) > 1 and np.ptp(differences) <= 1e-12 * np.abs(differences).max():
        # A few accuracies of few rows can differ alike by accident: that is no proof that they always do.
        return dataclasses.replace(found, low=-math.inf, high=math.inf), ""
    return found, ""


def _losses(pairs: Sequence[tuple[Repetition, Repetition]]) -> tuple[np.ndarray, np.ndarray] | None:
    """(n, rows) scores of each row, of both methods, on the rows that all looks share; None where they are not kept."""
    metric = pairs[0][0].metric.removeprefix("val_")
    looks = [run.look for pair in pairs for run in pair]
    kept = []
    for look in looks:
        if look is None or look.rows is None or not all(look.shares_rows(each) for each in looks if each is not None):
            return None
        model = next(iter(look.models.values()))
        if metric not in model.losses:
            return None
        kept.append((look.rows.identities, model.scores[metric] + model.losses[metric]))
    shared = kept[0][0]
    for identities, _ in kept[1:]:
        shared = np.intersect1d(shared, identities, assume_unique=True)
    if len(shared) < 2:
        return None
    rows = [losses[np.searchsorted(identities, shared)] for identities, losses in kept]
    return np.stack(rows[::2]), np.stack(rows[1::2])


def _sources(pairs: Sequence[tuple[Repetition, Repetition]], kind: Kind) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What differed between repetitions, and what was the same in all of them."""
    first = [pair[0] for pair in pairs]
    seen: dict[str, set[Any]] = {
        "the seed of the search (initial weights, order of the data, proposals)": {run.seed for run in first},
        "training rows": {run.data.get("training") for run in first},
        "validation rows": {run.data.get("validation") for run in first},
    }
    if kind == "held-out":
        seen["test rows"] = {None if run.look is None or run.look.rows is None else run.look.rows.key for run in first}
    varied = tuple(name for name, values in seen.items() if len(values) > 1)
    fixed = tuple(name for name, values in seen.items() if len(values) == 1 and values != {None})
    return varied, fixed


def _notes(pairs: Sequence[tuple[Repetition, Repetition]], names: tuple[str, str], kind: Kind) -> tuple[str, ...]:
    """What differs between the two methods, and what is not known."""
    notes = []
    for what in pairs[0][0].budget:
        one, other = (np.mean([pair[place].budget[what] for pair in pairs]) for place in (0, 1))
        if abs(one - other) > _EQUAL_BUDGET * max(one, other):
            notes.append(f"Not at equal budget: {names[0]} took {one:.4g} {what}, {names[1]} {other:.4g}, in the mean.")
    if any(x.data.get("training") != y.data.get("training") for x, y in pairs):
        notes.append("They were not trained on the same rows.")
    if any(x.seed != y.seed for x, y in pairs):
        notes.append("Seeds differ within pairs: differences hold the noise of both.")
    if not all(run.data for pair in pairs for run in pair):
        notes.append("Of some searches the rows are not known: whether they were the same, cannot be told.")
    if kind == "search":
        most = max(run.num_trials for pair in pairs for run in pair)
        notes.append(
            f"Scores are of the search, each the best of up to {most} noisy ones: a noisier method looks better. Call "
            "tuner.confirm() or, once, tuner.evaluate(x_test, y_test) in each project."
        )
    return tuple(notes)
