"""A board in at most 16 lines of a terminal."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from manyfit.report import words
from manyfit.report.pages import sparkline, value_text
from manyfit.report.words import counted, number, plain
from manyfit.show.board import Board

MOST_LINES = 16
_MOST_MEMBERS = 6
_MOST_VARIED = 3
_BAR = 24


def layout(board: Board, width: int = 80) -> RenderableType:
    """What is shown of a step that runs.

    Args:
        board: read under its lock.
        width: of the terminal, in letters.
    """
    with board.lock:
        lines: list[RenderableType] = [_trials_line(board, width)]
        lines += filter(None, [_epochs_line(board, width)])
        lines += [Text(_best_line(board), style="bold", no_wrap=True, overflow="ellipsis")]
        lines += [_members(board, width)] if board.members else [Text(_waiting(board), style="dim")]
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


def _trials_line(board: Board, width: int) -> Text:
    most = board.sources.plan().max_trials if board.what == "a search" else None
    of_all = f"{board.num_ended:,} of {most:,} trials" if most else counted(board.num_ended, "trial")
    share = board.num_ended / most if most else None
    left = board.seconds_left()
    end = "" if left is None else f" · about {words.seconds(left)} left"
    return _line(
        f"{board.what.removeprefix('a '):<12} {_bar(share, width)} {of_all} · {words.seconds(board.elapsed)}{end}"
    )


def _epochs_line(board: Board, width: int) -> Text | None:
    if not board.num_epochs or board.first_epoch_at is None:
        return None
    total = board.all_epochs
    of_all = f"{board.num_epochs:,} of {total:,}" if total else f"{board.num_epochs:,}"
    pace = board.pace()
    rate = f" · {words.number(1 / pace)} per second" if pace else ""
    return _line(f"{'epochs':<12} {_bar(board.num_epochs / total if total else None, width)} {of_all}{rate}")


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
    if board.num_epochs == 0:
        what = f"{counted(board.num_begun, 'trial')} begun: " if board.num_begun else ""
        return f"{what}building, tracing and compiling the first program …"
    return f"nothing trains right now; the last news is {words.seconds(board.now() - board.last_at)} old"


def _members(board: Board, width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    names = board.varied()[: _MOST_VARIED if width >= 70 else 1]
    for name in ("trial", "epoch", "now", "best"):
        table.add_column(name, justify="left" if name == "trial" else "right", no_wrap=True)
    table.add_column("curve", no_wrap=True, min_width=12)
    for name in names:
        table.add_column(plain(name, 14), justify="right", no_wrap=True)
    objective, most = board.sources.objective, board.sources.plan().max_epochs
    newest_first = sorted(board.members.values(), key=lambda one: -one.epochs)
    for member in newest_first[:_MOST_MEMBERS]:
        known = [value for value in member.curve if value is not None and math.isfinite(value)]
        best = min(known, key=objective.loss, default=None)
        epochs = f"{member.epochs}/{most}" if most else str(member.epochs)
        cells = (
            plain(member.trial_id, 10),
            epochs,
            number(known[-1]) if known else "",
            "" if best is None else number(best),
            sparkline(member.curve),
            *(value_text(member.values[name]) if name in member.values else "" for name in names),
        )
        table.add_row(*map(Text, cells))
    return table


def _programs_line(board: Board) -> str | None:
    records = [one for one in board.sources.programs() if one.get("members")]
    if not records:
        return None
    members = counted(sum(one["members"] for one in records), "execution")
    took = words.seconds(math.fsum(one["compile_seconds"] for one in records))
    return f"{members} trained as {counted(len(records), 'program')}, compiled in {took}"


def _time_line(board: Board) -> str:
    parts = dict(board.sources.spent())
    compiled = math.fsum(one["compile_seconds"] for one in board.sources.programs())
    parts = {"compile": compiled, **parts} if compiled else parts
    rest = board.elapsed - math.fsum(parts.values())
    return "time " + words.time_line({**parts, "train and the rest": max(0.0, rest)}, board.elapsed)
