"""Grain's data sets and loaders: one pass feeds every member, and each curve is `model.fit`'s."""

import numpy as np
import pytest
from marks import needs_jax
from populations import dense_model, equals_model_fit

import manyfit as kt

grain = pytest.importorskip("grain", reason="needs Grain: pip install grain")
pytestmark = [
    needs_jax,
    # Keras says so of all data whose length it does not ask for, at the end of each pass.
    pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning"),
]

RNG = np.random.default_rng(12)
X = RNG.normal(size=(38, 6)).astype("float32")
Y = X[:, :1] * X[:, 1:2]
VALUES = [{"learning_rate": 0.01, "rate": 0.9}, {"learning_rate": 0.03, "rate": 0.8}]


class Source:
    """Rows by number, as Grain reads them."""

    def __init__(self, num_rows=38):
        self.num_rows = num_rows

    def __len__(self):
        return self.num_rows

    def __getitem__(self, number):
        return X[number], Y[number]


def mapped():
    return grain.MapDataset.source(Source()).shuffle(seed=3).batch(8)


def iterated():
    return grain.MapDataset.source(Source()).shuffle(seed=3).to_iter_dataset().batch(8)


def loaded():
    sampler = grain.samplers.IndexSampler(38, shuffle=True, seed=4, num_epochs=1)
    return grain.DataLoader(
        data_source=Source(), sampler=sampler, operations=[grain.transforms.Batch(8)], worker_count=0
    )


@pytest.mark.parametrize(("data", "held_out"), [(mapped, iterated), (loaded, mapped)])
def test_each_kind_trains_as_in_model_fit(data, held_out):
    population = equals_model_fit(
        dense_model, lambda: (data(),), {"epochs": 3, "shuffle": False, "validation_data": held_out}, VALUES
    )
    (record,) = population.programs().records
    assert record.members == 2


def test_endless_data_go_on_where_the_epoch_before_ended():
    equals_model_fit(
        dense_model,
        lambda: (mapped().repeat().to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)),),
        {"epochs": 3, "steps_per_epoch": 3, "shuffle": False},
        VALUES[:1],
    )


def build(hp):
    return dense_model({"learning_rate": hp.Float("learning_rate", 1e-3, 1e-1, sampling="log"), "rate": 0.9})


def test_from_the_search_to_one_model(project):
    tuner = kt.RandomSearch(build, "val_loss", max_trials=3, seed=0, **project)
    tuner.search(mapped(), epochs=2, shuffle=False, validation_data=iterated(), verbose=0)
    [model] = tuner.retrain(top=1, x=mapped(), shuffle=False, verbose=0)
    losses = [trial.score for trial in tuner.oracle.get_best_trials(3)]
    assert losses == sorted(losses) and np.isfinite(losses).all()
    assert model.evaluate(X, Y, verbose=0, return_dict=True)["loss"] < losses[0] * 1.5
