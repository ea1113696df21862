"""What to change before the next search: each check with its evidence, and a line to paste.

A check speaks only where records show something; it says how much they show, and not what might be.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from manyfit.core.causes import reason_of
from manyfit.report import checks_of_rows, words
from manyfit.report.chart_rows import mean_curve, state_of
from manyfit.report.checks_of_rows import Check
from manyfit.report.ranges import SearchedRange, searched_ranges
from manyfit.report.snapshot import RecordedTrial, Snapshot
from manyfit.report.words import plain

_TOP = 5  # trials that edges and rising curves are asked of
_FEWEST = 10  # trials before anything is said of ranges
_FEWEST_FOR_NOTHING = 30  # before it is said that something has no effect
_BY_CHANCE, _LITTLE = 0.3, 0.25  # and how large its share may be all the same
_EDGE, _NEAR_EDGE = 0.06, 0.2  # shares of a range
_MOST_COMPILING = 0.3
_TEST_USES = "test_uses"  # of `manyfit.evidence.test_rows`


def checks(snapshot: Snapshot) -> list[Check]:
    """All that a project shows, what matters most first."""
    return [found for check in _CHECKS for found in check(snapshot)]


def declaration(searched: SearchedRange, low: float | None = None, high: float | None = None) -> str:
    """The line of a build function that declares a hyperparameter.

    Args:
        searched: the hyperparameter.
        low: another lower end; None: its own.
        high: another upper end.

    Example:

    >>> declaration(SearchedRange("rate", 1e-4, 1e-2, is_log=True), high=0.1)
    'hp.Float("rate", 0.0001, 0.1, sampling="log")'
    >>> declaration(SearchedRange("units", 8, 64, is_whole=True, step=8.0))
    'hp.Int("units", 8, 64, step=8)'
    """
    ends = [searched.low if low is None else low, searched.high if high is None else high]
    told = [str(round(end)) if searched.is_whole else f"{end:.3g}" for end in ends]
    step = "" if searched.step is None or searched.step == 1 else f", step={searched.step:g}"
    scale = ', sampling="log"' if searched.is_log else ""
    name = searched.name.replace("\\", "\\\\").replace('"', '\\"')
    return f'hp.{"Int" if searched.is_whole else "Float"}("{name}", {", ".join(told)}{step}{scale})'


# Of luck ------------------------------------------------------------------------------------------------------------


def _within_noise(snapshot: Snapshot) -> Iterator[Check]:
    leader, best = snapshot.leader, snapshot.best(1)
    if leader is None or not leader.rivals or not best or best[0].confirmed is not None:
        return
    error = "" if leader.noise is None else f": one run's score has a standard deviation of {leader.noise:.2g}"
    if leader.num_rows is not None:
        error += f" on {leader.num_rows:,} validation rows"
    others = words.counted(len(leader.rivals), "other trial")
    price = words.next_step(snapshot)
    cost = f"; {price}" if price is not None else ""
    yield Check("The winner is within noise", f"{others} may be as good{error}{cost}.", "tuner.confirm()")


def _test_rows(snapshot: Snapshot) -> Iterator[Check]:
    looks = Counter(str(look.get("data")) for look in snapshot.facts.get(_TEST_USES) or ())
    # How lucky exactly, `tuner.evaluate` says, which has the losses of the rows.
    several = [count for count in looks.values() if count > 1]
    if several:
        yield Check(
            "Test rows were looked at more than once",
            f"The same test rows have measured {max(several)} choices of models: the best of these scores is lucky, "
            "and its interval does not know.",
            "tuner.confirm()  # choose by fresh seeds, and look at test rows once",
        )


# Of ranges ----------------------------------------------------------------------------------------------------------


def _edges(snapshot: Snapshot) -> Iterator[Check]:
    best = snapshot.best()
    if len(best) < _FEWEST:
        return
    top = best[:_TOP]
    for searched in searched_ranges(snapshot):
        known = [float(value) for trial in top if isinstance(value := searched.value(trial), float)]
        if not searched.is_number or len(known) < len(top):
            continue
        shares = [searched.share(value) for value in known]
        for side, near in (("lower", shares), ("upper", [1 - share for share in shares])):
            close = sum(share <= _NEAR_EDGE for share in near)
            # The best alone is at an edge by chance in one of eight searches; most of the best five are not.
            if near[0] > _EDGE or close < 0.6 * len(near):
                continue
            low, high = _widened(searched, side)
            if (low, high) == (searched.low, searched.high):
                continue
            name = plain(searched.name, 40)
            yield Check(
                f"The best {name} lies at the {side} edge of its range",
                f"The best trial has {name} {known[0]:.3g} in {searched.low:.3g} to {searched.high:.3g}; "
                f"{close} of the best {len(near)} lie in that fifth.",
                declaration(searched, low, high),
            )


def _widened(searched: SearchedRange, side: str) -> tuple[float, float]:
    """The range, half as wide again at one side; what was never below 0 or above 1 stays so."""
    low, high = searched.low, searched.high
    further = searched.at(-0.5) if side == "lower" else searched.at(1.5)
    if searched.is_log:  # a tenth, or ten times, is far enough for one search
        further = max(further, low / 10) if side == "lower" else min(further, high * 10)
    if side == "lower":
        low = max(further, min(low, float(searched.is_whole))) if searched.low >= 0 else further
    else:
        high = min(further, 1.0) if searched.low >= 0 and 0.5 <= high <= 1 and not searched.is_log else further
    step = searched.step or (1.0 if searched.is_whole else None)
    if step is None or searched.is_log:
        return low, high
    # On the grid of the steps, so that the values that were tried stay values of it.
    return searched.low - step * math.floor((searched.low - low) / step), searched.low + step * math.ceil(
        (high - searched.low) / step
    )


def _without_effect(snapshot: Snapshot) -> Iterator[Check]:
    if len(snapshot.best()) < _FEWEST_FOR_NOTHING:
        return
    from manyfit.report.importance import importances  # NumPy and SciPy, which the other checks do without

    # With fewer trials all but the strongest look like this.
    [best] = snapshot.best(1)
    for found in importances(snapshot):
        if found.by_chance <= _BY_CHANCE or found.share > _LITTLE or found.name not in best.values:
            continue
        name = plain(found.name, 40)
        yield Check(
            f"{name} has no effect that can be seen",
            f"Its share of the importance is {found.share:.0%} [{found.low:.0%}, {found.high:.0%}]; shuffled scores "
            f"depend as much on it in {found.by_chance:.0%} of draws.",
            f"hp.Fixed({_quoted(found.name)}, {_value(best.values[found.name])})",
        )


def _diverged(snapshot: Snapshot) -> Iterator[Check]:
    lost = [trial for trial in snapshot.trials if trial.ending == "diverged"]
    kept = [trial for trial in snapshot.trials if trial.is_completed]
    if len(lost) < 2 or not kept:
        return
    for searched in searched_ranges(snapshot):
        if not searched.is_number:
            continue
        bad = sorted(value for trial in lost if isinstance(value := searched.value(trial), float))
        good = [value for trial in kept if isinstance(value := searched.value(trial), float)]
        if len(bad) < len(lost) or not good:
            continue
        # A limit is one only if most of what is above it diverges, and something is below it that did not.
        above = sum(value >= bad[0] for value in good)
        if above <= 0.25 * len(bad) and sum(value < bad[0] for value in good) >= 2:
            name = plain(searched.name, 40)
            yield Check(
                f"Training diverges above a {name} of {bad[0]:.2g}",
                f"All {len(bad)} trials that diverged lie there, and {above} that did not.",
                declaration(searched, high=max(value for value in good if value < bad[0])),
            )


# Of training --------------------------------------------------------------------------------------------------------


def _rising(snapshot: Snapshot) -> Iterator[Check]:
    # Whatever was stopped was not to rise any further.
    whole = (trial for trial in snapshot.best() if state_of(trial) == "completed")
    long = (trial for trial in whole if len(mean_curve(trial, snapshot.objective)) >= 4)
    top = list(itertools.islice(long, _TOP))
    if len(top) < 3:
        return
    last, gains = 0, []
    sign = 1 if snapshot.direction == "max" else -1
    for trial in top:
        curve = [sign * value for _, value in mean_curve(trial, snapshot.objective)]
        quarter = max(2, len(curve) // 4)
        # Medians of the last two eighths and not two epochs: a curve that jitters ends at its best by chance.
        gains.append(statistics.median(curve[-quarter // 2 :]) - statistics.median(curve[-quarter : -(quarter // 2)]))
        last += max(curve) in curve[-max(1, len(curve) // 10) :]
    noise = snapshot.leader.noise if snapshot.leader is not None and snapshot.leader.noise is not None else 0.0
    gain = statistics.median(gains)
    if last < 0.6 * len(top) or gain <= 0.25 * noise:
        return
    epochs = max(run.num_epochs for trial in top for run in trial.searched)
    better = "rise" if sign > 0 else "fall"
    yield Check(
        f"Curves still {better} at their end",
        f"{last} of the best {len(top)} trials are best in their last tenth of {epochs} epochs; "
        f"over the last eighth they gained {abs(gain):.2g}.",
        f"tuner.search(..., epochs={2 * epochs})",
    )


def _compiling(snapshot: Snapshot) -> Iterator[Check]:
    parts = snapshot.time()
    total = math.fsum(parts.values())
    compiling = parts.get("compile", 0.0)
    members = snapshot.members()
    if total < 10 or compiling <= _MOST_COMPILING * total or len(members) < 2:
        return
    # Under ten seconds nobody waits; that compiling has the largest share of them is no news.
    splitting = [each for each in searched_ranges(snapshot) if _splits(snapshot, each, list(members.values()))]
    told = f"{compiling / total:.0%} of {words.seconds(total)} went into compiling {len(members)} programs"
    if not splitting:
        yield Check("Much time goes into compiling", f"{told}.")
    for each in splitting[:2]:
        name = plain(each.name, 40)
        yield Check(
            f"Much time goes into compiling: {name} splits programs",
            f"{told}; each of them has one {name}. Fewer values of it need fewer programs.",
            _coarser(each),
        )


def _splits(snapshot: Snapshot, searched: SearchedRange, programs: Sequence[Sequence[str]]) -> bool:
    known = {trial.trial_id: searched.value(trial) for trial in snapshot.trials}
    each = [{known.get(trial_id) for trial_id in ids} for ids in programs]
    several = [ids for ids in programs if len(ids) > 1]
    return len(several) > 1 and all(len(values) == 1 for values in each) and len({*map(str, each)}) > 1


def _coarser(searched: SearchedRange) -> str:
    if searched.is_number and searched.is_whole and not searched.is_log:
        step = searched.step or 1.0
        return declaration(dataclasses.replace(searched, step=max(2 * step, round((searched.high - searched.low) / 3))))
    values = [searched.at(share) for share in (0.0, 0.5, 1.0)] if searched.is_number else searched.choices[:2]
    shown = [str(round(value)) if searched.is_whole else _value(value) for value in values]  # type: ignore[arg-type]
    return f"hp.Choice({_quoted(searched.name)}, [{', '.join(shown)}])"


def _alone(snapshot: Snapshot) -> Iterator[Check]:
    for why, ids in snapshot.fallbacks.items():
        count = words.counted(len(ids), "trial") if ids else "All trials"
        yield Check(f"{count} did not train together with others", f"Why: {plain(why, 200)}")


def _failed(snapshot: Snapshot) -> Iterator[Check]:
    failed = [trial for trial in snapshot.failed if trial.ending != "diverged"]
    ended = sum(trial.ended_at is not None for trial in snapshot.trials)
    causes = Counter(_cause(trial) for trial in failed)
    # One in ten is a part of the space that does not work; less is a line in the list of failures.
    for cause, count in causes.most_common(3):
        if count >= 0.1 * ended:
            first = next(trial.trial_id for trial in failed if _cause(trial) == cause)
            line = f"manyfit show {_quoted(str(snapshot.folder))} --trial {first}"
            yield Check(f"{words.counted(count, 'trial')} of {ended} failed", f"Why: {cause}.", line)


def _cause(trial: RecordedTrial) -> str:
    return plain(reason_of(trial.message) or trial.ending, 200)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else _quoted(value) if isinstance(value, str) else str(value)


_CHECKS: tuple[Callable[[Snapshot], Iterator[Check]], ...] = (
    _within_noise, _test_rows, checks_of_rows.repeated, _failed, _diverged, _edges, _rising, _without_effect,
    _compiling, _alone, checks_of_rows.more_rows,
)  # fmt: skip
