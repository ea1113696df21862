"""Shows a board in a notebook: one output of its cell, which is updated in place and does not grow."""

from __future__ import annotations

import contextvars
import html
import io
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from manyfit.core.events import CallBegan, CallEnded, Event, StepBegan, StepEnded, TrialEnded, logger
from manyfit.report.pages import console
from manyfit.show.board import Board, ProgressSources
from manyfit.show.progress import DRAWS_PER_SECOND, trial_line
from manyfit.show.screen import layout

_WIDTH = 100
_MOST_NOTES = 5
Bundle: TypeAlias = dict[str, str]  # media type -> what is shown


class Output(Protocol):
    """One output of a cell: `IPython.display.DisplayHandle` is one."""

    def update(self, shown: Any, *, raw: bool) -> object:
        """Shows something else in its place."""


def open_output(bundle: Bundle) -> Output:
    """An output of the cell that runs; only a notebook's kernel calls this, and so has IPython."""
    from IPython.display import display

    handle: Output = display(bundle, raw=True, display_id=True)
    return handle


class NotebookProgress:
    """The board, the lines that were said, and at the end what the call has come to, all in one output.

    Args:
        sources: of the search.
        board: None: a new one.
        says_trials: whether the newest trials that ended are told, too.
        open_with: opens the output; tests have their own.
        draws: whether a thread draws twice a second; tests call `draw` themselves.
    """

    def __init__(
        self,
        sources: ProgressSources,
        *,
        board: Board | None = None,
        says_trials: bool = False,
        open_with: Callable[[Bundle], Output] = open_output,
        draws: bool = True,
    ) -> None:
        self.board = board or Board(sources)
        self._says_trials = says_trials
        self._open_with, self._draws = open_with, draws
        self._depth = 0
        self._notes: list[str] = []
        self._output: Output | None = None
        self._ended = threading.Event()
        self._turn = threading.Lock()  # what was said last is shown last

    def hear(self, event: Event) -> None:
        """See `manyfit.core.events.Listener`."""
        self.board.hear(event)
        if isinstance(event, CallBegan | StepBegan):
            self._depth += 1
            if self._depth == 1:
                self._begin()
        elif isinstance(event, CallEnded | StepEnded):
            self._depth -= 1
            if self._depth == 0:
                self.finish(())
        elif isinstance(event, TrialEnded) and self._says_trials:
            self.say(trial_line(self.board, event))

    def say(self, text: str) -> None:
        """Adds a line; the newest few are shown."""
        self._notes = [*self._notes, *filter(None, text.splitlines())][-_MOST_NOTES:]

    def finish(self, lines: Sequence[str]) -> None:
        """Shows what has come of the call in place of the progress."""
        self.close()
        self._show("\n".join([*self._notes, *lines]))

    def close(self) -> None:
        """Ends its thread."""
        self._ended.set()

    def draw(self) -> None:
        """Shows where the call stands."""
        file = io.StringIO()
        console(file, width=_WIDTH).print(layout(self.board, _WIDTH))
        # A thread that was late must not draw over what has come of the call.
        with self._turn:
            if not self._ended.is_set():
                self._put("\n".join([*self._notes, file.getvalue()]))

    def _begin(self) -> None:
        self._ended.clear()
        self.draw()
        if self._draws:
            # With this context: the kernel finds the cell in it. A daemon: a kernel that ends does not wait for it.
            target, context = self._watch, contextvars.copy_context()
            threading.Thread(target=context.run, args=(target,), name="manyfit-notebook", daemon=True).start()

    def _watch(self) -> None:
        while not self._ended.wait(1 / DRAWS_PER_SECOND):
            try:
                self.draw()
            except Exception:
                logger.warning("the progress cannot be drawn any more", exc_info=True)
                return

    def _show(self, text: str) -> None:
        with self._turn:
            self._put(text)

    def _put(self, text: str) -> None:
        # Nothing of the page's own style is relied on: notebooks are exported, and shown elsewhere.
        style = "margin: 0; line-height: 1.25; white-space: pre-wrap; font-size: .85em"
        bundle = {"text/plain": text.rstrip(), "text/html": f'<pre style="{style}">{html.escape(text.rstrip())}</pre>'}
        if self._output is None:
            self._output = self._open_with(bundle)
        else:
            self._output.update(bundle, raw=True)
