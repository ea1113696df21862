"""Members of different structure in one program: the cover, who joins, and the same curves as `model.fit`'s."""

import keras
import numpy as np
import pytest
from marks import needs_jax

import manyfit as kt
from manyfit.training.population import families
from manyfit.training.population.covers import ProgramCosts, cover
from manyfit.training.population.structure_key import without_numbers

pytestmark = needs_jax

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 6)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")
FIT = {"epochs": 3, "batch_size": 16, "validation_data": (X[:20], Y[:20]), "shuffle": False, "verbose": 0}


def build(hp):
    model = keras.Sequential([keras.layers.Input((6,))])
    for number in range(hp.Int("layers", 1, 2)):
        units, activation = hp.Int(f"units {number}", 4, 16, step=4), hp.Choice("activation", ["relu", "sigmoid"])
        model.add(keras.layers.Dense(units, activation=activation))
    if hp.Boolean("dropout"):
        model.add(keras.layers.Dropout(0.25))
    model.add(keras.layers.Dense(2, activation="softmax"))
    rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def search(folder, name, trials=6, **options):
    tuner = kt.RandomSearch(
        build, "val_loss", max_trials=trials, seed=0, directory=str(folder), project_name=name, **options
    )
    tuner.search(X, Y, **FIT)
    return tuner


def curves_of(tuner):
    return [trial.executions[0].history for trial in tuner.oracle.trials.values()]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return search(tmp_path_factory.mktemp("shared"), "shared")


def test_structures_share_programs(shared):
    records = shared.programs().records
    configurations = [dict(trial.hyperparameters.values) for trial in shared.oracle.trials.values()]
    structures = {str({name: v for name, v in each.items() if name != "learning_rate"}) for each in configurations}
    assert len(structures) >= 5 and len(records) <= 3
    assert sum(record.members for record in records) == 6
    wide = [record for record in records if record.widths]
    assert wide and all(0 <= record.padding < 1 and "widths up to" in record.widths for record in wide)
    assert "structures share" in str(shared.programs()).splitlines()[0]
    assert not shared.programs().reasons


def test_curves_are_those_of_model_fit(shared, tmp_path):
    alone = search(tmp_path, "alone", population=False)
    for one, other in zip(curves_of(shared), curves_of(alone), strict=True):
        assert set(one) == set(other)
        for name, curve in other.items():
            np.testing.assert_allclose(one[name], curve, rtol=2e-4, atol=1e-5, err_msg=name)


def test_curves_are_those_of_programs_of_their_own(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(families, "WIDENS", False)
    own = search(tmp_path, "own")
    assert not any(record.widths for record in own.programs().records)
    for one, other in zip(curves_of(shared), curves_of(own), strict=True):
        for name in ("loss", "val_loss", "accuracy"):
            np.testing.assert_allclose(one[name], other[name], rtol=2e-5, atol=1e-6)


def test_best_models_have_their_own_shapes_and_scores(shared):
    for trial, model in zip(shared.oracle.get_best_trials(3), shared.get_best_models(3), strict=True):
        assert model.layers[0].units == trial.hyperparameters["units 0"]
        found = model.evaluate(X[:20], Y[:20], batch_size=16, verbose=0, return_dict=True)
        assert found["loss"] == pytest.approx(trial.score, rel=1e-5)


def test_a_population_of_one_pads_nothing(tmp_path):
    tuner = search(tmp_path, "one", trials=2, population_size=1)
    assert not any(record.widths for record in tuner.programs().records)


def test_what_is_not_exact_trains_in_programs_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MANYFIT_CACHE_DIR", str(tmp_path / "cache"))  # nothing is trusted yet
    monkeypatch.setattr(families, "find_padding_mismatch", lambda *_: "it was made up")
    tuner = kt.RandomSearch(build, "val_loss", max_trials=4, seed=0, directory=str(tmp_path), project_name="wrong")
    tuner.search(X, Y, **{**FIT, "epochs": 1, "verbose": 1})
    assert sum(record.members for record in tuner.programs().records if not record.widths) == 4
    assert not tuner.programs().reasons  # none of them by `model.fit`
    assert capsys.readouterr().out.count("train without padding") == 1


def test_searched_numbers_of_an_optimizer_are_no_reason_to_pad(tmp_path):
    """No wide program takes two optimizers that differ in numbers: each trial would compile one of its own."""

    def build_with_momentum(hp):
        model = keras.Sequential([keras.Input((6,))])
        for number in range(hp.Int("layers", 1, 2)):
            units, activation = hp.Int(f"units {number}", 4, 16, step=4), hp.Choice("activation", ["relu", "tanh"])
            model.add(keras.layers.Dense(units, activation=activation))
        model.add(keras.layers.Dense(1, activation="sigmoid"))
        optimizer = keras.optimizers.SGD(0.05, momentum=hp.Float("momentum", 0.0, 0.95), nesterov=True)
        model.compile(optimizer, "binary_crossentropy")
        return model

    tuner = kt.RandomSearch(build_with_momentum, "val_loss", 30, seed=0, directory=str(tmp_path))
    tuner.search(X, Y, **{**FIT, "epochs": 1})
    records = tuner.programs().records
    configurations = [dict(trial.hyperparameters.values) for trial in tuner.oracle.trials.values()]
    structures = {str({name: v for name, v in each.items() if name != "momentum"}) for each in configurations}
    assert not any(record.widths for record in records)
    assert len(records) <= len(structures) < len(configurations)


def test_a_cover_weighs_compilations_and_padding():
    options = {"seconds": float, "join": max}
    widths, epochs = [1, 2, 3, 100], [5, 5, 5, 5]
    assert cover(widths, epochs, compile_seconds=0, **options) == [((n,), widths[n]) for n in range(4)]
    assert cover(widths, epochs, compile_seconds=12, **options) == [((0, 1, 2), 3), ((3,), 100)]
    assert cover(widths, epochs, compile_seconds=1e6, **options) == [((0, 1, 2, 3), 100)]
    assert cover([], [], compile_seconds=1, **options) == []


def test_what_no_program_covers_stays_apart():
    parity = lambda one, other: max(one, other) if one % 2 == other % 2 else None  # noqa: E731
    found = cover([1, 2, 3, 4], [1] * 4, seconds=float, join=parity, compile_seconds=1e6)
    assert found == [((0, 2), 3), ((1, 3), 4)]


def test_costs_are_those_that_were_measured():
    assert ProgramCosts.measured([], []) == ProgramCosts()
    costs = ProgramCosts.measured([], [(1e9, 100, 2.01)])
    assert costs.seconds_per_flop == pytest.approx(2e-9)
    assert costs.epoch(flops=1e6, rows=1000, steps=100) == pytest.approx(2.01)


def test_fractions_are_no_structure():
    assert without_numbers('["a", 0.5, 1e-05]') == without_numbers('["a", 0.25, 0.125]')
    assert without_numbers('{"units": 32, "rate": 0.0}') == '{"units": 32, "rate": 0.0}'
