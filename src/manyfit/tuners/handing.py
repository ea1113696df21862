"""What a tuner hands to its user when everything is trained: models, their scores, predictions, files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from manyfit.core.checks import check_names
from manyfit.core.signatures import PATH, at_least, checked_arguments, checked_methods
from manyfit.data.rows import FitData
from manyfit.finish.evaluation import Evaluation
from manyfit.finish.export import Savable
from manyfit.finish.prediction_table import PredictionTable
from manyfit.oracles import Trial
from manyfit.tuners.finishing import Finish
from manyfit.tuners.options import EvaluateOptions, described_by, spelled_out
from manyfit.tuners.together import PopulationTuner


@checked_methods("predictions", "submission", "to_script")
class HandingTuner(PopulationTuner):
    """The part of `Tuner` that trains nothing."""

    _finish: Finish

    @checked_arguments(skip=("num_models",))  # hyperparameters in its place are answered in better words
    def get_best_models(self, num_models: int | None = None) -> list[Any]:
        """See `ModelTuner`. Their `evaluate` counts as a look at test rows.

        Example: `best = tuner.get_best_models(1)[0]`; docs/tutorials/keras-tuner.md runs one.
        """
        return [self.counted(model) for model in super().get_best_models(num_models)]

    def counted(self, model: Any) -> Any:
        """The model, whose `evaluate` counts as a look at test rows from now on; an ensemble comes back as another."""
        return self._finish.final.counted(model)

    def predictions(self, trials: str | Sequence[str] | None = None, *, test: bool = False) -> PredictionTable:
        """What the search's trials said of rows that they did not train on, as a table: print it, or `.to_csv(path)`.

        A trial's seeds are averaged; of its folds each row has the model's that did not train on it.

        Args:
            trials: ids; None: all, best first. One id as a text: columns are called as classes are, targets are left
                out, and the table is a member of another project's `ensemble(others=[...])`.
            test: what they said of the rows of `search(predict=...)`, in single precision.

        Returns:
            A `PredictionTable`: the column `row_id`, for rows with one target `y`, and a column for each trial, or for
            each trial and class; NaN where a trial said nothing of a row. `.to_frame()` makes a `pandas.DataFrame`.

        Raises:
            UsageError: nothing was kept, an id of no trial, or an answer for every pixel or step.

        Example: `tuner.predictions(test=True).to_csv("test.csv")`; docs/competitions.md runs several.
        """
        self.refresh()
        return self._finish.predictions(trials, test=test)

    def submission(self, model: Any = None, x: FitData = None, *, ids: Any = None) -> PredictionTable:
        """What a final model says of the rows to be answered, as a table to hand in.

        Args:
            model: a model or an ensemble; None: what `ensemble` or `retrain` made last, else the search's best.
            x: rows; None: those of `search(predict=...)`.
            ids: a name for each row; None: the index of their frame, or 0, 1, 2, ...

        Returns:
            A `PredictionTable`: `row_id`, and a column for each output; columns of classes bear their names.

        Raises:
            UsageError: no rows; ids of another number, there twice or missing.

        Example: `tuner.submission(ids=names).to_csv("submission.csv")`; docs/competitions.md runs one.
        """
        self.refresh()
        return self._finish.submission(model, x, ids)

    @described_by(EvaluateOptions)
    @spelled_out(EvaluateOptions)
    @checked_arguments(batch_size=at_least(1, 1024))
    def evaluate(
        self,
        x: FitData,
        y: FitData = None,
        *,
        models: object = None,
        groups: FitData = None,
        confidence: float = 0.95,
        verbose: int | str | None = None,
        **options: Unpack[EvaluateOptions],
    ) -> Evaluation:
        """The held-out score of the final models. Call it once, at the end.

        Every look at test rows is written down with the project, with what each row did to each score. When another
        model is measured on these rows, in any order, or on a part of them, the result says which look it is, and by
        how much the best of all models that were measured on them is lucky.

        An interval says where a metric of this very model lies on further rows of the same kind. It follows from the
        influence of each row, whatever their order, and stays where the metric can be.

        Args:
            x: test rows.
            y: their targets.
            models: a model, a list, or a dictionary by name; None takes what `retrain` and `ensemble` made last, or
                else the best model of the search.
            groups: a label per row, where rows of one group resemble each other (patients, users).
            confidence: of the intervals.
            verbose: 0 prints nothing; None: as in the search.

        Returns:
            An `Evaluation`: print it, or read `evaluation["accuracy"]` and `evaluation.scores`.

        Raises:
            UsageError: no models or rows, x, y or groups of different length, or a confidence outside (0, 1).

        Example: `print(tuner.evaluate(x_test, y_test))`; docs/confirm.md runs one.
        """
        check_names("evaluate(...)", options, tuple(EvaluateOptions.__annotations__))
        self.refresh()
        # No progress: what there is to see is what it returns.
        with self._display.speaking(verbose):
            return self._finish.evaluate(x, y, models, confidence=confidence, groups=groups, options=options)

    def to_script(self, trial: str | Trial | None = None) -> str:
        """A trial as a plain program of Keras that reproduces its score, without Manyfit.

        The model is written out layer by layer, then what it is compiled with, the seeds, and the order in which rows
        were read. The rows are read from a file that the program names; what of your own code it needs is said at its
        beginning. Scores agree to the rounding of single precision, on the same backend.

        Args:
            trial: a completed trial or its id; None: the best.

        Returns:
            The text: write it to a file and run that with Python.

        Raises:
            UsageError: nothing was searched in this process, a trial that was not completed, an estimator, a loop of
                your own, or rows that came from a pipeline.

        Example: `print(tuner.to_script("7"))`; docs/competitions.md runs one.
        """
        self.refresh()
        return self._finish.to_script(trial if trial is None or isinstance(trial, str) else trial.trial_id)

    @checked_arguments(folder=PATH)
    def export(self, folder: str | os.PathLike[str], model: Savable | None = None, *, overwrite: bool = False) -> Path:
        """Writes a final model with its values, seeds, versions, curves and a model card (`README.md`).

        Args:
            folder: where to; it is made.
            model: None takes the ensemble if there is one, else the first model of `retrain`, else the search's best.
            overwrite: whether files in the folder may be replaced.

        Returns:
            The folder.

        Raises:
            UsageError: the folder has files, or a model that this tuner did not make.

        Example: `tuner.export("winner", overwrite=True)`; docs/confirm.md runs one.
        """
        return self._finish.export(folder, model, overwrite=overwrite)
