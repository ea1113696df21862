"""Private names of Keras's models, optimizers, variables and callbacks mean what Manyfit takes them to mean.

A test that fails here names what a new version of Keras has changed, and what would break with it.
"""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest

from manyfit.training.keras_internals import building


def dense(*, optimizer="adam"):
    model = keras.Sequential([keras.layers.Dense(3, activation="relu"), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


def rows():
    return np.ones((4, 2), "float32"), np.ones((4, 1), "float32"), None


def has(thing, name, breaks):
    assert hasattr(thing, name), f"Keras {keras.__version__}: no `{type(thing).__name__}.{name}` any more; {breaks}"


@pytest.mark.backends
def test_reset_uids_lets_names_start_anew():
    building.forget_names()
    first = keras.layers.Dense(1).name
    building.forget_names()
    assert keras.layers.Dense(1).name == first == "dense", (
        "`keras.src.utils.naming.reset_uids` no longer resets names: members of a population would have other names "
        "than models of a search in one process, and tables and saved models would differ"
    )


@pytest.mark.backends
def test_reset_uids_keeps_the_users_dtype_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        building.forget_names()
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(before)


def test_symbolic_build_makes_all_variables_of_a_compiled_model():
    model = dense()
    has(model, "_symbolic_build", "no population could start")
    building.build_symbolically(model, rows())
    assert [tuple(variable.shape) for variable in model.variables[:2]] == [(2, 3), (3,)]
    assert model.optimizer.built and len(model.optimizer.variables) > 4, (
        "`_symbolic_build` leaves the optimizer without variables: a member's state would be incomplete"
    )
    assert len(model.metrics_variables) >= 4, (
        "`_symbolic_build` leaves the metrics without variables: their steps could not be traced"
    )


def test_symbolic_build_makes_them_as_fit_makes_them():
    models = []
    for _ in range(2):
        building.forget_names()
        keras.utils.set_random_seed(1)
        models.append(dense())
    x, y, _ = rows()
    keras.utils.set_random_seed(2)
    building.build_symbolically(models[0], (x, y, None))
    keras.utils.set_random_seed(2)
    models[1].optimizer.learning_rate = 0.0
    models[1].fit(x, y, verbose=0)
    for ours, theirs in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs, "`_symbolic_build` draws other weights than `fit`")
    assert [v.path for v in models[0].optimizer.variables] == [v.path for v in models[1].optimizer.variables]


@pytest.mark.backends
def test_flatten_layers_goes_to_every_depth():
    class Wrapped(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(2)

        def call(self, x):
            return self.inner(x)

    wrapped = Wrapped()
    model = keras.Sequential([keras.Input((2,)), keras.Sequential([wrapped])])
    has(model, "_flatten_layers", "layers inside of layers would be overlooked")
    found = building.layers_of(model)
    assert model in found and wrapped in found and wrapped.inner in found, (
        "`_flatten_layers` no longer answers the layers inside of layers: a model that is not built would count as "
        "built, and an ensemble would take a model with a convolution inside for a dense one"
    )
    assert building.is_built(model)


@pytest.mark.backends
def test_a_model_without_shapes_is_not_built():
    assert not building.is_built(dense())


@pytest.mark.backends
def test_keras_history_names_the_layers_that_make_the_outputs():
    given = keras.Input((2,))
    last = keras.layers.Dense(1)
    model = keras.Model(given, last(keras.layers.Dense(3)(given)))
    assert building.output_layers(model.outputs) == [last], (
        "`_keras_history` no longer tells which layer made a tensor: outputs would be left in float16"
    )
    assert building.output_layers([np.ones(2)]) == []


@pytest.mark.backends
def test_compile_config_holds_the_very_objects():
    def loss(y_true, y_pred):
        return keras.ops.mean((y_true - y_pred) ** 2)

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert building.compile_arguments(model) == {}
    model.compile("adam", loss)
    has(model, "_compile_config", "a tuner's own loss or optimizer would drop what the build function compiled with")
    arguments = building.compile_arguments(model)
    assert arguments["loss"] is loss and arguments["optimizer"] is model.optimizer, (
        "`_compile_config` no longer holds what was passed to `compile`: models could not be recompiled"
    )


@pytest.mark.parametrize("wrap", [False, True], ids=["plain", "loss scale"])
def test_the_learning_rate_is_a_variable_of_the_optimizer(wrap):
    inner = keras.optimizers.Adam(0.25)
    has(inner, "_learning_rate", "recognised models would train at the first model's learning rate")
    model = dense(optimizer=keras.optimizers.LossScaleOptimizer(inner) if wrap else inner)
    building.build_symbolically(model, rows())
    place = building.place_of_learning_rate(model)
    assert place is not None and float(model.optimizer.variables[place].value) == 0.25


def test_a_schedule_has_no_place():
    model = dense(optimizer=keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)))
    building.build_symbolically(model, rows())
    assert building.place_of_learning_rate(model) is None


def test_a_variable_points_at_the_array_that_it_is_given():
    jnp = pytest.importorskip("jax.numpy")
    variable = keras.Variable(np.zeros(3, "float32"))
    has(variable, "_value", "a member's weights could not be shown to its callbacks")
    array = jnp.ones(3)
    building.assign_values([variable], [array])
    assert variable.value is array, "`Variable._value` is no longer what `value` answers: weights would be copied"
    assert building.changed_values([variable], [array]) is None
    variable.assign(np.full(3, 2.0))
    changed = building.changed_values([variable], [array])
    assert changed is not None and float(changed[0][0]) == 2.0, "what a callback assigns would be lost"


@pytest.mark.backends
def test_what_keras_sets_in_a_callback_anew():
    callback = keras.callbacks.LambdaCallback()
    before = set(vars(callback))
    callback.set_params({"epochs": 1})
    callback.set_model(dense())
    unknown = {name for name in vars(callback) if name not in before} - building.CALLBACK_ATTRIBUTES
    assert not unknown, f"Keras sets {unknown} in callbacks: the state of a paused execution would take the model along"
    assert "_model" in vars(callback)


def test_a_tensorboard_callback_says_whether_it_profiles(tmp_path):
    pytest.importorskip("tensorboard")
    plain = keras.callbacks.TensorBoard(str(tmp_path), profile_batch=0)
    has(plain, "_stop_batch", "TensorBoard's callback could not take part in a population")
    assert not building.profiles_batches(plain)
    if sys.version_info < (3, 12):
        pytest.skip("Keras profiles JAX from Python 3.12 on only")
    assert building.profiles_batches(keras.callbacks.TensorBoard(str(tmp_path), profile_batch=(1, 2)))


def test_rules_of_a_layout():
    if keras.backend.backend() != "jax":
        pytest.skip("layouts over devices need the JAX backend")
    devices = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((1, len(devices)), ["batch", "model"], devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout["dense.*kernel"] = (None, "model")
    parallel = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    assert list(building.layout_rules(parallel)) == ["dense.*kernel"], (
        "`ModelParallel._layout_map` no longer holds the rules: a rule that matches nothing would go unnoticed"
    )
    assert list(building.layout_rules(keras.distribution.DataParallel(devices=devices))) == []


@pytest.mark.backends
def test_weights_that_are_spared_of_decay_are_seen():
    for change, seen in ((lambda one: None, False), (lambda one: one.exclude_from_weight_decay(var_names=["b"]), True)):
        optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.1)
        change(optimizer)
        wrapped = keras.optimizers.LossScaleOptimizer(optimizer)
        assert [building.spares_weights_decay(each) for each in (optimizer, wrapped)] == [seen, seen], (
            f"Keras {keras.__version__} keeps what is excluded from weight decay under other names: a model would be "
            "trained by the steps of another one, which decays all of its weights"
        )


def test_the_function_of_rows_behind_a_metric_is_found():
    """Else intervals of held-out scores would need the model to be measured again on parts of the rows."""
    truth, said = np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [1.0], [1.0]])
    metric = keras.metrics.MeanMetricWrapper(lambda y, p, power: keras.ops.abs(y - p) ** power, power=2)
    rows = keras.ops.convert_to_numpy(building.mean_function(metric)(truth, said))
    np.testing.assert_allclose(rows[:, 0], [0.25, 0.0, 4.0])
    metric.update_state(truth, said)
    assert float(metric.result()) == pytest.approx(rows.mean())
    assert building.mean_function(keras.metrics.AUC()) is None


def test_validation_within_fit_is_told_from_a_call_of_the_users():
    """Else rows that are validated on in each epoch would be counted as test rows."""
    seen = []

    class Watched(keras.Sequential):
        def evaluate(self, *args, **kwargs):
            seen.append(building.OF_FIT in kwargs)
            return super().evaluate(*args, **kwargs)

    model, x = Watched([keras.layers.Dense(1)]), np.zeros((4, 2))
    model.compile("sgd", "mse")
    model.fit(x, x[:, :1], validation_data=(x, x[:, :1]), verbose=0)
    model.evaluate(x, x[:, :1], verbose=0)
    assert seen == [True, False]
