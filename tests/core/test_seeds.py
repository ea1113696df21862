"""The seed tree."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from manyfit.core import seeds

paths = st.lists(st.one_of(st.text(max_size=5), st.integers(0, 50)), min_size=1, max_size=4)


@given(seed=st.integers(0, 2**31 - 1), path=paths)
def test_a_path_has_one_seed_in_the_range_of_all_generators(seed, path):
    first = seeds.seed_of(seed, *path)
    assert first == seeds.seed_of(seed, *path)
    assert 0 <= first < 2**31


def test_streams_of_neighbouring_seeds_do_not_overlap():
    drawn = [seeds.seed_of(seed, "sampler", number) for seed, number in itertools.product(range(100), range(100))]
    assert len(set(drawn)) > 9_995  # 10,000 of 2**31 draws: 0.02 collisions are expected


def test_names_and_numbers_are_told_apart():
    assert seeds.seed_of(0, "a", 1) != seeds.seed_of(0, "a", "1")
    assert seeds.seed_of(0, "a", "b") != seeds.seed_of(0, "ab")
    assert seeds.seed_of(0, 1, 2) != seeds.seed_of(0, 2, 1)


def test_the_tree_never_changes():
    """Golden: the first four bytes of SHA-256 (by `sha256sum`), halved; a change would change every stored search."""
    assert seeds.seed_of(0, "sampler", 0) == 0x47A1AE48 >> 1


def test_generators_are_their_seeds():
    expected = np.random.default_rng(seeds.seed_of(3, "x")).random(4)
    np.testing.assert_array_equal(seeds.generator(3, "x").random(4), expected)


def test_fresh_seeds_differ_and_fit_everywhere():
    drawn = {seeds.fresh_seed() for _ in range(50)}
    assert len(drawn) > 45 and all(0 <= seed < 2**31 for seed in drawn)
