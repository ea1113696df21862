"""The ready-made hypermodels against what KerasTuner 1.4.8 builds: spaces and sizes were recorded by running it."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest

import manyfit as kt
from manyfit.applications import HyperEfficientNet, HyperImageAugment, HyperResNet, HyperXception
from manyfit.core.errors import UsageError

RECORDED = json.loads((Path(__file__).parent / "keras_tuner_1_4_8.json").read_text())
IMAGES = {"input_shape": (32, 32, 3)}
CLASSIFIER = {**IMAGES, "classes": 10}
MAKE = {
    "HyperResNet": lambda: HyperResNet(**CLASSIFIER),
    "HyperResNet without top": lambda: HyperResNet(include_top=False, **IMAGES),
    "HyperXception": lambda: HyperXception(**CLASSIFIER),
    "HyperXception without top": lambda: HyperXception(include_top=False, **IMAGES),
    "HyperImageAugment": lambda: HyperImageAugment(**IMAGES),
    "HyperImageAugment in sequence": lambda: HyperImageAugment(augment_layers=0, **IMAGES),
    "HyperImageAugment with pairs": lambda: HyperImageAugment(
        augment_layers=0, rotate=None, contrast=[0.1, 0.2], translate_x=[0.1, 0.4], **IMAGES
    ),
    "HyperImageAugment of 2 to 4 layers": lambda: HyperImageAugment(augment_layers=[2, 4], **IMAGES),
    "HyperEfficientNet": lambda: HyperEfficientNet(**CLASSIFIER),
    "HyperEfficientNet with HyperImageAugment": lambda: HyperEfficientNet(
        augmentation_model=HyperImageAugment(**IMAGES), **CLASSIFIER
    ),
}


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"a download that nobody asked for: {args}")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", refuse)


@pytest.fixture(autouse=True)
def weights_by_numpy(monkeypatch):
    """Keras compiles an initialiser for each new shape, which takes a minute for these networks."""
    rng = np.random.default_rng(0)

    def draw(self, shape, dtype=None):
        return keras.ops.convert_to_tensor(rng.normal(0, 0.05, shape), dtype or "float32")

    monkeypatch.setattr("keras.src.initializers.random_initializers.VarianceScaling.__call__", draw)


def build(hypermodel, **values):
    """The model of these values, and the hyperparameters."""
    hp = kt.HyperParameters()
    hp.values = dict(values)
    return hypermodel.build(hp), hp


def test_everything_that_was_recorded_is_compared():
    assert set(MAKE) == set(RECORDED)


@pytest.mark.parametrize("name", MAKE)
def test_spaces_and_sizes_are_those_of_keras_tuner(name):
    model, hp = build(MAKE[name]())
    recorded = RECORDED[name]
    for config in recorded["space"]:
        if config["config"]["name"] == "dense_use_bn":  # KerasTuner makes 1 and 0 of True and False
            config["config"].update(values=[True, False], default=True, ordered=False)
    assert hp.get_config()["space"] == recorded["space"]
    assert list(model.output_shape) == recorded["output_shape"]
    if "num_parameters" in recorded:
        assert model.count_params() == recorded["num_parameters"]
    if "num_layers" in recorded:
        assert len(model.layers) == recorded["num_layers"]


@pytest.mark.parametrize(
    "values, num_parameters, num_trainable",
    [
        ({"version": "v1"}, 23_608_202, 23_555_082),
        ({"version": "next", "pooling": "max", "optimizer": "sgd", "learning_rate": 0.1}, 22_821_194, 22_754_762),
    ],
    ids=["v1", "next"],
)
def test_the_families_of_resnet_have_the_sizes_of_keras_tuner(values, num_parameters, num_trainable):
    model, _ = build(HyperResNet(**CLASSIFIER), **values)
    assert model.count_params() == num_parameters
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == num_trainable
    optimizer = {"sgd": keras.optimizers.SGD}.get(values.get("optimizer"), keras.optimizers.Adam)
    assert type(model.optimizer) is optimizer
    assert float(model.optimizer.learning_rate) == pytest.approx(values.get("learning_rate", 0.01))


def test_a_small_xception_trains():
    values = {
        "conv2d_num_filters": 32,
        "sep_num_filters": 128,
        "num_residual_blocks": 2,
        "dense_use_bn": False,
    }
    model, _ = build(HyperXception(input_shape=(8, 8, 1), classes=3), **values)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    before = model.get_weights()[0]
    history = model.fit(x, np.eye(3)[[0, 1, 2, 0]], batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert not np.array_equal(before, model.get_weights()[0])
    np.testing.assert_allclose(model.predict(x, verbose=0).sum(axis=1), 1.0, rtol=1e-5)


def test_an_xception_with_selu_normalises_by_itself():
    model, _ = build(HyperXception(input_shape=(8, 8, 1), classes=3), activation="selu", dense_use_bn=False)
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    assert model.layers[1].activation is keras.activations.selu


def test_networks_go_on_from_a_tensor():
    tensor = keras.layers.Rescaling(1 / 255)(keras.Input((16, 16, 1)))
    model, _ = build(HyperXception(include_top=False, input_tensor=tensor), sep_num_filters=128)
    assert model.input_shape == (None, 16, 16, 1)
    assert any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)


def test_image_net_weights_are_asked_for_by_name():
    with pytest.raises(AssertionError, match="efficientnetb0_notop"):
        build(HyperEfficientNet(weights="imagenet", **CLASSIFIER))


def test_an_efficient_net_may_be_compiled_otherwise():
    class WithAdam(HyperEfficientNet):
        def _compile(self, model, hp):
            model.compile(keras.optimizers.Adam(hp.Choice("learning_rate", [1e-3])), "mse")

    model, hp = build(WithAdam(**CLASSIFIER), version="B0")
    assert isinstance(model.optimizer, keras.optimizers.Adam) and hp.get("learning_rate") == 1e-3
    assert any(getattr(layer, "height", None) == 224 for layer in model.layers)


def images():
    return np.random.default_rng(0).uniform(0, 255, size=(64, 8, 8, 3)).astype("float32")


def test_images_change_in_training_only():
    augment, _ = build(HyperImageAugment(input_shape=(8, 8, 3)), augment_layers=2, factor_rotate=0.3)
    x = images()
    np.testing.assert_array_equal(augment(x, training=False), x)
    changed = np.asarray(augment(x, training=True))
    assert changed.shape == x.shape and not np.array_equal(changed, x)


def test_each_image_has_its_own_transforms():
    # One layer draws one of four transforms, of which only the rotation changes anything: about 1 in 4 images changes.
    keras.utils.set_random_seed(0)
    augment, _ = build(HyperImageAugment(input_shape=(8, 8, 3)), augment_layers=1, factor_rotate=0.4)
    x = images()
    changed = np.any(np.asarray(augment(x, training=True)) != x, axis=(1, 2, 3))
    assert 3 <= changed.sum() <= 32  # 16 of 64 are expected; a binomial leaves this range with a chance of 2e-5


def test_a_factor_of_zero_changes_nothing():
    augment, _ = build(HyperImageAugment(input_shape=(8, 8, 3)))
    np.testing.assert_array_equal(augment(images(), training=True), images())


def test_augmentation_is_saved_with_its_model(tmp_path):
    augment, _ = build(HyperImageAugment(input_shape=(8, 8, 3)), augment_layers=2, factor_contrast=0.2)
    augment.save(tmp_path / "augment.keras")
    loaded = keras.saving.load_model(tmp_path / "augment.keras")
    assert [layer.factors for layer in loaded.layers[1:]] == [layer.factors for layer in augment.layers[1:]]
    assert not np.array_equal(loaded(images(), training=True), images())


@pytest.mark.parametrize("make", [HyperResNet, HyperXception, HyperEfficientNet])
def test_a_classifier_without_classes(make):
    with pytest.raises(UsageError, match="You must specify `classes`"):
        make(**IMAGES)


@pytest.mark.parametrize("make", [HyperResNet, HyperXception, HyperEfficientNet])
def test_a_classifier_without_a_shape(make):
    with pytest.raises(UsageError, match="You must specify either `input_shape` or `input_tensor`"):
        make(classes=10)


def test_augmentation_by_something_else():
    with pytest.raises(UsageError, match="augmentation_model"):
        HyperEfficientNet(augmentation_model=3, **CLASSIFIER)


@pytest.mark.parametrize(
    "argument, value",
    [("rotate", "a"), ("rotate", [0.1, 0.2, 0.3]), ("contrast", -0.1), ("translate_x", [0.3, 0.1]),
     ("augment_layers", 1.5), ("augment_layers", -1), ("augment_layers", [3, 1])],
)  # fmt: skip
def test_ranges_that_are_none(argument, value):
    with pytest.raises(UsageError, match=rf"HyperImageAugment\({argument}\).*Type {argument}="):
        HyperImageAugment(**IMAGES, **{argument: value})
