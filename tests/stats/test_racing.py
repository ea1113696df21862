import pytest

from manyfit.stats.racing import level_of_one_pair, nominal_level


def test_the_level_of_pocock():
    # Pocock 1977, table 1: 10 looks at two-sided 0.05 take the nominal level 0.0106 each, 0.0053 for one side at
    # 0.025, with known variance and looks after equal amounts of data. Ours come after rounds 3 to 12 and estimate
    # the variance; the first makes looks more alike, the second less.
    assert level_of_one_pair(0.025, 12) == pytest.approx(0.0053, rel=0.1)


def test_one_look_is_an_ordinary_t_test():
    # 100,000 paths, both signs: the standard error of the level is 1 % and 2 %.
    assert level_of_one_pair(0.05, 3) == pytest.approx(0.05, rel=0.04)
    assert nominal_level(2, 0.95, 3) == pytest.approx(0.04, rel=0.04)
    assert nominal_level(6, 0.95, 3) == pytest.approx(1 - 0.96 ** (1 / 5), rel=0.08)


def test_levels_fall_with_looks_and_contenders():
    assert nominal_level(2, 0.95, 10) > nominal_level(2, 0.95, 30) > nominal_level(2, 0.95, 60)
    assert nominal_level(2, 0.95, 30) > nominal_level(8, 0.95, 30) > nominal_level(30, 0.95, 30) > 0
    assert nominal_level(1, 0.95, 30) == nominal_level(8, 0.95, 2) == 0.0
