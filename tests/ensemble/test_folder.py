"""Folders with members of every brand: whole, checked, and no pickle without trust."""

import json

import keras
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge

from manyfit.core.errors import UsageError
from manyfit.core.files import with_checksum
from manyfit.ensemble import Ensemble, EnsembleMember, EnsembleSettings, PredictionTask
from manyfit.ensemble.pools import LinearPool, PowerPool, StackingPool, rank_pool

pytestmark = pytest.mark.backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 4)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype(int) + (X[:, 2] > 1)


@pytest.fixture(scope="module")
def brands():
    net = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3, "softmax")])
    net.compile("adam", "sparse_categorical_crossentropy")
    net.fit(X[:150], Y[:150], epochs=2, verbose=0)
    forest = RandomForestClassifier(20, random_state=0).fit(X[:150], Y[:150])
    linear = LogisticRegression().fit(X[:150], Y[:150])
    return {"net": net, "forest": forest, "linear": linear}


@pytest.fixture(scope="module")
def ensemble(brands):
    return Ensemble.fit(brands, Y[150:], x=X[150:], method="uniform", settings=EnsembleSettings(num_folds=3))


def test_brands_predict_together(ensemble, brands):
    own = [brands["net"].predict(X, verbose=0), brands["forest"].predict_proba(X), brands["linear"].predict_proba(X)]
    np.testing.assert_allclose(ensemble.predict(X), ensemble.pool(np.stack(own), PredictionTask.MULTICLASS), atol=1e-6)


def test_round_trip(ensemble, tmp_path):
    ensemble.save(tmp_path / "winner")
    loaded = Ensemble.load(tmp_path / "winner", trust=True)
    np.testing.assert_array_equal(loaded.predict(X), ensemble.predict(X))
    assert loaded.evaluate(X, Y)["log_loss"] == pytest.approx(ensemble.evaluate(X, Y)["log_loss"])
    assert "Ensemble of" in str(loaded)
    with pytest.raises(UsageError, match="loaded from disk"):
        loaded.explanation()


@pytest.mark.parametrize(
    "pool",
    [
        StackingPool(np.array([0.5, 0.5]), class_weights=np.ones((2, 3)), bias=np.arange(3.0)),
        PowerPool(
            np.array([0.2, 0.8]),
            parameter=0.3,
            inverse_temperature=1.2,
            member_inverse_temperatures=np.array([1.0, 2.0]),
        ),
        "rank",
    ],
)
def test_every_pool_survives(pool, brands, tmp_path):
    models = [brands["forest"], brands["linear"]]
    if pool == "rank":
        pool = rank_pool(np.stack([m.predict_proba(X) for m in models]), np.array([0.5, 0.5]))
    original = Ensemble(
        [EnsembleMember(f"m{k}", model=m) for k, m in enumerate(models)], pool, PredictionTask.MULTICLASS, num_outputs=3
    )
    original.save(tmp_path / "winner")
    np.testing.assert_array_equal(Ensemble.load(tmp_path / "winner", trust=True).predict(X), original.predict(X))


def test_pickles_need_trust(ensemble, tmp_path):
    ensemble.save(tmp_path / "winner")
    with pytest.raises(UsageError, match="trust=True"):
        Ensemble.load(tmp_path / "winner")


def test_keras_members_need_no_trust(brands, tmp_path):
    alone = Ensemble(
        [EnsembleMember("net", model=brands["net"])], LinearPool(np.ones(1)), PredictionTask.MULTICLASS, num_outputs=3
    )
    alone.save(tmp_path / "winner")
    np.testing.assert_allclose(
        Ensemble.load(tmp_path / "winner").predict(X), brands["net"].predict(X, verbose=0), atol=1e-6
    )


@pytest.mark.parametrize("damage", ["changed", "missing", "pool", "escape"])
def test_damage_is_noticed_before_anything_is_unpickled(ensemble, tmp_path, damage):
    folder = tmp_path / "winner"
    ensemble.save(folder)
    pickled = next(folder.glob("*.pickle"))
    if damage == "changed":
        pickled.write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    elif damage == "missing":
        pickled.unlink()
    elif damage == "pool":
        (folder / "pool.npz").write_bytes(b"nothing")
    else:
        pickled.rename(tmp_path / pickled.name)
        manifest = json.loads((folder / "manifest.json").read_text())
        text = json.dumps(manifest).replace(pickled.name, f"../{pickled.name}")
        (folder / "manifest.json").write_text(json.dumps(with_checksum(json.loads(text))))
    with pytest.raises(UsageError, match="changed" if damage in ("changed", "pool") else "missing"):
        Ensemble.load(folder, trust=True)


@pytest.mark.parametrize(
    "name, value",
    [
        ("num_outputs", -1),
        ("num_outputs", False),
        ("num_outputs", 10**12),
        ("inverse_temperature", 0),
        ("inverse_temperature", -1.0),
        ("outputs", {"shapes": [[3]], "names": None, "several": 1, "tasks": []}),
        ("outputs", {"shapes": [[3], [3]], "names": None, "several": False, "tasks": []}),
    ],
)
def test_numbers_that_do_not_fit_are_refused(tmp_path, ensemble, name, value):
    folder = tmp_path / "ensemble"
    ensemble.save(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(with_checksum({**manifest, name: value})))
    with pytest.raises(UsageError, match="again"):
        Ensemble.load(folder, trust=True)


def test_what_is_no_ensemble_is_said(tmp_path, ensemble):
    with pytest.raises(UsageError, match=r"no manifest\.json"):
        Ensemble.load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(UsageError, match="format 99"):
        Ensemble.load(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        ensemble.save(tmp_path / "manifest.json")


def test_values_of_estimators():
    y = X @ np.array([1.0, 2.0, 0.0, -1.0]) + RNG.normal(size=300)
    models = [Ridge(alpha).fit(X[:150], y[:150]) for alpha in (0.1, 100.0)]
    fitted = Ensemble.fit(models, y[150:], x=X[150:], settings=EnsembleSettings(num_folds=3))
    assert fitted.task is PredictionTask.REGRESSION
    assert fitted.predict(X).shape == (300, 1)


def test_estimators_that_have_not_seen_every_class():
    some = Y[:150] > 0
    partial = LogisticRegression().fit(X[:150][some], Y[:150][some])  # classes 1 and 2 only
    whole = LogisticRegression().fit(X[:150], Y[:150])
    fitted = Ensemble.fit([partial, whole], Y[150:], x=X[150:], settings=EnsembleSettings(num_folds=3))
    assert fitted.num_outputs == 3
    assert fitted.weights["m1"] > 0
