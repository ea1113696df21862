"""Every file of a finished project is cut, flipped, emptied or of another time: what do readers make of it?

`python tests/damages.py [part of a name] [stride]` prints a table of all; `tests/store/test_damages.py` takes some. A
damage is *harmless* where everything that is read is as it was, *told* where an error of four parts or a warning says
so, *raw* where another exception comes out, and *silent* where something is read that was never written. A file that
stands for itself (a winner, what a `fit` has spent, a whole database) and was put in the place of another is one that
somebody has chosen, so that is *harmless*, too.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import manyfit as kt  # isort: skip

import keras
import numpy as np
import tiny

from manyfit.core.errors import ManyfitError
from manyfit.fitting import winner_files
from manyfit.fitting.card import WinnerCard
from manyfit.fitting.record import FitRecord
from manyfit.fitting.winner_files import WinnerFacts

_rng = np.random.default_rng(0)
X = _rng.normal(size=(60, 3)).astype("float32")
Y = (X.sum(1) > 0).astype("int32")
ROWS = {"x": X[:40], "y": Y[:40], "validation_data": (X[40:], Y[40:])}


def build(hp):
    rate = hp.Float("rate", 0.01, 1.0)
    if not isinstance(rate, float):  # of a trial that somebody changed; Keras's words on it are not ours
        raise kt.errors.FailedTrialError(f"a rate of {rate!r}")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "sigmoid")])
    model.compile(keras.optimizers.SGD(rate), "binary_crossentropy", run_eagerly=True)
    return model


def tuner_of(folder):
    place = {"directory": folder, "project_name": "search", "seed": 1, "keras_tuner_files": True}
    return kt.RandomSearch(build, "val_loss", max_trials=3, population=False, **place)


def make(folder, seed=0):
    """A project with all that a project may have, and what is written outside of one."""
    keras.utils.set_random_seed(seed)
    tuner = tuner_of(folder)
    tuner.search(**ROWS, epochs=2, batch_size=20, verbose=0, predict=X[:7])
    models = tuner.get_best_models(2)
    ensemble = tuner.ensemble(models, method="uniform")
    ensemble.save(folder / "ensemble")
    model = models[0]
    card = WinnerCard(f"A model of seed {seed}.", ("It is small.",), {"search": 1.0}, "trials", ())
    facts = WinnerFacts(card, number=seed)
    winner_files.save(folder / "winner", model, model, facts)
    winner_files.save(folder / "pooled", None, ensemble, facts)
    winner_files.write_weights(folder / "winner.npz", model, model.get_weights(), facts)
    winner_files.save(folder / "estimator", None, [1, 2, seed], facts)
    winner_files.save(folder / "search" / "winner" / "winner", model, model, facts)
    FitRecord(folder / "search" / "winner").note({"search": 3.0 + seed}, at=0.0, finished=True)
    tuner.close()


def _model(model):
    return [weight.tobytes() for weight in model.get_weights()]


def _opened(folder, read):
    tuner = tuner_of(folder)
    try:
        return read(tuner)
    finally:
        tuner.close()


def _results(tuner):
    rows = [(row.trial_id, row.seed, row.status, row.score, dict(row.values)) for row in tuner.results()]
    return rows, tuner.results().curves, tuner.oracle.end_order


def _foretold(tuner):
    ensemble = tuner.ensemble(method="uniform")
    return [np.asarray(member.predictions).tobytes() for member in ensemble.members]


def _winner(path):
    winner = kt.load_winner(path, trust=True)
    predictor = winner.ensemble or winner.model
    return str(winner), np.asarray(predictor.predict(X) if winner.ensemble else predictor(X)).tobytes()


def _estimator(path):
    found, facts = winner_files.load(path, trust=True)
    return found, facts and facts.card.text()


def _best(tuner):
    return [_model(tuner.load_model(tuner.oracle.trials[trial.trial_id])) for trial in tuner.oracle.get_best_trials(3)]


#: What is read, by the beginning of the names of the files that it rests on.
READERS = {
    "results": ("search/manyfit", lambda folder: _opened(folder, _results)),
    "snapshot": ("search/manyfit", lambda folder: [str(row) for row in kt.open_project(folder / "search").results()]),
    "models": (("search/weights", "search/manyfit"), lambda folder: _opened(folder, _best)),
    "kept predictions": (("search/predictions", "search/manyfit"), lambda folder: _opened(folder, _foretold)),
    "ensemble": ("ensemble", lambda folder: np.asarray(kt.Ensemble.load(folder / "ensemble").predict(X)).tobytes()),
    "winner": ("winner.keras", lambda folder: _winner(folder / "winner.keras")),
    "winner's weights": ("winner.npz", lambda folder: _winner(folder / "winner.npz")),
    "pooled winner": ("pooled", lambda folder: _winner(folder / "pooled")),
    "estimator": ("estimator", lambda folder: _estimator(folder / "estimator.pickle")),
    "winner of the project": ("search/winner", lambda folder: _winner(folder / "search")),
    "seconds of fit": ("search/winner", lambda folder: FitRecord(folder / "search" / "winner").read().seconds),
}


def damages(content: bytes, other: bytes | None, stride: int = 1):
    """Name and content of damaged versions of a file."""
    size = len(content)
    places = sorted({size * part // 10 for part in range(10)} | {1, size // 2, max(0, size - 1), max(0, size - 40)})
    found = [("emptied", b""), ("zeroed", bytes(size))]
    found += [(f"cut at {place}", content[:place]) for place in places if 0 < place < size]
    for place in places:
        if place < size:
            found.append((f"flipped at {place}", content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]))
    if other is not None and other != content:
        found.append(("of another time", other))
    return [one for number, one in enumerate(found) if number % stride == 0 or one[0] == "of another time"]


def read(reader, folder):
    """What comes out: "told", "raw", or what is read and whether something was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = reader(folder)
        except ManyfitError as error:
            try:
                tiny.four_parts(error)
            except (AssertionError, ValueError):
                return "raw", f"lacks parts: {error}"[:200]
            return "told", ""
        except Exception as error:
            return "raw", f"{type(error).__name__}: {error}"[:200].replace("\n", " ")
    return ("said" if any("Manyfit" in str(w.message) or w.category is UserWarning for w in said) else "read"), found


# The last: a card of an ensemble that was written twice within a second, byte for byte the same, is of both.
STANDS_ALONE = ("winner.keras", "winner.npz", "fit.json", "manyfit.sqlite", "manyfit.json")


def verdict(reader, folder, wanted, file, damage):
    kind, found = read(reader, folder)
    if damage == "of another time" and file.name in STANDS_ALONE and kind == "read":
        return "harmless", ""
    if kind in ("told", "raw"):
        return kind, found
    if found == wanted:
        return "harmless", ""
    return ("told", "") if kind == "said" else ("silent", repr(found)[:150])


def sweep(folder: Path, stride: int = 1, only: str = ""):
    """Tries all damages; yields file, damage, reader, verdict, detail."""
    whole, other = folder / "whole", folder / "other"
    make(whole, 0), make(other, 1)
    wanted = {name: read(reader, whole) for name, (_, reader) in READERS.items()}
    assert all(kind == "read" for kind, _ in wanted.values()), wanted
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    for file in files:
        if only not in file.as_posix() or file.name.startswith("manyfit.lock"):
            continue
        content = (whole / file).read_bytes()
        another = (other / file).read_bytes() if (other / file).exists() else None
        for damage, bad in damages(content, another, stride):
            for name, (begins, reader) in READERS.items():
                if not file.as_posix().startswith(begins):
                    continue
                here = folder / "here"
                shutil.rmtree(here, ignore_errors=True)
                shutil.copytree(whole, here)
                (here / file).write_bytes(bad)
                yield file.as_posix(), damage, name, *verdict(reader, here, wanted[name][1], file, damage)


def main():
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    stride = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    found, shown = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for file, damage, reader, kind, detail in sweep(Path(folder), stride, only):
            found.setdefault(file, Counter())[kind] += 1
            if kind in ("raw", "silent"):
                shown.append(f"{kind}: {file} {damage}, {reader}: {detail}")
    print(*shown, sep="\n", file=sys.stderr)
    print(f"{'file':42} {'harmless':>8} {'told':>8} {'raw':>8} {'silent':>8}")
    for file, counts in found.items():
        print(f"{file:42} " + " ".join(f"{counts[kind]:8}" for kind in ("harmless", "told", "raw", "silent")))
    total = sum(found.values(), Counter())
    print(f"{'all':42} " + " ".join(f"{total[kind]:8}" for kind in ("harmless", "told", "raw", "silent")))


if __name__ == "__main__":
    main()
