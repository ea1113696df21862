"""What an execution was really trained with, and how a later one is trained with the same.

What reaches `model.fit` need not be what `search` was called with: a `HyperModel.fit` or a `run_trial` of the user's
may put in another batch size, callbacks of its own, other rows. So calls are looked at where they arrive, at Keras's
own `fit`, and what is found there is recorded with the execution: simple arguments as they are, data and objects by
what they were. The same door serves the other way: a retraining lets the user's code run as it ran in the search, and
has the number of epochs and the like changed where it calls `fit`.

The learning rate is recorded, too, where a callback moves it. What moved it because of validation rows has nothing to
look at when all rows are trained on; then the recorded curve stands in for it.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import keras

from manyfit.core.records import Plan
from manyfit.core.shared_context import SharedContext
from manyfit.data.call import Call
from manyfit.data.rows import Rows

Facts: TypeAlias = Mapping[str, Any]
"""A call as JSON keeps it: `arguments` by name, `objects` by name with what they were, `num_fits`."""

Change: TypeAlias = Callable[[Call], Call]
"""Makes of a call of `fit` the one that is made instead."""

MakeCallbacks: TypeAlias = Callable[[Plan], list[Any]]
"""Makes callbacks of Manyfit's own for an execution."""

CALLED, FITTED, FITTED_EPOCHS = "fit", "fit inside", "epochs inside"
"""Names of notes on an execution: facts of the call that it was trained by; of those that a `HyperModel.fit` of the
user's made of it; after how many epochs each `fit` of a user's own loop was best, where what it returned has no epochs.
"""

ORDERED = "batch order"
"""The note of an execution whose rows were read in an order that follows from a seed of its own: the seed."""

RATE = "learning_rate"
"""Under this name the rate stands in the logs, also those of Keras's own callbacks."""

_SIMPLE = (bool, int, float, str)

DATA = ("x", "y", "sample_weight", "validation_data")
"""The arguments of `fit` that are rows."""

# Arguments that are never told by their value, however simple it is; and one that is nobody's business later.
_OBJECTS = (*DATA, "callbacks")
_UNRECORDED = ("verbose",)


# At the door of `fit` --------------------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class SeenFit:
    """A call of `keras.Model.fit`.

    Attributes:
        call: as it came, before it was changed.
        history: the curves that it returned; empty where it raised.
    """

    call: Call
    history: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class InPlaceOfTraining:
    """What happens in a rehearsal where the user's code would train.

    Attributes:
        fit: is called with the model and the call of `fit`, and answers in its place.
        step: is called where a loop of the user's own makes a step.
    """

    fit: Callable[[keras.Model, Call], Any]
    step: Callable[[], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class _Door:
    change: Change | None
    instead: InPlaceOfTraining | None
    seen: list[SeenFit]


# One per thread, or a paused training would see what another thread trains meanwhile.
_door: contextvars.ContextVar[_Door | None] = contextvars.ContextVar("door", default=None)


@contextlib.contextmanager
def seen_fits(change: Change | None = None, instead: InPlaceOfTraining | None = None) -> Iterator[list[SeenFit]]:
    """Within it, calls of `keras.Model.fit` from this thread are seen, and changed where `change` is given.

    Args:
        change: of a call.
        instead: what happens in its place; calls are not in the list then, since who answers them takes them.

    Example:

    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> with seen_fits(lambda call: call.with_(epochs=3)) as seen:
    ...     found = model.fit(np.ones((4, 1)), np.ones(4), batch_size=2, epochs=1, verbose=0)
    >>> seen[0].call.get("batch_size"), seen[0].call.get("epochs"), len(found.epoch)
    (2, 1, 3)
    """
    door = _Door(change, instead, [])
    token = _door.set(door)
    try:
        with contextlib.ExitStack() as asking:
            for each in (_FIT,) if instead is None else (_FIT, *_STEPS):
                asking.enter_context(each.inside())
            yield door.seen
    finally:
        _door.reset(token)


def _asking(fit: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fit)
    def asking(model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        door = _door.get()
        if door is None:
            return fit(model, *args, **kwargs)
        call = Call(args, kwargs)
        if door.instead is not None:
            return door.instead.fit(model, call if door.change is None else door.change(call))
        seen = SeenFit(call)
        door.seen.append(seen)
        if door.change is not None:
            call = door.change(call)
        returned = fit(model, *call.args, **call.kwargs)
        seen.history = dict(getattr(returned, "history", {}))
        return returned

    return asking


def _stepping(step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(step)
    def stepping(*args: Any, **kwargs: Any) -> Any:
        door = _door.get()
        return step(*args, **kwargs) if door is None or door.instead is None else door.instead.step()

    return stepping


@contextlib.contextmanager
def _replaced(owner: type, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """A method that the class inherits is ours: to take it away again leaves Keras as it was."""
    setattr(owner, name, make(getattr(owner, name)))
    yield
    delattr(owner, name)


_FIT = SharedContext(lambda: _replaced(keras.Model, "fit", _asking))
_STEPS = (
    SharedContext(lambda: _replaced(keras.Model, "train_on_batch", _stepping)),
    SharedContext(lambda: _replaced(keras.optimizers.Optimizer, "apply", _stepping)),
)


# Records of calls ------------------------------------------------------------------------------------------------


def facts_of(calls: Sequence[Call]) -> Facts:
    """What can be stored of the calls that trained one execution: of several, what all of them were called with.

    Example:

    >>> import numpy as np
    >>> facts_of([Call((np.zeros((4, 2)), np.zeros(4)), {"batch_size": 2, "class_weight": {0: 1.0, 1: 3.0}})])
    {'arguments': {'batch_size': 2, 'class_weight': [[0, 1.0], [1, 3.0]]}, 'objects': {'x': 'ndarray of 4 rows', \
'y': 'ndarray of 4 rows'}, 'num_fits': 1}
    """
    found = common(calls).arguments
    simple = {name: kept for name, value in found.items() if (kept := _simple(name, value)) is not None}
    objects = {name: _named(value) for name, value in found.items() if value is not None and name not in simple}
    if "callbacks" in objects:
        theirs = [type(one).__name__ for one in calls[0].callbacks if not is_ours(one)]
        objects = {**objects, "callbacks": ", ".join(theirs)}
    objects = {name: text for name, text in objects.items() if text and name not in _UNRECORDED}
    return {"arguments": simple, "objects": objects, "num_fits": len(calls)}


def common(calls: Sequence[Call]) -> Call:
    """What several calls have in common: an argument that another of them lacks, or has otherwise, is left out."""
    if len(calls) < 2:
        return calls[0] if calls else Call()
    others = [call.arguments for call in calls[1:]]
    shared = {
        name: value
        for name, value in calls[0].arguments.items()
        if all(name in other and _same(name, value, other[name]) for other in others)
    }
    return Call((), shared)


def is_ours(callback: object) -> bool:
    """Whether a callback is one of Manyfit's, which stand in the calls that reach Keras."""
    return type(callback).__module__.startswith("manyfit.")


def _same(name: str, one: object, other: object) -> bool:
    if one is other:
        return True
    simple = _simple(name, one)
    return simple is not None and simple == _simple(name, other)


def _named(value: object) -> str:
    rows = Rows(value).num_rows
    return type(value).__name__ + ("" if rows is None else f" of {rows} rows")


def recorded_call(facts: Facts, like: Call) -> Call:
    """The call that facts tell of, with the data and the objects of another one.

    Args:
        facts: see `facts_of`.
        like: brings what facts have by name only.
    """
    known = dict(facts["arguments"])
    if isinstance(known.get("class_weight"), list):  # JSON knows no numbers as keys
        known["class_weight"] = dict(map(tuple, known["class_weight"]))
    # What was not given then is not given now; but data and objects are the other's, whatever it has of them.
    gone = [name for name, value in like.arguments.items() if name not in known and _simple(name, value) is not None]
    return like.with_(without=gone, **known)


def _simple(name: str, value: object) -> Any:
    """An argument as JSON keeps it; None where it is told by its name only."""
    return None if name in _OBJECTS or name in _UNRECORDED else _as_json(value)


def _as_json(value: object) -> Any:
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a number of NumPy's
        value = value.item()
    if isinstance(value, _SIMPLE):
        return value
    parts: list[Any] | None = None
    if isinstance(value, Mapping):
        parts = [[_as_json(key), _as_json(part)] for key, part in value.items()]
        return None if any(part is None for pair in parts for part in pair) else parts
    if isinstance(value, list | tuple | set | frozenset):
        parts = list(map(_as_json, value))
        return None if any(part is None for part in parts) else parts
    return None


# The learning rate -----------------------------------------------------------------------------------------------


class RateWatch(keras.callbacks.Callback):
    """Writes the learning rate of each epoch into its logs, from the first one on in which it is another.

    Keras's `ReduceLROnPlateau` and `LearningRateScheduler` do so themselves; this is for callbacks of the user's.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first: float | None = None
        self._rate: float | None = None
        self._has_moved = False

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        del logs
        self._first = None if follows_schedule(self.model) else float(self.model.optimizer.learning_rate)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        del epoch, logs
        if self._first is None:
            return
        self._rate = float(self.model.optimizer.learning_rate)
        self._has_moved = self._has_moved or self._rate != self._first

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        del epoch
        if self._has_moved and logs is not None:
            logs.setdefault(RATE, self._rate)


class ReplayedRate(keras.callbacks.Callback):
    """Gives each epoch the learning rate that a recorded training had when as much of it was over.

    Args:
        rates: of the recorded epochs; None where it is not known, which means that it had not moved.
        num_epochs: of this training; longer ones walk the same path more slowly.
        first_epoch: where this training begins.
    """

    def __init__(self, rates: Sequence[float | None], num_epochs: int, first_epoch: int = 0) -> None:
        super().__init__()
        self._rates = list(rates)
        self._num_epochs = num_epochs
        self._first_epoch = first_epoch

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        del logs
        share = (epoch - self._first_epoch) / self._num_epochs
        known = [rate for rate in self._rates[: min(int(share * len(self._rates)), len(self._rates) - 1) + 1] if rate]
        if known:
            self.model.optimizer.learning_rate = known[-1]


def follows_schedule(model: keras.Model) -> bool:
    """Whether a model's optimizer has a schedule in the place of a number for its learning rate; or has no rate."""
    if not hasattr(getattr(model, "optimizer", None), "learning_rate"):
        return True
    try:
        return isinstance(model.optimizer.get_config().get(RATE), Mapping)
    except Exception:  # an optimizer of the user's without a configuration: nothing is known of it
        return True


def rate_of_run(history: Mapping[str, Sequence[float | None]], num_epochs: int) -> list[float | None] | None:
    """The learning rates of the first epochs of a run; None where it never moved in them."""
    rates = list(history.get(RATE, ()))[:num_epochs]
    known = {rate for rate in rates if rate is not None}
    moved = len(known) > 1 or (len(known) == 1 and rates[0] is None)
    return rates if moved else None


def may_move_rate(callback: object) -> bool:
    """Whether a callback may set the learning rate: all may but those of Keras's that are known not to."""
    return type(callback) not in _NEVER_MOVE


_NEVER_MOVE = (
    keras.callbacks.BackupAndRestore,
    keras.callbacks.CSVLogger,
    keras.callbacks.EarlyStopping,
    keras.callbacks.History,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.SwapEMAWeights,
    keras.callbacks.TensorBoard,
    keras.callbacks.TerminateOnNaN,
)


def reacts_to_validation(callback: object) -> bool:
    """Whether a callback looks at a metric that is not there, or means something else, when all rows are trained on.

    Keras's name it in `monitor`: one that monitors a metric of the training ("loss") sees it in a retraining, too, and
    needs nothing else. Those of users that say `logs["val_loss"]` in their code, or keep such a name, look at it.
    """
    if not isinstance(getattr(callback, "monitor", ""), str):  # how that names metrics, nobody knows
        return True
    kept = [value for value in vars(callback).values() if isinstance(value, str)]
    hooks = [getattr(callback, name, None) for name in dir(type(callback)) if name.startswith("on_")]
    texts = [text for hook in hooks for text in _texts(getattr(hook, "__code__", None))]
    return any(text.startswith("val_") for text in [*kept, *texts])


def _texts(code: object) -> list[str]:
    """The texts that stand in a function's code, those of functions within it included."""
    constants = getattr(code, "co_consts", ())
    inner = [text for each in constants if hasattr(each, "co_consts") for text in _texts(each)]
    return [each for each in constants if isinstance(each, str)] + inner


def watched(make: MakeCallbacks | None, callbacks: Sequence[object]) -> MakeCallbacks | None:
    """What makes an execution's further callbacks, with one that records the rate where any may move it."""
    unrecorded = [one for one in callbacks if may_move_rate(one) and type(one) not in _RECORD_THEMSELVES]
    return functools.partial(_with_watch, make) if unrecorded or make is not None else make


def _with_watch(make: MakeCallbacks | None, plan: Plan) -> list[Any]:
    return [*([] if make is None else make(plan)), RateWatch()]


_RECORD_THEMSELVES = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)
