"""What a tuner says: of trials while it runs, in KerasTuner's words or in tables for people, and in its summaries."""

from __future__ import annotations

import contextlib
import shutil
import sys
import textwrap
from collections.abc import Callable

from manyfit.core.causes import reason_of
from manyfit.core.errors import ManyfitError
from manyfit.core.events import Event, StepBegan, StepEnded, logger
from manyfit.oracles import Oracle, Trial, endings
from manyfit.oracles.replication import Replication
from manyfit.report import terminal
from manyfit.report.colours import is_rich, is_terminal, trial_line
from manyfit.report.snapshot import Snapshot
from manyfit.report.words import number
from manyfit.show.progress import LineProgress, LiveProgress, closing_lines
from manyfit.tuners.recording import SearchSources
from manyfit.tuners.results import results_of


class TrialDisplay:
    """The part of a tuner that prints.

    Args:
        oracle: whose trials are shown.
        style: "plain" prints KerasTuner's lines; "rich" a progress that is redrawn, where trials train together at a
            terminal, else coloured tables; "auto": these at an interactive terminal; "lines": a line per trial.

    Attributes:
        verbose: the `verbose` of `search`; 0 prints nothing.
    """

    def __init__(self, oracle: Oracle, style: str) -> None:
        self.verbose: int | str | bool = 1
        self.style = style
        self._oracle = oracle
        self._progress: LiveProgress | LineProgress | None = None  # of the step that runs
        self._depth = 0  # of steps inside of steps
        self._sources: SearchSources | None = None
        self._folder = ""
        self._redraws: Callable[[], bool] = lambda: False

    def watch(self, sources: SearchSources, folder: str, *, redraws: Callable[[], bool]) -> None:
        """Shows the progress of steps from now on, as the style says.

        Args:
            sources: what to show of them.
            folder: the project's.
            redraws: whether nothing but this prints while trials train; Keras's own bars do where `fit` trains.
        """
        self._sources, self._folder, self._redraws = sources, folder, redraws
        self._oracle.book.events.listen(self)

    def hear(self, event: Event) -> None:
        """See `manyfit.core.events.Listener`. A progress that fails is closed, and the lines for trials come back."""
        # Of a step that is a part of another one, nothing is shown but its epochs.
        if isinstance(event, StepBegan):
            self._depth += 1
            if self._depth > 1:
                return
            self._progress = self._new_progress()
        elif isinstance(event, StepEnded):
            self._depth -= 1
            if self._depth > 0:
                return
        progress = self._progress
        if isinstance(event, StepEnded):
            self._progress = None
        if progress is None:
            return
        try:
            progress.hear(event)
        except Exception:
            logger.warning("the progress is shown no more", exc_info=True)
            self._progress = None
            with contextlib.suppress(Exception):
                progress.close()

    def _new_progress(self) -> LiveProgress | LineProgress | None:
        if self._sources is None or not self._shows():
            return None
        if self.style == "lines":
            return LineProgress(self._sources)
        return LiveProgress(self._sources) if self._is_live() else None

    def _is_live(self) -> bool:
        return is_rich(self.style) and is_terminal() and self._sources is not None and self._redraws()

    def search_ends(self, sentence: str) -> None:
        """Says how a search ended, and what it found: at a terminal in five lines that stay."""
        self.say(sentence)
        if self._shows() and (self.style == "lines" or self._is_live()):
            with contextlib.suppress(ManyfitError):  # what was found is in the project, whatever cannot be read now
                width = shutil.get_terminal_size().columns if self._is_live() else 10_000  # files have no width
                for line in closing_lines(Snapshot.of(self._folder)):
                    self.say(textwrap.fill(line, width))

    def __getstate__(self) -> dict[str, object]:
        # Workers only say what their trainer says. The oracle, with the trials of the whole search, stays here.
        return {"verbose": self.verbose, "style": self.style}

    def say(self, text: str) -> None:
        """Prints a line, unless `verbose` is 0."""
        if self._shows():
            print(text, flush=True)

    def _shows(self) -> bool:
        return self.verbose not in (0, "0", False)

    def trial_begins(self, trial: Trial) -> None:
        """Shows what a trial tries, beside the best values so far. At a terminal for people its end is enough."""
        if self._shows() and not is_rich(self.style) and self.style != "lines":
            best = self._oracle.get_best_trials(1)
            values = trial.hyperparameters.values
            # Before there is a best trial KerasTuner shows the values themselves there, and programs read its lines.
            self.say(terminal.trial_begin(trial.number + 1, values, best[0].hyperparameters.values if best else values))

    def trial_ends(self, trial: Trial) -> None:
        """Shows how a trial ended, why it failed if it did, and where the search stands."""
        if not self._shows():
            return
        best = self._oracle.get_best_trials(1)
        again = trial.trial_id in self._oracle.waiting
        if again:
            left = self._oracle.max_retries_per_trial - trial.num_retries + 1
            self.say(f"Trial {trial.trial_id} failed {trial.num_retries} times. {left} retries left.")
        if again or trial.has_failed:
            # On stderr, so that who keeps the output of a search still sees that something goes wrong.
            print(f"Trial {trial.trial_id} failed: {reason_of(trial.message)}", file=sys.stderr, flush=True)
        if self._progress is not None:
            if self.verbose == 2 and self.style != "lines":
                score = "" if trial.score is None else f", {self._oracle.objective.name} {number(trial.score)}"
                self.say(f"Trial {trial.trial_id}: {trial.status.lower()}{score}")
            return
        if is_rich(self.style):
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
    shown = oracle.get_best_trials(num_trials)
    failed = [trial for trial in oracle.trials.values() if trial.has_failed]
    shown += failed[: max(0, num_trials - len(shown))]
    lines = ["Results summary", f"Results in {project_dir}", f"Showing {num_trials} best trials"]
    print("\n".join([*lines, str(oracle.objective)]))
    front = oracle.book.front()
    for trial in shown:
        print()
        trial.summary()
        for line in oracle.book.ranking.notes(trial, front):
            print(line)
    if oracle.scheduler.max_epochs is not None:
        spent = results_of(list(oracle.trials.values()), oracle.scheduler.max_epochs)
        print(f"\nEpochs: {spent.epochs_spent} trained; {spent.epochs_full} without the scheduler.")
    if contenders is not None:
        print(f"\n{contenders.sentence()}")
    elif oracle.compat != "keras_tuner" and (end := endings.EndOfSearch.kept(oracle.book.store)) is not None:
        print(f"\n{end.sentence}")
    if (mixed := endings.mixed_data(oracle)) is not None:
        print(f"\n{mixed}")
