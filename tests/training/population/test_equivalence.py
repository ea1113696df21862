"""A member's curve is `model.fit`'s: same seed, no shuffling, float32 accuracy."""

import random

import keras
import numpy as np
import pytest
from marks import needs_jax
from populations import NoFallback, compare, equals_model_fit, train

from manyfit.core.objective import Objective
from manyfit.core.records import Ending, Plan, Result
from manyfit.data.call import Call
from manyfit.training.base import Task, Trainer
from manyfit.training.keras_fit import KerasFit
from manyfit.training.keras_internals import building
from manyfit.training.population import Population
from manyfit.training.population.structure_key import structure_key
from manyfit.training.weights import load_weights

pytestmark = [
    needs_jax,
    # Keras 3.15 reads a learning rate in a way that NumPy 2 warns of.
    pytest.mark.filterwarnings("ignore:__array__ implementation"),
]

ROWS, CLASSES = 70, 3
RNG = np.random.default_rng(7)
FLAT = RNG.normal(size=(ROWS, 6)).astype("float32")
IMAGES = RNG.normal(size=(ROWS, 8, 8, 1)).astype("float32")
SEQUENCES = RNG.normal(size=(ROWS, 5, 4)).astype("float32")
LABELS = RNG.integers(0, CLASSES, ROWS)


def mlp(hp):
    return [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(CLASSES, activation="softmax")]


def cnn(hp):
    return [
        keras.layers.Conv2D(4, 3, use_bias=False),
        keras.layers.BatchNormalization(momentum=hp["rate"] + 0.5),
        keras.layers.ReLU(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(CLASSES, activation="softmax"),
    ]


def lstm(hp):
    return [
        keras.layers.LSTM(5, dropout=hp["rate"], recurrent_dropout=hp["rate"]),
        keras.layers.Dense(CLASSES, activation="softmax"),
    ]


def augmented(hp):
    flip, shift = keras.layers.RandomFlip("horizontal"), keras.layers.RandomTranslation(hp["rate"], 0.1)
    last = [keras.layers.Flatten(), keras.layers.Dense(1)]
    model = keras.Sequential([keras.layers.Input((8, 8, 1)), flip, shift, *last])
    model.compile(keras.optimizers.SGD(hp["learning_rate"]), "mse")  # few operations: `model.fit` runs each by itself
    return model


def sequential(layers, shape):
    def build(hp):
        model = keras.Sequential([keras.layers.Input(shape), *layers(hp)])
        model.compile(
            optimizer=keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["rate"] / 10),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        return model

    return build


def transformer(hp):
    inputs = keras.layers.Input(SEQUENCES.shape[1:])
    attended = keras.layers.MultiHeadAttention(2, 4, dropout=hp["rate"])(inputs, inputs)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(keras.layers.Add()([inputs, attended]))
    x = keras.layers.Dense(4, activation="gelu", kernel_regularizer=keras.regularizers.L2(hp["rate"] / 100))(x)
    x = keras.layers.GaussianNoise(hp["rate"])(x)
    outputs = keras.layers.Dense(CLASSES, activation="softmax")(keras.layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer=keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(hp["learning_rate"], 20),
            momentum=hp["rate"],
            clipnorm=1 + hp["rate"],
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    return model


def two_inputs(hp):
    a, b = keras.layers.Input((6,), name="a"), keras.layers.Input((5, 4), name="b")
    x = keras.layers.Concatenate()([keras.layers.Dense(4, activation="tanh")(a), keras.layers.GRU(3)(b)])
    outputs = {
        "kind": keras.layers.Dense(CLASSES, activation="softmax", name="kind")(x),
        "size": keras.layers.Dense(1, name="size")(x),
    }
    model = keras.Model({"a": a, "b": b}, outputs)
    model.compile(
        optimizer=keras.optimizers.RMSprop(hp["learning_rate"], rho=0.8 + hp["rate"] / 10),
        loss={"kind": "sparse_categorical_crossentropy", "size": "mse"},
        loss_weights={"kind": 1.0, "size": hp["rate"]},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )
    return model


CASES = {
    "mlp": (sequential(mlp, (6,)), FLAT, LABELS),
    "cnn": (sequential(cnn, (8, 8, 1)), IMAGES, LABELS),
    "lstm": (sequential(lstm, (5, 4)), SEQUENCES, LABELS),
    "transformer": (transformer, SEQUENCES, LABELS),
    "two inputs": (two_inputs, {"a": FLAT, "b": SEQUENCES}, {"kind": LABELS, "size": FLAT[:, :1]}),
}
VALUES = [{"learning_rate": 0.01, "rate": 0.1}, {"learning_rate": 0.003, "rate": 0.3}]


def part(data, rows):
    return {name: array[rows] for name, array in data.items()} if isinstance(data, dict) else data[rows]


@pytest.mark.parametrize("name", CASES)
def test_curve_equals_model_fit(name, tmp_path):
    build, x, y = CASES[name]
    # In batches of 16 the MLP's 50 and 20 rows both end with a short one; the others save its compilation.
    training, validation = (slice(0, 50), slice(50, ROWS)) if name == "mlp" else (slice(0, 48), slice(48, 64))
    task = Task(
        build,
        Call(
            (part(x, training), part(y, training)),
            {
                "batch_size": 16,
                "epochs": 3,
                "shuffle": False,
                "verbose": 0,
                "validation_data": (part(x, validation), part(y, validation)),
            },
        ),
        objective=Objective("val_loss", "min"),
    )
    plans = [
        Plan(str(n), 0, values, seed=5 + n, weights_path=str(tmp_path / f"{n}.npz")) for n, values in enumerate(VALUES)
    ]
    population = Population(NoFallback())
    ours = train(population, task, plans)
    theirs = train(KerasFit(), task, [Plan(str(n), 0, values, seed=5 + n) for n, values in enumerate(VALUES)])
    assert len(population.programs().records) == 1, [result.message for result in ours.results.values()]
    for key, result in theirs.results.items():
        assert ours.results[key].ending is Ending.COMPLETED, ours.results[key].message
        compare(ours.results[key].history, result.history)
    # The stored weights are those of the best epoch: they reproduce its score.
    for plan in plans:
        model = build(plan.values)
        load_weights(model, plan.weights_path)
        found = model.evaluate(part(x, validation), part(y, validation), batch_size=16, verbose=0, return_dict=True)
        assert found["loss"] == pytest.approx(min(ours.results[plan.key].history["val_loss"]), rel=1e-5)


def test_augmented_models_draw_as_in_model_fit():
    assert not augmented(VALUES[0]).jit_compile, "Keras compiles them by itself: nothing is to be done any more"
    values = [*VALUES, {**VALUES[0], "learning_rate": 0.02}]  # the last is recognised by the first
    arguments = {"batch_size": 24, "epochs": 2, "shuffle": False}
    population = equals_model_fit(augmented, lambda: (IMAGES[:48], FLAT[:48, :1]), arguments, values)
    assert [record.members for record in population.programs().records] == [3]


def test_augmented_models_that_differ_in_the_learning_rate_alone_are_recognised():
    keys = []
    for values in ({"learning_rate": 0.1, "rate": 0.2}, {"learning_rate": 0.2, "rate": 0.2}, VALUES[0]):
        building.forget_names()
        keys.append(structure_key(augmented(values)))
    assert keys[0] == keys[1] != keys[2] and None not in keys


class Own(keras.layers.Layer):
    """A layer of the user's."""

    def call(self, inputs):
        return inputs


def nested(hp, *, activation="relu", own=False):
    """A model in a model: a block of layers, and a functional model around it."""
    block = keras.Sequential([keras.layers.Dense(4, activation), keras.layers.Dropout(hp["rate"]), *[Own()] * own])
    inputs = keras.Input((6,))
    body = keras.Model(inputs, keras.layers.Add()([block(inputs), keras.layers.Dense(4)(inputs)]))
    model = keras.Sequential([keras.Input((6,)), body, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(hp["learning_rate"]), "mse")
    return model


def test_models_in_models_are_recognised_if_all_their_layers_are():
    values = {"learning_rate": 0.1, "rate": 0.2}
    keys = []
    for hp, more in ((values, {}), ({**values, "learning_rate": 0.2}, {}), (values, {"activation": "tanh"})):
        building.forget_names()
        keys.append(structure_key(nested(hp, **more)))
    assert keys[0] == keys[1] != keys[2] and None not in keys
    assert structure_key(nested(values, own=True)) is None
    same = [{**values, "learning_rate": rate} for rate in (0.1, 0.01)]
    arguments = {"batch_size": 24, "epochs": 2, "shuffle": False}
    equals_model_fit(nested, lambda: (FLAT[:48], FLAT[:48, :1]), arguments, same)


class Refusing(Trainer):
    """A fallback that trains nothing: what is tested is who comes to it."""

    def train(self, supply, task):
        for plan in supply.take(1):
            supply.finish(Result(plan, Ending.COMPLETED, {"loss": [0.0]}))


class DrawsInPython(keras.layers.RandomTranslation):
    """A user's layer that is one of Keras's image layers, and draws in the way of a script besides."""

    def call(self, inputs, training=True):
        return super().call(inputs, training=training) * random.random()


class NotToBeCompiled(keras.layers.Layer):
    """A user's layer that says that its steps are not to be compiled."""

    def __init__(self):
        super().__init__()
        self.supports_jit = False

    def call(self, inputs):
        return inputs + 1.0


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: DrawsInPython(0.1, 0.1), "a layer draws from Python's or NumPy's generator in each step"),
        (lambda: keras.layers.AugMix((0, 1)), "a layer draws from Python's or NumPy's generator in each step"),
        (lambda: keras.layers.RandomCrop(6, 6), "cannot be traced: IndexError: Slice entries must be static"),
        (NotToBeCompiled, "the model has a layer that cannot be compiled (NotToBeCompiled)"),
    ],
    ids=["draws in Python", "AugMix", "RandomCrop", "says so"],
)
def test_augmentation_that_no_compiled_step_can_do_falls_back_with_the_reason(layer, reason):
    def build(hp):
        pooled = keras.layers.GlobalAveragePooling2D()
        model = keras.Sequential([keras.layers.Input((8, 8, 3)), layer(), pooled, keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    told = []
    images = np.repeat(IMAGES[:4], 3, axis=-1)
    task = Task(build, Call((images, FLAT[:4, :1]), {"epochs": 1, "verbose": 0}), objective=Objective("loss", "min"))
    supply = train(Population(Refusing(), notify=told.append), task, [Plan("0", 0, {}, seed=5)])
    assert len(told) == 1 and reason in told[0]
    assert supply.results["0", 0].ending is Ending.COMPLETED


@pytest.mark.parametrize(
    "extra",
    [
        {"class_weight": {0: 1.0, 1: 2.5, 2: 0.3}},
        {"sample_weight": np.linspace(0.1, 2.0, ROWS)},
        {"validation_split": 0.3, "validation_freq": 2},
        {"validation_split": 0.3, "validation_batch_size": 5},
        {"batch_size": 100},
        {"initial_epoch": 1},
    ],
    ids="+".join,
)
def test_fit_arguments(extra):
    build, x, y = CASES["mlp"]
    task = Task(
        build,
        Call((x, y), {"batch_size": 32, "epochs": 3, "shuffle": False, "verbose": 0, **extra}),
        objective=Objective("loss", "min"),
    )
    plans = [Plan("0", 0, VALUES[0], seed=1), Plan("0", 1, VALUES[0], seed=2), Plan("1", 0, VALUES[1], seed=3)]
    ours = train(Population(NoFallback()), task, plans)
    theirs = train(KerasFit(), task, plans)
    for key, result in theirs.results.items():
        compare(ours.results[key].history, result.history)


def test_weighted_metrics_and_own_metric_classes():
    def build(hp):
        model = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(1, activation="sigmoid")])
        model.compile(
            optimizer=keras.optimizers.Adam(hp["learning_rate"]),
            loss=keras.losses.BinaryCrossentropy(label_smoothing=hp["rate"]),
            metrics=[keras.metrics.AUC(name="auc"), keras.metrics.Precision(name="precision")],
            weighted_metrics=["mse"],
        )
        return model

    y = (LABELS > 0).astype("float32")
    task = Task(
        build,
        Call(
            (FLAT, y),
            {
                "epochs": 2,
                "shuffle": False,
                "verbose": 0,
                "validation_split": 0.4,
                "sample_weight": np.linspace(0.5, 1.5, ROWS),
            },
        ),
        objective=Objective("val_auc", "max"),
    )
    plans = [Plan(str(n), 0, values, seed=n) for n, values in enumerate(VALUES)]
    ours, theirs = train(Population(NoFallback()), task, plans), train(KerasFit(), task, plans)
    for key, result in theirs.results.items():
        compare(ours.results[key].history, result.history, tolerance=1e-3)
