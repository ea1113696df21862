"""The contract of trainers.

A trainer *pulls* executions from a supply and reports back to it. Pulling, rather than being handed a fixed list,
is what lets a population refill the slot of a member that ended early with the next trial.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from manyfit.core.causes import cause_of
from manyfit.core.clock import Clock
from manyfit.core.errors import FatalError
from manyfit.core.history import History, why_diverged
from manyfit.core.limits import NO_LIMITS, TrialLimits
from manyfit.core.objective import Objective
from manyfit.core.records import Configuration, Decision, Ending, Plan, Result
from manyfit.data.call import Call
from manyfit.data.parts import RowParts
from manyfit.data.rows import Split
from manyfit.training.program_report import Programs

NOTHING_TRAINED = "the time was up before its first epoch had ended"
"""The message of an execution that ends as STOPPED without an epoch."""


class OutOfTime(BaseException):
    """The clock of a task is over in the middle of an epoch. Not an `Exception`: user code must not catch it."""


@dataclasses.dataclass(frozen=True)
class Permissions:
    """What a trainer may do with executions beyond training each by itself.

    Attributes:
        pause: leave one in the middle and continue it later: the supply may answer `PAUSE`. Without it nothing has to
            be kept for a continuation, and data stay in the order that the backend makes.
        share_callbacks: hand a user's callback that cannot be copied to one execution after another.
        share_order: show all executions the batches in one order; else each one's order follows its own seed, as it
            does where seeds are what is compared.
    """

    pause: bool = False
    share_callbacks: bool = False
    share_order: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class BestEpoch:
    """An epoch that has just ended, and is the best of its execution so far.

    Attributes:
        plan: the execution.
        num_epochs: that it has trained.
        loss: of the objective; lower is better.
        model: its Keras model, whose variables may be out of date, or a fitted estimator.
        weights: fetches the epoch's weights, in the order of `model.get_weights()`; None: the model is as it was
            measured, which estimators are.
    """

    plan: Plan
    num_epochs: int
    loss: float
    model: Any
    weights: Callable[[], Sequence[Any]] | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be trained: how to build a model, the call of `fit`, and what the trainer may do.

    The same for a whole search; what differs from execution to execution is in its `Plan`.
    """

    build: Callable[[Any], Any]  # HyperParameters -> compiled Keras model
    call: Call = dataclasses.field(default_factory=Call)  # of `fit`: data, epochs, callbacks, ...
    objective: Objective | None = None  # None: nothing is ranked (retraining)
    max_model_size: int | None = None  # most trainable parameters
    limits: TrialLimits = NO_LIMITS  # on seconds and memory of each training
    devices: Any = None  # see `manyfit.training.devices`; None: each model on one device
    compiled: bool = True  # False: the user wants no model's steps compiled, so nor a program that they share
    fit: Callable[..., Any] | None = None  # fit(values, model, *args, **kwargs) of the user; None: `model.fit`
    why_fit_alone: str | None = None  # why that is called for each training; None: it may be one call of `model.fit`
    # Is told the values with all that such a `fit` has asked for, before it trains.
    brought_to_light: Callable[[Any], None] | None = None
    may: Permissions = dataclasses.field(default_factory=Permissions)
    callbacks: Callable[[Plan], list[Any]] | None = None  # further callbacks of an execution, after the user's
    measures: tuple[str, ...] = ()  # of `core.objective.MEASURES`: what is measured besides what is logged
    # By trial id, of those that have a call of their own.
    calls: Mapping[str, Call] = dataclasses.field(default_factory=dict)
    # What is changed of the call that a `fit` of the user's makes of Keras's; None: nothing.
    at_fit: Callable[[Plan, Call], Call] | None = None
    # Which rows of x and y train and validate; None: as the arguments say.
    split_for: Callable[[Plan], Split] | None = None
    # Which rows a part of them is, for plans that train on a part of those of the call; None: all train on all.
    parts: RowParts | None = None
    classes: Sequence[str] | None = None  # names of the classes that y holds places of; None: they have none
    # Called whenever epochs have been reported, with those that are the best of their executions, in this process only.
    watch: Callable[[Sequence[BestEpoch]], None] | None = None
    keep: Callable[[Sequence[tuple[Plan, Any]]], None] | None = (
        None  # called with executions whose weights were written, and their models of the best epoch
    )
    shows_bars: bool = True  # whether Keras's progress bars are printed, as the call says; else nothing is
    # Of the call that this is a part of: what is not done when it is over ends as STOPPED, with what it has. None: the
    # supply alone says when to stop.
    clock: Clock | None = None

    def call_of(self, plan: Plan) -> Call:
        """The call of `fit` for one execution: its rows, and for how long."""
        # What differs between executions is put in here and nowhere else, so that no two trainers can disagree on it.
        call = self.calls.get(plan.trial_id, self.call)
        if self.split_for is not None:
            call = call.with_(rows=self.split_for(plan))
        if (numbers := self.part_of(plan)) is not None:
            call = call.with_(rows=call.rows.take(numbers))  # those to validate on stay whole: scores compare
        # A `fit` of the user's may set the epochs itself, and could not take them twice: then `at_fit` sees to them.
        if plan.epochs is None or (self.at_fit is not None and "epochs" not in call.arguments):
            return call
        return call.with_(epochs=plan.epochs)

    def part_of(self, plan: Plan) -> np.ndarray | None:
        """The numbers of the training rows that an execution trains on; None: all."""
        return None if self.parts is None or plan.num_rows is None else self.parts.numbers(plan.num_rows)


# A protocol and not a base class: who feeds a trainer may sit at the other end of a line (`executors.worker`), or
# forward to another supply, and has no code to share with the rest.
class Supply(Protocol):
    """The side that hands out executions and hears of them: the tuner, or a list in `finish/`."""

    @property
    def independent(self) -> bool:
        """Whether what is handed out does not depend on results, so that a trainer may ask far ahead."""
        ...

    @property
    def remaining(self) -> int | None:
        """Executions that may still be handed out; None: nobody knows. Executors share them out evenly."""
        ...

    def take(self, count: int) -> Sequence[Plan]:
        """Up to `count` executions to train now. An empty answer: nothing more until something is reported."""

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """Takes (plan, epoch index, logs) of members that finished an epoch; answers go on, pause or stop, each.

        Called once for a whole population's epoch, and committed as one transaction before it answers.
        """

    def finish(self, result: Result) -> None:
        """Takes the outcome of one execution; called exactly once for every plan that was taken."""


class FixedSupply:
    """A `Supply` of a fixed list of executions, all of which are trained to their end.

    Args:
        plans: handed out in this order.

    Attributes:
        results: trial and execution -> result.

    Example:

    >>> supply = FixedSupply([Plan("0", 0, {}, seed=1)])
    >>> [plan.trial_id for plan in supply.take(5)], supply.take(5)
    (['0'], [])
    """

    independent = True

    def __init__(self, plans: Sequence[Plan]) -> None:
        self._waiting = list(plans)
        self.results: dict[tuple[str, int], Result] = {}

    @property
    def remaining(self) -> int | None:
        """See `Supply`."""
        return len(self._waiting)

    def take(self, count: int) -> Sequence[Plan]:
        """See `Supply`."""
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """See `Supply`."""
        # These executions are trained for what they are at their end; nobody compares them on the way.
        return [Decision.GO_ON] * len(epochs)

    def finish(self, result: Result) -> None:
        """See `Supply`."""
        self.results[result.plan.key] = result


class OnePlan:
    """A `Supply` of one plan, which another one has handed out and hears of.

    Args:
        supply: the other one.
        plan: to be trained.
    """

    def __init__(self, supply: Supply, plan: Plan) -> None:
        self._supply = supply
        self._plans = [plan]
        self.independent = False

    @property
    def remaining(self) -> int | None:
        """See `Supply`."""
        return len(self._plans)

    def take(self, count: int) -> Sequence[Plan]:
        """See `Supply`."""
        del count
        return [self._plans.pop()] if self._plans else []

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """See `Supply`."""
        return self._supply.report(epochs)

    def finish(self, result: Result) -> None:
        """See `Supply`."""
        self._supply.finish(result)


class Trainer(abc.ABC):
    """Trains executions. `keras_fit` trains them one after another, `population` as one compiled program."""

    takes_splits: bool = False
    """Whether it follows `Task.split_for`; tasks with folds go to another trainer where it does not."""

    @abc.abstractmethod
    def train(self, supply: Supply, task: Task) -> None:
        """Trains what the supply hands out until it has nothing more and no execution is running.

        A failing execution is a `Result` with that ending, never an exception of this method. Exceptions that
        do leave it: `FatalError` of the user's, `KeyboardInterrupt`, and bugs.

        A paused execution ends as `Ending.PAUSED`. A later plan with the same key and `first_epoch > 0` continues
        it, as if it had never stopped. Where its state is gone, since another process paused it, it is trained again
        from its start, with its own seed and without reporting the epochs before `first_epoch`.

        A plan with an `origin` begins with the state that another execution was paused in, which rests until then; the
        learning rate is its own (`training/origins.py`).

        Before an execution with a score is finished, the weights of its best epoch are written where its plan says,
        and `Task.keep` is called with a model that has them.
        """

    def programs(self) -> Programs | None:
        """What it has compiled that several executions use; None: each model compiles for itself."""
        return None

    def trains_in_epochs(self, values: Configuration, task: Task) -> bool:
        """Whether more epochs might make a model of these values better; not so for what is fitted in one go."""
        del values, task
        return True

    def forget(self, keys: Iterable[tuple[str, int]]) -> None:
        """Frees paused executions that nobody will continue."""
        del keys

    def close(self) -> None:  # noqa: B027  # most have nothing to end
        """Ends what it keeps running from task to task: workers, where it has some."""


@dataclasses.dataclass(frozen=True, eq=False)
class StandIn:
    """A trained model by way of a wider one that several share: it predicts what the model does, and is compiled once.

    Attributes:
        model: whose predictions they are; its own variables may be out of date.
        wide: the wider model, with one output.
        variables: what its trainable and its other variables are for this model.
    """

    model: Any
    wide: Any
    variables: tuple[Sequence[Any], Sequence[Any]]


class Bookkeeping:
    """What a search keeps of a training beside its score: weights, predictions, states, measures, TensorBoard's files.

    None of it ends a training. What fails is left out, and said once: a hundred trials with a full disk are one line.
    (The store's own commits are not made here. A search that cannot write them has nothing to show, and ends.)

    Args:
        notify: takes one line of text for the user.

    Attributes:
        notify: the same.

    Example:

    >>> aside = Bookkeeping(print)
    >>> with aside.keeping("the weights"):
    ...     raise OSError("no space left on device")
    the weights could not be kept (OSError: no space left on device); the search goes on without them
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.notify = notify
        self._said: set[tuple[str, type[Exception]]] = set()

    @contextlib.contextmanager
    def keeping(self, what: str) -> Iterator[None]:
        """Does one thing of it, or leaves it out.

        Args:
            what: in the plural, for the line.

        Raises:
            FatalError: the user's code says that the whole search is to stop.
        """
        try:
            yield
        except FatalError:
            raise
        except Exception as error:
            kind = what, type(error)  # not the text: it names the file, and each trial has its own
            if kind not in self._said:
                self._said.add(kind)
                self.notify(f"{what} could not be kept ({cause_of(error).words}); the search goes on without them")


def judge(
    history: History, objective: Objective | None, *, stopped: bool, weights: Iterable[Any] = ()
) -> tuple[Ending, str | None]:
    """How an execution ended that raised nothing, and why. A missing objective is left to whoever scores it.

    One rule for all trainers: an epoch counts where its objective, its losses and its weights are finite, and an
    execution in which no epoch counts has diverged, however good a metric reads. What went wrong after an epoch that
    counts takes nothing from that epoch, whose weights are kept.

    Args:
        history: its curves.
        objective: what is ranked; None: nothing.
        stopped: whether it was ended before its last epoch.
        weights: arrays, the trainable ones of the epoch that counts, where there are any.
    """
    diverged = None if objective is None else why_diverged(history, objective)
    if diverged is None and not all(map(_is_finite, weights)):
        diverged = "the weights are not finite after the epoch with the best objective"
    if diverged is not None:
        return Ending.DIVERGED, diverged
    return (Ending.STOPPED, "stopped before its last epoch") if stopped else (Ending.COMPLETED, None)


def _is_finite(weights: Any) -> bool:
    array = np.asarray(weights)
    return array.dtype.kind in "biu" or bool(np.isfinite(array).all())
