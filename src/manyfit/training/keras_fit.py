"""Trains executions one after another through `model.fit`: every backend, every model, every callback."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import keras

from manyfit.core.clock import Clock
from manyfit.core.costs import Costs
from manyfit.core.lifecycle import failure_of, is_paused
from manyfit.core.records import Ending, Plan, Result
from manyfit.data.order import SeededOrder
from manyfit.training.base import NOTHING_TRAINED, Bookkeeping, OutOfTime, Supply, Task, Trainer, judge
from manyfit.training.callbacks import (
    BestWeights,
    EpochTimes,
    Reporter,
    UntilOver,
    acts_before_tests,
    copy_callbacks,
)
from manyfit.training.devices import LayoutCheck, distributed, distribution_of
from manyfit.training.hardware import freed_memory_kept
from manyfit.training.in_time import StillCompiling, compiled_in_time, programs_kept, waited
from manyfit.training.keras_settings import KerasSettings, clear_session
from manyfit.training.known_costs import ANY, KnownCosts
from manyfit.training.labels import LabelCheck
from manyfit.training.limits import RunLimits
from manyfit.training.models import build_model, check_size, check_unshared, num_parameters, summary_of, take_measures
from manyfit.training.origins import check_shapes, lost, with_own_rate
from manyfit.training.outcomes import completed_by, merge_histories, to_histories
from manyfit.training.precision import LossScaleCallback, needs_loss_scale_callback
from manyfit.training.replay import FITTED, SeenFit, facts_of, seen_fits
from manyfit.training.seeding import seeded
from manyfit.training.stored_state import (
    Continue,
    StoredState,
    is_storable,
    make_variables,
    order_of_data,
    read_state,
    states_of,
    stored_by,
    variables_of,
    write_state,
)
from manyfit.training.suspendable import SuspendableCall
from manyfit.training.tensorboard import watch_boards
from manyfit.training.weights import write_weights

#: Parameters of a model whose memory is worth a full garbage collection (0.1 s); smaller ones wait for Python's own.
_LARGE = 1_000_000


class KerasFit(Trainer):
    """Trains executions one after another through `model.fit`.

    A paused execution stays in memory and continues as if it had never stopped. One that is no longer there (the
    process was killed meanwhile) continues from its stored state; what cannot be stored (see `is_storable`) is trained
    again from its start, with its own seed, without reporting what is known.

    Args:
        notify: takes one line of text for each kind of thing that could not be kept beside a training.
    """

    takes_splits = True

    def __init__(self, notify: Callable[[str], None] = warnings.warn) -> None:
        self.aside = Bookkeeping(notify)
        self._paused: dict[tuple[str, int], _Run] = {}
        self._labels = LabelCheck()
        self.costs = KnownCosts("fit")

    def train(self, supply: Supply, task: Task) -> None:
        with freed_memory_kept(), programs_kept():
            # One at a time, although the supply would give more: what is proposed next may depend on how this one ends.
            while plans := supply.take(1):
                for plan in plans:
                    supply.finish(self._train_in_time(plan, supply, task))
        self.costs.remember()

    def _train_in_time(self, plan: Plan, supply: Supply, task: Task) -> Result:
        """Trains one, unless there is no time even to build its model."""
        clock = task.clock or Clock()
        if clock.begins_nothing() or not self.costs.fits(clock, {"build": 1}, ANY):
            return Result(plan, Ending.STOPPED, {}, message=NOTHING_TRAINED)
        return self._train_one(plan, supply, task)

    def forget(self, keys: Iterable[tuple[str, int]]) -> None:
        """Ends paused executions that nobody will continue."""
        for key in keys:
            run = self._paused.pop(key, None)
            # Its thread waits in the middle of `fit`, and would hold the model until the process ends.
            if run is not None and run.call is not None:
                run.call.abandon()

    def _train_one(self, plan: Plan, supply: Supply, task: Task) -> Result:
        # Without this every model of a search would stay in Keras's registries.
        clear_session()
        parent = None if plan.origin is None else self._paused.get(plan.origin.key)
        origin = None if parent is None else parent.origin_state()
        if plan.goes_on_otherwise:
            self.forget([plan.key])
        run = self._paused.pop(plan.key, None) or _Run(plan, supply, task, self.aside, self._labels, self.costs)
        run.parent = origin
        result = run.proceed(plan)
        if is_paused(result):
            self._paused[plan.key] = run
        else:
            is_large = run.model is not None and num_parameters(run.model) >= _LARGE
            del run  # it holds the model, whose layers refer to each other
            gc.collect(2 if is_large else 0)
        return result


class _Run:
    """One execution, from its build to its end, with pauses in between."""

    def __init__(
        self, plan: Plan, supply: Supply, task: Task, aside: Bookkeeping, labels: LabelCheck, known: KnownCosts
    ) -> None:
        self.task, self.aside, self.labels, self.known = task, aside, labels, known
        self.reporter = Reporter(plan, supply)
        self.keeper = BestWeights(task.objective, plan, task.watch)
        self.model: keras.Model | None = None
        self.result = Result(plan, Ending.COMPLETED, self.reporter.history)
        self.loss_scale = LossScaleCallback()
        self.settings = KerasSettings.current()
        self.call: SuspendableCall | None = None
        self.user_callbacks: list[keras.callbacks.Callback] = []
        self.stored: StoredState | None = None
        self.parent: StoredState | None = None  # of a branch, where that rests in this process
        self.order: SeededOrder | None = None
        self.seen: list[SeenFit] = []
        self.was_left = False  # in the middle of an epoch
        self.clock = task.clock or Clock()
        self.limits = RunLimits(task.limits, self.clock, aside.notify)
        self.times = EpochTimes(self.clock)
        self.build_seconds = self.predict_seconds = 0.0
        if task.may.pause:
            self.call = SuspendableCall(self._train)
            self.reporter.pause = self._pause

    def proceed(self, plan: Plan) -> Result:
        """Trains until the end, or until the supply says pause."""
        started = time.perf_counter()
        self.reporter.plan = plan
        self.result = dataclasses.replace(self.result, plan=plan)
        try:
            paused = False
            with self.limits.counting(plan.trial_id):
                if self.call is None:
                    self._train(None)
                else:
                    paused = not self.call.proceed()
            self._judge(plan, paused)
        except Exception as error:
            self.result.fail(failure_of(error))
        if self.reporter.error is not None:  # whatever became of it in code of the user's around the training
            raise self.reporter.error
        # Added up over stretches: while it is paused others use the machine.
        self.result.seconds += time.perf_counter() - started
        self.result.costs = self._costs()
        if self.model is not None:
            take_measures(self.result, self.model, self.task, self.aside)
        return self.result

    def _costs(self) -> Costs:
        """What it has cost so far; known from now on."""
        compile_seconds, epoch_seconds = self.times.split()
        found = Costs(None, self.build_seconds, compile_seconds, epoch_seconds, self.predict_seconds)
        self.known.note("build", ANY, found.build)
        if self.model is not None:
            name, rows, parameters = self._structure()
            for step in ("compile", "epoch", "predict"):
                self.known.note(step, name, getattr(found, step), rows=rows, parameters=parameters)
        return found

    def _check_time(self) -> None:
        """Sees to it that no training is begun that could not end its first epoch.

        Raises:
            OutOfTime: it could not.
        """
        if self.clock.is_limited:
            name, rows, parameters = self._structure()
            if not self.known.fits(self.clock, {"compile": 1, "epoch": 1}, name, rows=rows, parameters=parameters):
                raise OutOfTime

    def _structure(self) -> tuple[str, int, int]:
        """What costs depend on: the model in a few words, the rows, and the model's parameters."""
        assert self.model is not None  # our bug: it is built first
        num_rows = self.reporter.plan.num_rows or self.task.call.num_rows or 1
        return summary_of(self.model), num_rows, num_parameters(self.model)

    def _pause(self) -> None:
        assert self.call is not None  # our bug: only a call that can be paused is
        inside = KerasSettings.current()
        self.call.pause()
        inside.restore()  # what trained meanwhile has cleared them in all threads

    def _train(self, call: SuspendableCall | None) -> None:
        del call
        plan, task, started = self.reporter.plan, self.task, self.clock.now()
        self.settings.restore()  # a call that can be paused has a thread of its own
        self.order = order_of_data(plan.seed, task)
        self.user_callbacks = copy_callbacks(task.call.get("callbacks"), plan, share=task.may.share_callbacks)
        self.keeper.swaps = acts_before_tests(self.user_callbacks)
        distribution = distribution_of(task.devices)  # of the process that trains
        with seeded(plan.seed), distributed(distribution):
            self.model = build_model(task.build, plan.values)
            check_unshared(self.model, plan)
            check_size(self.model, task.max_model_size)
            if task.fit is None:  # else the user's code may make other labels of them
                self.labels.check(self.model, task.call)
            of_tuner = [] if task.callbacks is None else task.callbacks(plan)
            watch_boards(of_tuner, self.aside)
            own: list[keras.callbacks.Callback] = [self.loss_scale] if needs_loss_scale_callback(self.model) else []
            own += [] if distribution is None else [LayoutCheck(distribution)]
            own += [] if self.order is None else [self.order]
            # The order matters. Ours come behind the user's: one that ends the training has done so when the reporter
            # hears of the epoch. The keeper sees an epoch before the reporter is told to stop there; what puts a stored
            # state back comes last, when everybody else has begun.
            own += [self.keeper, self.times, self.reporter, *self._continued(plan)]
            own += [UntilOver(self.clock, self.times)] if self.clock.is_limited else []
            own += self.limits.callbacks()
            self.build_seconds = self.clock.now() - started
            returned = None
            try:
                self._check_time()
                self.limits.check()
                # Around this alone: nobody else is ready to be left in the middle.
                with compiled_in_time(self.limits.clock):
                    returned = fit(
                        self.model,
                        plan,
                        task,
                        callbacks=[*self.user_callbacks, *of_tuner, *own],
                        initial_epoch=None if self.stored is None else self.stored.epoch,
                        order=self.order,
                        seen=self.seen,
                    )
            except OutOfTime as over:
                self.limits.check_own(over)
                if isinstance(over, StillCompiling):
                    self.aside.notify(waited(plan.trial_id, summary_of(self.model)))
                self._leave([*self.user_callbacks, *of_tuner])
        check_size(self.model, task.max_model_size)  # again: a model may be built by its first batch only
        if self.seen:
            self.result.notes[FITTED] = facts_of([one.call for one in self.seen])
        if task.fit is not None and task.objective is not None and not self.was_left:
            # The user's own loop may have called our callbacks, or not, or only now and then.
            found = merge_histories(to_histories(returned, task.objective, "HyperModel.fit()"))
            self.result.history = completed_by(self.reporter.history, found)

    def _leave(self, callbacks: Iterable[keras.callbacks.Callback]) -> None:
        """Ends a training that was left in the middle of an epoch, with the epochs that it has."""
        self.was_left = self.reporter.stopped = True
        for callback in callbacks:  # files are closed there; an epoch that has ended must not be lost by it
            with contextlib.suppress(Exception):
                callback.on_train_end({})

    def _judge(self, plan: Plan, paused: bool) -> None:
        assert self.model is not None  # our bug: `_train` sets it or raises
        result = self.result
        result.num_parameters = num_parameters(self.model)
        if self.was_left and not result.num_epochs:
            result.ending, result.message = Ending.STOPPED, NOTHING_TRAINED
            return
        latest = self.model.get_weights()
        weights = self.keeper.weights or latest
        if paused:
            result.ending, result.message = Ending.PAUSED, None
            self._store(plan)
        else:
            # Not strict: a `HyperModel.fit` of the user's may train another model than the one that was built.
            trained = [each for each, of in zip(weights, self.model.weights, strict=False) if of.trainable]
            result.ending, result.message = judge(
                result.history, self.task.objective, stopped=self.reporter.stopped, weights=trained
            )
            result.ending, result.message = self.loss_scale.judged(result.ending, result.message)
        if not result.ending.has_score:
            return
        if plan.weights_path is not None:
            with self.aside.keeping("weights"):
                write_weights(plan.weights_path, weights, build_config=self.model.get_build_config())
        if plan.keeps_predictions and self.task.keep is not None:
            self.model.set_weights(weights)
            started = self.clock.now()
            with self.aside.keeping("predictions"):
                self.task.keep([(plan, self.model)])
            self.predict_seconds = self.clock.now() - started
            self.model.set_weights(latest)  # a paused execution goes on from here

    def _continued(self, plan: Plan) -> list[keras.callbacks.Callback]:
        """Reads the stored state of an execution that was paused in another process; a callback that puts it back."""
        stored = read_state(plan, stored_by(), len(self.user_callbacks))
        if plan.origin is not None and (stored is None or stored.is_origin):
            stored = self.parent if self.parent is not None and self.parent.epoch == plan.origin.epoch else stored
            if stored is None:
                raise lost(plan)
        if stored is None:
            return []
        assert self.model is not None  # our bug: it has just been built
        make_variables(self.model, self.task)
        if stored.is_origin:
            own = variables_of(self.model)
            check_shapes(plan, own, stored.variables)
            optimizer = with_own_rate(self.model, own[2], stored.variables[2])
            self.stored = dataclasses.replace(stored, variables=(*stored.variables[:2], optimizer))
            if plan.goes_on_otherwise:
                self._go_on_from(stored)
            return [Continue(self.stored, [])]
        if not stored.fits(variables_of(self.model)):
            keras.utils.set_random_seed(plan.seed)  # making the variables may have drawn from it
            self.model = build_model(self.task.build, plan.values)
            return []
        self.stored = stored
        self._go_on_from(stored)
        return [Continue(stored, self.user_callbacks)]

    def _go_on_from(self, stored: StoredState) -> None:
        """Takes over what an execution has measured, and its best weights."""
        self.reporter.history = {name: list(curve) for name, curve in stored.history.items()}
        self.keeper.weights, self.keeper.loss = stored.best, stored.best_loss
        self.result.history = self.reporter.history

    def origin_state(self) -> StoredState:
        """What a branch of this execution, which is paused, begins with."""
        assert self.model is not None  # our bug: it has been trained
        history = self.reporter.history
        return StoredState(
            stored_by(),
            self.reporter.plan.seed,
            max(map(len, history.values())),
            variables=tuple([variable.numpy() for variable in group] for group in variables_of(self.model)),  # type: ignore[arg-type]
            callbacks=[],
            history=history,
            best=self.keeper.weights,
            best_loss=self.keeper.loss,
            is_origin=True,
        )

    def _store(self, plan: Plan) -> None:
        assert self.model is not None and self.call is not None  # our bug: it has just been paused
        callbacks = states_of(self.user_callbacks)
        # Without a place, or with something that cannot be written, it lives on in memory only, and in another process
        # trains again from its start: slower, never wrong.
        if plan.state_path is None or callbacks is None or not is_storable(self.model, self.task, self.order):
            return
        state = StoredState(
            stored_by(),
            plan.seed,
            max(map(len, self.reporter.history.values())),
            variables=tuple([variable.numpy() for variable in group] for group in variables_of(self.model)),  # type: ignore[arg-type]
            callbacks=callbacks,
            history=self.reporter.history,
            best=self.keeper.weights,
            best_loss=self.keeper.loss,
            generators=self.call.generators,
        )
        with self.aside.keeping("states of paused trials"):
            write_state(plan.state_path, state, keeps_earlier=plan.origin is not None)


def fit(
    model: keras.Model,
    plan: Plan,
    task: Task,
    *,
    callbacks: list[keras.callbacks.Callback],
    initial_epoch: int | None = None,
    order: SeededOrder | None = None,
    seen: list[SeenFit] | None = None,
) -> Any:
    """Calls `model.fit` for a plan with the user's arguments.

    Args:
        model: to train.
        plan: how long.
        task: the arguments.
        callbacks: copies of the user's, and ours.
        initial_epoch: where it goes on; None: as the user's arguments say.
        order: of the data, one of `callbacks`; None: Keras's.
        seen: is given the calls that a `fit` of the user's makes of Keras's.
    """
    call = task.call_of(plan)
    if order is not None:
        call = order.applied_to(call)
    call = call.with_(callbacks=callbacks)
    if initial_epoch is not None:
        call = call.with_(initial_epoch=initial_epoch)
    # A `fit` of the user's may not take what it was not given.
    takes_it = "verbose" in call.arguments or (task.fit is None and type(model).fit is keras.Model.fit)
    if takes_it and not task.shows_bars:
        call = call.with_(verbose=0)
    if task.fit is None:
        return model.fit(*call.args, **call.kwargs)
    change = None if task.at_fit is None else functools.partial(task.at_fit, plan)
    with seen_fits(change) as found:
        try:
            return task.fit(plan.values, model, *call.args, **call.kwargs)
        finally:  # also where it is left in the middle
            if seen is not None:
                seen += found
