"""One execution on its way through a population: its model, its state, its curves, and the rows that it reads.

A member's state is a tuple of arrays that passes replace and never change. Its Keras model is a shell beside it: only
where a callback or a file needs the model are its variables pointed at the arrays (`show`), and what was assigned
meanwhile is taken over (`adopt`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import keras
import numpy as np

from manyfit.core import history as histories
from manyfit.core.costs import Costs
from manyfit.core.lifecycle import failure_of
from manyfit.core.objective import Objective
from manyfit.core.records import Ending, Failure, Plan, Result
from manyfit.training import origins
from manyfit.training.base import BestEpoch, Bookkeeping, StandIn, judge
from manyfit.training.keras_internals import building
from manyfit.training.keras_internals.draws import quick_draws
from manyfit.training.models import averages_weights, num_parameters
from manyfit.training.population.arrays import State, copied, in_order_of_weights, variables_of
from manyfit.training.population.callbacks import MemberCallbacks
from manyfit.training.population.embeddings import Embedding
from manyfit.training.population.outlines import Outline
from manyfit.training.population.probe import stray
from manyfit.training.population.program import SharedProgram
from manyfit.training.population.structure_key import without_numbers
from manyfit.training.population.trace import CannotTrace, Maskings, Trace, build_variables, complete, trace_all
from manyfit.training.population.twins import outline_of
from manyfit.training.population.views import View
from manyfit.training.precision import LossScaleWatch
from manyfit.training.seeding import seeded
from manyfit.training.stored_state import StoredState, arrays_of, restore, states_of, write_state
from manyfit.training.weights import write_weights

STORED_BY = "population"  # see `StoredState.trainer`


@dataclasses.dataclass(frozen=True, eq=False)
class ProgramSeat:
    """Where a member trains: a program, and its steps there.

    Attributes:
        program: what it shares with others.
        trace: the canonical form of its steps.
        model: whose steps these are.
        embedding: the member's place in a wider model; None: the steps are those of the member's own model.
    """

    program: SharedProgram
    trace: Trace
    model: Any
    embedding: Embedding | None = None


@dataclasses.dataclass(frozen=True)
class Structure:
    """What a member's model is, as far as its configuration tells.

    Attributes:
        key: equal for models of the same traced steps; None: not told (`structure_key`).
        identity: equal for models that are likely one program, up to numbers.
        outline: how wide it is, if it may train in a wider program; else None.
        family: equal for those of outlines alike, up to numbers.
    """

    key: str | None
    identity: str
    outline: Outline | None = None
    family: str = ""

    @classmethod
    def of(cls, model: keras.Model, key: str | None) -> Structure:
        """What a built model is.

        Args:
            model: its layers have their variables.
            key: `structure_key` of it.
        """
        # What a frozen part computes of a row is computed once, and a wider program has no such part.
        outline = None if key is None or building.is_partly_frozen(model) else outline_of(model)
        if key is None or outline is None:
            return cls(key, "")
        parts = [[run.text, run.inputs, run.tie, run.positions] for run in outline.runs]
        family = json.dumps([parts, outline.outputs, outline.compiled])
        # What is written in a configuration stands in texts within the text.
        return cls(key, without_numbers(key), outline, without_numbers(family))


@dataclasses.dataclass(eq=False)
class Member:
    """An execution's model, state and curves.

    Attributes:
        plan: what is to be trained.
        model: its own Keras model; its variables are looked at only where a callback or a file needs them.
        structure: what its model is.
        view: the rows it reads.
        state: its variables, in the shapes of its model; replaced, never changed, by each pass.
        seat: where it trains; None: that is still to be decided.
        epoch: epochs that are behind it.
        last_epoch: epochs at which it is done.
        history: its curves.
        best: weights (trainable, non-trainable) of the best epoch so far, and its loss.
        seconds: its share of the passes it took part in.
        build_seconds: that it took to be made, `trace_seconds` of tracing left out.
        epoch_seconds: its share of each epoch.
        predict_seconds: its share of the predictions that were kept.
        loss_scale: counts its overflows; None where it has no loss scale.
        notes: further facts for the book.
        failure: what one of its callbacks raised; it ends this member only.
    """

    plan: Plan
    model: Any
    structure: Structure
    view: View
    state: State
    epoch: int
    last_epoch: int
    callbacks: MemberCallbacks
    seat: ProgramSeat | None = None
    history: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)
    best: tuple[tuple[Any, ...], tuple[Any, ...]] | None = None
    best_loss: float = math.inf
    has_improved: bool = False  # whether the epoch that ended last is the best
    seconds: float = 0.0
    build_seconds: float = 0.0
    trace_seconds: float = 0.0
    epoch_seconds: list[float] = dataclasses.field(default_factory=list)
    predict_seconds: float = 0.0
    stop_reason: str | None = None
    begun: bool = False
    epoch_begun: bool = False  # whether its callbacks have begun the epoch that it is at
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    failure: Failure | None = None  # what one of its callbacks raised
    thawed: bool = False  # whether a callback has changed weights that its rows were computed with
    validated: tuple[tuple[Any, ...], tuple[Any, ...]] | None = None  # weights that callbacks have put in for a test
    stored: StoredState | None = None  # what it is continued from
    is_stored: bool = False  # whether its state as it is now is on the disk
    last_logs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loss_scale: LossScaleWatch | None = None
    _trusted: ProgramSeat | None = None  # whose padding was looked at

    @property
    def trace(self) -> Trace:
        """The canonical form of the steps of a member that has a seat."""
        assert self.seat is not None  # our bug: who waits without a program is asked for none
        return self.seat.trace

    @property
    def program(self) -> SharedProgram:
        """What a member that has a seat shares with others."""
        assert self.seat is not None  # our bug, likewise
        return self.seat.program

    def complete_trace(self) -> None:
        """Traces the steps for shapes of batches that have come up since.

        Raises:
            CannotTrace: a step that JAX cannot trace.
        """
        assert self.seat is not None  # our bug, likewise
        complete(self.seat.trace, self.seat.model, self.view.shapes)

    def own_trace(self, maskings: dict[str, Maskings]) -> Trace:
        """The canonical form of its own model's steps, which is built to the end for it.

        Args:
            maskings: of steps that are known, by their keys; these are added where the model is recognised.

        Raises:
            CannotTrace: a step that JAX cannot trace.
        """
        started = time.perf_counter()
        with seeded(self.plan.seed), quick_draws():
            build_variables(self.model, self.view.shapes.first_batch())
            known = maskings if self.structure.key is not None else None
            found = trace_all(self.model, self.view.shapes, known)
        elapsed = time.perf_counter() - started
        self.seconds += elapsed
        self.trace_seconds += elapsed
        return found

    def note_built(self, seconds: float) -> None:
        """Takes the seconds that it took to be made, or to be found again where it was paused."""
        self.seconds += seconds
        self.build_seconds = self.build_seconds or seconds - self.trace_seconds

    def costs(self) -> Costs:
        """What it has cost so far."""
        epoch = statistics.median(self.epoch_seconds) if self.epoch_seconds else 0.0
        program = None if self.seat is None else self.program
        return Costs(
            structure=None if program is None else program.key,
            build=self.build_seconds,
            compile=0.0 if program is None else program.price_seconds,
            epoch=epoch,
            predict=self.predict_seconds,
        )

    def widened(self) -> State:
        """The state as the program takes it."""
        if self.seat is None or self.seat.embedding is None:
            return self.state
        return self.seat.embedding.widen(self.state)

    def narrowed(self, state: State) -> State:
        """The inverse of `widened`, in arrays that keep nothing of a wider program's.

        Raises:
            CannotTrace: after its first epoch there, something stands where a wider program is to keep zeros.
        """
        if self.seat is None or self.seat.embedding is None:
            return state
        narrow = self.seat.embedding.narrow(state)
        if self.seat is not self._trusted:
            found = stray(self.seat.embedding, state)
            # Beside weights that are not finite anything may stand: they are lost in any program.
            if found and all(bool(np.isfinite(leaf).all()) for leaf in narrow[0]):
                raise CannotTrace(f"padding did not stay zero ({found})")
            self._trusted = self.seat
        return narrow

    def watch_loss_scale(self, num_steps: int) -> dict[str, float]:
        """What float16 adds to the logs of an epoch of so many steps; a loss scale that collapsed ends the member."""
        if self.loss_scale is None:
            return {}
        metrics, reason = self.loss_scale.observe(self.state[2], num_steps)
        self.stop_reason = self.stop_reason or reason
        return metrics

    def record(self, logs: Mapping[str, float], objective: Objective | None) -> None:
        """Takes the numbers of the epoch that just ended, and holds on to the weights if it is the best so far."""
        histories.append(self.history, logs, self.epoch)
        loss = self.plan.rank(self.epoch, math.nan if objective is None else objective.epoch_loss(logs))
        self.has_improved = loss < self.best_loss
        if self.has_improved:
            # Passes leave their inputs as they are, so holding the arrays is enough where no callback sees the model.
            weights = self.validated or self.state[:2]
            self.best_loss, self.best = loss, copied(weights) if self.callbacks.any else weights

    def best_epoch(self) -> BestEpoch:
        """Its best epoch so far, for whoever watches; the arrays stay where they are until they are asked for."""
        trainable, fixed = self.best or self.state[:2]
        fetch = functools.partial(in_order_of_weights, self.model, trainable, fixed)
        return BestEpoch(self.plan, self.epoch, self.best_loss, self.model, fetch)

    @property
    def is_behind(self) -> bool:
        """Whether the epoch that it is at was reported before."""
        return self.plan.is_known(self.epoch)

    @property
    def has_result(self) -> bool:
        """Whether what it has trained so far is a result; not so before it is where it was already before."""
        return bool(self.history) and not self.is_behind and self.epoch >= self.plan.first_epoch

    @property
    def is_validated(self) -> bool:
        """Whether the epoch that it is at ends with a validation."""
        return self.view.data.validates_at(self.epoch)

    def is_done(self) -> bool:
        """Whether it has nothing more to train, with `stop_reason` where that came early.

        A training loss of NaN means weights of NaN: no later epoch can be better. With a loss scale it does not: such
        steps are skipped.
        """
        if self.epoch >= self.last_epoch or self.callbacks.stopped or self.stop_reason is not None:
            return True
        # The last entry alone: once NaN, the weights stay NaN.
        curve = self.history.get("loss")
        if self.loss_scale is None and curve and curve[-1] is not None and math.isnan(curve[-1]):
            self.stop_reason = f"the loss became NaN in epoch {self.epoch}"
            return True
        return False

    def show(self) -> None:
        """Lets the model's variables be this member's, until `adopt`."""
        # What Keras is given lies on the device: callbacks may call anything of it.
        if any(isinstance(leaf, np.ndarray) for part in self.state for leaf in part):
            self.state = copied(self.state)
        trainable, fixed, optimizer, _ = variables_of(self.model)
        building.assign_values([*trainable, *fixed, *optimizer], [*self.state[0], *self.state[1], *self.state[2]])

    def predictor(self) -> Any:
        """What predicts as its model does with the weights of the best epoch: that, or a wider one in its place."""
        output = getattr(self.model, "output", None)
        if self.seat is None or self.seat.embedding is None or isinstance(output, list | tuple | dict):
            self.show_best()
            return self.model
        weights = self.seat.embedding.widen_weights(self.best or self.state[:2])
        return StandIn(self.model, self.seat.model, weights)

    def show_best(self) -> None:
        """Lets the model's variables be copies of the weights that are kept: those of the best epoch."""
        trainable, fixed, _, _ = variables_of(self.model)
        best = self.best or self.state[:2]
        building.assign_values([*trainable, *fixed], copied([*best[0], *best[1]]))

    def adopt(self) -> None:
        """Takes over what callbacks have assigned to the model's variables since `show`, or Keras in their calls."""
        # Looked at by identity: nothing was assigned in most epochs, and comparing numbers would wait for the device.
        variables = variables_of(self.model)[:3]
        parts = [building.changed_values(group, values) for group, values in zip(variables, self.state, strict=True)]
        frozen, fixed = self.view.frozen, parts[1]
        self.thawed |= fixed is not None and frozen is not None and not frozen.holds(fixed)
        self.state = tuple(  # type: ignore[assignment]
            old if new is None else tuple(new) for old, new in zip(self.state, parts, strict=True)
        )

    def result(self, objective: Objective | None, *, stopped: bool, aside: Bookkeeping) -> Result:
        """The outcome; writes the weights of the best epoch where the plan wants them."""
        # The weights of the best epoch are written even where a scheduler has stopped it: it is ranked by that epoch.
        ending, message = judge(self.history, objective, stopped=stopped, weights=(self.best or self.state)[0])
        if self.stop_reason is not None and self.loss_scale is not None:
            ending = self.loss_scale.ending(ending)
        return self._outcome(ending, self.stop_reason or message, aside)

    @contextlib.contextmanager
    def hearing(self) -> Iterator[None]:
        """Around calls of the user's callbacks: they see this member's model, and what they raise ends this member.

        Raises:
            FatalError: what they raised says that the whole search is to stop.
        """
        self.show()
        try:
            yield
            self.adopt()
        except Exception as error:
            self.failure = failure_of(error)

    def begin(self) -> None:
        """Lets the callbacks begin; those of a member that is continued get their patience and so on back."""
        if self.callbacks.any and not self.begun:
            with self.hearing():
                self.callbacks.train_begin()
            if self.stored is not None:
                restore(self.callbacks.of_user, self.stored.callbacks)
        self.begun = True

    def begin_epoch(self) -> None:
        """Lets the callbacks begin an epoch, once: one that did not run for lack of memory is begun already."""
        self.validated = None
        if self.callbacks.any and not self.epoch_begun:
            with self.hearing():
                self.callbacks.epoch_begin(self.epoch)
        self.epoch_begun = True

    def begin_test(self) -> None:
        """Lets the callbacks begin a validation; what they put into the model is what is validated, and kept."""
        with self.hearing():
            self.callbacks.test_begin()
        self.validated = copied(self.state[:2])

    def close_epoch(self, logs: dict[str, Any], test_logs: Mapping[str, Any] | None) -> dict[str, Any]:
        """Lets the callbacks end an epoch; answers the logs with what they have added."""
        self.last_logs, self.epoch_begun = dict(logs), False  # `on_train_end` gets them without additions, as in `fit`
        if self.callbacks.any:
            with self.hearing():
                logs = self.callbacks.epoch_end(self.epoch, logs, test_logs)
        return logs

    def finish(self) -> None:
        """What `fit` does after the last epoch: averages take the weights' place, and the callbacks end.

        The weights of the best epoch stay as they are: its score was measured with those.
        """
        averages = self.epoch > 0 and averages_weights(self.model)
        if self.callbacks.any or averages:
            with self.hearing():
                if averages:
                    self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
                self.callbacks.train_end(self.last_logs)

    def continue_from(self, stored: StoredState) -> None:
        """Takes over what an execution was when it was paused in another process."""
        self.stored = stored
        # To the first device; where there are several, the next pass moves it to its own.
        self.state = tuple(tuple(map(jax.device_put, group)) for group in stored.variables)  # type: ignore[assignment]
        self.epoch, self.seconds = stored.epoch, stored.seconds
        self.history = {name: list(curve) for name, curve in stored.history.items()}
        self.best, self.best_loss = stored.best, stored.best_loss

    def branch_off(self, parent: Member | None, stored: StoredState | None) -> None:
        """Begins with another execution's state, copied on its device where it rests in this process.

        Args:
            parent: that execution; None, or at another epoch: it is not here.
            stored: the file of that state; None: there is none.

        Raises:
            FailedTrialError: there is neither, or its model has other shapes.
        """
        origin = self.plan.origin
        assert origin is not None  # our bug: only branches have one
        inherited: State
        if parent is not None and parent.epoch == origin.epoch:
            inherited = copied(parent.state)
        elif stored is not None:
            inherited = tuple(tuple(map(jax.device_put, group)) for group in stored.variables)  # type: ignore[assignment]
        else:
            raise origins.lost(self.plan)
        origins.check_shapes(self.plan, self.state, inherited)
        optimizer = tuple(origins.with_own_rate(self.model, self.state[2], inherited[2]))
        self.state, self.epoch = (inherited[0], inherited[1], optimizer), origin.epoch
        if parent is not None and self.plan.goes_on_otherwise:
            self.history, self.seconds = parent.history, parent.seconds
            self.best, self.best_loss = parent.best, parent.best_loss

    def paused(self, aside: Bookkeeping) -> Result:
        """The outcome so far of a member that may be continued; its state is stored first."""
        result = self._outcome(Ending.PAUSED, None, aside)
        callbacks = states_of(self.callbacks.of_user)
        self.is_stored = False
        if self.plan.state_path is not None and callbacks is not None:
            best = self.best and tuple(map(arrays_of, self.best))
            state = StoredState(
                STORED_BY,
                self.plan.seed,
                self.epoch,
                variables=tuple(map(arrays_of, self.state)),  # type: ignore[arg-type]
                callbacks=callbacks,
                history=result.history,
                best=best,
                best_loss=self.best_loss,
                seconds=result.seconds,
            )
            with aside.keeping("states of paused trials"):
                write_state(self.plan.state_path, state, keeps_earlier=self.plan.origin is not None)
                self.is_stored = True
        return result

    def failed(self, failure: Failure) -> Result:
        """The outcome where an exception ended it; the epochs before stay."""
        result = Result(self.plan, failure.ending, self.history, seconds=self.seconds, costs=self.costs())
        result.fail(failure)
        return result

    def _outcome(self, ending: Ending, message: str | None, aside: Bookkeeping) -> Result:
        started = time.perf_counter()
        history = {name: list(curve) for name, curve in self.history.items()}  # a continued member's grows on
        result = Result(
            self.plan,
            ending,
            history,
            message=message,
            num_parameters=num_parameters(self.model),
            notes=dict(self.notes),
        )
        if self.plan.weights_path is not None and ending.has_score:
            trainable, fixed = self.best or self.state[:2]
            with aside.keeping("weights"):
                # In the order of `get_weights`, so that `set_weights` of a model that is built anew takes them.
                arrays = in_order_of_weights(self.model, trainable, fixed)
                write_weights(self.plan.weights_path, arrays, build_config=self.model.get_build_config())
        result.seconds = self.seconds + time.perf_counter() - started
        return result
