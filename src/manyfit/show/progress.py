"""Shows a board: at a terminal twice a second from a thread of its own, elsewhere a line per trial and a heartbeat."""

from __future__ import annotations

import sys
import threading
from typing import IO

from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from manyfit.core.causes import reason_of
from manyfit.core.events import Event, StepBegan, StepEnded, TrialEnded, logger
from manyfit.report import words
from manyfit.report.pages import console
from manyfit.report.snapshot import Snapshot
from manyfit.show.board import Board, ProgressSources
from manyfit.show.screen import layout

_DRAWS_PER_SECOND = 2  # some 4 ms each: under a hundredth of the time
HEARTBEAT_SECONDS = 30.0


class LiveProgress:
    """A part of the terminal that is redrawn while a step runs, and vanishes at its end.

    Args:
        sources: of the search.
        file: the terminal; None: standard output.
        board: None: a new one.
    """

    def __init__(self, sources: ProgressSources, *, file: IO[str] | None = None, board: Board | None = None) -> None:
        self._board = board or Board(sources)
        self._file = file
        self._live: Live | None = None
        self._has_failed = False

    def hear(self, event: Event) -> None:
        """See `manyfit.core.events.Listener`."""
        self._board.hear(event)
        if isinstance(event, StepBegan):
            screen = console(self._file)
            # Drawn at once, and then by a thread of its own: a search that computes for a minute is seen to be alive.
            self._live = Live(
                get_renderable=self._draw, console=screen, transient=True, refresh_per_second=_DRAWS_PER_SECOND,
                vertical_overflow="crop",
            )  # fmt: skip
            self._live.start(refresh=True)
        elif isinstance(event, StepEnded):
            self.close()

    def close(self) -> None:
        """Takes it off the terminal."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _draw(self) -> RenderableType:
        # In rich's thread, which an error would end with a traceback on the terminal.
        if self._has_failed:
            return Text()
        try:
            return layout(self._board, 80 if self._live is None else self._live.console.width)
        except Exception:
            self._has_failed = True
            logger.warning("the progress cannot be drawn any more", exc_info=True)
            return Text()


class LineProgress:
    """A line per trial that ends, and one each 30 seconds in between: for files and pipes.

    Args:
        sources: of the search.
        file: where lines go; None: standard output, as it is then.
        board: None: a new one.
        beats: whether a thread watches for silence; tests call `beat` themselves.
    """

    def __init__(
        self, sources: ProgressSources, *, file: IO[str] | None = None, board: Board | None = None, beats: bool = True
    ) -> None:
        self._board = board or Board(sources)
        self._file = file
        self._beats = beats
        self._said_at = self._board.now()
        self._ended = threading.Event()

    def hear(self, event: Event) -> None:
        """See `manyfit.core.events.Listener`."""
        self._board.hear(event)
        if isinstance(event, StepBegan):
            self._say(f"{event.what.removeprefix('a ')}: begun")
            self._ended = threading.Event()
            if self._beats:
                # A daemon: a process that ends does not wait for it.
                threading.Thread(target=self._watch, args=(self._ended,), name="manyfit-heartbeat", daemon=True).start()
        elif isinstance(event, StepEnded):
            self._ended.set()
        elif isinstance(event, TrialEnded):
            self._say(self._trial_line(event))

    def close(self) -> None:
        """Ends its thread."""
        self._ended.set()

    def beat(self) -> None:
        """Says where the search stands, if nothing was said for 30 seconds."""
        board = self._board
        with board.lock:
            if board.now() - self._said_at < HEARTBEAT_SECONDS:
                return
            left = board.seconds_left()
            end = "" if left is None else f", about {words.seconds(left)} left"
            epochs = words.counted(board.num_epochs, "epoch")
            text = f"{words.counted(board.num_ended, 'trial')} ended, {len(board.members)} train, {epochs}{end}"
        self._say(f"{words.seconds(board.elapsed)}: {text}")

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(1.0):
            try:
                self.beat()
            except Exception:
                logger.warning("the heartbeat has stopped", exc_info=True)
                return

    def _trial_line(self, event: TrialEnded) -> str:
        board = self._board
        most = board.sources.plan().max_trials
        place = f"{board.num_ended:,}" + (f"/{most:,}" if most else "")
        values = words.values(board.values.get(event.trial_id, {}), 6)
        if event.score is None:
            return f"[{place}] trial {event.trial_id} failed: {words.plain(reason_of(event.reason), 100)} ({values})"
        name, best = words.plain(board.sources.objective.name, 24), board.best()
        leads = "" if best is None else f"; best {words.number(best[1])} (trial {best[0]})"
        return f"[{place}] trial {event.trial_id}: {name} {words.number(event.score)}{leads} ({values})"

    def _say(self, text: str) -> None:
        self._said_at = self._board.now()
        print(text, file=self._file or sys.stdout, flush=True)


def closing_lines(snapshot: Snapshot) -> list[str]:
    """What stays on the terminal when a search has ended: verdict, values, failures, time, the next step."""
    best = snapshot.best(1)
    values = words.values(best[0].values) if best else ""
    failed = words.failures(snapshot.failed)
    more = f"; and {len(failed) - 1} more causes" if len(failed) > 1 else ""
    lines = [
        words.verdict(snapshot)[0],
        f"Values: {values}" if values else "",
        f"{failed[0]}{more}" if failed else "",
        "; ".join(
            filter(
                None, [f"Time {words.time_line(snapshot.time(), snapshot.seconds())}", words.programs_line(snapshot)]
            )
        ),
        f"Next: {step}" if (step := words.next_step(snapshot)) else "",
    ]
    return [line for line in lines if line]
