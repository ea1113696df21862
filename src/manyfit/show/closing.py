"""What stays when a call has ended: at most five lines, the last of them the next step with its price."""

from __future__ import annotations

import math
from collections.abc import Iterator

from manyfit.report import words
from manyfit.report.snapshot import RecordedTrial, Snapshot
from manyfit.show.board import SEARCH, Board
from manyfit.show.screen import phases_line


def closing_lines(snapshot: Snapshot, board: Board | None = None) -> list[str]:
    """What a call has come to: verdict, values, failures, time, the next step.

    Args:
        snapshot: of the project, after the call.
        board: what was seen of the call; None: a search.
    """
    # A search whose tuner tells of no call, by somebody's own loop, has no board.
    what = SEARCH if board is None else board.what
    lines = {
        "a search": _of_search,
        "a confirmation": _of_confirmation,
        "a bag": _of_ensemble,
        "an ensemble": _of_ensemble,
        "a retraining": _of_retraining,
        "a fit": _of_fit,
    }.get(what)
    return [] if lines is None else [line for line in lines(snapshot, board) if line]


def _of_search(snapshot: Snapshot, board: Board | None) -> Iterator[str]:
    yield words.verdict(snapshot)[0]
    yield _values(snapshot)
    yield _failures(snapshot)
    parts = (f"Time {words.time_line(snapshot.time(), snapshot.seconds())}", words.programs_line(snapshot))
    yield "; ".join(filter(None, parts))
    yield _next(words.next_step(snapshot))


def _of_confirmation(snapshot: Snapshot, board: Board | None) -> Iterator[str]:
    yield words.verdict(snapshot)[0]
    yield _values(snapshot)
    yield _took(board, "run")
    yield _next(_retrain(snapshot))


def _of_ensemble(snapshot: Snapshot, board: Board | None) -> Iterator[str]:
    facts = snapshot.ensemble
    if facts is not None:
        score = "" if facts["score"] is None else f" {facts['metric']} {words.number(facts['score'])},"
        gain = "" if facts.get("gain") is None else f" gain over the best alone {words.interval(*facts['gain'])}"
        told = f"{words.counted(len(facts['weights']), 'member')}:{score}{gain}".rstrip(":,")
        alone = words.plain(next(iter(facts["weights"]), "the best"), 30)
        refused = f"No gain over {alone} alone is proven, so it predicts:{score}{gain}".rstrip(":,")
        yield f"{refused if facts['refused'] else told}."
        # The largest first: those that decide what it says.
        weights = sorted(facts["weights"].items(), key=lambda one: -one[1])
        told = ", ".join(f"{words.plain(name, 30)} {weight:.2f}" for name, weight in weights[:4])
        yield f"Weights: {told}{', …' if len(weights) > 4 else ''}" if len(weights) > 1 else ""
    yield _took(board, "run")
    yield _next("its evaluate(x_test, y_test) says what it is worth; each look at test rows is counted")


def _of_retraining(snapshot: Snapshot, board: Board | None) -> Iterator[str]:
    if board is not None:
        ids = sorted({key[0] for key in board.trained})
        trials = f"trial{'s' if len(ids) > 1 else ''} {words.plain(', '.join(ids), 50)}" if ids else ""
        models = words.counted(len([key for key in board.trained if key[1] == "retrain"]), "model")
        yield f"{models} trained anew on all rows, of {trials}." if trials else ""
    yield _values(snapshot)
    yield _took(board, "epoch")
    yield _next("tuner.evaluate(x_test, y_test) says what it is worth; each look at test rows is counted")


def _of_fit(snapshot: Snapshot, board: Board | None) -> Iterator[str]:
    yield words.verdict(snapshot)[0]
    yield _values(snapshot)
    yield _failures(snapshot)
    yield "" if board is None else f"Time {phases_line(board)}"
    yield _next("print(winner) says what was done and why; winner.evaluate(x_test, y_test) what it is worth")


def _values(snapshot: Snapshot) -> str:
    best = snapshot.best(1)
    values = words.values(best[0].values) if best else ""
    return f"Values: {values}" if values else ""


def _failures(snapshot: Snapshot) -> str:
    failed = words.failures(snapshot.failed)
    more = f"; and {len(failed) - 1} more causes" if len(failed) > 1 else ""
    return f"{failed[0]}{more}" if failed else ""


def _took(board: Board | None, noun: str) -> str:
    if board is None:
        return ""
    count = board.num_runs if noun == "run" else board.num_epochs
    told = f": {words.counted(count, noun)}" if count else ""
    return f"Time {words.seconds(board.elapsed)}{told}"


def _next(step: str | None) -> str:
    return f"Next: {step}" if step else ""


def _retrain(snapshot: Snapshot) -> str | None:
    best = snapshot.best(1)
    if not best:
        return None
    seconds = _seconds(best[0])
    price = f", about {words.seconds(seconds)}" if seconds else ""
    return f"tuner.retrain() trains trial {best[0].trial_id} on all rows{price}"


def _seconds(trial: RecordedTrial) -> float:
    """What one of its runs has taken on average."""
    taken = [float(run.outcome.get("seconds") or 0.0) for run in trial.runs if run.ending is not None]
    return math.fsum(taken) / len(taken) if taken else 0.0
