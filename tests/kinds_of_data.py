"""Rows of 24 examples in every kind of data, and what plain Keras makes of the same rows as NumPy arrays.

Weights start from a seed of their own and nothing is shuffled, so that `model.fit` on the same rows in the same order
is what every kind of data has to equal, in every step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import manyfit as kt  # isort: skip

import jax.numpy as jnp
import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from tiny import four_parts

from manyfit.core.errors import UsageError
from manyfit.data import kinds
from manyfit.data.kinds import STEPS, Ability, unpacked

NUM_TRAINED, NUM_ROWS = 16, 24
RATES = [0.1, 0.3]
TOLERANCE = 1e-4  # relative, of losses and predictions

rng = np.random.default_rng(0)
X = rng.normal(size=(NUM_ROWS, 4)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("float32")[:, None]
W = np.linspace(0.5, 1.5, NUM_ROWS).astype("float32")
TRAIN, VALID, ALL = slice(0, NUM_TRAINED), slice(NUM_TRAINED, NUM_ROWS), slice(0, NUM_ROWS)
FIRST, LAST, WHOLE = (0, NUM_TRAINED), (NUM_TRAINED, NUM_ROWS), (0, NUM_ROWS)


def dense(units: int, activation: str, name: str | None = None) -> keras.layers.Layer:
    start = keras.initializers.GlorotUniform(seed=units)
    return keras.layers.Dense(units, activation, kernel_initializer=start, name=name)


def compiled(model: keras.Model, rate: float, loss: Any = "binary_crossentropy") -> keras.Model:
    model.compile(keras.optimizers.SGD(rate), loss)
    return model


def one_input(rate: float) -> keras.Model:
    return compiled(keras.Sequential([keras.Input((4,)), dense(3, "tanh"), dense(1, "sigmoid")]), rate)


def halves(names: Callable[..., Any]) -> Callable[[float], keras.Model]:
    """A model whose inputs are two halves of the columns, in a dict, list or whatever `names` makes of the two."""

    def build(rate: float) -> keras.Model:
        left, right = keras.Input((2,), name="left"), keras.Input((2,), name="right")
        hidden = dense(3, "tanh")(keras.layers.Concatenate()([left, right]))
        return compiled(keras.Model(names(left, right), dense(1, "sigmoid")(hidden)), rate)

    return build


def two_outputs(names: Callable[..., Any]) -> Callable[[float], keras.Model]:
    def build(rate: float) -> keras.Model:
        inputs = keras.Input((4,))
        hidden = dense(3, "tanh")(inputs)
        outputs = names(dense(1, "sigmoid", "kind")(hidden), dense(2, "linear", "size")(hidden))
        # At .3 these two losses begin to swing after a hundred epochs, and any rounding becomes visible.
        return compiled(keras.Model(inputs, outputs), rate / 3, names("binary_crossentropy", "mse"))

    return build


class OwnStep(keras.Model):
    """An autoencoder that makes its own target of x."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.inner = keras.Sequential([keras.Input((4,)), dense(3, "tanh"), dense(4, "linear")])

    def call(self, x):
        return self.inner(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((x - y_pred) ** 2)


def own_step(rate: float) -> keras.Model:
    model = OwnStep()
    model.build((None, 4))
    return compiled(model, rate, None)


def as_dict(left: Any, right: Any) -> dict[str, Any]:
    return {"left": left, "right": right}


def as_kinds(kind: Any, size: Any) -> dict[str, Any]:
    return {"kind": kind, "size": size}


class Batches(keras.utils.PyDataset):
    """Batches of eight in order."""

    def __init__(self, arrays: tuple[Any, ...]) -> None:
        super().__init__()
        self.arrays = arrays

    def __len__(self) -> int:
        return len(range(0, len(self.arrays[0]), 8))

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(array[8 * index : 8 * index + 8] for array in self.arrays)


def grain_loader(arrays: tuple[Any, ...]) -> Any:
    grain = pytest.importorskip("grain", reason="grain has no wheels for Windows")
    numbers = grain.MapDataset.range(len(arrays[0]))
    return numbers.map(lambda number: tuple(array[number] for array in arrays)).batch(8)


def tf_data(arrays: tuple[Any, ...]) -> Any:
    tf = pytest.importorskip("tensorflow", reason="the pipelines of TensorFlow need it")
    return tf.data.Dataset.from_tensor_slices(arrays).batch(8)


def torch_loader(arrays: tuple[Any, ...]) -> Any:
    torch = pytest.importorskip("torch", reason="the loaders of torch need it")
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*map(torch.from_numpy, arrays)), batch_size=8)


def tensor(array: np.ndarray) -> Any:
    torch = pytest.importorskip("torch", reason="the tensors of torch need it")
    return torch.from_numpy(array)


def endless(arrays: tuple[Any, ...]) -> Any:
    while True:
        yield from (Batches(arrays)[index] for index in range(len(Batches(arrays))))


def once(arrays: tuple[Any, ...]) -> Any:
    yield from (Batches(arrays)[index] for index in range(len(Batches(arrays))))


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    kind: kinds.Kind
    x: Callable[[slice], Any] = lambda part: X[part]
    y: Callable[[slice], Any] = lambda part: Y[part]
    weight: Callable[[slice], Any] = lambda part: None
    build: Callable[[float], keras.Model] = one_input
    pipeline: Callable[[tuple[Any, ...]], Any] | None = None
    objective: str = "val_loss"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    equals: str = "arrays"  # the case of NumPy arrays that the same numbers come out of
    split: bool = False  # validation_split in place of validation_data
    labelled: bool = True
    population: bool = True  # whether two trials train as one program

    def parts(self, rows: slice) -> tuple[Any, ...]:
        """(x, y) or (x, y, weights) or (x,) as NumPy knows them, for Keras; in full precision of the kind."""
        return tuple(part for part in (self.x(rows), self.y(rows), self.weight(rows)) if part is not None)

    def given(self, rows: slice) -> tuple[Any, ...]:
        """What a user passes for such rows."""
        return self.parts(rows) if self.pipeline is None else (self.pipeline(self.parts(rows)),)

    def steps(self, rows: slice, name: str) -> dict[str, int]:
        return {name: len(range(NUM_ROWS)[rows]) // 8} if self.kind is kinds.ENDLESS_GENERATOR else {}

    def search_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        options = {"epochs": 1, "batch_size": 8, "shuffle": False, "verbose": 0, **self.options}
        if self.pipeline is not None:
            del options["batch_size"]
        x, *rest = self.given(ALL if self.split else TRAIN)
        if self.split:
            options["validation_split"] = 1 / 3
        else:
            held_out = self.given(VALID)
            options["validation_data"] = held_out[0] if self.pipeline is not None else held_out
        if len(rest) > 1:
            options["sample_weight"] = rest.pop()
        return (x, *rest), {**options, **self.steps(TRAIN, "steps_per_epoch"), **self.steps(VALID, "validation_steps")}

    def can(self, step: str) -> bool:
        needs = next(one.needs for one in STEPS if one.name == step)
        return needs <= self.kind.can and (self.labelled or Ability.LABELLED not in needs)


def frame(part: slice) -> pd.DataFrame:
    return pd.DataFrame(X[part], columns=list("abcd"), index=range(100, 100 + len(X[part])))


def nested(names: Callable[..., Any], part: slice) -> Any:
    return names(X[part][:, :2], X[part][:, 2:])


def both(names: Callable[..., Any], part: slice) -> Any:
    return names(Y[part], X[part][:, :2])


pair = lambda one, other: (one, other)  # noqa: E731
listed = lambda one, other: [one, other]  # noqa: E731
CASES = [
    Case("arrays", kinds.NUMPY),
    Case("validation_split", kinds.NUMPY, split=True),
    Case("weights", kinds.NUMPY, weight=lambda part: W[part], equals="weights"),
    Case("weights and validation_split", kinds.NUMPY, weight=lambda part: W[part], split=True, equals="weights"),
    Case("class weights", kinds.NUMPY, options={"class_weight": {0: 1.0, 1: 3.0}}, equals="class weights"),
    Case("dict", kinds.NUMPY, functools.partial(nested, as_dict), build=halves(as_dict)),
    Case(
        "dict and validation_split", kinds.NUMPY, functools.partial(nested, as_dict), build=halves(as_dict), split=True
    ),
    Case("list", kinds.NUMPY, functools.partial(nested, listed), build=halves(listed)),
    Case("tuple", kinds.NUMPY, functools.partial(nested, pair), build=halves(listed)),
    Case(
        "nested",
        kinds.NUMPY,
        lambda part: {"deep": nested(listed, part)},
        build=halves(lambda left, right: {"deep": [left, right]}),
    ),
    Case(
        "several outputs",
        kinds.NUMPY,
        y=functools.partial(both, as_kinds),
        build=two_outputs(as_kinds),
        objective="val_kind_loss",
        equals="several outputs",
    ),
    Case(
        "weights per output",
        kinds.NUMPY,
        y=functools.partial(both, listed),
        weight=lambda part: [W[part], W[part] ** 2],
        build=two_outputs(listed),
        equals="weights per output",
    ),
    Case("x only", kinds.NUMPY, y=lambda part: None, build=own_step, labelled=False, equals="x only"),
    Case("frame and series", kinds.FRAMES, frame, lambda part: pd.Series(Y[part][:, 0])),
    Case("sparse", kinds.SPARSE, lambda part: scipy.sparse.csr_matrix(X[part]), population=False),
    Case("jax", kinds.ARRAYS, lambda part: jnp.asarray(X[part]), lambda part: jnp.asarray(Y[part])),
    Case("torch", kinds.TORCH, lambda part: tensor(X[part]), lambda part: tensor(Y[part])),
    Case("tf.data", kinds.TF_DATA, pipeline=tf_data),
    Case("torch loader", kinds.TORCH_LOADER, pipeline=torch_loader),
    Case("PyDataset", kinds.PYDATASET, pipeline=Batches),
    Case("PyDataset with weights", kinds.PYDATASET, weight=lambda part: W[part], pipeline=Batches, equals="weights"),
    Case("grain", kinds.GRAIN, pipeline=grain_loader),
    Case("endless generator", kinds.ENDLESS_GENERATOR, pipeline=endless),
]


@functools.cache
def plain(name: str, rate: float, start: int, stop: int, epochs: int = 1) -> keras.Model:
    """What `model.fit` makes of NumPy's arrays of the same rows."""
    case = next(one for one in CASES if one.name == name)
    model = case.build(rate)
    x, y, weight = unpacked(case.parts(slice(start, stop)))
    own = case.options.get("class_weight")
    model.fit(x, y, 8, epochs, 0, shuffle=False, sample_weight=weight, class_weight=own)
    return model


@functools.cache
def plain_scores(name: str, rate: float, train: tuple[int, int], test: tuple[int, int]) -> dict[str, float]:
    """What `model.evaluate` says of that model on some rows."""
    case = next(one for one in CASES if one.name == name)
    x, y, weight = unpacked(case.parts(slice(*test)))
    return plain(name, rate, *train).evaluate(x, y, 8, 0, weight, return_dict=True)


def predicted(case: Case, model: keras.Model) -> Any:
    """What a model that `plain` made says of all rows."""
    reference = next(one for one in CASES if one.name == case.equals)
    return model.predict(reference.parts(ALL)[0], verbose=0)


def right_score(case: Case, rate: float, train: tuple[int, int], test: tuple[int, int]) -> float:
    return plain_scores(case.equals, rate, train, test)[case.objective.removeprefix("val_")]


def new_tuner(case: Case, folder: Any, **arguments: Any) -> kt.Tuner:
    build = lambda hp: case.build(hp.Choice("rate", RATES))  # noqa: E731
    return kt.GridSearch(build, case.objective, directory=folder, project_name="search", seed=0, **arguments)


def search(tuner: kt.Tuner, case: Case, **more: Any) -> None:
    args, kwargs = case.search_arguments()
    tuner.search(*args, **{**kwargs, **more})


def close(found: Any, right: Any, tolerance: float = TOLERANCE) -> None:
    for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(right), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def refused(action: Callable[[], Any], tuner: kt.Tuner) -> None:
    """Refused in four parts, and nothing was trained."""
    before = {trial.trial_id: len(trial.executions) for trial in tuner.oracle.trials.values()}
    with pytest.raises(UsageError) as error:
        action()
    four_parts(error.value)
    assert before == {trial.trial_id: len(trial.executions) for trial in tuner.oracle.trials.values()}


def rate_of(trial: kt.Trial) -> float:
    return trial.hyperparameters.values["rate"]
