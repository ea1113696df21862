"""Ctrl+C and SIGTERM: a call that they end says what is kept and how to go on, and raises from itself.

Python raises KeyboardInterrupt wherever the program happens to be, and the traceback of a search is one of threads and
trainers. Here it is caught in the call that the user has made, and raised again from there. SIGTERM, which a cluster
sends before it kills, is treated as Ctrl+C, where the process has no way of its own to treat it.
"""

from __future__ import annotations

import contextvars
import signal
import threading
import types
from collections.abc import Callable, Sequence

from manyfit.oracles import Oracle

_is_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("is_inside", default=False)


class Interruptible:
    """A call of the user's that Ctrl+C and SIGTERM end in good order; of nested ones the outermost sees to it.

    Args:
        told: what is said when it is interrupted: what is kept, and how to go on.
        say: takes one line of text for people.

    Raises:
        KeyboardInterrupt: from the end of the block, and with no more than that in its traceback.

    Example:

    >>> try:
    ...     with Interruptible(lambda: ["All is kept."], lambda line: print(line or "^C")):
    ...         raise KeyboardInterrupt
    ... except KeyboardInterrupt:
    ...     print("It was raised again.")
    ^C
    All is kept.
    It was raised again.
    """

    def __init__(self, told: Callable[[], Sequence[str]], say: Callable[[str], None]) -> None:
        self._told, self._say = told, say
        self._token: contextvars.Token[bool] | None = None
        self._has_handler = False

    def __enter__(self) -> None:
        if _is_inside.get():
            return
        self._token = _is_inside.set(True)
        # Elsewhere Python refuses to set one; and what somebody else has set is theirs to decide.
        if threading.current_thread() is threading.main_thread():
            self._has_handler = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            if self._has_handler:
                signal.signal(signal.SIGTERM, _interrupt)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> None:
        if self._token is None:
            return
        _is_inside.reset(self._token)
        if self._has_handler and signal.getsignal(signal.SIGTERM) is _interrupt:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._token, self._has_handler = None, False
        if isinstance(error, KeyboardInterrupt):
            # An empty one first: the terminal stands behind "^C", or in the middle of a progress bar.
            for line in ("", *self._told()):
                self._say(line)
            raise error.with_traceback(None) from None


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt


def what_is_kept(step: str, oracle: Oracle, folder: str) -> list[str]:
    """Three lines for an interrupted step: where it was, what is kept, how to go on.

    Args:
        step: the name of the method.
        oracle: of the tuner.
        folder: of the project.
    """
    trials = oracle.trials.values()
    ended = [trial for trial in trials if trial.has_ended]
    best = next(iter(oracle.get_best_trials(1)), None)
    so_far = "" if best is None or best.score is None else f"; the best so far is trial {best.trial_id}"
    where = f"{len(ended)} of {len(trials)} trials have ended" if step == "search" else "its runs that have ended count"
    return [
        f"{step} was interrupted: {where}.",
        f'Kept in "{folder}": all that has ended, with curves and weights{so_far}.',
        f"To go on, call {step} again with the same arguments, here or in another process.",
    ]
