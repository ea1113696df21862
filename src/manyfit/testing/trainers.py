"""The conformance suite for trainers.

To check a new trainer, subclass the suite in a test file:

    class TestMyTrainer(TrainerSuite):
        def make(self) -> Trainer:
            return MyTrainer()

The suite hands out executions of a small regression and looks at what comes back: which executions, which epochs, in
what order, with what numbers. It says nothing about speed, nor about whether the numbers are those of `model.fit`: what
has to equal what is a question to each trainer's own tests.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from manyfit.core.errors import FatalValueError, ProjectError
from manyfit.core.objective import Objective
from manyfit.core.records import Decision, Ending, Origin, Plan, Result, Value
from manyfit.data.call import Call
from manyfit.data.parts import RowParts
from manyfit.data.rows import Split
from manyfit.testing.fakes import ListSupply
from manyfit.training.base import Permissions, Task, Trainer
from manyfit.training.program_report import Programs
from manyfit.training.weights import load_weights

NUM_EPOCHS = 4
_RNG = np.random.default_rng(5)
X = _RNG.normal(size=(40, 3)).astype("float32")
Y = (X @ np.array([[1.0], [-2.0], [0.5]], dtype="float32")).astype("float32")

#: What `values["raises"]` has the build function raise.
ERRORS: Mapping[str, BaseException] = {
    "a failure": ValueError("no such layer"),
    "fatal": FatalValueError("the user's word"),
    "no disk": ProjectError("the disk is full"),
    "interrupt": KeyboardInterrupt(),
}


def build_regression(values: Mapping[str, Any]) -> keras.Model:
    """A small compiled model; `rate` is its learning rate, `raises` names one of `ERRORS`."""
    if "raises" in values:
        raise ERRORS[values["raises"]]
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(values["rate"]), "mse")
    return model


def plan_of(number: int, *, folder: Path | None = None, **values: Value) -> Plan:
    """An execution of the regression, with a learning rate and a seed of its own."""
    path = None if folder is None else str(folder / "weights" / f"{number}-0.npz")
    own = {"rate": 0.01 * (number + 1), **values}
    return Plan(str(number), 0, own, seed=100 + number, epochs=NUM_EPOCHS, weights_path=path)


class Resuming(ListSupply):
    """Puts what was paused at the end of the queue again, to be continued.

    Args:
        plans: handed out in this order.
        pause_after: epochs after which each execution is paused, once.
    """

    def __init__(self, plans: Sequence[Plan], pause_after: int) -> None:
        super().__init__(plans, decide=self._answer, independent=False)
        self._last = pause_after - 1
        self.num_pauses = 0

    def _answer(self, plan: Plan, epoch: int, logs: Mapping[str, float]) -> Decision:
        del logs
        return Decision.PAUSE if plan.first_epoch == 0 and epoch == self._last else Decision.GO_ON

    def finish(self, result: Result) -> None:
        """Keeps a result, or the plan that continues it."""
        super().finish(result)
        if result.ending is Ending.PAUSED:
            self.num_pauses += 1
            self.put(dataclasses.replace(result.plan, first_epoch=result.num_epochs))


class Branching(Resuming):
    """Likewise; but before the first execution goes on, others begin with its state.

    Args:
        plans: the first execution.
        pause_after: epochs after which it is paused.
        branches: plans that begin with its state then.
    """

    def __init__(self, plans: Sequence[Plan], pause_after: int, branches: Sequence[Plan]) -> None:
        super().__init__(plans, pause_after)
        self._branches = [
            dataclasses.replace(each, origin=Origin(*plans[0].key, pause_after), first_epoch=pause_after)
            for each in branches
        ]

    def finish(self, result: Result) -> None:
        """Keeps a result, or the plans that continue it."""
        if result.ending is Ending.PAUSED:
            for plan in self._branches:
                self.put(plan)
        super().finish(result)


class TrainerSuite(abc.ABC):
    """What every trainer has to do. Flags say what a trainer cannot do at all, and does not claim."""

    raises_here: bool = True
    """Whether what the build function raises is raised by `train` itself, and not by another process."""

    @abc.abstractmethod
    def make(self) -> Trainer:
        """A new trainer."""

    def task(self, **changes: Any) -> Task:
        """The regression, ranked by its validation loss.

        Args:
            **changes: fields of the task.
        """
        call = Call((X, Y), {"validation_split": 0.25, "batch_size": 10, "epochs": 99, "verbose": 0})
        return dataclasses.replace(Task(build_regression, call, Objective("val_loss", "min")), **changes)

    def trained(self, plans: Iterable[Plan] | ListSupply, **changes: Any) -> ListSupply:
        """Trains executions with a new trainer; see `task` for the changes."""
        supply = plans if isinstance(plans, ListSupply) else ListSupply(list(plans))
        trainer = self.make()
        try:
            trainer.train(supply, self.task(**changes))
        finally:
            trainer.close()
        return supply

    # Pulling ---------------------------------------------------------------------------------------------------

    def test_what_is_taken_is_finished_exactly_once(self) -> None:
        """`ListSupply` refuses a second result; here nothing is missing either, and all of it has a score."""
        supply = self.trained(map(plan_of, range(5)))
        assert set(supply.results) == {(str(number), 0) for number in range(5)} and not supply.running
        assert {result.ending for result in supply.results.values()} == {Ending.COMPLETED}
        assert all(result.seconds > 0 and result.num_parameters == 21 for result in supply.results.values())

    def test_an_empty_supply_ends_at_once(self) -> None:
        """`train` returns when there is nothing to train."""
        assert not self.trained([]).results

    def test_epochs_are_reported_in_their_order(self) -> None:
        """Each epoch of each execution once, with the numbers that the result has; the plan says how many."""
        supply = self.trained(map(plan_of, range(3)))
        for key, result in supply.results.items():
            rows = [(epoch, logs) for plan, epoch, logs in supply.reports if plan.key == key]
            assert [epoch for epoch, _ in rows] == list(range(NUM_EPOCHS))
            assert set(result.history) >= {"loss", "val_loss"}
            for name, curve in result.history.items():
                assert [logs[name] for _, logs in rows] == curve

    # Decisions -------------------------------------------------------------------------------------------------

    def test_stop_is_obeyed(self) -> None:
        """An execution that is told to stop stops after that epoch, and no other does."""

        def decide(plan: Plan, epoch: int, logs: Mapping[str, float]) -> Decision:
            return Decision.STOP if plan.trial_id == "1" and epoch == 1 else Decision.GO_ON

        supply = self.trained(ListSupply([plan_of(number) for number in range(3)], decide=decide))
        assert [supply.results[str(number), 0].num_epochs for number in range(3)] == [NUM_EPOCHS, 2, NUM_EPOCHS]
        assert supply.results["1", 0].ending is Ending.STOPPED and supply.results["1", 0].message

    def test_a_paused_execution_continues_as_if_it_had_never_stopped(self) -> None:
        """No epoch is lost, none is reported twice, and the numbers are those of a run without a pause."""
        may = Permissions(pause=True)
        straight = self.trained(map(plan_of, range(2)), may=may)
        paused = Resuming([plan_of(number) for number in range(2)], pause_after=2)
        self.trained(paused, may=may)
        assert paused.num_pauses == 2
        reported = [(plan.trial_id, epoch) for plan, epoch, _ in paused.reports]
        assert sorted(reported) == [(str(number), epoch) for number in range(2) for epoch in range(NUM_EPOCHS)]
        for key, result in straight.results.items():
            assert paused.results[key].ending is Ending.COMPLETED
            for name, curve in result.history.items():
                np.testing.assert_allclose(_numbers(paused.results[key].history[name]), _numbers(curve), rtol=1e-5)

    def test_what_is_paused_can_be_forgotten(self) -> None:
        """`forget` takes keys that it knows and keys that it does not, and the trainer goes on to others."""
        trainer = self.make()
        supply = ListSupply([plan_of(0)], decide=lambda plan, epoch, logs: Decision.PAUSE)
        trainer.train(supply, self.task(may=Permissions(pause=True)))
        assert supply.results["0", 0].ending is Ending.PAUSED
        trainer.forget([("0", 0), ("nobody's", 7)])
        other = ListSupply([plan_of(1)])
        trainer.train(other, self.task())
        trainer.close()
        assert other.results["1", 0].ending is Ending.COMPLETED

    def test_a_branch_begins_with_the_state_of_its_parent(self) -> None:
        """With its parent's values it goes on as its parent does, and with its own learning rate otherwise."""
        fit = {"validation_split": 0.25, "batch_size": 10, "epochs": 99, "verbose": 0, "shuffle": False}
        supply = Branching([plan_of(0)], 2, [plan_of(1, rate=0.01), plan_of(2, rate=0.1)])
        self.trained(supply, call=Call((X, Y), fit), may=Permissions(pause=True))
        parent, same, other = (supply.results[str(number), 0].history["val_loss"] for number in range(3))
        assert same[:2] == other[:2] == [None, None]
        np.testing.assert_allclose(_numbers(same[2:]), _numbers(parent[2:]), rtol=1e-5)
        assert abs(_numbers(other)[2] / _numbers(parent)[2] - 1) > 1e-3
        reported = [epoch for plan, epoch, _ in supply.reports if plan.trial_id == "2"]
        assert reported == list(range(2, NUM_EPOCHS))

    # Endings ---------------------------------------------------------------------------------------------------

    def test_a_failing_execution_is_an_ending(self) -> None:
        """What the build function raises ends its execution, with the reason, and nobody else's."""
        supply = self.trained([plan_of(0), plan_of(1, raises="a failure"), plan_of(2)])
        failed = supply.results.pop(("1", 0))
        assert failed.ending is Ending.FAILED and "no such layer" in str(failed.message)
        assert failed.failure is not None and not failed.history
        assert [result.ending for result in supply.results.values()] == [Ending.COMPLETED] * 2

    def test_what_ends_the_search_leaves_the_trainer(self) -> None:
        """The user's word, a store that cannot be written, Ctrl+C; after which the trainer can be used again."""
        trainer = self.make()
        # In one test: that a trainer can be used after each of them is what would break.
        for name, error in ERRORS.items() if self.raises_here else ():
            if name == "a failure":
                continue
            try:
                trainer.train(ListSupply([plan_of(0, raises=name)]), self.task())
            except type(error):
                continue
            raise AssertionError(f"{type(error).__name__} was lost")
        supply = ListSupply([plan_of(1)])
        trainer.train(supply, self.task())
        trainer.close()
        assert supply.results["1", 0].ending is Ending.COMPLETED

    def test_a_loss_that_was_never_finite_is_divergence(self) -> None:
        """NaN is the worst result, not a failure; the others do not suffer from it."""
        supply = self.trained([plan_of(0), plan_of(1, rate=math.inf)])
        assert supply.results["0", 0].ending is Ending.COMPLETED
        assert supply.results["1", 0].ending is Ending.DIVERGED

    def test_a_model_that_is_too_large_is_not_trained(self) -> None:
        """`max_model_size` counts trainable parameters; the model here has 21."""
        supply = self.trained([plan_of(0)], max_model_size=20)
        assert supply.results["0", 0].ending is Ending.TOO_LARGE and not supply.reports
        assert self.trained([plan_of(0)], max_model_size=21).results["0", 0].ending is Ending.COMPLETED

    # What is left behind ---------------------------------------------------------------------------------------

    def test_weights_of_the_best_epoch_lie_where_the_plan_says(self, tmp_path: Path) -> None:
        """They are there when the supply hears of the result, and give the score that the result has."""
        there = []

        class LooksForFiles(ListSupply):
            def finish(self, result: Result) -> None:
                there.append(Path(str(result.plan.weights_path)).exists())
                super().finish(result)

        supply = self.trained(LooksForFiles([plan_of(number, folder=tmp_path) for number in range(2)]))
        assert there == [True, True]
        for result in supply.results.values():
            model = build_regression({"rate": 0.1})
            load_weights(model, str(result.plan.weights_path))
            loss = model.evaluate(X[30:], Y[30:], verbose=0, batch_size=10)
            np.testing.assert_allclose(loss, min(_numbers(result.history["val_loss"])), rtol=1e-4)

    def test_whose_weights_are_written_is_kept(self, tmp_path: Path) -> None:
        """`Task.keep` hears of each execution with weights, together with a model that has them."""
        heard: dict[str, float] = {}

        def keep(trained: Sequence[tuple[Plan, Any]]) -> None:
            for plan, model in trained:
                loss = model.evaluate(X[30:], Y[30:], verbose=0, return_dict=True)["loss"]
                heard[plan.trial_id] = float(loss)

        if not self.raises_here:  # a function that fills a dictionary of this process says nothing of another one
            return
        supply = self.trained([plan_of(number, folder=tmp_path) for number in range(2)], keep=keep)
        best = {plan_id: min(_numbers(run.history["val_loss"])) for (plan_id, _), run in supply.results.items()}
        assert set(heard) == set(best)
        np.testing.assert_allclose([heard[name] for name in best], list(best.values()), rtol=1e-4)

    def test_the_same_seed_gives_the_same_numbers(self) -> None:
        """Whichever trainer, and in whose company: seed and values say what comes out."""
        together = self.trained(map(plan_of, range(3)))
        alone = self.trained([plan_of(1)])
        for name, curve in together.results["1", 0].history.items():
            np.testing.assert_allclose(_numbers(alone.results["1", 0].history[name]), _numbers(curve), rtol=1e-5)
        other = self.trained([dataclasses.replace(plan_of(1), seed=7)])
        assert other.results["1", 0].history["loss"] != alone.results["1", 0].history["loss"]

    def test_splits_are_followed_where_they_are_claimed(self, tmp_path: Path) -> None:
        """An execution trains and validates on the rows of its split."""
        trainer = self.make()
        if not trainer.takes_splits:
            return
        rows = np.arange(len(X))
        parts = [Split(rows[10:], rows[:10]), Split(rows[:-10], rows[-10:])]
        call = Call((X, Y), {"batch_size": 10, "epochs": 99, "verbose": 0})
        supply = ListSupply([plan_of(number, folder=tmp_path) for number in range(2)])
        trainer.train(supply, self.task(call=call, split_for=lambda plan: parts[int(plan.trial_id)]))
        trainer.close()
        for (trial_id, _), result in supply.results.items():
            model, held_out = build_regression({"rate": 0.1}), parts[int(trial_id)].validation
            load_weights(model, str(result.plan.weights_path))
            loss = model.evaluate(X[held_out], Y[held_out], verbose=0, batch_size=10)
            np.testing.assert_allclose(loss, min(_numbers(result.history["val_loss"])), rtol=1e-4)

    def test_a_part_of_the_rows_is_trained_on_as_if_there_were_no_others(self) -> None:
        """The rows that validate stay whole, and executions on all rows train beside those on a part."""
        trainer = self.make()
        if not trainer.takes_splits:
            return
        parts, validation = RowParts(np.arange(len(X))[::-1]), {"validation_data": (X[:10], Y[:10])}
        options = {"batch_size": 10, "epochs": 99, "verbose": 0, "shuffle": False, **validation}
        plans = [dataclasses.replace(plan_of(0), num_rows=20), plan_of(1)]
        supply = ListSupply(plans)
        trainer.train(supply, self.task(call=Call((X, Y), options), parts=parts))
        trainer.close()
        alone = self.trained([plan_of(0)], call=Call((X[-20:], Y[-20:]), options))
        for name, curve in alone.results["0", 0].history.items():
            np.testing.assert_allclose(_numbers(supply.results["0", 0].history[name]), _numbers(curve), rtol=1e-4)
        whole = self.trained([plan_of(1)], call=Call((X, Y), options))
        found, expected = (_numbers(each.results["1", 0].history["loss"]) for each in (supply, whole))
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def test_programs_are_told(self) -> None:
        """None from a trainer that keeps none; else every execution is in a record or in a reason."""
        trainer = self.make()
        trainer.train(ListSupply([plan_of(number) for number in range(3)]), self.task())
        programs = trainer.programs()
        trainer.close()
        assert programs is None or isinstance(programs, Programs)
        if programs is not None:
            elsewhere = sum(map(len, programs.reasons.values()))
            assert sum(record.members for record in programs.records) + elsewhere == 3 and str(programs)

    def test_it_can_be_closed_twice_and_used_again(self) -> None:
        """`close` ends what runs from task to task; a later task starts it again."""
        trainer = self.make()
        trainer.close()
        trainer.close()
        supply = ListSupply([plan_of(0)])
        trainer.train(supply, self.task())
        trainer.close()
        assert supply.results["0", 0].ending is Ending.COMPLETED


def _numbers(curve: Sequence[float | None]) -> list[float]:
    """A curve as numbers, NaN where it was not measured."""
    return [math.nan if value is None else float(value) for value in curve]
