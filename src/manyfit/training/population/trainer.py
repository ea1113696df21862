"""`Population`: the trainer whose executions train together."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from manyfit.core.errors import FatalError
from manyfit.core.records import Decision, Plan, Result
from manyfit.training.base import Supply, Task, Trainer
from manyfit.training.keras_fit import copy_callbacks, scalar_logs
from manyfit.training.models import build_model, check_size, ending_of
from manyfit.training.population import keras_side
from manyfit.training.population.callbacks import MemberCallbacks, why_not
from manyfit.training.population.capture import CannotTrace, Shapes, check_model, shapes_of, trace
from manyfit.training.population.data import FitArguments, Rows, read_fit_arguments
from manyfit.training.population.family import Family
from manyfit.training.population.member import Member
from manyfit.training.population.program import Layout
from manyfit.training.seeding import seeded


class Population(Trainer):
    """Trains executions together, as few compiled programs as their structures need.

    Args:
        fallback: trains what cannot join a population, one execution after another.
        population_size: most members that train at once; None: chosen by measurement.
        notify: takes one line of text for each reason why something trains in `fallback`.
        shuffle_seed: names the order of the batches; all executions of a search read epoch n in the same order.
    """

    def __init__(
        self,
        fallback: Trainer,
        *,
        population_size: int | None = None,
        notify: Callable[[str], None] = warnings.warn,
        shuffle_seed: int = 0,
    ) -> None:
        self._fallback = fallback
        self._size = population_size or 8
        self._notify = notify
        self._shuffle_seed = shuffle_seed
        self._families: dict[str, Family] = {}
        self._reasons: dict[str, list[Plan]] = {}

    def train(self, supply: Supply, task: Task) -> None:
        reason = _why_not_task(task)
        if reason is not None:
            self._refuse(reason, None)
            self._fallback.train(supply, task)
            return
        _Session(self, supply, task).run()

    def _refuse(self, reason: str, plan: Plan | None) -> None:
        if reason not in self._reasons:
            self._reasons[reason] = []
            self._notify(f"population training: {reason}; training with model.fit instead")
        if plan is not None:
            self._reasons[reason].append(plan)


def _why_not_task(task: Task) -> str | None:
    if task.fit is not None:
        return "the hypermodel has its own `fit`"
    return None


class _OnePlan:
    """A supply of one plan; the rest is forwarded."""

    def __init__(self, supply: Supply, plan: Plan) -> None:
        self._supply = supply
        self._plans = [plan]

    def take(self, count: int) -> Sequence[Plan]:
        del count
        return [self._plans.pop()] if self._plans else []

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        return self._supply.report(epochs)

    def finish(self, result: Result) -> None:
        self._supply.finish(result)


class _Session:
    """One call of `train`."""

    def __init__(self, owner: Population, supply: Supply, task: Task) -> None:
        self.owner = owner
        self.supply = supply
        self.task = task
        self.data: FitArguments = read_fit_arguments(task)
        assert isinstance(self.data.training, Rows)
        validation = None if self.data.validation is None else shapes_of(self.data.validation)
        self.shapes = Shapes(shapes_of(self.data.training), validation)

    def run(self) -> None:
        """Takes and trains until there is nothing more."""
        while True:
            waiting = sum(len(family.waiting) for family in self.owner._families.values())
            for plan in self.supply.take(max(0, 4 * self.owner._size - waiting)):
                self._admit(plan)
            family = max(self.owner._families.values(), key=lambda family: len(family.waiting), default=None)
            if family is None or not family.waiting:
                return
            self._train_family(family)

    def _admit(self, plan: Plan) -> None:
        started = time.perf_counter()
        try:
            member = self._capture(plan)
        except FatalError:
            raise
        except CannotTrace as error:
            self.owner._refuse(str(error), plan)
            self.owner._fallback.train(_OnePlan(self.supply, plan), self.task)
            return
        except Exception as error:
            result = Result(plan, ending_of(error), {}, message=traceback.format_exc())
            result.extra["error"] = error
            self.supply.finish(result)
            return
        member.seconds = time.perf_counter() - started
        family = self.owner._families.get(member.trace.key)
        if family is None:
            family = self.owner._families[member.trace.key] = Family(member.trace, self.data)
        family.add(member)

    def _capture(self, plan: Plan) -> Member:
        keras_side.forget_names()
        values = plan.values  # not a copy: the build settles values that depend on others, and may ask for more
        with seeded(plan.seed):
            model = build_model(self.task.build, values)
            check_size(model, self.task.max_model_size)
            check_model(model)
            tree, batches = self.shapes.training
            keras_side.build_symbolically(model, jax.tree.unflatten(tree, batches[0]))
        check_size(model, self.task.max_model_size)
        own = [] if self.task.callbacks is None else self.task.callbacks(plan)
        callbacks = [*copy_callbacks(self.data.callbacks), *own]
        reason = why_not(callbacks)
        if reason is not None:
            raise CannotTrace(reason)
        found = trace(model, self.shapes)
        state = tuple(tuple(keras_side.values_of(part)) for part in keras_side.variables_of(model)[:3])
        epochs = self.data.epochs if plan.epochs is None else plan.epochs
        steps = self.data.training.num_steps
        return Member(
            plan, model, found, state, epoch=plan.first_epoch or self.data.initial_epoch, last_epoch=epochs,
            callbacks=MemberCallbacks(callbacks, model, epochs=epochs, steps=steps),
        )

    def _train_family(self, family: Family) -> None:
        """Trains a family's members until none is left, refilling slots from those that wait."""
        active: list[Member] = []
        while True:
            while family.waiting and len(active) < self.owner._size:
                member = family.waiting.popleft()
                member.show()
                member.callbacks.train_begin()
                active.append(member)
            if not active:
                return
            active = self._one_epoch(family, active)

    def _one_epoch(self, family: Family, active: list[Member]) -> list[Member]:
        started = time.perf_counter()
        for member in active:
            if member.callbacks.any:
                member.callbacks.epoch_begin(member.epoch)
                member.adopt()
        layout = Layout("scan", "unrolled")
        count = self.owner._size
        own_order = bool(self.data.shuffle) and len({member.epoch for member in active}) > 1
        states, logs = family.run("train", active, self._order(active, own_order, count), layout=layout, count=count, own_order=own_order)
        for member, state in zip(active, states, strict=False):
            member.state = state
        test_logs = None
        if self.data.validation is not None:
            states, test_logs = family.run("test", active, self.data.validation.in_order(), layout=Layout("scan", "vmap"), count=count)
            for member, state in zip(active, states, strict=False):
                member.state = state
            test_logs = {name: np.asarray(value) for name, value in test_logs.items()}
        logs = {name: np.asarray(value) for name, value in logs.items()}
        share = (time.perf_counter() - started) / len(active)
        reports = []
        for number, member in enumerate(active):
            member.seconds += share
            mine = keras_side.python_logs({name: value[number] for name, value in logs.items()})
            tested = None
            if test_logs is not None and self.data.validates_at(member.epoch):
                tested = keras_side.python_logs({name: value[number] for name, value in test_logs.items()})
                mine.update({f"val_{name}": value for name, value in tested.items()})
            if member.callbacks.any:
                member.show()
                mine = member.callbacks.epoch_end(member.epoch, mine, tested)
                member.adopt()
            numbers = scalar_logs(mine)
            member.record(numbers, self.task.objective)
            reports.append((member.plan, member.epoch, numbers))
            member.epoch += 1
        decisions = self.supply.report(reports)
        left = []
        for member, decision in zip(active, decisions, strict=True):
            stopped = decision is not Decision.GO_ON
            if not stopped and not member.callbacks.stopped and member.epoch < member.last_epoch:
                left.append(member)
                continue
            member.callbacks.train_end({})
            family.num_trained += 1
            self.supply.finish(member.result(self.task.objective, stopped=stopped))
        return left

    def _order(self, active: list[Member], own_order: bool, count: int) -> Any:
        rows = self.data.training
        if not self.data.shuffle:
            return rows.in_order()
        if not own_order:
            return rows.shuffled(self.data.shuffle, self.owner._shuffle_seed, active[0].epoch)
        orders = [rows.shuffled(self.data.shuffle, self.owner._shuffle_seed, member.epoch) for member in active]
        orders += [orders[-1]] * (count - len(orders))
        return np.stack([full for full, _ in orders]), np.stack([tail for _, tail in orders])
