"""A board in at most 16 lines of a terminal, or of a notebook."""

from __future__ import annotations

import math

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from manyfit.report import words
from manyfit.report.pages import sparkline, value_text
from manyfit.report.words import counted, number, plain
from manyfit.show.board import Board

MOST_LINES = 16
_MOST_MEMBERS = 6
_MOST_VARIED = 3
_BAR = 24
_NARROW = 60  # columns: below there is no room for bars and curves
_BEFORE_EPOCHS = {
    "ensemble": "reading predictions, weighing and loading models …",
    "combine": "reading predictions, weighing and loading models …",
    "load": "loading the best model …",
    "save": "writing the winner …",
}


def layout(board: Board, width: int = 80) -> RenderableType:
    """What is shown of a call that is under way.

    Args:
        board: read under its lock.
        width: of the terminal, in letters.
    """
    with board.lock:
        lines: list[RenderableType] = [_line(text) for text in _phase_lines(board, width)]
        lines += [_trials_line(board, width) if board.is_searching else _runs_line(board, width)]
        lines += filter(None, [_epochs_line(board, width)])
        if board.is_searching or board.scores:
            lines += [Text(_best_line(board), style="bold", no_wrap=True, overflow="ellipsis")]
        lines += _members(board, width) if board.members else [_line(_waiting(board), "dim")]
        hidden = len(board.members) - _MOST_MEMBERS
        lines += [Text(f"… and {hidden:,} more", style="dim")] if hidden > 0 else []
        lines += [_line(text) for text in (_programs_line(board), _time_line(board)) if text]
        if board.reasons:
            newest = plain(list(board.reasons.values())[-1].strip().rpartition("\n")[2], 70)
            lines += [_line(f"{counted(len(board.reasons), 'trial')} failed, the newest: {newest}", "red")]
    return Group(*lines)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _bar(share: float | None, width: int) -> str:
    size = max(6, min(_BAR, width - 60))
    done = 0 if share is None else min(size, math.floor(share * size))
    return "━" * done + "─" * (size - done)


def title(what: str) -> str:
    """A step's name without its article."""
    return what.removeprefix("a ").removeprefix("an ")


def phases_line(board: Board) -> str:
    """The phases of a `fit`, with the seconds that each has taken, and those that are left of the whole."""
    left = board.call_seconds_left()
    # Where more was taken than was given, "44 s of 44 s" would say that so much was.
    of_all = f" of {words.seconds(board.elapsed + left)}" if left else ""
    told = ", ".join(f"{plain(name, 20)} {words.seconds(taken)}" for name, taken in board.phase_seconds().items())
    kept = board.sources.left() if board.is_searching else left
    # What the search leaves to the phases after it: these have their seconds, too.
    later = f"; {words.seconds(left - kept)} are kept" if left is not None and kept is not None and left > kept else ""
    return f"{words.seconds(board.elapsed)}{of_all}: {told}{later}"


def _phase_lines(board: Board, width: int) -> list[str]:
    if not board.phases:
        return []
    left = board.call_seconds_left()
    share = None if left is None else board.elapsed / max(1e-9, board.elapsed + left)
    return [_row_text(title(board.what), share, phases_line(board), width)]


def _row(name: str, share: float | None, told: str, width: int) -> Text:
    return _line(_row_text(name, share, told, width))


def _row_text(name: str, share: float | None, told: str, width: int) -> str:
    return f"{name} {told}" if width < _NARROW else f"{name:<12} {_bar(share, width)} {told}"


def _trials_line(board: Board, width: int) -> Text:
    step, most = board.step, board.sources.plan().max_trials
    of_all = f"{step.num_ended:,} of {most:,} trials" if most else counted(step.num_ended, "trial")
    share = step.num_ended / most if most else _share_of_time(board)
    return _row(title(step.what), share, f"{of_all} · {_times(board)}", width)


def _runs_line(board: Board, width: int) -> Text:
    """Of a step that trains known configurations again, or trains nothing."""
    step, most = board.step, board.step.planned and board.step.planned.num_runs
    done = f"{step.num_runs:,} of {most:,} runs · " if most else f"{counted(step.num_runs, 'run')} · "
    told = done if most or step.num_runs or step.num_epochs else ""
    share = step.num_runs / most if most else _share_of_time(board)
    return _row(title(step.what), share, told + _times(board), width)


def _share_of_time(board: Board) -> float | None:
    # Where nobody knows how many there will be, time says how far it is.
    left, taken = board.seconds_left(), board.now() - board.step.began_at
    return None if left is None else taken / max(1e-9, taken + left)


def _times(board: Board) -> str:
    left = board.seconds_left()
    end = "" if left is None else f" · about {words.seconds(left)} left"
    return f"{words.seconds(board.now() - board.step.began_at)}{end}"


def _epochs_line(board: Board, width: int) -> Text | None:
    step = board.step
    if not step.num_epochs or step.first_epoch_at is None:
        return None
    total = board.all_epochs
    of_all = f"{step.num_epochs:,} of {total:,}" if total else f"{step.num_epochs:,}"
    pace = board.pace()
    rate = f" · {words.number(1 / pace)} per second" if pace else ""
    return _row("epochs", step.num_epochs / total if total else None, f"{of_all}{rate}", width)


def _best_line(board: Board) -> str:
    best, leader = board.best(), board.sources.leader()
    name = plain(board.sources.objective.name, 24)
    if best is None:
        ahead = board.best_that_trains()
        return "No trial has ended yet" + (
            "." if ahead is None else f"; trial {ahead[0]} is ahead: {name} {number(ahead[1])}."
        )
    trial_id, score = best
    if leader is None or leader.noise is None:
        return f"Best so far: trial {trial_id}, {name} {number(score)} (its luck is not known yet)"
    error = 2 * leader.noise
    near = board.within(error)
    others = "" if not near else f"; within that: {', '.join(near[:4])}{', …' if len(near) > 4 else ''}"
    return f"Best so far: trial {trial_id}, {name} {number(score, error)} ±{number(error, error)} by luck{others}"


def _waiting(board: Board) -> str:
    step = board.step
    if step.num_epochs:
        return f"nothing trains right now; the last news is {words.seconds(board.now() - board.last_at)} old"
    if board.is_searching:
        begun = f"{counted(step.num_begun, 'trial')} begun: " if step.num_begun else ""
        return f"{begun}building, tracing and compiling the first program …"
    return _BEFORE_EPOCHS.get(title(step.what), "building, tracing and compiling …")


def _members(board: Board, width: int) -> list[Text]:
    """A line of headings and one for each of the members that have come furthest."""
    names = board.varied()[: _MOST_VARIED if width >= 70 else 1 if width >= _NARROW else 0]
    objective = board.sources.objective
    most = board.sources.plan().max_epochs if board.is_searching else None
    shown = sorted(board.members.values(), key=lambda one: -one.epochs)[:_MOST_MEMBERS]
    known = [[value for value in one.curve if value is not None and math.isfinite(value)] for one in shown]
    best = [min(curve, key=objective.loss, default=None) for curve in known]
    columns = [
        ["trial", *(plain(one.name, 12) for one in shown)],
        ["epoch", *(f"{one.epochs}/{most}" if most else str(one.epochs) for one in shown)],
        ["now", *(number(curve[-1]) if curve else "" for curve in known)],
        ["best", *("" if value is None else number(value) for value in best)],
        *([["curve", *(sparkline(one.curve) for one in shown)]] if width >= _NARROW else []),
        *(
            [plain(name, 14), *(value_text(one.values[name]) if name in one.values else "" for one in shown)]
            for name in names
        ),
    ]
    return _table(columns, to_the_left=("trial", "curve"))


def _table(columns: list[list[str]], to_the_left: tuple[str, ...]) -> list[Text]:
    # By hand: rich measures each cell of its tables several times, which was five sixths of what a draw cost.
    padded = []
    for column in columns:
        size = max(map(cell_len, column))
        space = [" " * (size - cell_len(cell)) for cell in column]
        is_left = column[0] in to_the_left
        padded.append([cell + gap if is_left else gap + cell for cell, gap in zip(column, space, strict=True)])
    head, *rows = ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
    return [_line(head, "dim"), *map(_line, rows)]


def _programs_line(board: Board) -> str | None:
    records = [one for one in board.sources.programs() if one.get("members")]
    if not records:
        return None
    members = counted(sum(one["members"] for one in records), "execution")
    took = words.seconds(math.fsum(one["compile_seconds"] for one in records))
    whose = "" if board.is_searching else "in all calls: "
    return f"{whose}{members} trained as {counted(len(records), 'program')}, compiled in {took}"


def _time_line(board: Board) -> str:
    parts = board.parts()
    rest = board.elapsed - math.fsum(parts.values())
    return "time " + words.time_line({**parts, "train and the rest": max(0.0, rest)}, board.elapsed)
