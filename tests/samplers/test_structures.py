"""What histories tell of structures: which hyperparameters open them, and what that takes."""

from __future__ import annotations

import pytest

from manyfit.core.costs import Costs
from manyfit.core.records import Ending, Observation, Value
from manyfit.samplers.structures import USUAL_COMPILE_SECONDS, Structures, seconds_of
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters


def space_of_three() -> HyperParameters:
    space = HyperParameters()
    space.Int("units", 16, 256, sampling="log")
    space.Choice("activation", ["relu", "tanh"])
    space.Float("rate", 1e-4, 1e-1, sampling="log")
    return space


def trial(number: int, costs: Costs | None, **values: Value) -> Observation:
    values = {"units": 16, "activation": "relu", "rate": 1e-3 * (number + 1), **values}
    return Observation(str(number), values, Ending.COMPLETED, (0.5,), epochs=10, costs=costs)


def learned(*history: Observation) -> Structures:
    return Structures(Encoding(space_of_three()), history)


def test_before_any_trial_whole_numbers_and_names_open_structures_and_fractions_do_not() -> None:
    assert learned().rationed == ("units", "activation")
    assert learned().compile_seconds == USUAL_COMPILE_SECONDS and learned().training_seconds is None


def test_widths_that_share_a_program_stop_to_be_dear() -> None:
    """The first two open a program each; the wide one takes all that come after it."""
    narrow, wide = Costs("narrow", compile=4.0, epoch=0.1), Costs("wide", compile=5.0, epoch=0.1)
    history = [trial(0, narrow), trial(1, wide, units=64)]
    assert learned(*history).rates["units"] == 1.0
    history += [trial(2 + i, wide, units=17 + i) for i in range(12)]
    structures = learned(*history)
    assert structures.rationed == ("activation",)
    assert structures.rates["units"] == pytest.approx(1.5 / 13.5)
    assert structures.compile_seconds == 4.5 and structures.spent_seconds == 9.0


def test_of_several_that_differ_the_likeliest_is_blamed() -> None:
    opened = [trial(i, Costs(str(i), compile=4.0, epoch=0.1), units=16 + i) for i in range(20)]
    rates = learned(*opened).rates
    assert rates["units"] == 1.0 and rates["rate"] < 0.05


def test_a_fraction_that_opens_structures_alone_is_found_out() -> None:
    """A rate of zero may mean that a layer is not there."""
    opened = [trial(i, Costs(str(i), compile=4.0, epoch=0.1)) for i in range(4)]
    assert "rate" in learned(*opened).rationed


def test_a_rate_of_zero_is_taken_for_a_layer_that_is_not_there() -> None:
    space = HyperParameters()
    space.Float("dropout", 0.0, 0.5)
    space.Float("rate", 1e-4, 1e-1, sampling="log")
    costs = Costs("a", compile=4.0, epoch=0.1)
    first = Observation("0", {"dropout": 0.2, "rate": 1e-3}, Ending.COMPLETED, (0.5,), epochs=10, costs=costs)
    structures = Structures(Encoding(space), [first])
    assert structures.is_there({"dropout": 0.3, "rate": 1e-2}) and not structures.is_there(
        {"dropout": 0.0, "rate": 1e-3}
    )
    other = Costs("b", compile=4.0, epoch=0.1)
    second = Observation("1", {"dropout": 0.0, "rate": 1e-2}, Ending.COMPLETED, (0.5,), epochs=10, costs=other)
    rates = Structures(Encoding(space), [first, second]).rates
    assert rates["dropout is 0"] == 1.0 and rates["rate"] < 0.05 and rates["dropout"] < 0.05


def test_chance_to_open_follows_the_trials_that_are_there() -> None:
    structures = learned(trial(0, Costs("a", compile=4.0, epoch=0.1)))
    there = {"units": 16, "activation": "relu", "rate": 0.05}
    assert structures.chance_to_open(there) < 0.05 and structures.is_there(there)
    assert structures.chance_to_open({**there, "units": 17}) == 1.0


def test_pending_trials_count_as_compiling() -> None:
    pending = [{"units": 32, "activation": "relu", "rate": 1e-3}]
    history = [trial(0, Costs("a", compile=4.0, epoch=0.1))]
    structures = Structures(Encoding(space_of_three()), history, pending)
    assert structures.spent_seconds == 8.0 and len(structures.opened) == 2


@pytest.mark.parametrize("costs", [None, Costs(None, compile=4.0, epoch=0.1)])
def test_where_nobody_measures_or_nothing_is_shared_nothing_is_rationed(costs: Costs | None) -> None:
    assert learned(trial(0, costs)).rationed == ()


def test_compiling_that_is_short_beside_a_training_is_not_rationed() -> None:
    assert learned(trial(0, Costs("a", compile=4.0, epoch=1.0))).rationed == ()


def test_seconds_of_a_trial_leave_compiling_out() -> None:
    costs = Costs("a", build=0.5, compile=4.0, epoch=0.2, predict=0.3)
    assert seconds_of(trial(0, costs)) == pytest.approx(0.5 + 10 * 0.2 + 0.3)
    assert seconds_of(trial(0, costs), epochs=2) == pytest.approx(1.2)
    assert seconds_of(trial(0, None), 7.0) == 7.0
