"""The conformance suite for samplers.

To check a new sampler, subclass the suite in a test file:

    class TestMySampler(SamplerSuite):
        def make(self) -> Sampler:
            return MySampler()

The suite asks for proposals in spaces of every kind after histories of every kind; what it wants is in the names and
docstrings of its tests. It says nothing about how good the proposals are.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import math
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence

import numpy as np

from manyfit.core.costs import Costs
from manyfit.core.records import Ending, Observation, Value, Values
from manyfit.samplers.base import Sampler
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters


def mixed_space() -> HyperParameters:
    """Numbers on both scales, a grid, an ordered and an unordered choice, a fixed value; endless."""
    space = HyperParameters()
    space.Float("rate", 1e-4, 1e-1, sampling="log", default=1e-3)
    space.Float("dropout", 0.0, 0.5)
    space.Float("smoothing", 0.0, 0.2, step=0.1)
    space.Int("units", 16, 1024, sampling="log", default=128)
    space.Int("layers", 1, 4)
    space.Choice("batch_size", [32, 64, 128], ordered=True)
    space.Choice("activation", ["relu", "gelu", "tanh"])
    space.Fixed("epochs", 7)
    return space


def conditional_space() -> HyperParameters:
    """A choice that switches other hyperparameters on, two levels deep."""
    space = HyperParameters()
    optimizer = space.Choice("optimizer", ["sgd", "adam"])
    assert optimizer == "sgd"  # our bug: the first value is the default
    with space.conditional_scope("optimizer", "sgd"):
        space.Boolean("nesterov")
        with space.conditional_scope("nesterov", True):
            space.Float("momentum", 0.1, 0.99)
    with space.conditional_scope("optimizer", "adam"):
        space.Float("beta", 0.8, 0.999)
    space.Float("rate", 1e-4, 1e-1, sampling="log")
    return space


def finite_space() -> HyperParameters:
    """Nine configurations, six of which have a hyperparameter that exists only under a condition."""
    space = HyperParameters()
    space.Choice("units", [16, 32, 64])
    space.Boolean("residual")
    with space.conditional_scope("residual", True):
        space.Choice("norm", ["batch", "layer"])
    space.Fixed("depth", 3)
    return space


NUM_FINITE = 9  # three widths, each without residuals or with one of two norms

SPACES: dict[str, Callable[[], HyperParameters]] = {
    "mixed": mixed_space,
    "conditional": conditional_space,
    "finite": finite_space,
}


def loss_of(values: Values) -> float:
    """A loss in which every value counts a little."""
    return math.fsum(
        (sum(value.encode()) % 17 if isinstance(value, str) else math.sin(float(value) * 3.0)) / (3 + i)
        for i, value in enumerate(values.values())
    )


def observe(values: Values, index: int, loss: float | None = None, ending: Ending = Ending.COMPLETED) -> Observation:
    """A finished trial with these values; its loss is `loss_of` them unless given."""
    losses = () if not ending.has_score else (loss_of(values) if loss is None else loss,)
    return Observation(f"{index:04d}", dict(values), ending, losses, epochs=3, curve=losses)


def random_history(space: HyperParameters, num_trials: int, loss: float | None = None) -> list[Observation]:
    """A history of random configurations, as many different ones as the space has."""
    encoding = Encoding(space)
    drawn = encoding.random_many(num_trials, np.random.default_rng(20))
    different = {encoding.key(values): values for values in drawn}
    return [observe(values, i, loss) for i, values in enumerate(different.values())]


def with_costs(history: Sequence[Observation], costs: Callable[[Values], Costs | None]) -> list[Observation]:
    """A history whose trials have cost what is said of their values."""
    return [dataclasses.replace(each, costs=costs(each.values)) for each in history]


def costs_by_structure(values: Values) -> Costs | None:
    """What trials cost that share a program where they differ in fractional numbers only; of some nobody knows it."""
    whole = {name: value for name, value in values.items() if not isinstance(value, float)}
    structure = json.dumps(whole, sort_keys=True)
    known = sum(structure.encode()) % 5 > 0
    return Costs(structure, build=0.1, compile=4.5, epoch=0.1, predict=0.05) if known else None


class SamplerSuite(abc.ABC):
    """What every sampler has to keep."""

    @abc.abstractmethod
    def make(self) -> Sampler:
        """The sampler to check, with any settings."""

    def ask(
        self,
        space: HyperParameters,
        completed: Sequence[Observation] = (),
        pending: Sequence[Values] = (),
        count: int = 1,
        seed: int = 0,
    ) -> list[dict[str, Value]]:
        """Proposals of a fresh sampler; checks that they are legal, new and different."""
        proposals = self.make().propose(space, completed, pending, count, np.random.default_rng(seed))
        encoding = Encoding(space)
        keys = [encoding.key(values) for values in proposals]
        taken = {encoding.key(each.values) for each in completed if not each.earlier} | {
            encoding.key(values) for values in pending
        }
        assert len(proposals) <= count
        assert all(encoding.is_valid(values) for values in proposals), proposals
        assert len(set(keys)) == len(keys), "the same configuration twice in one answer"
        assert not taken.intersection(keys), "a configuration that was tried already"
        return proposals

    def test_first_proposals_are_legal_and_different(self) -> None:
        """Nothing is known, 1 or 16 are wanted."""
        for make_space in SPACES.values():
            space = make_space()
            assert len(self.ask(space)) == 1
            assert len(self.ask(space, count=16)) == (NUM_FINITE if make_space is finite_space else 16)

    def test_proposals_after_some_trials(self) -> None:
        """After 1, 2 and 30 trials, also 16 at a time with 3 pending."""
        for make_space in (mixed_space, conditional_space):
            space = make_space()
            for num_trials in (1, 2, 30):
                assert len(self.ask(space, random_history(space, num_trials))) == 1
            history = random_history(space, 30)
            pending = self.ask(space, history, count=3, seed=1)
            assert len(self.ask(space, history, pending, count=16, seed=2)) == 16

    def test_five_hundred_trials(self) -> None:
        """A long history is no obstacle."""
        space = mixed_space()
        assert len(self.ask(space, random_history(space, 500))) == 1

    def test_finite_space_is_tried_to_the_last_configuration(self) -> None:
        """One at a time: each configuration once, then an empty list; likewise with all of them pending."""
        space, history = finite_space(), list[Observation]()
        for trial in range(NUM_FINITE):
            (values,) = self.ask(space, history, seed=trial)
            history.append(observe(values, trial))
        assert self.ask(space, history, seed=99) == []
        assert self.ask(space, [], [each.values for each in history], seed=99) == []
        assert len(self.ask(space, history[:-2], count=5)) == 2

    def test_space_of_one_point(self) -> None:
        """Only fixed values, or bounds that are equal: one configuration, then nothing."""
        space = HyperParameters()
        space.Fixed("epochs", 3)
        space.Int("units", 8, 8)
        space.Float("rate", 0.1, 0.1)
        (values,) = self.ask(space, count=3)
        assert values == {"epochs": 3, "units": 8, "rate": 0.1}
        assert self.ask(space, [observe(values, 0)], count=3) == []

    def test_failed_and_diverged_trials(self) -> None:
        """Histories of failures alone, and of failures among scores."""
        for make_space in (mixed_space, conditional_space):
            space = make_space()
            history = random_history(space, 24)
            endings = (Ending.FAILED, Ending.DIVERGED, Ending.TOO_LARGE, Ending.OUT_OF_MEMORY)
            failed = [observe(each.values, i, ending=endings[i % 4]) for i, each in enumerate(history)]
            assert len(self.ask(space, failed, count=3)) == 3
            some = [bad if i % 3 == 0 else good for i, (good, bad) in enumerate(zip(history, failed, strict=True))]
            assert len(self.ask(space, some, count=3)) == 3

    def test_losses_that_are_not_finite(self) -> None:
        """NaN and infinities among the losses are trials that went wrong, and crash nothing."""
        space = mixed_space()
        history = random_history(space, 20)
        odd = [math.nan, math.inf, -math.inf]
        history = [observe(each.values, i, odd[i % 4]) if i % 4 < 3 else each for i, each in enumerate(history)]
        assert len(self.ask(space, history, count=2)) == 2

    def test_constant_and_extreme_losses(self) -> None:
        """All losses equal, huge, tiny, or far apart."""
        space = mixed_space()
        for loss in (0.0, 1e300, -1e-300):
            assert len(self.ask(space, random_history(space, 20, loss), count=2)) == 2
        history = [observe(each.values, i, 10.0 ** (i - 10)) for i, each in enumerate(random_history(space, 20))]
        assert len(self.ask(space, history, count=2)) == 2

    def test_replicates_and_trials_that_were_stopped_early(self) -> None:
        """Several executions per trial, and partial curves."""
        space = mixed_space()
        history = []
        for i, each in enumerate(random_history(space, 20)):
            curve = tuple(each.loss + 1.0 / epoch for epoch in range(1, (10, 4, 2)[i % 3]))
            losses = (min(curve), min(curve) + 0.1, min(curve) - 0.05)[: 1 + i % 3]
            stopped = len(curve) < 9
            ending = Ending.STOPPED if stopped else Ending.COMPLETED
            history.append(
                Observation(f"{i:04d}", each.values, ending, losses, epochs=len(curve), full=not stopped, curve=curve)
            )
        assert len(self.ask(space, history, count=3)) == 3

    def test_several_objectives(self) -> None:
        """Trials with two losses each, one of them not finite in places; also with trials pending."""
        space = mixed_space()
        history = []
        for i, each in enumerate(random_history(space, 20)):
            second = math.inf if i % 7 == 3 else -each.loss + 0.1 * i
            history.append(dataclasses.replace(each, vectors=((each.loss, second),)))
        pending = self.ask(space, history, count=2, seed=1)
        assert len(self.ask(space, history, pending, count=3)) == 3

    def test_trials_of_earlier_searches(self) -> None:
        """They were not tried in this search, so each may be proposed; alone, and before trials of this one."""
        if not self.make().uses_earlier:
            return
        for make_space in (mixed_space, conditional_space):
            space = make_space()
            earlier = [dataclasses.replace(each, earlier=True) for each in random_history(space, 15)]
            assert len(self.ask(space, earlier, count=4)) == 4
            own = [observe(each.values, i) for i, each in enumerate(earlier[:6])]
            assert len(self.ask(space, [*earlier, *own], count=3)) == 3
        finite = [dataclasses.replace(each, earlier=True) for each in random_history(finite_space(), 50)]
        assert len(self.ask(finite_space(), finite, count=20)) == NUM_FINITE

    def test_costs_that_are_equal_change_nothing(self) -> None:
        """Where every trial costs the same, proposals are those of a history without costs."""
        equal: list[Callable[[Values], Costs]] = [
            lambda values: Costs("one", epoch=0.1),
            lambda values: Costs(json.dumps(dict(values)), epoch=0.1),
            lambda values: Costs(None, compile=4.5, epoch=0.1),
        ]
        for make_space in (mixed_space, conditional_space):
            space = make_space()
            for num_trials in (1, 12):
                history = random_history(space, num_trials)
                without = self.ask(space, history, count=2)
                assert all(self.ask(space, with_costs(history, costs), count=2) == without for costs in equal)

    def test_costs_that_differ(self) -> None:
        """Structures that are dear, and trials whose costs nobody has measured."""
        for make_space in (mixed_space, conditional_space):
            space = make_space()
            history = with_costs(random_history(space, 24), costs_by_structure)
            pending = self.ask(space, history, count=2, seed=1)
            assert len(self.ask(space, history, pending, count=9, seed=2)) == 9
        space, history = finite_space(), []
        for trial in range(NUM_FINITE):
            (values,) = self.ask(space, history, seed=trial)
            history += with_costs([observe(values, trial)], costs_by_structure)
        assert self.ask(space, history, seed=99) == []

    def test_hyperparameters_that_are_discovered_late(self) -> None:
        """Trials that do not know a hyperparameter had its default; proposals do know it."""
        space = mixed_space()
        history = random_history(space, 12)
        space.Boolean("late")
        assert all("late" in values for values in self.ask(space, history, count=4))

    def test_sixty_dimensions_and_a_long_choice(self) -> None:
        """Spaces larger than anybody should want."""
        wide, long = HyperParameters(), HyperParameters()
        for i in range(60):
            wide.Float(f"x{i}", 0.0, 1.0)
        long.Choice("word", [f"word{i}" for i in range(500)])
        long.Float("rate", 0.0, 1.0)
        for space in (wide, long):
            assert len(self.ask(space, random_history(space, 40), count=2)) == 2

    def test_same_seed_same_answer(self) -> None:
        """The answer depends on the arguments alone: not on earlier answers, not on the object asked."""
        space = mixed_space()
        history = random_history(space, 15)
        used = self.make()
        for seed in (3, 4):
            used.propose(space, history[:7], [], 2, np.random.default_rng(seed))
        again = used.propose(space, history, [], 3, np.random.default_rng(5))
        assert again == self.ask(space, history, count=3, seed=5)

    def test_same_answer_in_another_process(self) -> None:
        """No hash seed, clock or cache of this process enters."""
        here = self.ask(mixed_space(), random_history(mixed_space(), 15), count=3, seed=5)
        program = """
            import json, pickle, sys
            import numpy as np
            from manyfit.testing.samplers import mixed_space, random_history
            sampler = pickle.load(sys.stdin.buffer)
            space = mixed_space()
            answer = sampler.propose(space, random_history(space, 15), [], 3, np.random.default_rng(5))
            print(json.dumps(answer))
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            input=pickle.dumps(self.make()),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads(done.stdout) == here

    def test_arguments_are_left_alone(self) -> None:
        """Space, history and pending are the caller's."""
        space = conditional_space()
        history = random_history(space, 10)
        pending = [dict(each.values) for each in random_history(space, 3)]
        before = (json.dumps(space.get_config()), list(history), [dict(values) for values in pending])
        self.make().propose(space, tuple(history), tuple(pending), 2, np.random.default_rng(0))
        assert before == (json.dumps(space.get_config()), history, pending)

    def test_settings_are_json(self) -> None:
        """They are stored with the project, and name the sampler."""
        settings = self.make().settings()
        assert json.loads(json.dumps(settings)) == settings
        assert settings["name"] == type(self.make()).__name__
