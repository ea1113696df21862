"""The conformance suite for pools.

To check a new pool, subclass the suite in a test file:

    class TestMyPool(PoolSuite):
        def make(self, predictions: np.ndarray, task: PredictionTask) -> Pool:
            return MyPool(np.array([0.5, 0.0, 0.3, 0.2]))

A pool is written twice, with arrays and with layers of Keras, and it is saved as arrays; most of the suite holds these
against each other. It says nothing about how good a pool predicts.
"""

from __future__ import annotations

import abc
import dataclasses
import io
import json
from collections.abc import Iterator

import numpy as np

from manyfit.core.errors import UsageError
from manyfit.ensemble.pools import POOLS, Pool
from manyfit.ensemble.problem import PredictionTask

_NUM_MEMBERS, _NUM_ROWS = 4, 30
_NUM_OUTPUTS = {
    PredictionTask.BINARY: 1,
    PredictionTask.MULTICLASS: 3,
    PredictionTask.MULTILABEL: 2,
    PredictionTask.REGRESSION: 2,
}


def drawn_predictions(task: PredictionTask, *, seed: int = 0) -> np.ndarray:
    """(4, 30, C) predictions of members that agree a little, in float32 as models give them."""
    rng = np.random.default_rng(seed)
    shape = (_NUM_MEMBERS, _NUM_ROWS, _NUM_OUTPUTS[task])
    logits = rng.normal(size=shape[1:]) + rng.normal(size=shape)
    if task is PredictionTask.MULTICLASS:
        exponents = np.exp(logits)
        return (exponents / exponents.sum(axis=-1, keepdims=True)).astype(np.float32)
    return (1.0 / (1.0 + np.exp(-logits)) if task.probabilistic else logits).astype(np.float32)


def certain_predictions(task: PredictionTask) -> np.ndarray:
    """(4, C, C) predictions of exactly zero and one, each row with members that contradict each other."""
    one_hot = np.eye(_NUM_OUTPUTS[task], dtype=np.float32)
    return np.stack([one_hot, one_hot[::-1] if len(one_hot) > 1 else 1 - one_hot] * 2)


class PoolSuite(abc.ABC):
    """What every pool keeps to."""

    tasks: tuple[PredictionTask, ...] = tuple(PredictionTask)  # those that the pool is for
    tolerance = 2e-6  # between arrays in double and layers in single precision
    sums_to_one = True  # predictions over classes; not those of pools whose answer is only an order

    @abc.abstractmethod
    def make(self, predictions: np.ndarray, task: PredictionTask) -> Pool:
        """A pool of four members, of which at least one has no weight.

        Args:
            predictions: (4, 30, C), to fit on where the pool is fitted.
            task: what they predict.
        """

    def _cases(self) -> Iterator[tuple[PredictionTask, np.ndarray, Pool]]:
        for task in self.tasks:
            predictions = drawn_predictions(task)
            pool = self.make(predictions, task)
            assert 0 < len(pool.support) < len(pool.weights) == _NUM_MEMBERS, "make() leaves one member out"
            yield task, predictions, pool

    def test_the_answer_has_the_shape_of_a_members(self) -> None:
        """(n, C), finite, in double precision; `combine` says of the used members what a call says of all."""
        for task, predictions, pool in self._cases():
            answer = pool(predictions, task)
            assert answer.shape == predictions.shape[1:] and answer.dtype == np.float64
            assert np.isfinite(answer).all()
            used = predictions[pool.support].astype(np.float64)
            np.testing.assert_array_equal(pool.combine(used, task), answer)

    def test_probabilities_stay_probabilities(self) -> None:
        """Between zero and one, and over classes with the sum one."""
        for task, predictions, pool in self._cases():
            if task.probabilistic:
                answer = pool(predictions, task)
                assert answer.min() >= 0 and answer.max() <= 1 + 1e-12
                if task is PredictionTask.MULTICLASS and self.sums_to_one:
                    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-6)

    def test_certain_members_make_no_infinity(self) -> None:
        """Probabilities of exactly zero and one, which members in half precision do predict."""
        for task, _, pool in self._cases():
            if task.probabilistic:
                assert np.isfinite(pool(certain_predictions(task), task)).all()

    def test_weights_are_shares_where_the_pool_says_so(self) -> None:
        """`on_simplex` promises that they are not negative and have the sum one."""
        for _, _, pool in self._cases():
            assert np.isfinite(pool.weights).all()
            if pool.on_simplex:
                assert pool.weights.min() >= 0
                np.testing.assert_allclose(pool.weights.sum(), 1, atol=1e-9)

    def test_members_without_weight_are_never_looked_at(self) -> None:
        """They may have diverged."""
        for task, predictions, pool in self._cases():
            broken = predictions.copy()
            broken[pool.weights == 0] = np.nan
            np.testing.assert_array_equal(pool(broken, task), pool(predictions, task))

    def test_every_row_is_pooled_by_itself(self) -> None:
        """A row's answer does not depend on the rows beside it, and the input is left as it was."""
        for task, predictions, pool in self._cases():
            before = predictions.copy()
            whole = pool(predictions, task)
            np.testing.assert_array_equal(predictions, before)
            np.testing.assert_allclose(pool(predictions[:, 7:9], task), whole[7:9], rtol=1e-12)

    def test_layers_predict_what_arrays_do(self) -> None:
        """`to_keras` builds what `combine` computes, of layers that need no code of ours to be loaded."""
        import keras

        for task, predictions, pool in self._cases():
            num_outputs = predictions.shape[-1]
            inputs = [keras.Input((num_outputs,), dtype="float32") for _ in pool.support]
            model = keras.Model(inputs, pool.to_keras(inputs, task, num_outputs))
            assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
            answer = model.predict([predictions[member] for member in pool.support], verbose=0)
            np.testing.assert_allclose(answer, pool(predictions, task), atol=self.tolerance, rtol=self.tolerance)

    def test_what_is_saved_predicts_the_same(self) -> None:
        """Through a file of arrays and a file of numbers, bit for bit; only members with weight are kept."""
        for task, predictions, pool in self._cases():
            buffer = io.BytesIO()
            np.savez(buffer, **pool.arrays())  # type: ignore[arg-type]
            arrays = dict(np.load(io.BytesIO(buffer.getvalue()), allow_pickle=False))
            numbers = json.loads(json.dumps(pool.numbers()))
            assert POOLS.get(pool.kind, type(pool)) is type(pool), "another pool has this kind in files"
            loaded = type(pool).from_saved(arrays, numbers)
            assert len(loaded.weights) == len(pool.support)
            np.testing.assert_array_equal(loaded(predictions[pool.support], task), pool(predictions, task))

    def test_it_takes_its_place_among_more_members(self) -> None:
        """`expand` is how a pool that was fitted on a selection predicts with everybody."""
        for task, predictions, pool in self._cases():
            places, more = np.array([5, 1, 2, 7]), np.full((9, *predictions.shape[1:]), np.nan)
            more[places] = predictions
            np.testing.assert_allclose(pool.expand(places, 9)(more, task), pool(predictions, task), rtol=1e-12)

    def test_it_says_what_it_is(self) -> None:
        """In one line, for `Ensemble.summary`."""
        for _, _, pool in self._cases():
            assert pool.describe() and "\n" not in pool.describe()

    def test_what_is_no_input_is_refused(self) -> None:
        """A member too few, an array without members, weights that are no numbers: an error that teaches."""
        for task, predictions, pool in self._cases():
            used = predictions[pool.support].astype(np.float64)
            for wrong in (used[1:], used[0]):
                _refuses(lambda wrong=wrong, pool=pool, task=task: pool.combine(wrong, task))
            for weights in (np.full(_NUM_MEMBERS, np.nan), np.zeros(_NUM_MEMBERS), np.ones((_NUM_MEMBERS, 1))):
                _refuses(lambda weights=weights, pool=pool: dataclasses.replace(pool, weights=weights))


def _refuses(call: object) -> None:
    assert callable(call)
    try:
        call()
    except UsageError:
        return
    raise AssertionError("a UsageError was due")
