"""Arguments of `search` and `retrain`: checked before the first model is trained, and joined for a retraining."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np

from manyfit.core.checks import check_names, is_whole, whole_number, whole_number_or_none
from manyfit.core.errors import UsageError, explain
from manyfit.core.objective import Objective
from manyfit.core.signatures import is_number, is_one_of, is_truth
from manyfit.data.call import FIT_PARAMETERS, Call
from manyfit.data.kinds import (
    ENDLESS_GENERATOR,
    FRAMES,
    GENERATOR,
    GRAIN,
    KNOWN,
    NUMBERS,
    TORCH_LOADER,
    UNKNOWN,
    Ability,
    Kind,
    is_nested,
    kind_of,
    leaves,
)
from manyfit.data.rows import FitData, Rows

#: Arguments of `search` that make no sense once the validation rows are trained on.
VALIDATION_ARGUMENTS = frozenset(
    [
        "validation_data",
        "validation_split",
        "validation_freq",
        "validation_steps",
        "validation_batch_size",
    ]
)

#: Arguments that count something, with a value that people use.
_COUNTS = {"batch_size": 32, "steps_per_epoch": 100, "validation_steps": 10, "validation_batch_size": 32}


def check_call(call: Call, step: str = "search", *, takes_more: bool = False) -> None:
    """Refuses arguments that Keras's `fit` would stumble over in each trial, or take for something else.

    Args:
        call: of `search`, or of the step.
        step: that takes these arguments.
        takes_more: whether a `fit` of the user's may know further names.

    Raises:
        UsageError: an argument that `fit` does not have, or that is there twice; a count, a share of rows or an epoch
            out of its range; a `verbose`, `shuffle` or `validation_freq` that means nothing; callbacks that are none.
    """
    if not takes_more:
        check_names(f"{step}(...)", call.kwargs, FIT_PARAMETERS)
        _check_places(call)
    for name, usual in _COUNTS.items():
        instead = f"Type {name}={usual}, say, or leave it out."
        whole_number_or_none(f"{step}({name}=...)", call.get(name), instead=instead)
    whole_number(f"{step}(initial_epoch=...)", call.get("initial_epoch", 0), least=0, instead="Leave it out for 0.")
    share = call.get("validation_split", 0.0)
    if share is not None and (
        isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 <= float(share) < 1
    ):
        _refuse("validation_split", share, "a share of the rows: a number from 0 to below 1", "validation_split=0.2")
    _check_words(call)
    _check_callbacks(call)


def _check_places(call: Call) -> None:
    passed = FIT_PARAMETERS[: len(call.args)]
    if len(call.args) > len(FIT_PARAMETERS):
        got, allowed = (
            f"{len(call.args)} arguments without a name",
            f"at most {len(FIT_PARAMETERS)}, those of model.fit",
        )
        raise UsageError(explain("search(...)", got, allowed, "Name them: search(x, y, epochs=10)."))
    if twice := [name for name in passed if name in call.kwargs]:
        got = f"{twice[0]} twice: by its place and by its name"
        raise UsageError(explain("search(...)", got, "each argument once", f"Leave out {twice[0]}= or the other one."))


def _check_words(call: Call) -> None:
    verbose, shuffle = call.get("verbose"), call.get("shuffle")
    check_verbose("search", verbose)
    if not (shuffle is None or is_truth(shuffle) or is_one_of(shuffle, "batch")):
        _refuse("shuffle", shuffle, 'True, False or "batch"', "shuffle=True, or leave it out")
    frequency = call.get("validation_freq", 1)
    each = frequency if isinstance(frequency, list) else [frequency]
    if not each or not all(is_whole(one) and int(one) >= 1 for one in each):
        allowed = "a whole number of at least 1, or a list of epochs, counted from 1"
        _refuse("validation_freq", frequency, allowed, "validation_freq=1")


def check_verbose(step: str, verbose: object) -> None:
    """Refuses a `verbose` that means nothing.

    Raises:
        UsageError: it is that.
    """
    # "0", "1" and "2" are what settings from a command line look like.
    if not (verbose is None or is_one_of(verbose, 0, 1, 2, "auto", "0", "1", "2")):
        allowed, instead = '0, 1, 2 or "auto"', "Type verbose=0 for silence, say."
        raise UsageError(explain(f"{step}(verbose=...)", repr(verbose), allowed, instead))


def _check_callbacks(call: Call) -> None:
    for callback in call.callbacks:
        # By what Keras calls, so that this file needs no Keras.
        if isinstance(callback, type) or not hasattr(callback, "set_model"):
            instead = "callbacks=[keras.callbacks.EarlyStopping(patience=5)]"
            _refuse("callbacks", callback, "a callback, made by calling its class, or a list of these", instead)


def _refuse(name: str, got: object, allowed: str, instead: str) -> NoReturn:
    raise UsageError(explain(f"search({name}=...)", repr(got), allowed, f"Type {instead}, say."))


def check_data(call: Call, *, estimators: bool = False, takes_texts: bool = False) -> None:
    """Refuses data that no trial of a search could train or validate on.

    Args:
        call: of `search`.
        estimators: whether the build function returns estimators, which want arrays, and take lists and texts.
        takes_texts: whether models may take texts; Keras's do on TensorFlow only.

    Raises:
        UsageError: objects that Keras does not know, arrays of different length or without rows, texts; pipelines with
            y or weights besides, or with no end and no number of steps; data that can be read once only;
            `validation_data` without y, where x has some; a `validation_split` of pipelines, or one that leaves a part
            empty; `class_weight` that is no dict, or where Keras does not take it.
    """
    if call.x is None:
        if call.y is not None:
            raise UsageError(explain("search(x, y)", "y without x", "both, x alone, or neither", "Type search(x, y)."))
        return
    _check_weights(call.sample_weight, "search(sample_weight=...)")
    _check_rows(call.rows, "search(x, y)", "steps_per_epoch", estimators, takes_texts)
    if call.get("validation_data") is not None and (validation := call.validation_rows()) is not None:
        _check_rows(validation, "search(validation_data=(x, y))", "validation_steps", estimators, takes_texts)
        if call.y is not None and validation.y is None and not validation.kind.is_pipeline:
            got, allowed = f"{validation.describe()}, without y", "(x, y) or (x, y, sample_weight), or a pipeline"
            instead = "Type validation_data=(x_val, y_val)."
            raise UsageError(explain("search(validation_data=...)", got, allowed, instead))
    elif call.get("validation_split"):
        _check_split(call)
    if call.get("class_weight") is not None:
        _check_class_weight(call)


def not_finite(call: Call) -> str:
    """Says which of the arrays of a call hold numbers that are none, "" if none does: most models diverge on them."""
    found = []
    for name in ("x", "y", "sample_weight"):
        arrays = [leaf for leaf in leaves(call.get(name)) if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f"]
        if count := sum(int(leaf.size - np.isfinite(leaf).sum()) for leaf in arrays):
            found.append(f"{name} holds {count:,} numbers that are not finite")
    return ", ".join(found)


def _check_rows(rows: Rows, where: str, steps: str, estimators: bool, takes_texts: bool) -> None:
    _check_kinds(rows, where, estimators, takes_texts)
    if rows.kind.is_pipeline:
        _check_pipeline(rows, where, steps)
    rows.check_lengths(where)
    if rows.num_rows == 0:  # Keras would leave out what it has no rows for, metrics among it
        raise UsageError(explain(where, rows.describe(), "one row or more", "Pass rows, or leave them out."))


def _check_kinds(rows: Rows, where: str, estimators: bool, takes_texts: bool) -> None:
    for leaf in (leaf for part in rows.parts for leaf in leaves(part)):
        kind = kind_of(leaf)
        if kind is UNKNOWN or (kind is NUMBERS and not estimators):
            raise UsageError(explain(where, rows.describe(), f"what Keras takes: {KNOWN}", kind.instead))
        if Ability.TAKEN in kind.can and not (takes_texts or estimators) and _is_text(kind, leaf):
            got = f"{rows.describe()}, with texts or objects"
            instead = "Turn texts into numbers first: encode them, or look them up outside of the model."
            raise UsageError(explain(where, got, "numbers: Keras takes texts on TensorFlow only", instead))
    if estimators and rows.x is not None:
        rows.require(Ability.TAKEN, where)


def _is_text(kind: Kind, leaf: FitData) -> bool:
    # The columns of a frame have a type each, and Keras takes frames of numbers and truth values.
    if kind is FRAMES:
        types = leaf.dtypes if leaf.ndim == 2 else [leaf.dtype]
    else:
        types = [kind.as_array(kind.take(leaf, slice(0, 1))).dtype]  # one row tells
    return any(each.kind in "OUST" for each in types)


def _check_pipeline(rows: Rows, where: str, steps: str) -> None:
    if not kind_of(rows.x).is_pipeline or rows.y is not None or rows.sample_weight is not None:
        allowed = "a pipeline alone, whose batches are (x, y) or (x, y, sample_weight)"
        raise UsageError(explain(where, rows.describe(), allowed, "Put y and weights into the batches."))
    # A search reads its data once for each trial and epoch; the second time there would be nothing left.
    rows.require(Ability.READ_AGAIN, where)
    if rows.num_batches == math.inf:
        got = f"{rows.describe()}, without an end"
        raise UsageError(explain(where, got, f"a number of steps with it: {steps}=...", f"Add {steps}=100, say."))


def _check_weights(weights: FitData, where: str) -> None:
    for leaf in leaves(weights):
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
            raise UsageError(explain(where, "NaN or infinite weights", "finite numbers", "Leave rows out by 0.0."))


def _check_split(call: Call) -> None:
    fraction = call.get("validation_split")
    call.rows.require(Ability.TAKEN, "search(validation_split=...)", "Pass validation_data= besides the pipeline.")
    rows, training = call.num_rows or 0, call.training_rows().num_rows or 0
    if not 0 < training < rows:
        got = f"{fraction} of {rows} rows, which leaves {training} to train on and {rows - training} to validate on"
        raise UsageError(
            explain("search(validation_split=...)", got, "at least one row in each part", "Type validation_split=0.2.")
        )


def _check_class_weight(call: Call) -> None:
    where, rows, weights = "search(class_weight=...)", call.rows, call.get("class_weight")
    if not isinstance(weights, Mapping):
        _refuse("class_weight", weights, "a dict from class to weight", "class_weight={0: 1.0, 1: 3.0}")
    if not all(is_whole(one) and is_number(weight) and weight >= 0 for one, weight in weights.items()):
        allowed = "numbers of classes, each with a finite weight from 0"
        _refuse("class_weight", weights, allowed, "class_weight={0: 1.0, 1: 3.0}")
    if rows.sample_weight is not None:
        raise UsageError(explain(where, "sample_weight besides", "one of the two", "Multiply them into sample_weight."))
    if is_nested(rows.y):
        got, instead = "y with several outputs", "Pass sample_weight= with one array per output."
        raise UsageError(explain(where, got, "one array of classes", instead))
    if rows.kind in (TORCH_LOADER, GRAIN, GENERATOR, ENDLESS_GENERATOR):
        allowed = "arrays, a tf.data pipeline or a PyDataset"
        raise UsageError(explain(where, rows.describe(), allowed, "Put weights into the batches: (x, y, weight)."))


def check_fit_arguments(
    call: Call,
    objective: Objective,
    *,
    has_validation: bool = False,
    max_epochs: int | None = None,
) -> None:
    """Checks the arguments of `search` that `model.fit` would refuse, or silently accept, later.

    Args:
        call: of `search`.
        objective: what is ranked.
        has_validation: whether validation rows come from elsewhere (folds).
        max_epochs: of a trial, where a scheduler says so; None: as the arguments say.

    Raises:
        UsageError: no epochs, a `val_` objective without validation data, or one that no
            epoch measures (`validation_freq`).
    """
    validation_data = call.get("validation_data")
    epochs = whole_number("search(epochs=...)", call.get("epochs", 1), instead="Type epochs=10, say.")
    needs_validation = [name for name in objective.names if name.startswith("val_")]
    # Keras would train to the end and log no such metric; better said before the first epoch.
    if needs_validation and not has_validation and validation_data is None and not call.get("validation_split"):
        name = needs_validation[0]
        raise UsageError(
            explain(
                "search(...)",
                f'no validation data, with objective="{name}"',
                "validation_data= or validation_split=",
                f'Add validation_split=0.2, or type objective="{name.removeprefix("val_")}".',
            )
        )
    if needs_validation:
        _check_frequency(call.get("validation_freq", 1), epochs if max_epochs is None else max_epochs, needs_validation)


def _check_frequency(frequency: object, epochs: object, names: Sequence[str]) -> None:
    first = min(frequency, default=1) if isinstance(frequency, list | tuple | set) else frequency
    if not isinstance(first, int) or not isinstance(epochs, int) or first <= epochs:
        return
    raise UsageError(
        explain(
            "search(validation_freq=...)",
            f"validation_freq={frequency} with epochs={epochs}, so {names[0]} is never measured",
            "a first validation within the epochs of a trial",
            f"Type validation_freq=1, or epochs={first} or more.",
        )
    )


def check_retrain(top: object, rows: Rows, *, estimators: bool = False, takes_texts: bool = False) -> None:
    """Checks the arguments of `retrain`.

    Args:
        top: how many, or which trials.
        rows: the new data; those of None are the search's.
        estimators: as in `check_data`.
        takes_texts: as in `check_data`.

    Raises:
        UsageError: `top` is neither a number of at least 1 nor ids of trials, y without x, x and y of different
            length, or of kinds that cannot be trained on.
    """
    ids = isinstance(top, list | tuple) and len(top) > 0 and all(isinstance(one, str) for one in top)
    if not ids:
        allowed = "a whole number of at least 1, or a list of trial ids"
        whole_number("retrain(top=...)", top, allowed=allowed, instead="Type retrain(top=4), say.")
    if rows.x is None and rows.y is not None:
        raise UsageError(explain("retrain(x, y)", "y without x", "both or neither", "Add x=."))
    _check_kinds(rows, "retrain(x, y)", estimators, takes_texts)
    rows.check_lengths("retrain(x, y)")


def joined_rows(where: str, call: Call) -> Rows:
    """Training and validation rows of a search as one.

    Args:
        where: who asks, for messages.
        call: of the search.

    Raises:
        UsageError: they cannot be joined: see `Rows.join`.
    """
    validation = call.validation_rows()
    if validation is None or call.get("validation_data") is None:
        return call.rows  # `validation_split` holds out a part of these
    return call.rows.join(validation, where)
