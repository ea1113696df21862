"""What two trials would train, since it was made outside of the build function, is found before the second trains."""

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
from tiny import four_parts

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3)).astype("float32")
Y = (X[:, 0] > 0).astype("float32")


def made_by(outside):
    """A build function whose models have something in them that was made once, before it."""

    def build(hp):
        return compiled([outside, keras.layers.Dense(1, "sigmoid")], hp)

    return build


def compiled(layers, hp, optimizer=None):
    model = keras.Sequential([keras.Input((3,)), *layers])
    rate = hp.Choice("rate", [0.1, 0.2, 0.3])
    model.compile(optimizer or keras.optimizers.SGD(rate), "binary_crossentropy")
    return model


def base_model():
    inputs = keras.Input((3,))
    return keras.Model(inputs, keras.layers.Dense(4, "relu")(inputs), name="pretrained")


def search(build, folder, **options):
    tuner = kt.GridSearch(build, "val_loss", directory=folder, project_name="p", **options)
    tuner.search(X, Y, validation_data=(X, Y), epochs=1, batch_size=12, verbose=0)
    return tuner


def normalization():
    layer = keras.layers.Normalization()
    layer.adapt(X)
    return layer


def frozen():
    base = base_model()
    base.trainable = False
    return base


@pytest.mark.parametrize("population", [True, False])
@pytest.mark.parametrize(
    ("make", "name"), [(base_model, "pretrained"), (lambda: keras.layers.Dense(4, name="mine"), "mine")]
)
def test_a_trainable_layer_of_two_trials_is_an_error_that_names_it(make, name, population, tmp_path):
    with pytest.raises(kt.errors.FatalValueError) as caught:
        search(made_by(make()), tmp_path, population=population)
    where, got, _, instead = four_parts(caught.value)
    assert where == "hypermodel.build(hp)" and f'"{name}"' in got and "0000" in got and "0001" in got
    assert f"{name}.trainable = False" in instead


def test_layers_of_a_base_model_and_shared_variables_are_found(tmp_path):
    base = base_model()

    def on_top(hp):
        # With a name of its own: names are counted anew for each build, and the base model's layers keep theirs.
        model = keras.Model(base.inputs, keras.layers.Dense(1, "sigmoid", name="head")(base.outputs[0]))
        model.compile(keras.optimizers.SGD(hp.Choice("rate", [0.1, 0.2])), "binary_crossentropy")
        return model

    with pytest.raises(kt.errors.FatalValueError, match=f'"{base.layers[1].name}"'):
        search(on_top, tmp_path)


def test_a_shared_optimizer_is_named_and_what_finished_stays(tmp_path):
    optimizer = keras.optimizers.Adam(0.1, name="shared")

    def build(hp):
        hp.Choice("units", [1, 2])
        return compiled([keras.layers.Dense(1, "sigmoid")], hp, optimizer)

    with pytest.raises(kt.errors.FatalValueError, match='"shared"'):
        search(build, tmp_path, population=False)
    again = kt.GridSearch(build, "val_loss", directory=tmp_path, project_name="p", overwrite=False)
    assert [trial.status for trial in again.oracle.trials.values()].count("COMPLETED") == 1


@pytest.mark.parametrize("population", [True, False])
@pytest.mark.parametrize("make", [frozen, normalization, lambda: keras.layers.Dropout(0.5)])
def test_what_nothing_trains_may_be_shared(make, population, tmp_path):
    tuner = search(made_by(make()), tmp_path, population=population)
    assert {trial.status for trial in tuner.oracle.trials.values()} == {"COMPLETED"}


def test_a_retraining_does_not_go_on_from_the_trial(tmp_path):
    outside = keras.layers.Dense(4)
    tuner = kt.RandomSearch(made_by(outside), "val_loss", max_trials=1, directory=tmp_path, project_name="p")
    tuner.search(X, Y, validation_data=(X, Y), epochs=1, batch_size=12, verbose=0)
    with pytest.raises(kt.errors.FatalValueError, match="made outside"):
        tuner.retrain(verbose=0)
