"""Shows a board: at a terminal twice a second from a thread of its own, elsewhere a line per trial and a heartbeat."""

from __future__ import annotations

import shutil
import sys
import textwrap
import threading
from collections.abc import Sequence
from typing import IO

from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from manyfit.core.causes import reason_of
from manyfit.core.events import CallBegan, CallEnded, Event, PhaseBegan, StepBegan, StepEnded, TrialEnded, logger
from manyfit.core.untrusted import shown
from manyfit.report import words
from manyfit.report.pages import console
from manyfit.show.board import Board, ProgressSources
from manyfit.show.screen import layout, title

DRAWS_PER_SECOND = 2  # some 4 ms each: under a hundredth of the time
HEARTBEAT_SECONDS = 30.0


class LiveProgress:
    """A part of the terminal that is redrawn while a call is under way, and vanishes at its end.

    Args:
        sources: of the search.
        file: the terminal; None: standard output.
        board: None: a new one.
        says_trials: whether a line stays for each trial that ends.
    """

    def __init__(
        self,
        sources: ProgressSources,
        *,
        file: IO[str] | None = None,
        board: Board | None = None,
        says_trials: bool = False,
    ) -> None:
        self.board = board or Board(sources)
        self._file = file
        self._says_trials = says_trials
        self._depth = 0
        self._live: Live | None = None
        self._has_failed = False

    def hear(self, event: Event) -> None:
        """See `manyfit.core.events.Listener`."""
        self.board.hear(event)
        if isinstance(event, CallBegan | StepBegan):
            self._depth += 1
            if self._depth == 1:
                self._open()
        elif isinstance(event, CallEnded | StepEnded):
            self._depth -= 1
            if self._depth == 0:
                self.close()
        elif isinstance(event, TrialEnded) and self._says_trials:
            self.say(trial_line(self.board, event))

    def say(self, text: str) -> None:
        """Prints a line that stays, above what is redrawn."""
        print(shown(text), file=self._file or sys.stdout, flush=True)

    def finish(self, lines: Sequence[str]) -> None:
        """Prints what stays of the call, as wide as the terminal is."""
        # Broken between words here: a terminal breaks lines wherever they reach its edge.
        width = shutil.get_terminal_size().columns
        for line in lines:
            self.say(textwrap.fill(line, width))

    def close(self) -> None:
        """Takes it off the terminal."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _open(self) -> None:
        # Drawn at once, and then by a thread of its own: a search that computes for a minute is seen to be alive.
        self._live = Live(
            get_renderable=self._draw, console=console(self._file), transient=True,
            refresh_per_second=DRAWS_PER_SECOND, vertical_overflow="crop",
        )  # fmt: skip
        self._live.start(refresh=True)

    def _draw(self) -> RenderableType:
        # In rich's thread, which an error would end with a traceback on the terminal.
        if self._has_failed:
            return Text()
        try:
            return layout(self.board, 80 if self._live is None else self._live.console.width)
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
        self.board = board or Board(sources)
        self._file = file
        self._beats = beats
        self._depth = 0
        self._said_at = self.board.now()
        self._ended = threading.Event()

    def hear(self, event: Event) -> None:
        """See `manyfit.core.events.Listener`."""
        self.board.hear(event)
        if isinstance(event, CallBegan | StepBegan):
            self._depth += 1
            if self._depth == 1:
                self._begin(event.what)
        elif isinstance(event, CallEnded | StepEnded):
            self._depth -= 1
            if self._depth == 0:
                self.close()
        elif isinstance(event, PhaseBegan):
            left = "" if event.seconds_left == float("inf") else f", {words.seconds(event.seconds_left)} left"
            self.say(f"{title(self.board.what)}: {event.name} begun{left}")
        elif isinstance(event, TrialEnded):
            self.say(trial_line(self.board, event))

    def say(self, text: str) -> None:
        """Prints a line."""
        self._said_at = self.board.now()
        print(shown(text), file=self._file or sys.stdout, flush=True)

    def finish(self, lines: Sequence[str]) -> None:
        """Prints what the call has come to; files have no width."""
        for line in lines:
            self.say(line)

    def close(self) -> None:
        """Ends its thread."""
        self._ended.set()

    def beat(self) -> None:
        """Says where the call stands, if nothing was said for 30 seconds."""
        board = self.board
        with board.lock:
            if board.now() - self._said_at < HEARTBEAT_SECONDS:
                return
            left = board.seconds_left()
            end = "" if left is None else f", about {words.seconds(left)} left"
            step = board.step
            of_what = words.counted(step.num_ended, "trial") if board.is_searching else f"{step.num_runs:,} runs"
            epochs = words.counted(step.num_epochs, "epoch")
            text = f"{title(step.what)}: {of_what} ended, {len(board.members)} train, {epochs}{end}"
        self.say(f"{words.seconds(board.elapsed)}: {text}")

    def _begin(self, what: str) -> None:
        self.say(f"{title(what)}: begun")
        self._ended = threading.Event()
        if self._beats:
            # A daemon: a process that ends does not wait for it.
            threading.Thread(target=self._watch, args=(self._ended,), name="manyfit-heartbeat", daemon=True).start()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(1.0):
            try:
                self.beat()
            except Exception:
                logger.warning("the heartbeat has stopped", exc_info=True)
                return


def trial_line(board: Board, event: TrialEnded) -> str:
    """A trial that has ended, on one line.

    Args:
        board: that has heard of it.
        event: its end.
    """
    most = board.sources.plan().max_trials
    place = f"{board.step.num_ended:,}" + (f"/{most:,}" if most else "")
    values = words.values(board.values.get(event.trial_id, {}), 6)
    if event.score is None:
        return f"[{place}] trial {event.trial_id} failed: {words.plain(reason_of(event.reason), 100)} ({values})"
    name, best = words.plain(board.sources.objective.name, 24), board.best()
    leads = "" if best is None else f"; best {words.number(best[1])} (trial {best[0]})"
    return f"[{place}] trial {event.trial_id}: {name} {words.number(event.score)}{leads} ({values})"
