"""What a tuner says: of trials while it runs, in KerasTuner's words or as a progress, and in its summaries."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeAlias

from manyfit.core import environment
from manyfit.core.causes import reason_of
from manyfit.core.errors import ManyfitError
from manyfit.core.events import CallBegan, CallEnded, Event, StepBegan, StepEnded, logger
from manyfit.core.untrusted import shown
from manyfit.data.arguments import check_verbose
from manyfit.oracles import Oracle, Trial, endings
from manyfit.oracles.replication import Replication
from manyfit.report import terminal
from manyfit.report.colours import style_of, trial_line
from manyfit.report.snapshot import Snapshot
from manyfit.show.board import SEARCH, ProgressSources
from manyfit.show.closing import closing_lines
from manyfit.show.notebook import NotebookProgress
from manyfit.show.progress import LineProgress, LiveProgress
from manyfit.tuners.recording import OracleSources
from manyfit.tuners.results import results_of

_SOON_SECONDS = 0.5  # of silence
AnyProgress: TypeAlias = LiveProgress | LineProgress | NotebookProgress


class TrialDisplay:
    """The part of a tuner that prints.

    Args:
        oracle: whose trials are shown.
        style: "plain" prints KerasTuner's lines; "lines" a line per trial; "rich" a progress that is redrawn, at a
            terminal on which nobody else prints, else coloured tables; "auto" chooses by what standard output is.
        folder: the project's.

    Attributes:
        verbose: the `verbose` of `search`; 0 prints nothing, 2 a line per trial besides what is redrawn.
    """

    def __init__(self, oracle: Oracle, style: str, folder: str) -> None:
        self.verbose: int | str | bool = 1
        self.style = style
        self._oracle = oracle
        self._folder = folder
        self._progress: AnyProgress | None = None  # of the call that is under way
        self._depth = 0  # of calls and steps inside of each other
        self._found_something = False  # whether a search of this call has come to an end that is worth five lines
        self._sources: ProgressSources = OracleSources(oracle)
        # Alone, a search by somebody's own code: it prints what it likes, such as Keras's bars.
        self._redraws: Callable[[], bool] = lambda: False
        oracle.book.events.listen(self)

    def watch(self, sources: ProgressSources, *, redraws: Callable[[], bool]) -> None:
        """Shows the progress of calls by more than what events and the oracle know.

        Args:
            sources: what to show.
            redraws: whether nothing but this prints while trials train; Keras's own bars do where `fit` shows them.
        """
        self._sources, self._redraws = sources, redraws
        # Last of all listeners: what is drawn is what the others have just looked at.
        self._oracle.book.events.leave(self)
        self._oracle.book.events.listen(self)

    @contextlib.contextmanager
    def speaking(self, verbose: int | str | bool | None, *, stays: bool = False) -> Iterator[None]:
        """Within it as much is said as the `verbose` of a call asks for.

        Args:
            verbose: of the call; None: as in the latest search.
            stays: whether later calls go by it, too.
        """
        before = self.verbose
        self.verbose = before if verbose is None else verbose
        try:
            yield
        finally:
            self.verbose = self.verbose if stays else before

    @contextlib.contextmanager
    def showing(self, what: str, verbose: int | str | bool | None, *, stays: bool = False) -> Iterator[None]:
        """Within it a call of the user's is under way, and is shown as its `verbose` says.

        Args:
            what: "a search", "a bag", ...
            verbose: see `speaking`.
            stays: likewise.

        Raises:
            UsageError: a `verbose` that means nothing.
        """
        check_verbose(what.removeprefix("a ").removeprefix("an "), verbose)
        with self.speaking(verbose, stays=stays), self._oracle.book.events.call(what):
            yield

    def showing_alone(self, what: str, verbose: int | str | bool | None) -> contextlib.AbstractContextManager[None]:
        """The same, unless a call is under way that this one is a part of."""
        return contextlib.nullcontext() if self._depth else self.showing(what, verbose, stays=True)

    def hear(self, event: Event) -> None:
        """See `manyfit.core.events.Listener`. A progress that fails is closed, and the lines for trials come back."""
        if isinstance(event, CallBegan | StepBegan):
            self._depth += 1
            if self._depth == 1:
                self._progress, self._found_something = self._new_progress(), False
        # Before the end of a call is looked at: the progress takes itself off the terminal first.
        self._guarded(lambda progress: progress.hear(event))
        if isinstance(event, CallEnded | StepEnded):
            self._depth = max(0, self._depth - 1)
            if self._depth == 0:
                if isinstance(event, CallEnded) and event.is_complete:
                    self._guarded(self._finish)
                self._progress = None

    def _guarded(self, use: Callable[[AnyProgress], None]) -> None:
        progress = self._progress
        if progress is None:
            return
        try:
            use(progress)
        except Exception:
            logger.warning("the progress is shown no more", exc_info=True)
            self._progress = None
            with contextlib.suppress(Exception):
                progress.close()

    def close(self) -> None:
        """Shows no more of a call that is under way."""
        self._guarded(lambda progress: progress.close())
        self._progress = None

    def _finish(self, progress: AnyProgress) -> None:
        if progress.board.what == SEARCH and not self._found_something:
            return
        with contextlib.suppress(ManyfitError):  # what was found is in the project, whatever cannot be read now
            progress.finish(closing_lines(Snapshot.of(self._folder), progress.board))

    def _new_progress(self) -> AnyProgress | None:
        if not self._shows():
            return None
        says_trials = self.verbose == 2
        match self._shown_as():
            case "lines":
                return LineProgress(self._sources)
            case "live":
                return LiveProgress(self._sources, says_trials=says_trials)
            case "notebook":
                return NotebookProgress(self._sources, says_trials=says_trials)
        return None

    def _shown_as(self) -> str:
        for_keras_tuner = environment.written_for_keras_tuner or self._oracle.compat == "keras_tuner"
        return style_of(self.style, redraws=self._redraws(), keras_tuner=for_keras_tuner)

    @property
    def is_alone(self) -> bool:
        """Whether only what this shows is to be seen, and no bar of Keras's."""
        return self._shown_as() in ("live", "lines", "notebook")

    @contextlib.contextmanager
    def while_building(self) -> Iterator[None]:
        """Within it the build function runs before any call does; where that takes its time, a terminal has a line."""
        # Files and notebooks have none: what they hold must not depend on how fast a machine is.
        is_seen = self._shows() and sys.stdout.isatty() and self._shown_as() in ("live", "tables")
        text = "Running the build function, to find the hyperparameters …"
        timer = threading.Timer(_SOON_SECONDS, self.say, (text,))
        timer.daemon = True
        if is_seen:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def search_ends(self, sentence: str) -> None:
        """Says how a search ended. What it found, in five lines, stays when its call is over."""
        self.say(sentence)
        self._found_something = True
        if self._depth == 0 and self._shows() and self._shown_as() == "lines":  # a search without a call around it
            with contextlib.suppress(ManyfitError):
                for line in closing_lines(Snapshot.of(self._folder)):
                    self.say(line)

    def __getstate__(self) -> dict[str, object]:
        # Workers only say what their trainer says. The oracle, with the trials of the whole search, stays here.
        return {"verbose": self.verbose, "style": self.style, "_progress": None}

    def say(self, text: str) -> None:
        """Prints a line, unless `verbose` is 0."""
        if not self._shows():
            return
        if isinstance(self._progress, NotebookProgress):  # a printed line would be an output of its own
            self._progress.say(text)
        else:
            print(shown(text), flush=True)

    def _shows(self) -> bool:
        return self.verbose not in (0, "0", False)

    def trial_begins(self, trial: Trial) -> None:
        """Shows what a trial tries, beside the best values so far. At a terminal for people its end is enough."""
        if self._shows() and self._progress is None and self._shown_as() == "plain":
            best = self._oracle.get_best_trials(1)
            values = trial.hyperparameters.values
            # Before there is a best trial KerasTuner shows the values themselves there, and programs read its lines.
            self.say(terminal.trial_begin(trial.number + 1, values, best[0].hyperparameters.values if best else values))

    def trial_ends(self, trial: Trial) -> None:
        """Shows how a trial ended, why it failed if it did, and where the search stands."""
        if not self._shows():
            return
        again = trial.trial_id in self._oracle.waiting
        if again:
            left = self._oracle.max_retries_per_trial - trial.num_retries + 1
            self.say(f"Trial {trial.trial_id} failed {trial.num_retries} times. {left} retries left.")
        if (again or trial.has_failed) and not isinstance(self._progress, NotebookProgress):  # which shows it itself
            # On stderr, so that who keeps the output of a search still sees that something goes wrong.
            print(shown(f"Trial {trial.trial_id} failed: {reason_of(trial.message)}"), file=sys.stderr, flush=True)
        if self._progress is not None:
            return
        best = self._oracle.get_best_trials(1)
        if self._shown_as() != "plain":
            self._trial_ends_for_people(trial, best[0].score if best else None)
            return
        self.say(
            terminal.trial_end(
                trial.number + 1,
                (trial.ended_at or 0.0) - trial.started_at,
                objective=self._oracle.objective.name,
                score=trial.score,
                best=best[0].score if best else None,
                elapsed_seconds=self._oracle.clock.spent(),
            )
        )

    def _trial_ends_for_people(self, trial: Trial, best: float | None) -> None:
        trial_line(
            trial.trial_id,
            trial.hyperparameters.values,
            status=trial.status,
            seconds=(trial.ended_at or 0.0) - trial.started_at,
            score=trial.score,
            best=best,
            objective=self._oracle.objective.name,
            num_ended=len(self._oracle.end_order),
            max_trials=self._oracle.max_trials,
            elapsed_seconds=self._oracle.clock.spent(),
        )


def print_summary(oracle: Oracle, project_dir: str, num_trials: int, contenders: Replication | None) -> None:
    """Prints the best trials, then those that failed; epochs that a scheduler saved; how sure the order is.

    Args:
        oracle: of the search.
        project_dir: the project's folder.
        num_trials: how many are shown at most.
        contenders: where their repetition stands; None where nothing is repeated.
    """
    # `get_best_trials` has completed trials only; people who look at a summary want to know of the others, too.
    best = oracle.get_best_trials(num_trials)
    failed = [trial for trial in oracle.trials.values() if trial.has_failed]
    best += failed[: max(0, num_trials - len(best))]
    lines = ["Results summary", f"Results in {project_dir}", f"Showing {num_trials} best trials"]
    print(shown("\n".join([*lines, str(oracle.objective)])))
    front = oracle.book.front()
    for trial in best:
        print()
        trial.summary()
        for line in oracle.book.ranking.notes(trial, front):
            print(shown(line))
    if oracle.scheduler.max_epochs is not None:
        spent = results_of(list(oracle.trials.values()), oracle.scheduler.max_epochs)
        print(f"\nEpochs: {spent.epochs_spent} trained; {spent.epochs_full} without the scheduler.")
    if contenders is not None:
        print(shown(f"\n{contenders.sentence()}"))
    elif oracle.compat != "keras_tuner" and (end := endings.EndOfSearch.kept(oracle.book.store)) is not None:
        print(shown(f"\n{end.sentence}"))
    if (mixed := endings.mixed_data(oracle)) is not None:
        print(shown(f"\n{mixed}"))
