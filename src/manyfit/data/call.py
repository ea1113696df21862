"""The record of one call of `fit`.

A trial, a fold, a confirmation and a retrained winner are all trained by the same call with named changes: other rows,
other epochs, further callbacks. `Call` keeps what was passed and says what it means; `with_` makes the changed one.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from manyfit.core.errors import FatalValueError, UsageError, explain
from manyfit.data.kinds import ENDLESS_GENERATOR, Kind, unpacked
from manyfit.data.rows import FitData, Rows, Split

#: The parameters of `keras.Model.fit`, in their order. Written out, so that this file needs no Keras.
FIT_PARAMETERS = (
    "x",
    "y",
    "batch_size",
    "epochs",
    "verbose",
    "callbacks",
    "validation_split",
    "validation_data",
    "shuffle",
    "class_weight",
    "sample_weight",
    "initial_epoch",
    "steps_per_epoch",
    "validation_steps",
    "validation_batch_size",
    "validation_freq",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """What `fit` is called with, as the user gave it, and what that means.

    The arguments stay as they were passed, positional ones positional: a user's own `HyperModel.fit` is called with
    them, too, and may name its parameters as it likes. What is asked for by name is found in either place.

    Args:
        args: positional arguments; the first two are x and y, whatever the user's own function calls them.
        kwargs: keyword arguments.
        names: of the positional arguments; see `of`.

    Example:

    >>> import numpy as np
    >>> call = Call((np.zeros((4, 1)), np.zeros(4), 2), {"epochs": 3})
    >>> call.get("batch_size"), call.get("epochs"), call.num_rows
    (2, 3, 4)
    >>> call.with_(epochs=5, batch_size=4).args[2:], call.with_(epochs=5).kwargs
    ((4,), {'epochs': 5})
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    names: tuple[str, ...] = FIT_PARAMETERS

    @classmethod
    def of(cls, fit: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """The record of a call of a user's own function.

        Args:
            fit: `fit(hyperparameters, model, *args, **kwargs)`; None: Keras's.
            args: positional arguments after the model.
            kwargs: keyword arguments.
        """
        if fit is None:
            return cls(args, kwargs)
        own = [
            parameter.name
            for parameter in inspect.signature(fit).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ][2:]
        # What goes on into `*args` goes on to Keras's `fit`, as a rule.
        return cls(args, kwargs, tuple(own) + FIT_PARAMETERS[len(own) :])

    @property
    def x(self) -> FitData:
        """The inputs; None where there are none."""
        return self.get("x")

    @property
    def y(self) -> FitData:
        """The targets; None where there are none, or where x brings them along."""
        return self.get("y")

    @property
    def sample_weight(self) -> FitData:
        """One weight per row, or None."""
        return self.get("sample_weight")

    @property
    def rows(self) -> Rows:
        """What it was given to train on, those rows included that `validation_split` holds out."""
        return Rows(self.x, self.y, self.sample_weight, self.get("steps_per_epoch"))

    @property
    def num_rows(self) -> int | None:
        """Rows of x, those included that `validation_split` holds out; None where there is no telling."""
        return self.rows.num_rows

    @property
    def callbacks(self) -> list[Any]:
        """The user's callbacks as a list, whichever way they were given."""
        given = self.get("callbacks")
        if given is None:
            return []
        # By name, so that this file needs no Keras; a callback of the user's may well have an attribute `callbacks`.
        if type(given).__name__ == "CallbackList":
            return list(given.callbacks)
        return list(given) if isinstance(given, list | tuple) else [given]

    @property
    def arguments(self) -> dict[str, Any]:
        """What was passed, by name, positional arguments first."""
        return {**dict(zip(self._names, self.args, strict=False)), **self.kwargs}

    def get(self, name: str, default: FitData = None) -> FitData:
        """An argument by its name; `default` where it was not passed."""
        place = self._place(name)
        return self.kwargs.get(name, default) if place is None else self.args[place]

    def with_(self, *, rows: Split | Rows | None = None, without: Collection[str] = (), **changes: object) -> Call:
        """The same call with changes; each argument stays positional or keyword, as it was passed.

        Args:
            rows: a split: train and validate on these rows of x, y and sample weights; or other rows to train on.
            without: arguments to leave out, so that the default holds; those that were not passed are no error.
            **changes: arguments by name.

        Example:

        >>> import numpy as np
        >>> call = Call((np.arange(4), np.arange(4)), {"validation_split": 0.5})
        >>> call.with_(rows=Split(np.array([0, 1]), np.array([3]))).get("validation_data")
        (array([3]), array([3]))
        """
        call = self if rows is None else self._of_rows(rows)
        call = call._without(without) if without else call  # noqa: SLF001  # another object of the same class
        args, kwargs = list(call.args), dict(call.kwargs)
        for name, value in changes.items():
            place = call._place(name)  # noqa: SLF001  # another object of the same class
            if place is not None:
                args[place] = value
            elif name not in kwargs and self._is_next(name, args):
                args.append(value)
            else:
                kwargs[name] = value
        return dataclasses.replace(self, args=tuple(args), kwargs=kwargs)

    def training_rows(self) -> Rows:
        """The rows that `model.fit` would train on."""
        first = self._first_held_out()
        return self.rows if first is None else self.rows.take(slice(None, first))

    def validation_rows(self) -> Rows | None:
        """The rows that `model.fit` would validate on, whichever way they were given; None where there are none.

        Raises:
            UsageError: `validation_data` is a list or tuple of another length than 1, 2 or 3.
        """
        validation = self.get("validation_data")
        if validation is not None:
            try:
                return Rows(*unpacked(validation), self.get("validation_steps"))
            except ValueError as error:
                got, allowed = (
                    f"a {type(validation).__name__} of {error}",
                    "(x, y), (x, y, sample_weight) or a pipeline",
                )
                instead = "Type validation_data=(x_val, y_val)."
                raise UsageError(explain("search(validation_data=...)", got, allowed, instead)) from error
        first = self._first_held_out()
        return None if first is None else self.rows.take(slice(first, None))

    @property
    def kinds(self) -> set[Kind]:
        """The kinds of what it trains and validates on."""
        return self.rows.kinds | (set() if (held_out := self.validation_rows()) is None else held_out.kinds)

    def guarded(self) -> Call:
        """The same call, whose generators may not end: with a number of steps a generator promises to go on for ever.

        One that ends would leave fewer batches to each execution than to the one before it. Nothing can tell before
        that it will, so its end ends the search.
        """
        changes: dict[str, Any] = {}
        if self.rows.kind is ENDLESS_GENERATOR:
            changes["x"] = _going_on(self.x, "search(x, steps_per_epoch=...)")
        validation = self.validation_rows()
        if validation is not None and validation.kind is ENDLESS_GENERATOR:
            where = "search(validation_data=..., validation_steps=...)"
            changes["validation_data"] = _going_on(validation.x, where)
        return self.with_(**changes)

    def _first_held_out(self) -> int | None:
        """The first row that `validation_split` holds out; None where it holds out none, or nobody can tell."""
        fraction, rows = self.get("validation_split"), self.num_rows
        if not fraction or self.get("validation_data") is not None or rows is None:
            return None
        return int(rows * (1.0 - fraction))  # Keras takes the last rows, and rounds like this

    def counted_rows(self) -> tuple[int, int] | None:
        """How many rows it trains and validates on; None where there is no telling."""
        training, validation = self.training_rows().num_rows, self.validation_rows()
        held_out = 0 if validation is None else validation.num_rows or 0
        return None if training is None else (training, held_out)

    def _place(self, name: str) -> int | None:
        """Where among the positional arguments it is; None: it is not."""
        if name in ("x", "y"):
            place = ("x", "y").index(name)
            return place if place < len(self.args) else None
        passed = self.names[2 : len(self.args)]
        return 2 + passed.index(name) if name in passed else None

    @staticmethod
    def _is_next(name: str, args: list[Any]) -> bool:
        """Whether it is x or y and its place is the next one: a user's function may call these two otherwise."""
        return name in ("x", "y")[len(args) : len(args) + 1]

    def _of_rows(self, rows: Split | Rows) -> Call:
        if isinstance(rows, Rows):
            given = dict(zip(("x", "y", "sample_weight"), rows.parts, strict=True))
            known = {name: part for name, part in given.items() if part is not None}
            return self.with_(without=set(given) - set(known), **known)
        trained, held_out = self.rows.take(rows.training), self.rows.take(rows.validation)
        validation = tuple(part for part in held_out.parts if part is not None)
        return self._of_rows(trained).with_(without=("validation_split",), validation_data=validation)

    def _without(self, names: Collection[str]) -> Call:
        kwargs = {name: value for name, value in self.kwargs.items() if name not in names}
        places = [place for place in map(self._place, names) if place is not None]
        first = min(places, default=len(self.args))
        # What comes behind a positional argument that is gone has to be named, or it would move into its place.
        behind = dict(zip(self._names[first:], self.args[first:], strict=False))
        kwargs |= {name: value for name, value in behind.items() if name not in names}
        return dataclasses.replace(self, args=self.args[:first], kwargs=kwargs)

    @property
    def _names(self) -> tuple[str, ...]:
        return ("x", "y", *self.names[2:])


def _going_on(batches: Iterator[FitData], where: str) -> Iterator[FitData]:
    count = 0
    for batch in batches:
        yield batch
        count += 1
    got = f"a generator that came to an end after {count} batches"
    allowed = "a generator that goes on for ever: every trial and every epoch reads on where the one before it stopped"
    raise FatalValueError(explain(where, got, allowed, ENDLESS_GENERATOR.instead))
