"""What a user knows before a search: trials of an earlier one, beliefs, another library's samplers."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import numpy as np
import pytest
import tiny

from manyfit.core.errors import ProjectError, UsageError

LOSS = kt.Objective("loss", "min")


def line(high: float = 1.0, *more: str) -> kt.HyperParameters:
    hp = kt.HyperParameters()
    hp.Float("x", 0.0, high)
    for name in more:
        hp.Choice(name, ["a", "b"])
    return hp


def distance(trial):
    return {"loss": abs(trial.hyperparameters.get("x") - 0.83), "mae": trial.hyperparameters.get("x")}


def searching(directory, tuner=kt.BayesianOptimization, function=distance, **arguments):
    arguments = {"objective": LOSS, "max_trials": 6, "seed": 0, "hyperparameters": line(), **arguments}
    return tiny.numbers(function, tuner, directory=str(directory), project_name="search", **arguments)


def searched(directory, *args, **arguments):
    tuner = searching(directory, *args, **arguments)
    tuner.search(verbose=0)
    return tuner


def test_a_warm_start_tries_earlier_winners_first(tmp_path):
    earlier = searched(tmp_path / "earlier", max_trials=12)
    winners = [trial.hyperparameters.get("x") for trial in earlier.oracle.get_best_trials(3)]
    tuner = searching(tmp_path / "later")
    assert tuner.warm_start(earlier) == 12
    tuner.search(verbose=0)
    tried = [values["x"] for values in tiny.proposals(tuner)]
    assert tried[:3] == winners
    assert sum(abs(x - 0.83) < 0.12 for x in tried[3:]) >= 2  # the rest was learned from, too
    assert len(tried) == 6 and len(set(tried)) == 6


def test_a_warm_start_from_a_folder_into_a_space_that_changed(tmp_path):
    """A longer range, a hyperparameter more, one less, and losses on another level."""
    earlier = searched(tmp_path / "earlier", max_trials=12, hyperparameters=line(0.9, "gone"))
    folder = earlier.project_dir
    del earlier
    shifted = lambda trial: {"loss": 100.0 + distance(trial)["loss"] + (trial.hyperparameters.get("new") == "b")}  # noqa: E731
    tuner = searching(tmp_path / "later", function=shifted, hyperparameters=line(2.0, "new"))
    assert tuner.warm_start(folder) == 12
    tuner.search(verbose=0)
    tried = tiny.proposals(tuner)
    assert all(set(values) == {"x", "new"} for values in tried)
    assert min(trial.score for trial in tuner.oracle.trials.values()) < 100.1
    assert sum(abs(values["x"] - 0.83) < 0.15 for values in tried) >= 4


def test_what_was_taken_stays_in_the_project(tmp_path):
    earlier = searched(tmp_path / "earlier", max_trials=8)
    whole = searching(tmp_path / "whole")
    whole.warm_start(earlier)
    whole.search(verbose=0)
    tuner = searching(tmp_path / "parts", max_trials=3)
    tuner.warm_start(earlier)
    tuner.search(verbose=0)
    tuner = searching(tmp_path / "parts")
    assert tuner.warm_start(earlier) == 0  # known already
    tuner.search(verbose=0)
    assert tiny.proposals(tuner) == tiny.proposals(whole)


def test_evolution_breeds_from_earlier_trials(tmp_path):
    earlier = searched(tmp_path / "earlier", max_trials=24)
    tuner = searching(tmp_path / "later", kt.Evolution, max_trials=8)
    tuner.warm_start(earlier)
    tuner.search(verbose=0)
    assert sum(abs(values["x"] - 0.83) < 0.15 for values in tiny.proposals(tuner)) >= 5


def test_warm_starts_that_cannot_be(tmp_path):
    earlier = searched(tmp_path / "earlier", max_trials=2)
    cases = [
        (searching(tmp_path / "a"), tmp_path / "nowhere", "where no project is"),
        (searching(tmp_path / "b"), 3, "a text or a path"),
        (searching(tmp_path / "c", objective="val_auc"), earlier, "val_auc"),
        (searching(tmp_path / "d", kt.RandomSearch), earlier, "does not learn"),
    ]
    for tuner, source, text in cases:
        with pytest.raises(UsageError, match=text) as caught:
            tuner.warm_start(source)
        tiny.four_parts(caught.value)
    assert not (tmp_path / "nowhere").exists()
    assert searching(tmp_path / "e", objective="mae").warm_start(earlier) == 2  # it was logged, if not ranked


@pytest.mark.parametrize("tuner", [kt.BayesianOptimization, kt.Search])
def test_beliefs_steer_the_first_trials(tmp_path, tuner):
    """Nothing else tells the places apart: the loss is constant."""
    found = searched(
        tmp_path, tuner, lambda trial: {"loss": 0.0}, beliefs=[kt.Belief("x", 0.3, spread=0.05)], max_trials=8
    )
    near = [abs(values["x"] - 0.3) < 0.2 for values in tiny.proposals(found)[1:]]  # the first are the defaults
    assert sum(near) >= 6


def test_beliefs_that_exclude_everything_are_no_harm(tmp_path):
    """Certain of opposite ends, for names that exist and for one that does not: the search goes on, and finds it."""
    beliefs = [kt.Belief("x", -5.0, spread=1e-6), kt.Belief("y", 3.0)]
    with pytest.warns(UserWarning, match="beliefs") as warned:
        found = searched(tmp_path, beliefs=beliefs, max_trials=14)
    [one] = warned
    assert str(one.message).startswith(
        'beliefs: got "y", which no trial had: it has steered nothing. Allowed: one of x'
    )
    assert min(trial.score for trial in found.oracle.trials.values()) < 0.05


def test_enqueued_configurations_come_before_all_others(tmp_path):
    tuner = searching(tmp_path, max_trials=3)
    tuner.enqueue({"x": 0.625}, {"x": 0.5})
    tuner.search(verbose=0)
    assert [values["x"] for values in tiny.proposals(tuner)][:2] == [0.625, 0.5]


def test_another_project_that_is_open_elsewhere_is_named(tmp_path, monkeypatch):
    earlier = searched(tmp_path / "earlier", max_trials=2)
    folder = earlier.project_dir

    def locked(*args, **kwargs):
        raise ProjectError("another process has it")

    monkeypatch.setattr("manyfit.tuners.keras_tuner.base_tuner.ProjectStore.__init__", locked)
    with pytest.raises(ProjectError, match="another process"):
        earlier.warm_start(folder)


def test_what_is_recommended_is_no_lucky_draw(tmp_path):
    """A bowl under noise, in a draw where luck wins; that it averages out at large is tested at the sampler."""
    noise = np.random.default_rng(2).standard_normal(40)

    def noisy(trial):
        return {"loss": (trial.hyperparameters.get("x") - 0.3) ** 2 + 0.1 * noise[trial.number]}

    tuner = searching(tmp_path, max_trials=40, function=noisy)
    tuner.enqueue(*({"x": (7 * i % 40 + 0.5) / 40} for i in range(40)))
    tuner.search(verbose=0)
    lucky, recommended = tuner.oracle.get_best_trials(1)[0], tuner.oracle.get_recommended_trials(1)[0]
    far, near = (abs(trial.hyperparameters.get("x") - 0.3) for trial in (lucky, recommended))
    assert near < 0.08 < far
    by_chance = searched(tmp_path / "random", kt.RandomSearch)
    assert by_chance.oracle.get_recommended_trials(2) == by_chance.oracle.get_best_trials(2)


def test_optuna_decides(tmp_path):
    pytest.importorskip("optuna", reason="the optional extra manyfit[optuna] is not installed")
    tuner = searched(tmp_path, kt.OptunaSearch, sampler="TPESampler", sampler_settings={"n_startup_trials": 4})
    assert len({values["x"] for values in tiny.proposals(tuner)}) == 6
    assert tuner.oracle.sampler.settings()["sampler"] == "TPESampler"
    with pytest.raises(UsageError, match="one objective") as caught:
        searching(tmp_path / "several", kt.OptunaSearch, objective=["loss", "mae"])
    tiny.four_parts(caught.value)


def test_without_optuna_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install manyfit\[optuna\]"):
        searching(tmp_path, kt.OptunaSearch)


def test_the_portfolio_says_what_it_picked(tmp_path, capsys):
    tuner = searching(tmp_path, kt.Search, max_trials=3)
    tuner.search(verbose=1)
    assert "Search: Bayesian optimisation with a Gaussian process" in capsys.readouterr().out
