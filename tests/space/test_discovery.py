"""Discovery."""

import warnings

import pytest

from manyfit.core.errors import SearchError
from manyfit.space import HyperParameters, Parent, discover


def _names(hps):
    return [each.name for each in hps.space]


def _nested(hp):
    """What shows only while a scope holds, two levels deep."""
    kind = hp.Choice("kind", ["linear", "mlp", "cnn"])
    with hp.conditional_scope("kind", "mlp"):
        if kind == "mlp":
            layers = hp.Int("layers", 1, 3)
            for layer in range(3):
                with hp.conditional_scope("layers", list(range(layer + 1, 4))):
                    if layers is not None and layer < layers:
                        hp.Int(f"units_{layer}", 8, 64)
    with hp.conditional_scope("kind", "cnn"):
        if kind == "cnn":
            hp.Int("filters", 8, 64)


def test_every_scope_is_entered_once():
    builds = []

    def build(hp):
        builds.append(dict(hp.values))
        _nested(hp)

    space = discover(build, HyperParameters())
    assert _names(space) == ["kind", "layers", "units_0", "filters", "units_1", "units_2"]
    assert space.values == {"kind": "linear"}
    # The values that each build was given: one build for each scope that had not held by then.
    assert builds == [
        {},
        {"kind": "mlp"},
        {"kind": "cnn"},
        {"kind": "mlp", "layers": 2, "units_0": 8},
        {"kind": "mlp", "layers": 3, "units_0": 8, "units_1": 8},
    ]


def test_conditions_are_kept():
    space = discover(_nested, HyperParameters())
    conditions = {each.name: each.conditions for each in space.space}
    assert conditions["units_1"] == [Parent("kind", "mlp"), Parent("layers", [2, 3])]


def test_a_scope_that_another_one_opened_is_not_entered_again():
    builds = []

    def build(hp):
        builds.append(hp.Choice("p", ["a", "b", "c"]))
        for values in (["b"], ["b", "c"], ["a", "c"]):
            with hp.conditional_scope("p", values):
                pass

    discover(build, HyperParameters())
    assert builds == ["a", "b"]


def test_without_scopes_the_function_runs_once():
    builds = []
    space = discover(lambda hp: builds.append(hp.Int("n", 1, 3)), HyperParameters())
    assert (builds, space.values) == ([1], {"n": 1})


def test_what_is_known_before_counts_and_stays_as_it_is():
    known = HyperParameters()
    known.Choice("kind", ["mlp", "cnn"])
    known.pin()
    known.values["kind"] = "cnn"
    before = known.get_config()
    space = discover(_nested, known)
    assert known.get_config() == before
    assert space.values == {"kind": "cnn", "filters": 8}
    assert space.space[0].values == ["mlp", "cnn"]
    assert set(_names(space)) == {"kind", "layers", "units_0", "units_1", "units_2", "filters"}


def test_a_scope_that_the_overrides_rule_out_is_left_alone():
    known = HyperParameters()
    known.Fixed("kind", "cnn")
    known.pin()
    assert _names(discover(_nested, known)) == ["kind", "filters"]


def test_bounds_that_depend_on_a_scopes_values_are_all_covered():
    def build(hp):
        size = hp.Choice("size", ["small", "large"])
        hp.Int("units", 1, {"small": 8, "large": 64}[size])
        with hp.conditional_scope("size", "large"):
            pass

    assert discover(build, HyperParameters()).space[1].max_value == 64


def test_a_scope_that_its_build_refuses_is_tried_once_only():
    builds = []

    def build(hp):
        builds.append(1)
        hp.Int("n", 1, 1 if len(builds) > 1 else 3)
        with hp.conditional_scope("n", 3):
            pass

    discover(build, HyperParameters())
    assert len(builds) == 2


def test_conditions_on_one_parent_are_met_together():
    def build(hp):
        hp.Choice("n", [1, 2, 3])
        with hp.conditional_scope("n", [2, 3]), hp.conditional_scope("n", [3, 1]):
            if hp.Boolean("inner") is not None:
                hp.Int("found", 1, 2)

    assert "found" in _names(discover(build, HyperParameters()))


def test_a_conditional_parent_in_another_scope_is_reached():
    def build(hp):
        hp.Choice("optimizer", ["adam", "sgd"])
        with hp.conditional_scope("optimizer", "sgd"):
            hp.Boolean("nesterov")
        with hp.conditional_scope("nesterov", True):
            if hp.Int("momentum", 1, 2):
                hp.Int("found", 1, 2)

    assert "found" in _names(discover(build, HyperParameters()))


def test_errors_of_the_build_function_come_through():
    def build(hp):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        discover(build, HyperParameters())


def test_endless_discovery_ends_with_an_error():
    counter = iter(range(10**6))

    def build(hp):
        hp.Choice("p", [1, 2])
        for _ in range(2):
            name = f"switch_{next(counter)}"
            hp.Boolean(name)
            with hp.conditional_scope(name, True):
                pass

    with pytest.raises(SearchError) as caught:
        discover(build, HyperParameters(), max_builds=5)
    text = str(caught.value)
    assert text.startswith(
        "The build function: got new conditional scopes after 5 builds, the latest [Parent(name: 'sw"
    )
    assert text.endswith(
        "Allowed: a space that stops growing. "
        "Do not make names, parent values or conditions from counters, times or random numbers."
    )


def test_max_builds_is_reached_exactly():
    assert len(discover(_nested, HyperParameters(), max_builds=5).space) == 6
    with pytest.raises(SearchError):
        discover(_nested, HyperParameters(), max_builds=4)


def test_a_misspelt_parent_value_is_reported():
    def build(hp):
        hp.Choice("optimizer", ["adam", "sgd"])
        with hp.conditional_scope("optimizer", "sdg"):
            hp.Float("momentum", 0, 0.9)

    text = (
        r"""conditional_scope\("optimizer"\): got \['sdg'\], which it never took while the space was explored, """
        r"""so the scope was never active. Allowed: values out of \['adam', 'sgd'\]. """
        r"""Correct the spelling, or add the value to the choice."""
    )
    with pytest.warns(UserWarning, match=text) as caught:
        discover(build, HyperParameters())
    assert caught[0].filename == __file__


def test_a_value_that_an_override_rules_out_is_no_misspelling():
    def build(hp):
        hp.Choice("optimizer", ["adam", "sgd"])
        hp.Float("momentum", 0, 0.9, parent_name="optimizer", parent_values="sgd")

    mine = HyperParameters()
    mine.Choice("optimizer", ["adam", "rmsprop"])
    mine.pin()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        discover(build, mine)


def test_numbers_beyond_the_bounds_are_no_misspelling():
    def build(hp):
        hp.Int("layers", 1, 2)
        for layer in range(4):
            with hp.conditional_scope("layers", list(range(layer + 1, 5))):
                hp.Int(f"units_{layer}", 1, 2)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        discover(build, HyperParameters())
