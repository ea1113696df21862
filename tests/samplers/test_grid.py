"""Grid search: everything once, in order, also after a restart and a discovery."""

from __future__ import annotations

import numpy as np
import pytest

from manyfit.core.errors import UsageError
from manyfit.core.records import Ending, Observation, Value
from manyfit.samplers.non_adaptive import GridSampler
from manyfit.space.hyperparameters import HyperParameters


def walk(space: HyperParameters, sampler: GridSampler) -> list[dict[str, Value]]:
    """The whole search, one fresh ask per trial."""
    history: list[Observation] = []
    while proposals := sampler.propose(space, history, [], 1, np.random.default_rng(len(history))):
        history.append(Observation(str(len(history)), proposals[0], Ending.COMPLETED, (0.0,)))
    return [dict(each.values) for each in history]


def test_defaults_first_and_the_last_hyperparameter_fastest() -> None:
    space = HyperParameters()
    space.Choice("units", [16, 32], default=32)
    space.Boolean("bias")
    assert [tuple(values.values()) for values in walk(space, GridSampler())] == [
        (32, False),
        (32, True),
        (16, False),
        (16, True),
    ]


def test_conditions_leave_out_what_does_not_exist() -> None:
    space = HyperParameters()
    space.Boolean("residual")
    with space.conditional_scope("residual", True):
        space.Choice("norm", ["batch", "layer"])
    assert walk(space, GridSampler()) == [
        {"residual": False},
        {"residual": True, "norm": "batch"},
        {"residual": True, "norm": "layer"},
    ]


def test_a_continuum_is_cut_into_its_default_and_midpoints() -> None:
    space = HyperParameters()
    space.Float("rate", 0.0, 1.0, default=0.3)
    assert [values["rate"] for values in walk(space, GridSampler(num_continuous=2))] == [0.3, 0.25, 0.75]


def test_a_late_discovery_keeps_what_was_done() -> None:
    space = HyperParameters()
    space.Choice("units", [16, 32])
    history = [Observation(str(i), {"units": units}, Ending.COMPLETED, (0.0,)) for i, units in enumerate([16, 32])]
    space.Boolean("late")
    left = GridSampler().propose(space, history, [], 10, np.random.default_rng(0))
    assert left == [{"units": 16, "late": True}, {"units": 32, "late": True}]


def test_pending_trials_are_passed_over_and_batches_equal_single_steps() -> None:
    space = HyperParameters()
    space.Int("layers", 1, 7)
    whole = GridSampler().propose(space, [], [], 99, np.random.default_rng(0))
    rest = GridSampler().propose(space, [], whole[:3], 99, np.random.default_rng(1))
    assert whole == walk(space, GridSampler())
    assert rest == whole[3:]


def test_num_continuous_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="GridSampler: got num_continuous=0"):
        GridSampler(num_continuous=0)
