"""Encoding to the unit cube."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from spaces import spaces

from manyfit.core.errors import UsageError
from manyfit.space import Boolean, Encoding, Fixed, HyperParameters, Int, Parent

SEEDS = st.integers(0, 2**32 - 1)


def _conditional():
    """kind = a: size; kind = b: rate, and deep, which brings layers."""
    hp = HyperParameters()
    hp.Choice("kind", ["a", "b"])
    with hp.conditional_scope("kind", "a"):
        hp.Int("size", 1, 4)
    with hp.conditional_scope("kind", "b"):
        hp.Float("rate", 1e-4, 1.0, sampling="log", default=1e-2)
        hp.Boolean("deep")
        with hp.conditional_scope("deep", True):
            hp.Int("layers", 2, 3)
    hp.Fixed("epochs", 5)
    hp.Int("single", 7, 7)
    return hp


# Dimensions.


def test_dimensions_are_what_can_vary():
    dimensions = Encoding(_conditional()).dimensions
    assert [(each.name, each.kind, each.num_values) for each in dimensions] == [
        ("kind", "unordered", 2),
        ("size", "ordered", 4),
        ("rate", "continuous", None),
        ("deep", "unordered", 2),
        ("layers", "ordered", 2),
    ]
    assert [len(each.conditions) for each in dimensions] == [0, 1, 1, 1, 2]
    assert dimensions[1].hyperparameter.max_value == 4
    assert len(Encoding(_conditional())) == 5


def test_an_encoding_is_a_snapshot():
    hp = HyperParameters()
    hp.Int("n", 1, 3)
    encoding = Encoding(hp)
    hp.Int("m", 1, 3)
    hp.space[0].max_value = 99
    assert len(encoding) == 1 and encoding.dimensions[0].hyperparameter.max_value == 3


def test_a_space_without_dimensions():
    hp = HyperParameters()
    hp.Fixed("a", 1)
    encoding = Encoding(hp)
    assert encoding.decode([]) == {"a": 1}
    assert encoding.encode_many([{"a": 1}] * 3).shape == (3, 0)
    assert encoding.neighbours({"a": 1}, np.random.default_rng(0)) == []


# There and back.


def test_points_by_hand():
    encoding = Encoding(_conditional())
    first = {"kind": "a", "size": 3, "epochs": 5, "single": 7}
    second = {"kind": "b", "rate": 0.1, "deep": True, "layers": 2, "epochs": 5, "single": 7}
    points = encoding.encode_many([first, second])
    nan = np.nan
    np.testing.assert_allclose(points, [[0.25, 0.625, nan, nan, nan], [0.75, nan, 0.75, 0.75, 0.25]], rtol=1e-14)
    assert encoding.decode_many(points) == [first, {**second, "rate": pytest.approx(0.1, rel=1e-14)}]
    np.testing.assert_array_equal(encoding.encode(first), points[0])
    assert encoding.decode(points[0]) == first


def test_coordinates_of_inactive_hyperparameters_are_ignored():
    encoding = Encoding(_conditional())
    assert encoding.decode([0.1, 0.9, 0.3, 0.9, 0.9]) == encoding.decode([0.1, 0.9, np.nan, np.nan, np.nan])


def test_a_missing_coordinate_of_an_active_one_means_the_default():
    assert Encoding(_conditional()).decode([0.9, np.nan, np.nan, np.nan, np.nan]) == {
        "kind": "b",
        "rate": 1e-2,  # exactly
        "deep": False,
        "epochs": 5,
        "single": 7,
    }


def test_values_of_inactive_hyperparameters_are_not_encoded():
    point = Encoding(_conditional()).encode({"kind": "a", "size": 1, "rate": 0.1, "deep": True})
    assert np.isnan(point[2:]).all() and not np.isnan(point[:2]).any()


def test_points_outside_the_cube_count_as_its_edge():
    encoding = Encoding(_conditional())
    assert encoding.decode([-3, 7, 0, 0, 0]) == {"kind": "a", "size": 4, "epochs": 5, "single": 7}
    assert encoding.snap([[-3, 7, 0, 0, 0]])[0, :2].tolist() == [0.25, 0.875]
    assert encoding.snap([[9, 0, -1, 9, 9], [9, 0, 9, 0, 0]])[:, 2].tolist() == [0.0, 1.0]


@settings(deadline=None)
@given(hp=spaces(), seed=SEEDS)
def test_encoding_undoes_decoding(hp, seed):
    encoding = Encoding(hp)
    points = np.random.default_rng(seed).random((20, len(encoding)))
    many_values = encoding.decode_many(points)
    encoded = encoding.encode_many(many_values)
    again = encoding.decode_many(encoded)
    for values, twin in zip(many_values, again, strict=True):
        assert list(twin) == list(values)
        for name, value in values.items():
            assert type(twin[name]) is type(value)
            assert twin[name] == (pytest.approx(value, rel=1e-9, abs=1e-12) if type(value) is float else value)
    np.testing.assert_allclose(encoding.encode_many(again), encoded, atol=1e-9)


@settings(deadline=None)
@given(hp=spaces(finite=True), seed=SEEDS)
def test_grids_survive_exactly(hp, seed):
    encoding = Encoding(hp)
    many_values = encoding.random_many(20, np.random.default_rng(seed))
    assert encoding.decode_many(encoding.encode_many(many_values)) == many_values
    assert [encoding.decode(encoding.encode(values)) for values in many_values] == many_values


@settings(deadline=None)
@given(hp=spaces(), seed=SEEDS)
def test_a_point_is_never_further_than_its_bucket(hp, seed):
    encoding = Encoding(hp)
    points = np.random.default_rng(seed).random((20, len(encoding)))
    moved = np.abs(encoding.snap(points) - points)
    for column, dimension in enumerate(encoding.dimensions):
        hp = dimension.hyperparameter
        is_even = dimension.num_values and getattr(hp, "grid", True) is not None  # log integers: uneven buckets
        if is_even:
            distances = moved[:, column][~np.isnan(moved[:, column])]
            assert (distances <= 0.5 / dimension.num_values + 1e-12).all()


@settings(deadline=None)
@given(hp=spaces(), seed=SEEDS)
def test_snapping_equals_decoding_and_encoding(hp, seed):
    encoding = Encoding(hp)
    rng = np.random.default_rng(seed)
    points = rng.random((20, len(encoding)))
    points[rng.random(points.shape) < 0.2] = np.nan
    many_values = encoding.decode_many(points)
    snapped = encoding.snap(points)
    np.testing.assert_allclose(snapped, encoding.encode_many(many_values), atol=1e-9)
    np.testing.assert_allclose(encoding.snap(snapped), snapped, atol=1e-12)


@settings(deadline=None)
@given(hp=spaces(), seed=SEEDS)
def test_activity_is_the_same_seen_from_points_and_from_values(hp, seed):
    encoding = Encoding(hp)
    points = np.random.default_rng(seed).random((10, len(encoding)))
    active = encoding.active(points)
    assert active.shape == points.shape
    for row, point in enumerate(points):
        values = encoding.decode(point)
        assert encoding.active(values).tolist() == encoding.active(point).tolist() == active[row].tolist()


def test_conditions_on_a_continuum_hold_at_its_exact_values():
    hp = HyperParameters()
    hp.Float("x", 0, 1, default=0.0)
    hp.Int("n", 1, 3, parent_name="x", parent_values=[0.0])
    encoding = Encoding(hp)
    assert encoding.active([[0.0, 0.5], [0.3, 0.5]]).tolist() == [[True, True], [True, False]]
    assert encoding.decode([0.0, 0.5]) == {"x": 0.0, "n": 2}


def test_an_inactive_parent_switches_off_whatever_its_coordinate_says():
    hp = HyperParameters()
    flag, parent = Boolean("flag"), Int("parent", 1, 2, conditions=[Parent("flag", True)])
    hp.merge([flag, parent, Int("child", 1, 2, conditions=[Parent("parent", 1)])])
    encoding = Encoding(hp)
    assert encoding.active([[0.1, 0.1, 0.1], [0.9, 0.1, 0.1], [0.9, 0.9, 0.1]]).tolist() == [
        [True, False, False],
        [True, True, True],
        [True, True, False],
    ]


def test_where_two_of_one_name_are_active_the_first_one_counts():
    hp = HyperParameters()
    narrow, wide = Int("size", 0, 1, conditions=[Parent("flag", True)]), Int("size", 1, 4)
    hp.merge([Boolean("flag", True), narrow, wide, Int("child", 1, 2, conditions=[Parent("size", [1])])])
    encoding = Encoding(hp)
    points = np.array([[0.9, 0.1, 0.9, 0.1], [0.9, 0.9, 0.1, 0.1], [0.1, 0.9, 0.9, 0.1]])
    assert encoding.decode_many(points) == [
        {"flag": True, "size": 0},
        {"flag": True, "size": 1, "child": 1},
        {"flag": False, "size": 4},
    ]
    assert encoding.active(points)[:, 3].tolist() == [False, True, False]
    assert encoding.num_configurations() == 3 + 5
    listed = list(encoding.enumerate())
    assert len(listed) == 8 and all(encoding.is_valid(values) for values in listed)


def test_children_that_come_before_their_parents():
    hp = HyperParameters.from_config({"space": list(reversed(_conditional().get_config()["space"])), "values": {}})
    encoding = Encoding(hp)
    assert encoding.is_valid(encoding.defaults())
    assert encoding.defaults() == {"kind": "a", "size": 1, "epochs": 5, "single": 7}


# Random configurations.


@settings(deadline=None)
@given(hp=spaces(), seed=SEEDS)
def test_random_configurations_are_valid_and_repeatable(hp, seed):
    encoding = Encoding(hp)
    values = encoding.random(np.random.default_rng(seed))
    assert encoding.is_valid(values)
    assert values == encoding.random(np.random.default_rng(seed))
    assert all(encoding.is_valid(each) for each in encoding.random_many(5, np.random.default_rng(seed)))


def _samples(make, count=20_000, seed=0):
    hp = HyperParameters()
    make(hp)
    return [values["h"] for values in Encoding(hp).random_many(count, np.random.default_rng(seed))]


def _log_integers(low, high):
    return {value: math.log((value + 1) / value) / math.log((high + 1) / low) for value in range(low, high + 1)}


def _mirrored(probabilities):
    return dict(zip(probabilities, reversed(probabilities.values()), strict=True))


@pytest.mark.parametrize(
    ("make", "probabilities"),
    [
        (lambda hp: hp.Int("h", 3, 9), dict.fromkeys(range(3, 10), 1 / 7)),
        (lambda hp: hp.Int("h", 0, 10, step=4), dict.fromkeys([0, 4, 8], 1 / 3)),
        (lambda hp: hp.Int("h", 2, 16, step=2, sampling="log"), dict.fromkeys([2, 4, 8, 16], 1 / 4)),
        (lambda hp: hp.Int("h", 1, 20, sampling="log"), _log_integers(1, 20)),
        (lambda hp: hp.Int("h", 1, 20, sampling="reverse_log"), _mirrored(_log_integers(1, 20))),
        (lambda hp: hp.Float("h", 0, 1, step=0.25), dict.fromkeys([0, 0.25, 0.5, 0.75, 1.0], 1 / 5)),
        (lambda hp: hp.Choice("h", ["c", "a", "b"]), dict.fromkeys("abc", 1 / 3)),
        (lambda hp: hp.Choice("h", [4, 1, 2]), dict.fromkeys([1, 2, 4], 1 / 3)),
        (lambda hp: hp.Boolean("h"), {True: 0.5, False: 0.5}),
    ],
)
def test_grids_are_sampled_by_their_distribution(make, probabilities):
    """Chi-squared, 20,000 draws, alpha = 1e-4: sees a bucket of 1/7 that is off by 6 percent nearly always."""
    samples = _samples(make)
    counts = [samples.count(value) for value in probabilities]
    assert sum(counts) == len(samples)  # nothing else is ever drawn
    expected = [len(samples) * probability for probability in probabilities.values()]
    assert stats.chisquare(counts, expected).pvalue > 1e-4


@pytest.mark.parametrize(
    ("make", "distribution"),
    [
        (lambda hp: hp.Float("h", -1, 3), stats.uniform(-1, 4).cdf),
        (lambda hp: hp.Float("h", 1e-5, 1e-1, sampling="log"), stats.loguniform(1e-5, 1e-1).cdf),
        (
            lambda hp: hp.Float("h", 1, 100, sampling="reverse_log"),
            lambda x: stats.loguniform(1, 100).sf(101 - np.asarray(x)),
        ),
    ],
)
def test_continua_are_sampled_by_their_distribution(make, distribution):
    """Kolmogorov-Smirnov, 20,000 draws, alpha = 1e-4: sees a distribution function that is off by 0.016."""
    assert stats.kstest(_samples(make), distribution).pvalue > 1e-4


def test_hyperparameters_are_sampled_independently():
    """Chi-squared of a 5 x 4 table, 20,000 draws, alpha = 1e-4."""
    hp = HyperParameters()
    hp.Int("a", 0, 4)
    hp.Int("b", 0, 3)
    table = np.zeros((5, 4))
    for values in Encoding(hp).random_many(20_000, np.random.default_rng(1)):
        table[values["a"], values["b"]] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-4


# Validity, adapting, keys.


@pytest.mark.parametrize(
    ("change", "is_valid"),
    [
        ({}, True),
        ({"size": 4}, True),
        ({"size": 5}, False),
        ({"size": 2.5}, False),
        ({"size": True}, False),
        ({"rate": 0.1}, False),  # inactive
        ({"other": 1}, False),  # unknown
        ({"epochs": 6}, False),  # fixed
        ({"kind": "c"}, False),
        ({"kind": "b"}, False),  # size is inactive then, rate is missing
    ],
)
def test_validity(change, is_valid):
    values = {"kind": "a", "size": 3, "epochs": 5, "single": 7}
    assert Encoding(_conditional()).is_valid({**values, **change}) is is_valid


def test_missing_values_are_not_valid():
    assert not Encoding(_conditional()).is_valid({"kind": "a", "epochs": 5, "single": 7})


def test_adapting_values_of_another_space():
    encoding = Encoding(_conditional())
    old = {"kind": "b", "rate": 50, "layers": 3, "size": 2, "gone": 1, "epochs": 9}
    assert encoding.adapt(old) == {"kind": "b", "rate": 1.0, "deep": False, "epochs": 5, "single": 7}
    assert encoding.adapt({"kind": "c", "size": 3.4}) == {"kind": "a", "size": 3, "epochs": 5, "single": 7}
    assert encoding.adapt({"size": math.nan})["size"] == 1
    assert encoding.adapt({"size": "3"})["size"] == 1


def test_adapting_keeps_continuous_values_bit_by_bit():
    encoding = Encoding(_conditional())
    values = encoding.decode([0.9, 0, 0.123456789, 0, 0])
    assert encoding.adapt(values) == values


def test_adapting_with_a_generator_draws_what_is_missing():
    encoding = Encoding(_conditional())
    drawn = {encoding.adapt({"kind": "a"}, np.random.default_rng(seed))["size"] for seed in range(40)}
    assert drawn == {1, 2, 3, 4}


@settings(deadline=None)
@given(first=spaces(), second=spaces(), seed=SEEDS)
def test_adapted_values_are_valid_and_adapting_again_changes_nothing(first, second, seed):
    rng = np.random.default_rng(seed)
    values = Encoding(first).random(rng)
    encoding = Encoding(second)
    for adapted in (encoding.adapt(values), encoding.adapt(values, rng), encoding.adapt({}, rng)):
        assert encoding.is_valid(adapted)
        assert encoding.adapt(adapted, rng) == adapted
    assert encoding.adapt({}) == encoding.defaults()


def test_keys_tell_types_apart_where_hyperparameters_do():
    hp = HyperParameters()
    hp.Float("rate", 0, 1)
    hp.Choice("flag", [True, False])
    hp.Int("n", 0, 3)
    encoding = Encoding(hp)
    assert encoding.key({"rate": 1}) == encoding.key({"rate": 1.0})
    assert encoding.key({"n": 1}) == encoding.key({"n": np.int64(1)}) == encoding.key({"n": 1.0})
    assert encoding.key({"flag": True}) != encoding.key({"flag": 1})
    assert encoding.key({"n": 1}) != encoding.key({"n": True})
    assert encoding.key({"unknown": 1}) != encoding.key({"unknown": 1.0})
    assert encoding.key({"rate": 0.5, "n": 1}) == encoding.key({"n": 1, "rate": 0.5})
    assert encoding.key({"n": 1}) != encoding.key({"n": 1, "rate": 0.5})


# Neighbours.


def test_neighbours_by_hand():
    hp = HyperParameters()
    hp.Choice("kind", ["a", "b", "c"])
    hp.Int("n", 1, 4)
    hp.Fixed("fixed", 1)
    found = Encoding(hp).neighbours({"kind": "b", "n": 1, "fixed": 1}, np.random.default_rng(0))
    assert found == [
        {"kind": "a", "n": 1, "fixed": 1},
        {"kind": "c", "n": 1, "fixed": 1},
        {"kind": "b", "n": 2, "fixed": 1},
    ]


def test_long_orders_and_continua_get_gaussian_moves():
    hp = HyperParameters()
    hp.Float("x", 0, 1)
    hp.Int("n", 0, 999)
    encoding = Encoding(hp)
    moves = encoding.neighbours({"x": 0.5, "n": 500}, np.random.default_rng(0), scale=0.1, num_moves=400)
    x_moves = np.array([each["x"] for each in moves if each["n"] == 500])
    assert len(x_moves) == 400
    # The standard deviation of 400 Gaussian draws is within 15 percent of the truth with probability 1 - 2e-5.
    assert np.std(x_moves - 0.5) == pytest.approx(0.1, rel=0.15)
    n_moves = {each["n"] for each in moves if each["x"] == 0.5}
    assert {499, 501} <= n_moves and len(n_moves) > 150


def test_gaussian_moves_off_the_edge_come_back():
    hp = HyperParameters()
    hp.Float("x", 0, 1)
    moves = Encoding(hp).neighbours({"x": 0.0}, np.random.default_rng(0), scale=0.05, num_moves=200)
    assert len(moves) == 200  # none of them stuck at the edge
    assert max(each["x"] for each in moves) < 0.3


@settings(deadline=None)
@given(hp=spaces(), seed=SEEDS)
def test_neighbours_are_valid_distinct_and_differ_in_one_move(hp, seed):
    encoding = Encoding(hp)
    rng = np.random.default_rng(seed)
    values = encoding.random(rng)
    found = encoding.neighbours(values, rng)
    keys = [encoding.key(each) for each in found]
    assert all(encoding.is_valid(each) for each in found)
    assert len(set(keys)) == len(keys) and encoding.key(values) not in keys
    parents = {condition.name for dimension in encoding.dimensions for condition in dimension.conditions}
    for each in found:
        shared = [name for name in each if name in values and each[name] != values[name]]
        assert len(shared) == 1 or parents & set(shared)


# Bad input.


@pytest.mark.parametrize("use", ["decode_many", "snap", "active"])
def test_points_of_the_wrong_width(use):
    with pytest.raises(UsageError) as caught:
        getattr(Encoding(_conditional()), use)(np.zeros((3, 2)))
    assert str(caught.value) == (
        "Encoding: got points of shape (3, 2). Allowed: shape (n, 5), one column per dimension. "
        "Make a new Encoding when the space has grown."
    )


def test_a_single_point_of_the_wrong_shape():
    with pytest.raises(UsageError, match=r"points of shape \(1, 2, 5\)"):
        Encoding(_conditional()).decode(np.zeros((2, 5)))


def test_a_value_that_is_not_in_its_choice():
    with pytest.raises(UsageError, match=r'Choice\("kind"\): got the value \'c\'. Allowed: one of \[\'a\', \'b\'\]'):
        Encoding(_conditional()).encode({"kind": "c"})


def test_a_fixed_value_has_no_coordinate():
    hp = HyperParameters()
    hp.merge([Fixed("only", 1)])
    assert len(Encoding(hp)) == 0


@settings(max_examples=25, deadline=None)
@given(hp=spaces(), seed=SEEDS)
def test_scalar_and_vector_paths_agree(hp, seed):
    encoding = Encoding(hp)
    many_values = encoding.random_many(8, np.random.default_rng(seed))
    singles = np.array([encoding.encode(values) for values in many_values]).reshape(8, len(encoding))
    np.testing.assert_array_equal(encoding.encode_many(many_values), singles)
    for column, dimension in enumerate(encoding.dimensions):
        for row, values in enumerate(many_values):
            if not np.isnan(singles[row, column]):
                position = dimension.hyperparameter.value_to_prob(values[dimension.name])
                assert position == singles[row, column]
                assert dimension.hyperparameter.contains(values[dimension.name])
