"""Soups and students."""

import keras
import numpy as np
import pytest

from manyfit.core.errors import UsageError
from manyfit.ensemble import Ensemble, EnsembleSettings
from manyfit.ensemble.distillation import fresh_copy, greedy_soup
from manyfit.ensemble.metrics import named_metric

pytestmark = pytest.mark.backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 5)).astype("float32")
Y = (X[:, 0] * X[:, 1] + X[:, 2] + 0.8 * RNG.normal(size=600) > 0).astype("int32")


def network(units=12):
    adapted = keras.layers.Normalization()
    adapted.adapt(X[:300])
    layers = [keras.layers.Input((5,)), adapted, keras.layers.Dense(units, "relu"), keras.layers.Dense(1, "sigmoid")]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy")
    return model


@pytest.fixture(scope="module")
def tuned():
    """Four runs from one start, on different rows."""
    keras.utils.set_random_seed(0)
    start = network()
    start.fit(X[:300], Y[:300], epochs=8, verbose=0)
    models = []
    for seed in range(4):
        keras.utils.set_random_seed(seed)
        model = network()
        model.set_weights(start.get_weights())
        rows = np.random.default_rng(seed).choice(300, 150, replace=False)
        model.fit(X[rows], Y[rows], epochs=6, verbose=0)
        models.append(model)
    return models


def test_soup_is_the_mean_of_weights_and_no_worse_than_the_best(tuned):
    metric = named_metric("log_loss")
    before = [w.copy() for w in tuned[0].get_weights()]
    soup = greedy_soup(tuned, X[300:], Y[300:], metric)
    assert soup.score <= soup.best_score
    assert len(soup.ingredients) >= 2  # runs from one start mix well
    mean = [np.mean([tuned[k].get_weights()[i] for k in soup.ingredients], axis=0) for i in range(len(before))]
    for ours, theirs in zip(soup.model.get_weights(), mean, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    for now, then in zip(tuned[0].get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_soup_of_strangers_is_the_best_alone(tuned):
    keras.utils.set_random_seed(9)
    stranger = network()
    stranger.set_weights([-10 * w if w.ndim == 2 else w for w in tuned[1].get_weights()])
    soup = greedy_soup([tuned[0], stranger], X[300:], Y[300:], named_metric("log_loss"))
    assert soup.ingredients == (0,)
    assert soup.score == pytest.approx(soup.best_score)


def test_soup_needs_one_structure(tuned):
    with pytest.raises(UsageError, match="different structure"):
        greedy_soup([tuned[0], network(3)], X, Y, named_metric("log_loss"))
    with pytest.raises(UsageError, match="fewer than two"):
        greedy_soup(tuned[:1], X, Y, named_metric("log_loss"))


def test_student_learns_the_ensemble(tuned):
    ensemble = Ensemble.fit(tuned, Y[300:], x=X[300:], method="uniform", settings=EnsembleSettings(num_folds=3))
    student = ensemble.distill(X, Y[300:], x_test=X[300:], epochs=40, batch_size=32)
    assert student.difference < 0.06
    assert set(student.scores) == {"ensemble", "student", "best member"}
    assert student.scores["ensemble"] == pytest.approx(ensemble.evaluate(X[300:], Y[300:])["log_loss"])
    assert abs(student.loss_in_score) < 0.1
    unlabelled = ensemble.distill(X, student=network(3), epochs=1)
    assert unlabelled.scores == {}
    assert np.isnan(unlabelled.loss_in_score)


def test_soup_of_an_ensemble(tuned):
    ensemble = Ensemble.fit(
        tuned, Y[300:], x=X[300:], method="uniform", settings=EnsembleSettings(num_folds=3, temperature=False)
    )
    assert ensemble.soup(X[300:], Y[300:]).score <= ensemble.evaluate(X[300:], Y[300:])["log_loss"] + 0.1


def test_a_fresh_copy_forgets_what_was_learned_but_not_what_was_adapted(tuned):
    copy = fresh_copy(tuned[0])
    assert not np.allclose(copy.layers[1].get_weights()[0], tuned[0].layers[1].get_weights()[0])
    np.testing.assert_allclose(copy.layers[0](X[:5]), tuned[0].layers[0](X[:5]), atol=1e-6)
