"""In wide programs: what a model is compiled with, and what it is trained on. Each is `model.fit`'s to rounding."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers
from marks import needs_jax
from wide_searches import (
    RNG,
    STRUCTURES,
    X,
    Y,
    assert_alike,
    assert_same_weights,
    executions,
    network,
    num_wide,
    quickly_compiled,
    searched,
    searched_alone,
    space,
)

pytestmark = needs_jax

WEIGHTS = RNG.uniform(0.2, 2, 40).astype("float32")


def averaged():
    """Averages of the weights, which take their place at the end; decay, clipping of each gradient, a schedule."""
    rate = keras.optimizers.schedules.CosineDecay(0.05, 15)
    return keras.optimizers.AdamW(rate, weight_decay=0.1, clipnorm=0.2, use_ema=True, ema_momentum=0.8)


def clipped():
    """Clipping by the norm of all gradients, which padding must not change; accumulation; a scaled loss."""
    return keras.optimizers.SGD(0.2, momentum=0.9, global_clipnorm=0.1, loss_scale_factor=64.0)


CASES = {
    "sample weights": (averaged, {"sample_weight": WEIGHTS, "validation_data": (X[:16], Y[:16], WEIGHTS[:16])}),
    "class weights": (clipped, {"class_weight": {0: 1.0, 1: 3.0}, "batch_size": 12}),  # the last batch has four rows
}


@pytest.mark.parametrize("name", CASES)
def test_members_train_as_by_model_fit(name, tmp_path):
    optimizer, fit = CASES[name]
    build = space(optimizer, weighted_metrics=["accuracy"])
    wide = searched(build, tmp_path, fit=fit, objective="loss")
    with quickly_compiled():
        alone = searched_alone(build, tmp_path, fit=fit, objective="loss")
    assert num_wide(wide) == len(STRUCTURES) and not wide.programs().reasons
    assert_alike(wide, alone)
    assert_same_weights(wide, alone)


def several_outputs(hp):
    """Of one input, each with a loss and a weight of its own; one behind a branch of convolutions.

    A largest number is looked for behind a normalisation: compiled without optimisation that computes NaN.
    """
    width = hp.Choice("width", [3, 6])
    inputs = keras.Input((5,), name="x")
    image = layers.Reshape((5, 1))(layers.Dense(5, activation="tanh")(inputs))
    image = layers.Conv1D(width, 3, activation="softplus")(image)
    image = layers.GlobalMaxPooling1D()(layers.BatchNormalization()(image))
    hidden = layers.Dropout(0.2)(layers.Dense(width + 1, activation="sigmoid")(inputs))
    kind = layers.Dense(2, activation="softmax", name="kind")(layers.Concatenate()([hidden, image]))
    size = layers.Dense(1, name="size")(hidden)
    model = keras.Model(inputs, {"kind": kind, "size": size})
    losses = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
    metrics = {"kind": ["accuracy"], "size": ["mae"]}
    model.compile("adam", losses, loss_weights={"kind": 1.0, "size": 0.3}, metrics=metrics)
    return model


def recurrent(hp):
    """Over five words, some of which are masked."""
    width = hp.Choice("width", [3, 6])
    model = keras.Sequential(
        [
            layers.Input((5,)),
            layers.Embedding(8, width, mask_zero=True),
            layers.LSTM(width + 1),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


NETWORKS = {
    "several outputs": (several_outputs, X, {"kind": Y, "size": X[:, :1]}, contextlib.nullcontext),
    "recurrent": (recurrent, RNG.integers(0, 8, X.shape).astype("float32"), Y, quickly_compiled),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_train_as_by_model_fit(name, tmp_path):
    build, x, y, compiled = NETWORKS[name]
    options = {"rows": (x, y), "fit": {"validation_data": (x, y)}}
    wide = searched(build, tmp_path, **options)
    with compiled():
        alone = searched_alone(build, tmp_path, **options)
    assert num_wide(wide) == 2 and not wide.programs().reasons, wide.programs()
    assert_alike(wide, alone)


def test_mixed_precision_shares_programs_too(tmp_path):
    """bfloat16 has eight bits: what is summed in another order differs in the third digit."""
    wide = searched(space(), tmp_path, precision="bfloat16")
    assert num_wide(wide) == len(STRUCTURES)
    with quickly_compiled():
        alone = searched_alone(space(), tmp_path, precision="bfloat16")
    for mine, its in zip(executions(wide).values(), executions(alone).values(), strict=True):
        np.testing.assert_allclose(mine.history["loss"], its.history["loss"], rtol=2e-2)


def test_a_loss_scale_that_moves_has_programs_of_its_own(tmp_path, capsys):
    """What float16 puts around an optimizer comes from Keras, and stands in no argument of `compile`."""
    tuner = searched(space(), tmp_path, precision="float16", fit={"epochs": 1, "verbose": 1})
    assert "train without padding" not in capsys.readouterr().out  # nothing was tried in vain
    assert [record.members for record in tuner.programs().records] == [1, 1] and not tuner.programs().reasons


def decays_all_but(names):
    optimizer = keras.optimizers.AdamW(0.05, weight_decay=0.5)
    if names:
        optimizer.exclude_from_weight_decay(var_names=names)
    return network(STRUCTURES[0], optimizer)


def remembers(beta):
    model = network(STRUCTURES[0], "adam")
    model.optimizer.beta_1 = beta
    return model


@pytest.mark.parametrize(("build", "first", "second"), [(decays_all_but, [], ["kernel"]), (remembers, 0.9, 0.1)])
def test_what_was_set_in_an_optimizer_later_is_no_part_of_a_known_structure(build, first, second, tmp_path):
    """Two models that were compiled with equal arguments."""
    together, alone = (
        each(lambda hp: build((first, second)[hp.Choice("which", [0, 1])]), tmp_path)
        for each in (searched, searched_alone)
    )
    curves = [trial.executions[0].history["loss"] for trial in alone.oracle.trials.values()]
    assert not np.allclose(*curves, rtol=1e-4)
    assert_alike(together, alone)
