"""One Keras model out: equal to the pool, on every backend, and in an interpreter that cannot import Manyfit."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from manyfit.core.errors import UsageError
from manyfit.ensemble import Ensemble, EnsembleMember, EnsembleSettings, PredictionTask
from manyfit.ensemble.pools import ExponentialPool, GeometricPool, LinearPool, PowerPool, StackingPool, rank_pool

pytestmark = pytest.mark.backends

X = np.random.default_rng(0).normal(size=(60, 6)).astype("float32")
WEIGHTS = np.array([0.5, 0.0, 0.3, 0.2])


def network(seed, outputs, activation, *, hidden=5, loss=None, name="sequential", normalise=False):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Input((6,))]
    if normalise:
        adapted = keras.layers.Normalization()
        adapted.adapt(X * (seed + 1) + seed)
        layers.append(adapted)
    layers += [keras.layers.Dense(hidden, "relu"), keras.layers.Dense(outputs, activation)]
    model = keras.Sequential(layers, name=name)
    if loss is not None:
        model.compile("adam", loss=loss, metrics=["accuracy"] if "crossentropy" in str(loss) else ["mae"])
    return model


def members(outputs, activation, **options):
    """Four models under one name, of two structures, the second half with adapted layers."""
    return [
        EnsembleMember(f"m{k}", model=network(k, outputs, activation, hidden=4 + k % 2, normalise=k > 1, **options))
        for k in range(4)
    ]


def check(ensemble, tmp_path, tolerance=1e-6):
    ensemble.save(tmp_path / "winner.keras")
    loaded = keras.saving.load_model(tmp_path / "winner.keras")
    apart = np.abs(loaded.predict(X, verbose=0) - ensemble.predict(X)).max()
    assert apart <= tolerance
    return loaded


POOLS = {
    "linear": LinearPool(WEIGHTS),
    "linear, temperature": LinearPool(WEIGHTS, inverse_temperature=1.4),
    "geometric": GeometricPool(1.3 * WEIGHTS),
    "power": PowerPool(WEIGHTS, parameter=0.4, inverse_temperature=0.8),
    "exponential": ExponentialPool(WEIGHTS, parameter=2.0),
    "calibrated": LinearPool(
        WEIGHTS, member_inverse_temperatures=np.array([1.2, 1.0, 0.7, 1.5]), inverse_temperature=1.1
    ),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    ("task", "outputs", "activation"),
    [
        (PredictionTask.MULTICLASS, 3, "softmax"),
        (PredictionTask.BINARY, 1, "sigmoid"),
        (PredictionTask.MULTILABEL, 2, "sigmoid"),
    ],
)
def test_every_pool_of_probabilities(pool, task, outputs, activation, tmp_path):
    ensemble = Ensemble(members(outputs, activation), POOLS[pool], task, num_outputs=outputs)
    loaded = check(ensemble, tmp_path)
    expected = [member.model.predict(X, verbose=0) for member in ensemble.members]
    np.testing.assert_allclose(ensemble.predict(X), POOLS[pool](np.stack(expected), task), atol=1e-6)
    assert len([layer for layer in loaded.layers if isinstance(layer, keras.Model)]) == 3  # weight 0 stays out


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("kind", ["linear", "exponential", "stacking"])
def test_every_pool_of_values(kind, outputs, tmp_path):
    pool = {
        "linear": LinearPool(WEIGHTS),
        "exponential": ExponentialPool(WEIGHTS, parameter=0.3),
        "stacking": StackingPool(
            WEIGHTS, class_weights=np.outer(WEIGHTS, [1.0, -2.0][:outputs]), bias=np.arange(outputs) + 0.5
        ),
    }[kind]
    check(Ensemble(members(outputs, None), pool, PredictionTask.REGRESSION, num_outputs=outputs), tmp_path, 2e-6)


@pytest.mark.parametrize(("task", "outputs"), [(PredictionTask.MULTICLASS, 3), (PredictionTask.BINARY, 1)])
def test_stacking_of_probabilities(task, outputs, tmp_path):
    columns = 3 if outputs == 3 else 2
    matrix = np.outer(WEIGHTS, np.linspace(-0.5, 1.5, columns))
    pool = StackingPool(WEIGHTS, class_weights=matrix, bias=np.linspace(-0.2, 0.4, columns), inverse_temperature=0.9)
    activation = "softmax" if outputs == 3 else "sigmoid"
    check(Ensemble(members(outputs, activation), pool, task, num_outputs=outputs), tmp_path)


@pytest.mark.parametrize(("task", "outputs"), [(PredictionTask.BINARY, 1), (PredictionTask.MULTICLASS, 3)])
def test_rank_pool(task, outputs, tmp_path):
    group = members(outputs, "sigmoid" if outputs == 1 else "softmax")
    fitted = np.stack([member.model.predict(X, verbose=0) for member in group])
    check(Ensemble(group, rank_pool(fitted, WEIGHTS), task, num_outputs=outputs), tmp_path, 5e-6)


def test_logits_become_probabilities(tmp_path):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ensemble = Ensemble(members(3, None, loss=loss), LinearPool(WEIGHTS), PredictionTask.MULTICLASS, num_outputs=3)
    np.testing.assert_allclose(ensemble.predict(X).sum(axis=1), 1, atol=1e-5)
    loaded = check(ensemble, tmp_path)
    y = np.arange(60) % 3
    assert loaded.evaluate(X, y, verbose=0, return_dict=True)["loss"] == pytest.approx(
        ensemble.evaluate(X, y)["loss"], abs=1e-5
    )


def test_evaluate_says_what_the_members_would(tmp_path):
    group = members(3, "softmax", loss="sparse_categorical_crossentropy")
    alone = Ensemble(group, LinearPool(np.array([1.0, 0, 0, 0])), PredictionTask.MULTICLASS, num_outputs=3)
    y = np.arange(60) % 3
    expected = group[0].model.evaluate(X, y, verbose=0, return_dict=True)
    told = alone.evaluate(X, y)
    assert set(told) == {"log_loss", "loss", "accuracy"}
    assert told["log_loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert {name: told[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    loaded = check(alone, tmp_path)
    assert loaded.evaluate(X, y, verbose=0, return_dict=True) == pytest.approx(expected, abs=1e-5)


def test_members_made_of_folds_and_nested_inputs(tmp_path):
    inputs = {"a": keras.Input((6,), name="a"), "b": keras.Input((2,), name="b")}
    joined = keras.layers.Concatenate()(list(inputs.values()))

    def model():
        return keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(joined))

    group = [EnsembleMember("folds", model=[model(), model()]), EnsembleMember("plain", model=model())]
    ensemble = Ensemble(group, LinearPool(np.array([0.6, 0.4])), PredictionTask.BINARY, num_outputs=1)
    x = {"a": X, "b": X[:, :2]}
    ensemble.save(tmp_path / "winner.keras")
    loaded = keras.saving.load_model(tmp_path / "winner.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), ensemble.predict(x), atol=1e-6)


def test_what_cannot_be_one_model_is_said(tmp_path):
    class Other:
        def predict(self, x):
            return np.zeros(len(x))

    mixed = [EnsembleMember("net", model=network(0, 1, None)), EnsembleMember("other", model=Other())]
    ensemble = Ensemble(mixed, LinearPool(np.array([0.5, 0.5])), PredictionTask.REGRESSION, num_outputs=1)
    with pytest.raises(UsageError, match="'other', which is no Keras model"):
        ensemble.save(tmp_path / "winner.keras")
    wide = keras.Sequential([keras.layers.Input((7,)), keras.layers.Dense(1)])
    odd = [EnsembleMember("net", model=network(0, 1, None)), EnsembleMember("wide", model=wide)]
    with pytest.raises(UsageError, match="inputs"):
        Ensemble(odd, LinearPool(np.array([0.5, 0.5])), PredictionTask.REGRESSION, num_outputs=1).to_keras()


def test_models_of_the_user_are_left_alone(tmp_path):
    group = members(3, "softmax")
    before = [(m.model.name, [w.copy() for w in m.model.get_weights()]) for m in group]
    Ensemble(group, GeometricPool(WEIGHTS), PredictionTask.MULTICLASS, num_outputs=3).save(tmp_path / "winner.keras")
    for member, (name, weights) in zip(group, before, strict=True):
        assert member.model.name == name
        for new, old in zip(member.model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(new, old)


def test_half_precision_members(tmp_path):
    policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(5, "relu", dtype=policy), keras.layers.Dense(3, "softmax", dtype=policy)]
    model = keras.Sequential([keras.layers.Input((6,)), *layers])
    group = [EnsembleMember("half", model=model), EnsembleMember("full", model=network(1, 3, "softmax"))]
    ensemble = Ensemble(group, GeometricPool(np.array([0.5, 0.5])), PredictionTask.MULTICLASS, num_outputs=3)
    assert ensemble.predict(X).dtype == np.float32
    check(ensemble, tmp_path, 1e-2)  # two programs round half precision differently; single precision is tested above


@pytest.mark.parametrize("pool", ["calibrated", "power"])
def test_it_loads_where_manyfit_is_not_installed(pool, tmp_path):
    ensemble = Ensemble(
        members(3, "softmax", loss="sparse_categorical_crossentropy"),
        POOLS[pool],
        PredictionTask.MULTICLASS,
        num_outputs=3,
    )
    ensemble.save(tmp_path / "winner.keras")
    np.save(tmp_path / "x.npy", X)
    program = (
        "import sys; sys.modules['manyfit'] = None\n"  # importing it fails
        "import keras, numpy as np\n"
        "model = keras.saving.load_model('winner.keras', safe_mode=True)\n"
        "np.save('answer.npy', model.predict(np.load('x.npy'), verbose=0))\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), ensemble.predict(X), atol=1e-6)


def test_from_fit_to_file(tmp_path):
    """The way a user goes: fit on validation rows, predict, evaluate, save, load."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype("float32")
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype("int32")
    models = [network(k, 1, "sigmoid", hidden=8, loss="binary_crossentropy") for k in range(3)]
    for model in models:
        model.fit(x[:200], y[:200], epochs=3, verbose=0)
    ensemble = Ensemble.fit(models, y[200:], x=x[200:], settings=EnsembleSettings(num_folds=3))
    assert ensemble.task is PredictionTask.BINARY
    told = ensemble.evaluate(x[200:], y[200:])
    assert told["log_loss"] == pytest.approx(told["loss"], abs=1e-5)
    check(ensemble, tmp_path)
