"""Constructors say what they take: to `inspect`, `help` and completion, with the types and defaults of who uses it."""

import inspect
import pydoc
import re

import pytest
import tiny

import manyfit as kt
from manyfit.data.call import FIT_PARAMETERS
from manyfit.tuners.finishing import confirm_settings
from manyfit.tuners.keras_tuner.base_tuner import BaseTuner
from manyfit.tuners.options import ProjectOptions, ReadyOptions, SearchOptions

FEW = [*tiny.READY, kt.Tuner]
METHODS = ["search", "fit", "confirm", "retrain", "bag", "ensemble", "evaluate"]


def annotation_of(option):
    return getattr(option, "__forward_arg__", option)


@pytest.mark.parametrize(
    "options, takers",
    [
        (SearchOptions, (kt.Tuner, kt.Oracle)),
        (ProjectOptions, (BaseTuner,)),
        (ReadyOptions, (kt.Tuner, kt.Oracle)),
        (ReadyOptions, (kt.RandomSearch,)),
    ],
)
def test_options_have_the_types_of_who_takes_them(options, takers):
    for name, annotation in options.__annotations__.items():
        takes = [
            inspect.signature(taker).parameters[name] for taker in takers if name in inspect.signature(taker).parameters
        ]
        assert [parameter.annotation for parameter in takes] == [annotation_of(annotation)], name


def test_no_option_of_a_tuner_is_forgotten():
    takes = set(inspect.signature(BaseTuner).parameters) | set(inspect.signature(kt.Tuner).parameters)
    takes |= set(inspect.signature(kt.Oracle).parameters)
    ready = set(inspect.signature(kt.RandomSearch).parameters)
    assert takes - ready == {"oracle", "sampler", "kwargs"}  # what a ready tuner makes itself, and `logger`


@pytest.mark.parametrize("tuner", FEW)
def test_each_argument_is_shown_by_its_name(tuner):
    parameters = inspect.signature(tuner).parameters
    assert all(one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) for one in parameters.values())
    assert {"directory", "project_name", "display", "executions_per_trial"} <= set(parameters)
    shown = pydoc.render_doc(tuner, renderer=pydoc.plaintext).splitlines()
    assert " |      overwrite: bool = False," in shown and " |  ) -> None" in shown  # a line for each
    assert not any("kwargs" in line for line in shown[: shown.index(" |  ) -> None")])


@pytest.mark.parametrize("taken", [*FEW, kt.fit, *(getattr(kt.Tuner, name) for name in METHODS)])
def test_help_says_of_each_argument_what_it_is_for(taken):
    doc = inspect.getdoc(taken)
    described = re.findall(r"^    (\*{0,2}\w+): \S", doc.partition("Args:\n")[2].partition("\n\n")[0], flags=re.M)
    names = [name for name in inspect.signature(taken).parameters if name != "self"]
    assert described == names
    assert "Example: `" in doc


@pytest.mark.parametrize("tuner", tiny.READY)
def test_defaults_are_those_of_the_oracle(tuner, tmp_path):
    own = inspect.signature(tuner).parameters
    for name, parameter in inspect.signature(tuner._oracle_class).parameters.items():
        if name in own:
            assert own[name].default == parameter.default, name


@pytest.mark.parametrize("tuner", FEW)
def test_an_argument_that_there_is_not_is_refused_by_its_name(tuner, tmp_path):
    if tuner is kt.OptunaSearch:
        pytest.importorskip("optuna")
    oracle = [kt.oracles.RandomSearchOracle("val_loss")] if tuner is kt.Tuner else []
    with pytest.raises(kt.errors.UsageError, match=r"Type overwrite=, say"):
        tuner(*oracle, lambda hp: None, directory=tmp_path, overwrit=True)


@pytest.mark.parametrize("name", METHODS)
def test_each_argument_of_a_method_is_shown_by_its_name(name):
    parameters = inspect.signature(getattr(kt.Tuner, name)).parameters
    assert all(one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) for one in parameters.values())
    if name in ("search", "fit"):
        assert set(FIT_PARAMETERS) | {"cross_validation", "row_id", "predict"} <= set(parameters)
        assert list(parameters)[:3] == ["self", "x", "y"]
        assert parameters["epochs"].default == {"search": 1, "fit": None}[name]


def test_confirm_shows_what_it_takes():
    shown = set(inspect.signature(kt.Tuner.confirm).parameters)
    options, fit_arguments = confirm_settings({"max_rounds": 25, "batch_size": 8}, 0.9, 10, None)
    assert options.max_rounds == 25 and fit_arguments == {"batch_size": 8}
    with pytest.raises(kt.errors.UsageError) as caught:
        confirm_settings({"unknown": 1}, 0.9, 10, None)
    allowed = set(str(caught.value).split("Allowed: one of ")[1].split(". Type")[0].split(", "))
    assert allowed <= shown


def test_one_call_shows_what_fit_takes():
    shown, fit = inspect.signature(kt.fit).parameters, inspect.signature(kt.Tuner.fit).parameters
    assert set(fit) - set(shown) == {"self"}
    assert all(shown[name].default == fit[name].default for name in set(fit) & set(shown) - {"x", "y"})


class OfAUser(kt.RandomSearch):
    def __init__(self, folder):
        super().__init__(lambda hp: None, "val_loss", directory=folder)


def test_a_constructor_of_the_users_is_shown_as_it_is():
    assert list(inspect.signature(OfAUser).parameters) == ["folder"]
