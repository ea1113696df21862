"""What tests of wide programs share: small searches in which every trial has another structure; steps of models."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import manyfit as kt  # isort: skip

import jax
import keras
import numpy as np
from keras import layers

from manyfit.training.population.arrays import State, values_of

# Compiled without optimisations a step costs a fifth. XLA then approximates some functions otherwise in one program
# than in another, by 1e-8 even in float64; where that shows, the same is compared in full.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
FULL = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")
FIT = {"epochs": 3, "batch_size": 8, "validation_data": (X[:16], Y[:16]), "shuffle": False, "verbose": 0}

#: Of each model: widths, activation, whether its layers are normalised, dropout.
STRUCTURES: Sequence[tuple[tuple[int, ...], str, bool, float]] = (
    ((4,), "relu", False, 0.0),
    ((6, 3), "sigmoid", True, 0.3),
)

Optimizer = Callable[[], keras.optimizers.Optimizer]


def network(
    structure: tuple[tuple[int, ...], str, bool, float], optimizer: keras.optimizers.Optimizer | str, **compiled: Any
) -> keras.Model:
    """A classifier of rows of five numbers."""
    widths, activation, norm, dropout = structure
    model = keras.Sequential([layers.Input((5,))])
    for width in widths:
        model.add(layers.Dense(width, activation=activation))
        if norm:
            model.add(layers.BatchNormalization())
        if dropout:
            model.add(layers.Dropout(dropout))
    model.add(layers.Dense(2, activation="softmax"))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **compiled)
    return model


def adam() -> keras.optimizers.Optimizer:
    """With a rate that changes something within three epochs."""
    return keras.optimizers.Adam(0.02)


def space(optimizer: Optimizer = adam, **compiled: Any) -> Callable[[kt.HyperParameters], keras.Model]:
    """A build function: each of `STRUCTURES` is a trial."""
    return lambda hp: network(STRUCTURES[hp.Choice("kind", range_of(STRUCTURES))], optimizer(), **compiled)


def range_of(things: Sequence[Any]) -> list[int]:
    """The numbers of things, as values of a `Choice`."""
    return list(range(len(things)))


def searched(
    build: Callable[[kt.HyperParameters], keras.Model],
    folder: Path,
    *,
    tuner: Any = kt.GridSearch,
    rows: Sequence[Any] = (X, Y),
    objective: Any = "val_loss",
    fit: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A search, as a user types it; where nothing else is said, it tries each structure once."""
    found = tuner(build, objective, seed=0, directory=str(folder), **{"project_name": "wide", **options})
    found.search(*rows, **{**FIT, **(fit or {})})
    return found


def searched_alone(build: Callable[[kt.HyperParameters], keras.Model], folder: Path, **options: Any) -> Any:
    """The same search by `model.fit`, one trial after another."""
    return searched(build, folder, **{"project_name": "alone", **options}, population=False)


@contextlib.contextmanager
def quickly_compiled() -> Iterator[None]:
    """Inside, what is compiled is not optimised: tiny models need less time to train than to be optimised."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def num_wide(tuner: Any) -> int:
    """Executions that a wide program has trained to their end."""
    return sum(record.members for record in tuner.programs().records if record.widths)


def executions(tuner: Any) -> dict[tuple[str, int], Any]:
    """All executions of a search, by trial and number."""
    return {
        (name, number): execution
        for name, trial in tuner.oracle.trials.items()
        for number, execution in trial.executions.items()
    }


def assert_alike(one: Any, other: Any, tolerance: float = 2e-5) -> None:
    """The executions of two searches have the same curves, to float32 rounding; and the same end."""
    ours, theirs = executions(one), executions(other)
    assert set(ours) == set(theirs)
    for key, execution in theirs.items():
        assert ours[key].ending is execution.ending, key
        assert set(ours[key].history) == set(execution.history), key
        for name, curve in execution.history.items():
            got, expected = (np.array(each, float) for each in (ours[key].history[name], curve))
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=f"{key} {name}")


def assert_same_weights(one: Any, other: Any, tolerance: float = 1e-4) -> None:
    """The models that two searches have kept are the same, each with the shapes of its own structure."""
    number = len(other.oracle.trials)
    for mine, its in zip(one.get_best_models(number), other.get_best_models(number), strict=True):
        for got, expected in zip(mine.get_weights(), its.get_weights(), strict=True):
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@functools.lru_cache(maxsize=4)
def step_of(model: keras.Model, *, quick: bool) -> Callable[..., Any]:
    """A model's training step, compiled once, whoever trains in it."""

    def step(state: State, metrics: Any, batch: Any) -> Any:
        logs, new = model.train_step((*state, metrics), batch)
        return tuple(map(tuple, new[:3])), new[3], logs["loss"]

    return jax.jit(step, compiler_options=QUICK if quick else FULL)


def trained(
    model: keras.Model, state: State, batches: Sequence[Any], *, quick: bool = True
) -> tuple[State, list[float]]:
    """The state after a step on each batch, and their losses."""
    run = step_of(model, quick=quick)
    model.reset_metrics()
    metrics, losses = list(values_of(model.metrics_variables)), []
    for batch in batches:
        state, metrics, loss = run(state, metrics, batch)
        losses.append(float(loss))
    return state, losses
