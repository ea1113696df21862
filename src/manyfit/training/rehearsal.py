"""Code of the user's that is called once without training, to learn by which call of `fit` it would train.

A `HyperModel.fit` or a `run_trial` in its usual form *is* one call: it takes what it was given, puts in a batch size,
epochs or a callback, and returns what `model.fit` returns. Such a trial needs nobody's loop, and may train together
with others. Whether the form is the usual one is not told by reading the code but by running it: where it would train,
the call is taken down, and an object is answered that stands for curves which are still to come. If that very object
comes back, and nobody has looked at it or at the model meanwhile, then the rest of the code has decided nothing, and
the trial is that call.

Anything else is found, and the code then runs for real, as if it had not been tried: it calls `fit` twice, or never;
trains in a loop of its own; looks at the curves, changes the weights or saves the model afterwards; answers a number;
keeps what it was answered; raises. What it does before the call (compiles again, sets a learning rate, loads weights)
stays in the model, as it would. What cannot be found is what leaves no trace in either, such as a line that is printed
between the end of `fit` and the end of the function: it comes before the training instead of after it.
"""

from __future__ import annotations

import inspect
import sys
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import keras

from manyfit.data.call import Call
from manyfit.training.replay import Change, InPlaceOfTraining, seen_fits


class NotOneCall(Exception):
    """The code does more than to call `fit` and to return what that returns; the text says what, as in "it ..."."""


class Stopped(BaseException):
    """Ends a rehearsal in the middle of the user's code. Not an `Exception`: that code must not catch it."""


class Marker(keras.callbacks.Callback):
    """Stands among the callbacks that a user's `fit` is given, where a training has Manyfit's own."""


class Awaited:
    """What a rehearsed training answers: nobody knows yet, so whoever looks at it is stopped.

    Args:
        look: is called with what somebody wants to know.
    """

    __slots__ = ("__weakref__", "_look")

    def __init__(self, look: Callable[[str], NoReturn]) -> None:
        self._look = look

    def __getattribute__(self, name: str) -> Any:
        object.__getattribute__(self, "_look")(name)


def _asks(name: str) -> Callable[..., Any]:
    return lambda self, *_: object.__getattribute__(self, "_look")(name)


# Python looks these up on the class, past `__getattribute__`. Those that a plain object lacks fail by themselves.
for _name in ("bool", "eq", "ne", "hash", "str", "repr", "format", "len", "iter", "getitem", "float", "reduce_ex"):
    setattr(Awaited, f"__{_name}__", _asks(f"__{_name}__"))


class Rehearsal:
    """One call of the user's code, in which trainings are taken down. It is used once.

    Example:

    >>> rehearsal = Rehearsal()
    >>> def usual(*args, **kwargs):
    ...     return rehearsal.take(Call(args, {**kwargs, "epochs": 3}))
    >>> rehearsal.of(lambda: usual(batch_size=16)).kwargs
    {'batch_size': 16, 'epochs': 3}
    """

    def __init__(self) -> None:
        self._call: Call | None = None
        self._reason: str | None = None
        self._answer: weakref.ref[Awaited] | None = None
        self._watched: list[tuple[object, type]] = []  # with the class that each really has
        self._is_over = False

    def take(self, call: Call, watched: Sequence[object] = ()) -> Awaited:
        """Takes a call down in place of a training.

        Args:
            call: of `fit`.
            watched: what the training would change; nobody may look at these from now on.

        Returns:
            What stands for the answer.
        """
        if self._call is not None:
            self.stop("trains more than once")
        self._call = call
        for thing in watched:
            self._watch(thing)
        awaited = Awaited(self._look)
        self._answer = weakref.ref(awaited)
        return awaited

    def of(self, function: Callable[[], object], *owners: object) -> Call:
        """Calls a function, and finds out which call of `fit` it is.

        Args:
            function: is called once.
            owners: objects whose attributes it might set for what comes later, a build or a callback: by then another
                trial would have set them, too.

        Raises:
            NotOneCall: it does more than that, or something else.
        """
        before = [dict(vars(owner)) for owner in owners]
        try:
            returned = function()
        except (Exception, Stopped) as error:
            raise NotOneCall(self._reason or f"raised {type(error).__name__}") from error
        finally:
            self._is_over = True
            for thing, kind in self._watched:
                object.__setattr__(thing, "__class__", kind)
            self._watched.clear()
        if self._reason is None and self._call is None:
            self._reason = "does not call model.fit"
        if self._reason is None and returned is not self._awaited:
            self._reason = "returns something else than model.fit does"
        del returned
        # Python frees what nobody holds at once, so what is still there is held by somebody, who may look at it later.
        if self._reason is None and self._awaited is not None:
            self._reason = "keeps what model.fit returns"
        if self._reason is None and not all(map(_has_attributes, owners, before)):
            self._reason = "sets attributes of its object"
        if self._reason is not None:
            raise NotOneCall(self._reason)
        call, self._call = self._call, None
        assert call is not None  # our bug: without one there is a reason
        return call

    def stop(self, reason: str) -> NoReturn:
        """Ends the rehearsal: the code is not in its usual form."""
        self._reason = self._reason or reason
        raise Stopped

    @property
    def _awaited(self) -> Awaited | None:
        return None if self._answer is None else self._answer()

    def _look(self, name: str) -> NoReturn:
        if self._is_over:
            raise AttributeError(f"{name}: this is the answer of a training that was tried only; the next call trains")
        self.stop("looks at what model.fit returns")

    def _watch(self, thing: object) -> None:
        """Stops whoever asks for an attribute of an object, methods included, until the rehearsal is over."""
        kind = type(thing)
        # Only this text goes into the class below, which lives on for a while: the object itself would live with it.
        reason = f"uses the {'callbacks' if isinstance(thing, keras.callbacks.Callback) else 'model'} after fit"

        def look(_: object, name: str) -> NoReturn:
            del name
            self.stop(reason)

        # By another class of the same layout: what is set on an object itself Python would not ask.
        try:
            watching = types.new_class(kind.__name__, (kind,), exec_body=lambda body: body.update(_body(look)))
            object.__setattr__(thing, "__class__", watching)
        except TypeError:
            self.stop(f"uses a {kind.__name__}, which cannot be watched")
        self._watched.append((thing, kind))


def _has_attributes(owner: object, before: Mapping[str, object]) -> bool:
    now = vars(owner)
    return now.keys() == before.keys() and all(value is before[name] for name, value in now.items())


def _body(look: Callable[[object, str], NoReturn]) -> dict[str, Any]:
    return {"__slots__": (), "__getattribute__": look}


def mentions(function: Callable[..., Any], method: str) -> bool:
    """Whether the code of a function calls a method of this name, as far as can be told: a loop of its own does not.

    Example:

    >>> mentions(lambda model: model.fit(), "fit"), mentions(lambda model: model.predict(), "fit")
    (True, False)
    """
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is None or _mentions(code, method)


def _mentions(code: types.CodeType, method: str) -> bool:
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return method in code.co_names or any(_mentions(each, method) for each in inner)


def call_of_fit(
    fit: Callable[..., Any], values: object, model: keras.Model, given: Call, change: Change | None = None
) -> Call:
    """The call of `model.fit` that a user's `fit` is.

    Args:
        fit: `fit(hyperparameters, model, *args, **kwargs)`.
        values: the trial's hyperparameters; it may ask for more of them.
        model: as it was built; what `fit` does to it before the call stays.
        given: what `fit` is called with, callbacks as a list with a `Marker` in it.
        change: of the call that it makes.

    Returns:
        The call, its callbacks as a list without the `Marker`.

    Raises:
        NotOneCall: it is none, or one that cannot train beside others.
    """
    rehearsal = Rehearsal()
    callbacks = given.callbacks
    values_then: list[tuple[Any, Any]] = []

    def answer(trained: keras.Model, call: Call) -> Awaited:
        if trained is not model:
            rehearsal.stop("trains another model than the one that was built")
        values_then[:] = [(variable, variable.value) for variable in _variables(model)]
        return rehearsal.take(call, [model, *(one for one in call.callbacks if not isinstance(one, Marker))])

    def step() -> NoReturn:
        rehearsal.stop("trains in a loop of its own")

    def run() -> Any:
        passed = given.with_(callbacks=[*callbacks])  # a list that it may change
        return fit(values, model, *passed.args, **passed.kwargs)

    with seen_fits(change, InPlaceOfTraining(answer, step)):
        call = rehearsal.of(run, *([fit.__self__] if inspect.ismethod(fit) else []))
    # A layer that was at hand before may have been given weights behind the model's back.
    if any(variable.value is not value for variable, value in values_then):
        raise NotOneCall("changes weights after fit")
    # With the call, and the list in it, go the references to what was made for it.
    own, call = call.callbacks, call.with_(callbacks=None)
    _check_callbacks(own, callbacks)
    return call.with_(callbacks=own)


def _check_callbacks(callbacks: list[Any], given: Sequence[object]) -> None:
    """Takes the `Marker` out of a list of callbacks, and refuses those that other trials may hold, too.

    Args:
        callbacks: of a call that nobody holds any more.
        given: what the user's code was given.
    """
    num_callbacks = len(callbacks)
    callbacks[:] = [one for one in callbacks if not isinstance(one, Marker)]
    if len(callbacks) != num_callbacks - 1:
        raise NotOneCall("does not pass on the callbacks that it is given")
    known = {id(one) for one in given}
    # Each member needs its own. What is made in `fit` is; what somebody else holds as well may be given to all trials.
    alone = [object()]
    for place in range(len(callbacks)):
        if sys.getrefcount(callbacks[place]) > sys.getrefcount(alone[0]) and id(callbacks[place]) not in known:
            raise NotOneCall(f"trains with a {type(callbacks[place]).__name__} that was made outside of it")


def _variables(model: keras.Model) -> list[Any]:
    optimizer = getattr(model, "optimizer", None)
    return [*model.variables, *([] if optimizer is None else optimizer.variables)]
