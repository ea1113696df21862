"""Members that answer for pixels, for steps, or with several outputs, and that are made of the user's own classes."""

import keras
import numpy as np
import pytest
from keras import ops

from manyfit.core.errors import UsageError
from manyfit.ensemble import Ensemble, EnsembleSettings
from manyfit.ensemble.problem import PredictionTask, make_problem

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(40, 4, 4, 1)).astype("float32")
STEPS = RNG.integers(0, 6, size=(40, 5))
SPREAD = {axes: np.linspace(0, 2, 40).reshape(-1, *[1] * (min(axes, 3) - 1)) for axes in (1, 2, 4)}
QUICK = EnsembleSettings(num_folds=3)


class Steep(keras.layers.Layer):
    """A layer of the user's, registered nowhere."""

    def __init__(self, steepness=2.0, **options):
        super().__init__(**options)
        self.steepness = steepness

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        self.built = True

    def call(self, x):
        return ops.sigmoid(self.steepness * self.scale * x)

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "steepness": self.steepness}


def own_loss(y, p):
    return ops.mean(ops.square(y - p), axis=-1)


class Share(keras.metrics.Metric):
    """A metric of the user's: the share of answers near the truth."""

    def __init__(self, within, **options):
        super().__init__(**options)
        self.within = within
        self.hits, self.count = (self.add_weight(name=name, initializer="zeros") for name in ("hits", "count"))

    def update_state(self, y, p, sample_weight=None):
        near = ops.cast(ops.abs(ops.cast(y, p.dtype) - p) < self.within, "float32")
        self.hits.assign_add(ops.sum(near))
        self.count.assign_add(ops.sum(ops.ones_like(near)))

    def result(self):
        return self.hits / self.count

    def reset_state(self):
        self.hits.assign(0.0)
        self.count.assign(0.0)


def trained(model, x, y, **options):
    model.fit(x, y, epochs=2, verbose=0, **options)
    return model


def masks():
    keras.utils.set_random_seed(0)
    y = (IMAGES > 0.5).astype("float32")
    models = []
    for filters in (1, 2):
        conv = keras.layers.Conv2D(filters, 3, padding="same", kernel_regularizer="l2")
        model = keras.Sequential([keras.Input((4, 4, 1)), conv, keras.layers.Conv2D(1, 1), Steep()])
        model.compile("adam", own_loss, metrics=["accuracy", Share(0.3, name="share")])
        models.append(trained(model, IMAGES, y))
    return models, IMAGES, y


def classes_of_steps():
    keras.utils.set_random_seed(0)
    y = (STEPS + 1) % 3
    models = []
    for units in (3, 4):
        model = keras.Sequential(
            [keras.Input((5,), dtype="int32"), keras.layers.Embedding(6, 3, mask_zero=True),
             keras.layers.GRU(units, return_sequences=True), keras.layers.Dense(3)]
        )  # fmt: skip
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(
            "adam",
            loss,
            metrics=["accuracy"],
            weighted_metrics=[keras.metrics.SparseCategoricalCrossentropy(from_logits=True)],
        )
        models.append(trained(model, STEPS, y))
    return models, STEPS, y


def several():
    keras.utils.set_random_seed(0)
    x = {"image": IMAGES, "extra": IMAGES[:, 0, 0]}
    y = {"mask": (IMAGES > 0.5).astype("float32"), "kind": np.arange(40) % 3, "size": IMAGES.sum((1, 2))}
    models = []
    for units in (2, 3):
        image, extra = keras.Input((4, 4, 1), name="image"), keras.Input((1,), name="extra")
        flat = keras.layers.Concatenate()([keras.layers.Flatten()(image), extra])
        hidden = keras.layers.Dense(units, "relu")(flat)
        outputs = {
            "mask": Steep(name="mask")(keras.layers.Conv2D(1, 1)(image)),
            "kind": keras.layers.Dense(3, name="kind")(hidden),
            "size": keras.layers.Dense(1, name="size")(hidden),
        }
        model = keras.Model({"image": image, "extra": extra}, outputs)
        losses = {
            "mask": "binary_crossentropy",
            "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "size": "mse",
        }
        model.compile(
            "adam", losses, metrics={"kind": ["accuracy"]}, loss_weights={"mask": 1.0, "kind": 2.0, "size": 0.5}
        )
        models.append(trained(model, x, y))
    return models, x, y


KINDS = {"pixels": masks, "steps": classes_of_steps, "several outputs": several}


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    models, x, y = KINDS[request.param]()
    return models, x, y, Ensemble.fit(models, y, x=x, method="greedy", settings=QUICK)


def leaves(structure):
    return keras.tree.flatten(structure)


def each_of(x, rows):
    return keras.tree.map_structure(lambda part: part[rows], x)


def test_predictions_have_the_shape_of_the_members(case):
    models, x, _, ensemble = case
    one = models[0].predict(x, verbose=0)
    told = ensemble.predict(x)
    assert keras.tree.map_structure(np.shape, told) == keras.tree.map_structure(np.shape, one)
    assert "member" in ensemble.summary()


def test_one_member_measures_what_keras_measures(case):
    models, x, y, _ = case
    alone = Ensemble.fit(models[:1], y, x=x, settings=EnsembleSettings(num_folds=3, temperature=False))
    expected = models[0].evaluate(x, y, verbose=0, return_dict=True)
    told = alone.evaluate(x, y)
    assert {name: told[name] for name in expected} == pytest.approx(expected, abs=1e-5, rel=1e-5)


def test_twice_the_same_member_measures_what_keras_measures(case):
    """Through the judge, which a single member does not need: masks, penalties and weights of outputs included."""
    models, x, y, fitted = case
    pool = type(fitted.pool)(np.array([0.5, 0.5]))
    twins = Ensemble.fit([models[0], models[0]], y, x=x, method="uniform", settings=QUICK)
    twins = Ensemble(twins.members, pool, twins.task, num_outputs=twins.num_outputs, outputs=twins.outputs)
    expected = models[0].evaluate(x, y, verbose=0, return_dict=True)
    told = twins.evaluate(x, y)
    assert {name: told[name] for name in expected} == pytest.approx(expected, abs=1e-5, rel=1e-5)
    weight = keras.tree.map_structure(lambda part: np.broadcast_to(SPREAD[part.ndim], part.shape[:3]), y)
    expected = models[0].evaluate(x, y, sample_weight=weight, verbose=0, return_dict=True)
    told = twins.evaluate(x, y, sample_weight=weight)
    assert {name: told[name] for name in expected} == pytest.approx(expected, abs=1e-5, rel=1e-5)


def test_saved_and_loaded(case, tmp_path):
    _, x, _, fitted = case
    pool = type(fitted.pool)(np.array([0.7, 0.3]))
    ensemble = Ensemble(fitted.members, pool, fitted.task, num_outputs=fitted.num_outputs, outputs=fitted.outputs)
    told = leaves(ensemble.predict(x))
    own = {"Steep": Steep, "own_loss": own_loss, "Share": lambda **config: Share(0.3)}
    ensemble.save(tmp_path / "winner.keras")
    one = keras.saving.load_model(tmp_path / "winner.keras", custom_objects=own, compile=False)
    ensemble.save(tmp_path / "folder")
    for answer in (one.predict(x, verbose=0), ensemble.to_keras().predict(x, verbose=0)):
        for ours, theirs in zip(leaves(answer), told, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_student_learns_all_of_it(case):
    models, x, y, ensemble = case
    student = ensemble.distill(x, y, epochs=1)
    assert set(student.scores) == {"ensemble", "student", "best member"}
    assert np.isfinite(student.difference)
    before = [array.copy() for array in models[0].get_weights()]
    ensemble.distill(x, epochs=1)
    for now, then in zip(models[0].get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_class_that_nobody_knows_is_named(tmp_path):
    models, x, y = several()
    ensemble = Ensemble.fit(models, y, x=x, method="uniform", settings=QUICK)
    ensemble.save(tmp_path / "folder")
    told = leaves(ensemble.predict(x))
    loaded = Ensemble.load(tmp_path / "folder", custom_objects={"Steep": Steep})
    for ours, theirs in zip(leaves(loaded.predict(x)), told, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert loaded.evaluate(x, y)["sum of losses"] == pytest.approx(ensemble.evaluate(x, y)["sum of losses"], abs=1e-5)
    hidden, Steep.__module__ = Steep.__module__, "elsewhere"
    try:
        ensemble.save(tmp_path / "other")
        with pytest.raises(UsageError, match=r"'Steep', which nobody knows here.*custom_objects"):
            Ensemble.load(tmp_path / "other")
    finally:
        Steep.__module__ = hidden


def test_targets_of_a_list_of_outputs_may_come_by_the_names_of_layers(tmp_path):
    """As in `model.fit`, whose model is also what the numbers are compared with."""
    x = RNG.normal(size=(40, 3)).astype("float32")
    y = {"size": x[:, :2], "kind": (x[:, :1] > 0).astype("float32")}  # in another order than the outputs
    inputs = keras.Input((3,))
    kind, size = keras.layers.Dense(1, "sigmoid", name="kind"), keras.layers.Dense(2, name="size")
    model = keras.Model(inputs, [kind(inputs), size(inputs)])
    model.compile("sgd", {"kind": "binary_crossentropy", "size": "mse"})
    ensemble = Ensemble.fit([model], y, x=x, method="uniform", settings=QUICK)
    right = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    assert ensemble.evaluate(x, y)["loss"] == pytest.approx(right, rel=1e-5)
    assert ensemble.evaluate(x, [y["kind"], y["size"]])["loss"] == pytest.approx(right, rel=1e-5)
    ensemble.save(tmp_path / "folder")
    assert Ensemble.load(tmp_path / "folder").evaluate(x, y)["loss"] == pytest.approx(right, rel=1e-5)


def test_the_objective_of_one_output_chooses():
    y = {"a": np.arange(40) % 2, "b": RNG.normal(size=40)}
    good = {"a": np.clip(y["a"], 0.1, 0.9)[:, None], "b": np.zeros((40, 1))}
    other = {"a": np.full((40, 1), 0.5), "b": y["b"][:, None]}
    for metric, best in (({"a": "log_loss"}, "m0"), ({"b": "mse"}, "m1")):
        ensemble = Ensemble.fit([good, other], y, method="greedy", metric=metric, settings=QUICK)
        assert ensemble.weights[best] > 0.9
    both = Ensemble.fit([good, other], y, method="greedy", settings=QUICK)
    assert 0.2 < both.weights["m0"] < 0.9


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"metric": "accuracy"}, "None for the sum of losses, or a dictionary"),
        ({"method": "geometric"}, "methods for several outputs"),
        ({"y": np.zeros(40)}, "Give one for every output"),
    ],
)
def test_what_several_outputs_cannot_is_said(options, text):
    predictions = [{"a": np.full((40, 1), 0.5), "b": np.zeros((40, 1))}] * 2
    with pytest.raises(UsageError, match=text):
        Ensemble.fit(**{"predictions": predictions, "y": {"a": np.arange(40) % 2, "b": np.zeros(40)}, **options})


def test_rows_are_counted_and_not_pixels():
    predictions = RNG.uniform(0.49, 0.51, size=(2, 30, 4, 4, 1))
    y = RNG.integers(0, 2, size=(30, 4, 4))
    problem = make_problem(predictions, y)
    assert (problem.task, problem.num_rows, problem.num_positions) == (PredictionTask.BINARY, 30, 16)
    assert problem.rows(np.array([3, 3, 1])).predictions.shape == (2, 48, 1)
    thin = problem.thinned(30 * 5, np.random.default_rng(0))
    assert (thin.num_rows, thin.num_positions) == (30, 5)
    ensemble = Ensemble.fit(list(predictions), y, settings=QUICK)
    # Thirty rows of noise prove nothing, however many pixels they have.
    assert ensemble.refused and ensemble.choice.gain.enough == np.inf


def test_steps_without_weight_do_not_count():
    truth = RNG.integers(0, 3, size=(30, 6))
    weight = np.repeat([[1, 1, 1, 0, 0, 0]], 30, axis=0)
    right = np.eye(3)[truth] * 0.7 + 0.1
    first, second = right.copy(), np.full(right.shape, 1 / 3)
    first[:, 3:], second[:, 3:] = 1 / 3, right[:, 3:]  # the second is right where nobody looks
    ensemble = Ensemble.fit([first, second], truth, sample_weight=weight, method="greedy", settings=QUICK)
    assert ensemble.weights["m0"] == 1


def test_labels_of_another_shape_are_refused():
    with pytest.raises(UsageError, match=r"labels of shape .*one for every answer"):
        Ensemble.fit([np.full((30, 4, 4, 1), 0.5)], np.zeros((30, 4)))
    with pytest.raises(UsageError, match="same pixels or steps"):
        Ensemble.fit([np.full((30, 4, 1), 0.5), np.full((30, 5, 1), 0.5)], np.zeros((30, 4)))
