"""On TensorFlow: the same training as `fit` on rows that were put in that order before."""

import keras
import numpy as np
import pytest
from marks import only_on

from manyfit.core.seeds import generator
from manyfit.data.call import Call
from manyfit.data.order import SeededOrder

pytestmark = [
    pytest.mark.backends,
    only_on("tensorflow", "the order on TensorFlow"),
]

RNG = np.random.default_rng(3)
X = {"a": RNG.normal(size=(50, 3)), "b": RNG.normal(size=(50, 2)).astype("float32")}
Y = RNG.integers(0, 2, 50)
WEIGHTS = RNG.uniform(0.5, 2.0, 50)


def build():
    keras.utils.set_random_seed(1)
    inputs = {name: keras.Input((array.shape[1],), name=name) for name, array in X.items()}
    outputs = keras.layers.Dense(2, "softmax")(keras.layers.Concatenate()([inputs["a"], inputs["b"]]))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    return model


def taken(data, rows):
    x, y, weights = data
    return {name: array[rows] for name, array in x.items()}, y[rows], None if weights is None else weights[rows]


@pytest.mark.parametrize(("weights", "class_weight"), [(WEIGHTS, None), (None, {0: 1.0, 1: 3.0})])
def test_it_trains_on_the_rows_in_the_order_of_seed_and_epoch(weights, class_weight):
    options = {"batch_size": 8, "verbose": 0, "class_weight": class_weight}
    order = SeededOrder(7)
    given = {"sample_weight": weights, "validation_split": 0.3, "epochs": 2, "callbacks": [order], **options}
    call = order.applied_to(Call((X, Y), given))
    assert order.knows
    found = build().fit(*call.args, **call.kwargs).history
    by_hand = build()
    held_out = taken((X, Y, weights), slice(35, None))
    for epoch in range(2):
        x, y, w = taken((X, Y, weights), generator(7, "batch order", epoch).permutation(35))
        history = by_hand.fit(x, y, sample_weight=w, shuffle=False, validation_data=held_out, **options).history
        assert set(history) == set(found)
        for name, curve in history.items():
            assert found[name][epoch] == pytest.approx(curve[0], rel=1e-5), name


@pytest.mark.parametrize(
    ("options", "knows"),
    [({"shuffle": False}, True), ({"shuffle": "batch"}, False), ({"steps_per_epoch": 2}, False)],
)
def test_what_it_leaves_to_keras(options, knows):
    order = SeededOrder(7)
    call = Call((X, Y), options)
    assert order.applied_to(call) is call
    assert order.knows is knows


def test_rows_without_labels():
    order = SeededOrder(7)
    call = order.applied_to(Call((X,), {"validation_split": 0.3}))
    assert order.knows and sum(len(batch[0]["a"]) for batch in call.x) == 35
    (held_out,) = call.get("validation_data")  # the last rows, as Keras takes them
    assert all(np.array_equal(held_out[name], X[name][35:]) for name in X)
    call = order.applied_to(Call((X,)))
    assert order.knows and {name: part.shape for name, part in next(iter(call.x))[0].items()} == {
        "a": (32, 3), "b": (32, 2),
    }  # fmt: skip


def test_streams_are_left_alone():
    import tensorflow as tf

    order = SeededOrder(7)
    stream = tf.data.Dataset.from_tensor_slices((X["b"], Y)).batch(8)
    call = Call((stream,), {"epochs": 2})
    assert order.applied_to(call) is call and not order.knows
