"""A disk that fails at a write of a search: the first, the second, and so on, once or for good, and is mended then.

`python tests/faults.py` tries every write of every search and prints a table; `tests/store/test_fault_sweep.py` takes
some. A write is a file that gets its name, or a commit. What counts: whether an error has its four parts, whether what
was known is still known, whether it is run again, and whether the project is whole and says the same when reopened.
"""

from __future__ import annotations

import contextlib
import io
import sqlite3
import sys
import tempfile
from collections import Counter
from pathlib import Path

import manyfit as kt  # isort: skip

import keras
import numpy as np
import tiny

from manyfit.core.errors import ManyfitError, ProjectError
from manyfit.oracles.book import TrialBook
from manyfit.store import ProjectStore

_rng = np.random.default_rng(0)
X = _rng.normal(size=(40, 3)).astype("float32")
Y = (X.sum(1) > 0).astype("int32")
ROWS = {"x": X[:20], "y": Y[:20], "validation_data": (X[20:], Y[20:]), "verbose": 0}


class Disk:
    """Counts writes below a folder, and lets some of them fail.

    Args:
        folder: where.
        number: of the write that fails; None: none does.
        for_good: whether all after it fail, too.
        late: whether a commit is made all the same, and only its answer is lost.
    """

    def __init__(self, folder, number=None, *, for_good=False, late=False):
        self.folder, self.number, self.for_good, self.late = Path(folder), number, for_good, late
        self.num_writes = 0

    def _fails(self):
        number, self.num_writes = self.num_writes, self.num_writes + 1
        return self.number is not None and (number == self.number or (self.for_good and number > self.number))

    def __enter__(self):
        replace, transaction, disk = Path.replace, ProjectStore.transaction, self
        self._before = replace, transaction

        def failing_replace(path, target):
            if disk.folder in Path(target).absolute().parents and disk._fails():
                raise OSError(28, "No space left on device")
            return replace(path, target)

        @contextlib.contextmanager
        def failing_transaction(store):
            fails = disk._fails()
            if fails and not disk.late:
                raise ProjectError("project: got a full disk. Allowed: free space. Free some.")
            with transaction(store) as connection:
                yield connection
            if fails:
                raise ProjectError("project: got a full disk. Allowed: free space. Free some.")

        Path.replace, ProjectStore.transaction = failing_replace, failing_transaction
        return self

    def __exit__(self, *error):
        Path.replace, ProjectStore.transaction = self._before


def build(hp):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "sigmoid")])
    model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 1.0)), "binary_crossentropy")
    return model


def eager(hp):
    model = build(hp)
    model.compile(model.optimizer, "binary_crossentropy", run_eagerly=True)
    return model


def estimator(hp):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=hp.Float("C", 0.1, 1.0))


def _random(build, folder, **more):
    place = {"directory": folder, "project_name": "p", "seed": 1, "display": "plain"}
    return kt.RandomSearch(build, more.pop("objective", "val_loss"), max_trials=2, **place, **more)


def _sklearn(folder):
    oracle = kt.oracles.RandomSearchOracle(kt.Objective("score", "max"), max_trials=2, seed=1)
    return kt.SklearnTuner(oracle, estimator, directory=folder, project_name="p", cv=2, display="plain")


#: By name: what makes the tuner in a folder, and what searches.
SEARCHES = {
    "population": (
        lambda folder: _random(build, folder, population=True),
        lambda tuner: tuner.search(**ROWS, epochs=2, batch_size=10, predict=X[:5]),
    ),
    "model.fit": (
        lambda folder: _random(eager, folder, population=False, executions_per_trial=2, keras_tuner_files=True),
        lambda tuner: tuner.search(**ROWS, epochs=1, batch_size=20),
    ),
    "estimators": (lambda folder: _random(estimator, folder), lambda tuner: tuner.search(**ROWS)),
    "SklearnTuner": (_sklearn, lambda tuner: tuner.search(X, Y, verbose=0)),
}


def story(tuner):
    """What a search was, as far as the user can tell."""
    rows = [(row.trial_id, row.execution, row.seed, row.status, row.score) for row in tuner.results()]
    return rows, tuner.results().curves, tuner.oracle.end_order


def known(tuner):
    """The executions that the tuner knows as ended, with their scores."""
    found = {} if tuner is None else tuner.oracle.trials
    return {
        (name, number): run.score
        for name, trial in found.items()
        for number, run in trial.executions.items()
        if run.ending.has_score
    }


@contextlib.contextmanager
def watched():
    """Yields a list of the executions that end meanwhile."""
    found, add = [], TrialBook.add_executions

    def noting(book, results, **notes):
        found.extend((result.plan.trial_id, result.plan.execution) for result in results)
        return add(book, results, **notes)

    TrialBook.add_executions = noting
    try:
        yield found
    finally:
        TrialBook.add_executions = add


def survives(name, folder, number, **options):
    """What goes wrong in a search that a write fails in, and that is called again; None where it had fewer writes."""
    make, search = SEARCHES[name]
    wrong, tuner = [], None
    with Disk(folder, number, **options) as disk:
        try:
            tuner = make(folder)
            search(tuner)
        except ManyfitError as error:
            try:
                tiny.four_parts(error)
            except (AssertionError, ValueError):
                wrong.append(f"lacks parts: {error}"[:200])
        except Exception as error:
            wrong.append(f"raw {type(error).__name__}: {error}"[:200])
    assert disk.num_writes, wrong  # our bug: no search without a write
    if disk.num_writes <= number:
        if tuner is not None:
            tuner.close()
        return None
    before = known(tuner)
    try:
        tuner = tuner or make(folder)
        with watched() as again:
            search(tuner)
        redone = [key for key in again if key in before]
        wrong += [f"redone: {redone}"] if redone else []
        after, told = known(tuner), story(tuner)
        wrong += [f"lost: {key}" for key, score in before.items() if after.get(key) != score]
        tuner.close()
        with contextlib.closing(sqlite3.connect(Path(folder) / "p" / "manyfit.sqlite")) as connection:
            whole = connection.execute("PRAGMA integrity_check").fetchone()[0]
        wrong += [] if whole == "ok" else [f"integrity: {whole}"]
        tuner = make(folder)
        wrong += [] if story(tuner) == told else ["another story when reopened"]
        wrong += [] if len(told[2]) == 2 else [f"{len(told[2])} trials ended, not 2"]
        for trial in tuner.oracle.get_best_trials(2):
            if tuner.has_model(trial, 0):
                tuner.load_model(trial, 0)
    except Exception as error:
        wrong.append(f"afterwards {type(error).__name__}: {error}"[:200])
    finally:
        if tuner is not None:
            tuner.close()
    return wrong


def sweep(name, folder, options, stride=1, first=0):
    """Yields the number of each write that was tried, and what went wrong."""
    number = first
    while (wrong := survives(name, Path(folder) / f"{number}", number, **options)) is not None:
        yield number, wrong
        number += stride


WAYS = {"once": {}, "answer lost": {"late": True}, "for good": {"for_good": True}}


def main():
    asked = sys.argv[1:2] or list(SEARCHES)
    stride = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    print(f"{'search':14} {'the disk fails':14} {'writes':>6} {'held':>6}  what went wrong")
    for name in asked:
        for way, options in WAYS.items():
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                found = dict(sweep(name, folder, options, stride))
            kinds = Counter(text.split(":")[0] for wrong in found.values() for text in wrong)
            held = sum(not wrong for wrong in found.values())
            print(f"{name:14} {way:14} {len(found):6} {held:6}  {dict(kinds) or ''}", flush=True)
            for number, wrong in found.items():
                if wrong:
                    print(f"  write {number}: {wrong}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
