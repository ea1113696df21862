"""Int and Float."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyfit.core.errors import UsageError
from manyfit.space import Boolean, Choice, Fixed, Float, Int
from manyfit.space.numerical import MAX_INTEGER

P = (0.0, 0.07, 0.25, 0.5, 0.77, 0.96)

# From KerasTuner 1.4.8, run with these arguments: prob_to_value at P, value_to_prob of those values, and
# random_sample with the seeds 0, 1 and 7.
GOLDEN = [
    (
        Int("h", 1, 10),
        [1, 1, 3, 6, 8, 10],
        [0.05, 0.05, 0.25, 0.55, 0.75, 0.95],
        [9, 2, 4],
    ),
    (
        Int("h", 0, 10, step=3),
        [0, 0, 3, 6, 9, 9],
        [0.125, 0.125, 0.375, 0.625, 0.875, 0.875],
        [9, 0, 3],
    ),
    (
        Int("h", 1, 100, sampling="log"),
        [1, 1, 3, 10, 34, 83],
        [
            0.08785580065104737,
            0.08785580065104737,
            0.27144750910054244,
            0.5094937929752777,
            0.7672517567235413,
            0.958771632443809,
        ],
        [49, 1, 4],
    ),
    (
        Int("h", 1, 64, step=2, sampling="log"),
        [1, 1, 2, 8, 32, 64],
        [1 / 14, 1 / 14, 3 / 14, 0.5, 11 / 14, 13 / 14],
        [32, 1, 4],
    ),
    (
        Int("h", 1, 100, sampling="reverse_log"),
        [1, 28, 70, 91, 99, 100],
        [
            0.0010753325561096982,
            0.06886821470049187,
            0.252459923149987,
            0.49050620702472225,
            0.8014589806418978,
            0.9121441993489526,
        ],
        [99, 47, 79],
    ),
    (
        Float("h", -1.0, 3.0),
        [-1.0, -0.72, 0.0, 1.0, 2.08, 2.84],
        P,
        [2.3776874061001925, -0.4625430235503951, 0.29533105933264947],
    ),
    (
        Float("h", 1e-4, 1e-1, sampling="log"),
        [
            0.0001,
            0.000162181009735893,
            0.0005623413251903491,
            0.0031622776601683794,
            0.020417379446695298,
            0.07585775750291836,
        ],
        P,
        [0.034140160192072944, 0.00025298381201802614, 0.0009364795422756949],
    ),
    (
        Float("h", 1.0, 100.0, sampling="reverse_log"),
        [1.0, 28.556403992501018, 69.3772233983162, 91.0, 98.11596849687339, 99.79773556538258],
        P,
        [98.95281874185694, 47.1393597324615, 78.49212625689245],
    ),
    (
        Float("h", 0.0, 1.0, step=0.25),
        [0.0, 0.0, 0.25, 0.5, 0.75, 1.0],
        [0.1, 0.1, 0.3, 0.5, 0.7, 0.9],
        [1.0, 0.0, 0.25],
    ),
    (
        Float("h", 1.0, 1000.0, step=10, sampling="log"),
        [1.0, 1.0, 10.0, 100.0, 1000.0, 1000.0],
        [0.125, 0.125, 0.375, 0.625, 0.875, 0.875],
        [1000.0, 1.0, 10.0],
    ),
]


@pytest.mark.parametrize(("hp", "values", "positions", "samples"), GOLDEN, ids=lambda case: str(case)[:40])
def test_embedding_equals_kerastuners(hp, values, positions, samples):
    assert [hp.prob_to_value(p) for p in P] == pytest.approx(values, rel=1e-13, abs=1e-13)
    assert [hp.value_to_prob(value) for value in values] == pytest.approx(positions, abs=1e-13)
    assert [hp.random_sample(seed) for seed in (0, 1, 7)] == pytest.approx(samples, rel=1e-13)


# What KerasTuner 1.4.8 gets wrong, and its wrong answers.


def test_float_grids_reach_their_end():
    tenths = Float("h", 0, 1, step=0.1)
    assert list(tenths.values) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]  # KerasTuner: 10 values
    assert tenths.prob_to_value(1.0) == 1.0
    assert list(Float("h", 0, 0.6, step=0.1).values)[-1] == 0.6  # KerasTuner: 0.5


def test_each_value_of_a_float_grid_sits_in_its_own_bucket():
    tenths = Float("h", 0, 1, step=0.1)
    assert tenths.value_to_prob(0.5) == pytest.approx(5.5 / 11)  # KerasTuner: the bucket of 0.4
    assert tenths.prob_to_value(tenths.value_to_prob(0.9)) == 0.9  # KerasTuner: 0.8


@pytest.mark.parametrize("sampling", ["log", "reverse_log"])
def test_log_integers_stay_within_their_bounds(sampling):
    hp = Int("h", 1, 100, sampling=sampling)
    assert (hp.prob_to_value(0.0), hp.prob_to_value(1.0)) == (1, 100)  # KerasTuner: 101
    assert min(hp.values) >= 1 and max(hp.values) <= 100


def test_a_continuum_includes_its_maximum():
    assert Float("h", 0.0, 1.0).prob_to_value(1.0) == 1.0


def test_reverse_log_steps_ascend():
    hp = Float("h", 1, 1000, step=10, sampling="reverse_log")
    assert list(hp.values) == [1.0, 901.0, 991.0, 1000.0]  # KerasTuner: the same values, descending with p
    assert [hp.prob_to_value(p) for p in (0.1, 0.4, 0.6, 0.9)] == [1.0, 901.0, 991.0, 1000.0]


def test_random_samples_need_no_global_generator():
    hp = Float("h", 0.0, 1.0)
    assert hp.random_sample(np.random.default_rng(3)) == np.random.default_rng(3).random()
    assert hp.random_sample() != hp.random_sample()  # fresh seeds; equal once in 2**31 runs


# Values.


def test_bounds_are_included_and_steps_start_at_the_minimum():
    assert list(Int("h", 16, 64, step=16).values) == [16, 32, 48, 64]
    assert list(Int("h", 1, 10, step=4).values) == [1, 5, 9]
    assert list(Int("h", 3, 3).values) == [3]


def test_ten_midpoints_stand_for_a_continuum():
    midpoints = [0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95]
    assert list(Float("h", 0, 1).values) == pytest.approx(midpoints)
    # KerasTuner has these in an unordered tuple.
    assert Int("h", 1, 100, sampling="log").values == (1, 3, 5, 7, 12, 20, 31, 50, 80)


@pytest.mark.parametrize(
    ("hp", "count", "kind"),
    [
        (Int("h", 1, 10), 10, "ordered"),
        (Int("h", 1, 1000, sampling="log"), 1000, "ordered"),
        (Int("h", 1, 1000, step=10, sampling="log"), 4, "ordered"),
        (Float("h", 0, 1, step=0.1), 11, "ordered"),
        (Float("h", 0, 1), None, "continuous"),
        (Float("h", 1, 1), 1, "ordered"),
        (Float("h", 1, 1, step=0.1), 1, "ordered"),
    ],
)
def test_number_and_kind_of_values(hp, count, kind):
    assert (hp.num_values, hp.kind) == (count, kind)


@pytest.mark.parametrize(
    ("hp", "value", "is_legal"),
    [
        (Int("h", 0, 10), 3, True),
        (Int("h", 0, 10), 3.0, True),
        (Int("h", 0, 10), np.int64(3), True),
        (Int("h", 0, 10), 3.5, False),
        (Int("h", 0, 10), 11, False),
        (Int("h", 0, 10), True, False),
        (Int("h", 0, 10), "3", False),
        (Int("h", 0, 10), None, False),
        (Int("h", 0, 10), math.nan, False),
        (Int("h", 0, 10), math.inf, False),
        (Int("h", 0, 10, step=2), 3, False),
        (Int("h", 0, 10, step=2), 4, True),
        (Int("h", 1, 1000, sampling="log"), 77, True),
        (Float("h", 0, 1), 1, True),
        (Float("h", 0, 1), np.float32(0.5), True),
        (Float("h", 0, 1), math.nan, False),
        (Float("h", 0, 1), True, False),
        (Float("h", 0, 1), 1.0000001, False),
        (Float("h", 0, 1, step=0.1), 0.1 + 0.2, True),
        (Float("h", 0, 1, step=0.1), 0.35, False),
        (Float("h", 2, 2), 2, True),
        (Float("h", 0, 1, step=1e-6), 0.123456, True),
    ],
)
def test_what_is_legal(hp, value, is_legal):
    assert hp.contains(value) is is_legal


def test_legal_values_come_out_in_type_and_as_typed():
    assert type(Int("h", 0, 10).cast(3.0)) is int
    assert type(Float("h", 0, 10).cast(3)) is float
    assert type(Float("h", 0, 10, step=1).cast(3)) is float
    assert Float("h", 0, 1, step=0.1).cast(0.1 + 0.2) == 0.3


def test_numbers_outside_count_as_the_bound():
    assert Int("h", 0, 9).value_to_prob(50) == 0.95
    assert Float("h", 0, 1).value_to_prob(-3) == 0.0
    assert (
        Int("h", 1, 9, sampling="log").encode([-4, 99]).tolist()
        == Int("h", 1, 9, sampling="log").encode([1, 9]).tolist()
    )


def test_defaults():
    assert Int("h", 3, 9).default == 3
    assert Int("h", 3, 9, default=5).default == 5
    assert Float("h", 3, 9).default == 3.0
    assert type(Float("h", 3, 9, default=5).default) is float


def test_sampling_is_forgiving_about_case_and_none():
    assert Int("h", 1, 9, sampling=None).sampling == "linear"
    assert Float("h", 1, 9, sampling="LOG").sampling == "log"


# Properties.

_SAMPLINGS = st.sampled_from(["linear", "log", "reverse_log"])


@settings(deadline=None)
@given(low=st.integers(1, 10**6), span=st.integers(0, 10**6), sampling=_SAMPLINGS, step=st.integers(2, 50))
def test_every_value_of_an_int_survives_the_unit_interval(low, span, sampling, step):
    for hp in (Int("h", low, low + span, sampling=sampling), Int("h", low, low + span, step, sampling)):
        indices = np.unique(np.linspace(0, hp.num_values - 1, 50).astype(int))
        values = hp.take(indices)
        assert hp.decode(hp.encode(values)) == values
        assert all(hp.contains(value) for value in values)
        assert (np.diff(hp.encode(values)) > 0).all()


@settings(deadline=None)
@given(low=st.integers(1, 10**4), span=st.integers(0, 10**4), sampling=_SAMPLINGS, position=st.floats(0, 1))
def test_no_position_leaves_the_bounds(low, span, sampling, position):
    whole = Int("h", low, low + span, sampling=sampling).prob_to_value(position)
    assert low <= whole <= low + span and type(whole) is int
    real = Float("h", low / 100, (low + span) / 100, sampling=sampling).prob_to_value(position)
    assert low / 100 <= real <= (low + span) / 100 and type(real) is float


@settings(deadline=None)
@given(low=st.integers(1, 10**4), count=st.integers(1, 500), step=st.integers(1, 999), decimals=st.integers(0, 6))
def test_every_value_of_a_float_grid_survives_the_unit_interval(low, count, step, decimals):
    unit = 10**decimals
    hp = Float("h", low / unit, (low + (count - 1) * step) / unit, step=step / unit)
    assert hp.num_values == count
    values = [(low + index * step) / unit for index in range(count)]
    assert list(hp.values) == values
    assert hp.decode(hp.encode(values)) == values


def test_the_largest_whole_numbers_keep_apart():
    hp = Int("h", 0, MAX_INTEGER, step=2**20)
    values = [0, 2**20, MAX_INTEGER - 2**20, MAX_INTEGER]
    assert hp.decode(hp.encode(values)) == values


# Unions.


@pytest.mark.parametrize(
    ("first", "second", "union"),
    [
        (Int("h", 0, 5), Int("h", 0, 9), Int("h", 0, 9)),
        (Int("h", 0, 5), Int("h", -3, 2), Int("h", -3, 5)),
        (Int("h", 0, 8, step=4), Int("h", 0, 12, step=6), Int("h", 0, 12, step=2)),
        (Int("h", 1, 8, sampling="log"), Int("h", 2, 16, sampling="log"), Int("h", 1, 16, sampling="log")),
        (Int("h", 1, 8, 2, "log"), Int("h", 1, 32, 2, "log"), Int("h", 1, 32, 2, "log")),
        (Int("h", 1, 8, 2, "log"), Int("h", 1, 27, 3, "log"), Int("h", 1, 27, None, "log")),
        (Int("h", 1, 8, 2, "reverse_log"), Int("h", 1, 9, 2, "reverse_log"), Int("h", 1, 9, None, "reverse_log")),
        (Int("h", 0, 5), Int("h", 1, 8, sampling="log"), Int("h", 0, 8)),
        (Int("h", 2, 5), Int("h", 1, 8, sampling="log"), Int("h", 1, 8, sampling="log")),
        (Float("h", 0, 1, step=0.1), Float("h", 0, 2, step=0.1), Float("h", 0, 2, step=0.1)),
        (Float("h", 0, 1, step=0.1), Float("h", 0, 2), Float("h", 0, 2)),
        (Float("h", 1, 2), Int("h", 0, 5), Float("h", 0, 5)),
        (Int("h", 0, 5), Float("h", 1, 2), Float("h", 0, 5)),
        (Int("h", 0, 5), Choice("h", ["a"]), Choice("h", ["a"])),
        (Int("h", 0, 5), Fixed("h", 3), Fixed("h", 3)),
        (Float("h", 0, 5), Boolean("h"), Boolean("h")),
    ],
)
def test_unions_allow_the_values_of_both(first, second, union):
    both = first.union(second)
    assert both.same_domain(union), both
    if isinstance(both, (Int, Float)):
        assert all(both.contains(value) for value in [*first.values, *second.values])


def test_unions_keep_default_and_conditions_of_the_first():
    both = Int("h", 0, 5, default=4).union(Int("h", 0, 9, default=8))
    assert both.default == 4
    assert Int("h", 2, 5).union(Int("h", 0, 9)).get_config()["default"] is None


# Text and JSON.


def test_repr_as_in_kerastuner():
    assert repr(Int("i", 1, 10)) == "Int(name: 'i', min_value: 1, max_value: 10, step: 1, sampling: linear, default: 1)"
    assert repr(Float("fl", 1e-4, 0.1, sampling="log")) == (
        "Float(name: 'fl', min_value: '0.0001', max_value: '0.1', step: 'None', sampling: 'log', default: '0.0001')"
    )
    assert "step: '10'" in repr(Float("fls", 1, 1000, step=10, sampling="log"))


def test_configuration_as_in_kerastuner():
    common = {"name": "h", "conditions": []}
    assert Int("h", 1, 9).get_config() == {
        **common,
        "default": None,  # KerasTuner stores what was given for Int ...
        "min_value": 1,
        "max_value": 9,
        "step": 1,
        "sampling": "linear",
    }
    assert Float("h", 1, 9, sampling="log").get_config() == {
        **common,
        "default": 1.0,  # ... and what it means for the others
        "min_value": 1.0,
        "max_value": 9.0,
        "step": None,
        "sampling": "log",
    }


# Bad input. Each text has its four parts: where, what came in, what is allowed, what to type.

BAD = [
    (
        lambda: Int("z", 5, 2),
        'Int("z"): got min_value=5, max_value=2: min_value 5 is greater than the max_value 2. '
        "Allowed: min_value <= max_value. Swap the two values.",
    ),
    (
        lambda: Float("z", 0.5, 0.1),
        'Float("z"): got min_value=0.5, max_value=0.1: min_value 0.5 is greater than the max_value 0.1. '
        "Allowed: min_value <= max_value. Swap the two values.",
    ),
    (
        lambda: Int("z", 1.5, 2),
        "Int(\"z\"): got min_value=1.5; min_value must be an int, Received: 1.5 of type <class 'float'>. "
        "Allowed: a whole number. Use Float for numbers in between.",
    ),
    (
        lambda: Int("z", 0, "a"),
        "Int(\"z\"): got max_value='a'; max_value must be an int, Received: a of type <class 'str'>. "
        "Allowed: a whole number. Use Float for numbers in between.",
    ),
    (
        lambda: Int("z", 0, 9, step=0.5),
        "Int(\"z\"): got step=0.5; step must be an int, Received: 0.5 of type <class 'float'>. "
        "Allowed: a whole number. Use Float for numbers in between.",
    ),
    (
        lambda: Int("z", 0, True),
        "Int(\"z\"): got max_value=True; max_value must be an int, Received: True of type <class 'bool'>. "
        "Allowed: a whole number. Use Float for numbers in between.",
    ),
    (
        lambda: Int("z", 0, 2**60),
        'Int("z"): got min_value=0, max_value=1152921504606846976. Allowed: whole numbers up to 2**53. '
        "Search for the exponent, or use Float.",
    ),
    (
        lambda: Int("z", 1, 2, sampling="foo"),
        'Int("z"): got sampling=\'foo\'. Allowed: sampling must be one of "linear", "log", "reverse_log". '
        'Most rates want "log".',
    ),
    (
        lambda: Float("z", 0, 2, sampling="log"),
        "Float(\"z\"): got sampling='log' does not support negative values, found min_value: 0.0. "
        'Allowed: min_value > 0 on a log scale. Raise min_value above 0, or use sampling="linear".',
    ),
    (
        lambda: Int("z", 1, 8, step=1, sampling="log"),
        "Int(\"z\"): got For HyperParameters.Int(name='z'), expected step > 1 with sampling='log'. Received: step=1. "
        "Allowed: a step > 1, which multiplies the value. "
        "Type step=10 for one value per power of ten, or leave step out.",
    ),
    (
        lambda: Int("z", 0, 8, step=0),
        'Int("z"): got step=0. Allowed: step > 0. Leave step out for every value between the bounds.',
    ),
    (
        lambda: Float("z", 0, 8, step=-0.5),
        'Float("z"): got step=-0.5. Allowed: step > 0. Leave step out for every value between the bounds.',
    ),
    (
        lambda: Float("z", 0, math.inf),
        'Float("z"): got max_value=inf. Allowed: a finite number for max_value. Type, for instance, 0.1.',
    ),
    (
        lambda: Float("z", None, 1),
        'Float("z"): got min_value=None. Allowed: a finite number for min_value. Type, for instance, 0.1.',
    ),
    (
        lambda: Float("z", "low", 1),
        "Float(\"z\"): got min_value='low'. Allowed: a finite number for min_value. Type, for instance, 0.1.",
    ),
    (
        lambda: Float("z", -1.7e308, 1.7e308),
        'Float("z"): got min_value=-1.7e+308, max_value=1.7e+308. Allowed: a finite range. '
        "Move the bounds closer together.",
    ),
    (
        lambda: Float("z", 0, 2, default=7),
        'Float("z"): got default=7. Allowed: a value between 0.0 and 2.0. Type, for instance, default=1.0.',
    ),
    (
        lambda: Int("z", 32, 512, step=32, default=100),
        'Int("z"): got default=100. Allowed: a value between 32 and 512 that is reached from 32 with step=32. '
        "Type, for instance, default=288.",
    ),
    (
        lambda: Int("z", 0, 10, default=3.5),
        'Int("z"): got default=3.5. Allowed: a value between 0 and 10. Type, for instance, default=5.',
    ),
]


@pytest.mark.parametrize(("make", "text"), BAD)
def test_bad_input(make, text):
    with pytest.raises(UsageError) as caught:
        make()
    assert str(caught.value) == text


def test_texts_of_numbers_are_numbers_for_float():
    assert Float("z", "1e-4", "1e-1").min_value == 1e-4  # KerasTuner's float() does the same; YAML files give these
