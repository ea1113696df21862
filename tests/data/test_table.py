"""Kinds of data by steps: each cell is what plain Keras gives, or one error in four parts before anything is trained.

Weights start from a seed of their own and nothing is shuffled, so that `model.fit` on the same rows in the same order
is what every kind of data has to equal, in every step.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import manyfit as kt  # isort: skip

import jax.numpy as jnp
import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from marks import needs_jax
from tiny import four_parts

from manyfit.core.errors import FatalError, UsageError
from manyfit.data import kinds
from manyfit.data.kinds import STEPS, Ability, unpacked

pytestmark = [
    needs_jax,
    pytest.mark.filterwarnings("ignore:Your input ran out of data"),  # Keras, at the end of data without a length
]

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
        return compiled(keras.Model(inputs, outputs), rate, names("binary_crossentropy", "mse"))

    return build


class OwnStep(keras.Model):
    """An autoencoder that makes its own target of x."""

    def __init__(self) -> None:
        super().__init__()
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
        labelled=False,
        equals="several outputs",
    ),
    Case(
        "weights per output",
        kinds.NUMPY,
        y=functools.partial(both, listed),
        weight=lambda part: [W[part], W[part] ** 2],
        build=two_outputs(listed),
        labelled=False,
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


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def searched(request, tmp_path_factory) -> tuple[Case, kt.Tuner]:
    """A tuner that has searched such data; all steps of a kind begin here."""
    case = request.param
    tuner = new_tuner(case, tmp_path_factory.mktemp("table"))
    search(tuner, case)
    return case, tuner


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


def test_search(searched):
    case, tuner = searched
    trials = list(tuner.oracle.trials.values())
    assert len(trials) == 2
    close([trial.score for trial in trials], [right_score(case, rate_of(trial), FIRST, LAST) for trial in trials])
    members = [record.members for record in getattr(tuner.programs(), "records", [])]
    assert members == ([2] if case.population else [])


def test_search_by_model_fit(searched, tmp_path):
    case, _ = searched
    tuner = new_tuner(case, tmp_path, population=False, max_trials=1)
    search(tuner, case)
    (trial,) = tuner.oracle.trials.values()
    close(trial.score, right_score(case, rate_of(trial), FIRST, LAST))


def test_search_with_folds(searched, tmp_path):
    case, _ = searched
    tuner = new_tuner(case, tmp_path, max_trials=1)
    args, kwargs = case.search_arguments()
    if case.split:
        kwargs.pop("validation_split")
    if not case.can("search(cross_validation=3)"):
        refused(lambda: tuner.search(*args, **{**kwargs, "validation_data": None}, cross_validation=2), tuner)
        return
    folds = [(np.arange(8), np.arange(8, 16)), (np.arange(8, 16), np.arange(8))]
    x, *rest = case.given(TRAIN)
    weights = {"sample_weight": rest.pop()} if len(rest) > 1 else {}
    kwargs = {name: value for name, value in kwargs.items() if name not in ("validation_data", "sample_weight")}
    tuner.search(x, *rest, **weights, **kwargs, cross_validation=TwoHalves(folds))
    (trial,) = tuner.oracle.trials.values()
    rate = rate_of(trial)
    close(trial.scores, [right_score(case, rate, (0, 8), (8, 16)), right_score(case, rate, (8, 16), (0, 8))])


class TwoHalves:
    """A splitter of the rows into these folds."""

    def __init__(self, folds: Any) -> None:
        self.folds = folds

    def split(self, x: Any, y: Any = None, groups: Any = None) -> Any:
        return self.folds

    def get_n_splits(self) -> int:
        return len(self.folds)


def confirmed_scores(tuner: kt.Tuner, **arguments: Any) -> tuple[float, list[float]]:
    """The rate of the best trial, and its scores in a confirmation of two runs."""
    best = tuner.oracle.get_best_trials(1)[0]
    tuner.confirm(top=1, max_executions=2, proof_executions=1, **arguments)
    return rate_of(best), [run.score for kind in best.replicates.values() for run in kind.values()]


def test_confirm(searched):
    case, tuner = searched
    rate, scores = confirmed_scores(tuner)
    # Neither weights nor order depend on the seed here, so a run on a fresh seed repeats the search's.
    assert scores
    close(scores, [right_score(case, rate, FIRST, LAST)] * len(scores))


def test_confirm_on_folds(searched):
    case, tuner = searched
    folds = TwoHalves(halved())
    if not case.can("confirm(cross_validation=3)"):
        refused(lambda: confirmed_scores(tuner, cross_validation=folds), tuner)
        return
    rate, scores = confirmed_scores(tuner, cross_validation=folds)
    right = [right_score(case, rate, FIRST, LAST), right_score(case, rate, LAST, FIRST)]
    assert scores and all(min(abs(score - one) for one in right) < TOLERANCE for score in scores)


def halved() -> Any:
    return [(np.arange(16), np.arange(16, 24)), (np.arange(16, 24), np.arange(16))]


def retrained_equals(case: Case, tuner: kt.Tuner, model: keras.Model) -> None:
    best = tuner.oracle.get_best_trials(1)[0]
    right = plain(case.equals, rate_of(best), *WHOLE, len(model.history.history["loss"]))
    close(model.predict(case.parts(ALL)[0], verbose=0), predicted(case, right), 1e-3)


def test_retrain_on_the_data_of_the_search(searched):
    case, tuner = searched
    if not case.can("retrain()"):
        refused(lambda: tuner.retrain(verbose=0), tuner)
        return
    (model,) = tuner.retrain(verbose=0)
    retrained_equals(case, tuner, model)


def test_retrain_on_other_data(searched):
    case, tuner = searched
    x, *rest = case.given(ALL)
    weights = {"sample_weight": rest.pop()} if len(rest) > 1 else {}
    (model,) = tuner.retrain(1, x, *rest, **weights, **case.steps(ALL, "steps_per_epoch"), verbose=0)
    retrained_equals(case, tuner, model)


def test_evaluate_predict_and_load(searched, tmp_path):
    case, tuner = searched
    model = tuner.get_best_models(1)[0]
    best = tuner.oracle.get_best_trials(1)[0]
    right = predicted(case, plain(case.equals, rate_of(best), *FIRST))
    x, *rest = case.given(ALL)
    weights = {"sample_weight": rest.pop()} if len(rest) > 1 else {}
    found = tuner.evaluate(x, *rest, models=model, **weights, **case.steps(ALL, "steps"))
    scores = {name: interval.estimate for name, interval in next(iter(found.scores.values())).items()}
    whole = plain_scores(case.equals, rate_of(best), FIRST, WHOLE)
    close([scores[name] for name in sorted(scores)], [whole[name] for name in sorted(scores)])
    assert found.num_rows == (None if case.kind is kinds.ENDLESS_GENERATOR else NUM_ROWS)
    x, *_ = case.given(ALL)
    close(model.predict(x, verbose=0, **case.steps(ALL, "steps")), right)
    if case.build is not own_step:  # a class of a test's own is not registered
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        close(again.predict(case.parts(ALL)[0], verbose=0), right)


def members_are_right(case: Case, tuner: kt.Tuner, ensemble: Any) -> list[np.ndarray]:
    """Compares the members' models with those of `model.fit`; what these say of all rows."""
    said = []
    for member in ensemble.members:
        rate = rate_of(tuner.oracle.get_trial(member.name.split()[1]))
        said.append(predicted(case, plain(case.equals, rate, *FIRST)))
        for model in member.models:
            close(model.predict(case.parts(ALL)[0], verbose=0), said[-1])
    return said


def test_ensemble(searched):
    case, tuner = searched
    if not case.can("ensemble()"):
        refused(lambda: tuner.ensemble(method="uniform"), tuner)
        return
    ensemble = tuner.ensemble(method="uniform")
    said = members_are_right(case, tuner, ensemble)
    for member, right in zip(ensemble.members, said, strict=True):
        # In half precision, and of pipelines in the order of what is in the rows.
        close(np.sort(member.predictions, axis=0), np.sort(right[VALID], axis=0), 2e-3)
    x, *rest = case.given(ALL)
    whole = ensemble.predict(case.parts(ALL)[0])
    close(ensemble.predict(x), whole)
    if case.pipeline is None:
        found = keras.losses.BinaryCrossentropy()(Y, whole.reshape(Y.shape))
        close(ensemble.evaluate(x, rest[0])["loss"], float(found))


def test_ensemble_on_other_rows(searched):
    case, tuner = searched
    models = tuner.get_best_models(2)
    x, *rest = case.given(ALL)
    if not case.can("ensemble(models, x, y)"):
        refused(lambda: tuner.ensemble(models, x, *rest[:1], method="uniform"), tuner)
        return
    ensemble = tuner.ensemble(models, x, *rest[:1], method="uniform")
    for member, right in zip(ensemble.members, members_are_right(case, tuner, ensemble), strict=True):
        close(member.predictions, right)


def test_resume(searched):
    case, tuner = searched
    again = new_tuner(case, tuner.directory)
    search(again, case)
    trials = list(again.oracle.trials.values())
    close([trial.score for trial in trials], [tuner.oracle.get_trial(trial.trial_id).score for trial in trials])
    assert len(trials) == 2


# What can be read once, and what nobody can read -----------------------------------------------------------------

OTHERS = {
    "finite generator": ((once((X, Y)),), {}),
    "finite generator to validate on": ((X, Y), {"validation_data": once((X, Y))}),
    "an iterator": ((iter([(X, Y)]),), {}),
    "a list of numbers as y": ((X, Y[:, 0].tolist()), {}),
    "texts": ((np.array([["a"] * 4] * NUM_ROWS), Y), {}),
    "objects": ((pd.DataFrame({"a": ["u", "v"] * 12}), Y), {}),
    "y beside a pipeline": ((Batches((X, Y)), Y), {}),
    "split of a pipeline": ((Batches((X, Y)),), {"validation_data": None, "validation_split": 0.2}),
    "split that leaves nothing": ((X, Y), {"validation_data": None, "validation_split": 0.99}),
    "endless without steps": ((endless((X, Y)),), {}),
    "class weights for several outputs": ((X, [Y, Y]), {"class_weight": {0: 2.0}}),
    "class weights of a generator": ((endless((X, Y)),), {"steps_per_epoch": 2, "class_weight": {0: 2.0}}),
    "both kinds of weights": ((X, Y), {"class_weight": {0: 2.0}, "sample_weight": W}),
    "validation data of four parts": ((X, Y), {"validation_data": (X, Y, W, W)}),
    "unlike lengths": ((X, Y[:7]), {}),
    "unlike weights": ((X, Y), {"sample_weight": W[:7]}),
}


@pytest.mark.parametrize(("args", "kwargs"), OTHERS.values(), ids=OTHERS)
def test_what_no_trial_could_use_is_refused(tmp_path, args, kwargs):
    tuner = new_tuner(CASES[0], tmp_path)
    refused(lambda: tuner.search(*args, **{"validation_data": (X, Y), "verbose": 0, **kwargs}), tuner)
    assert not tuner.oracle.trials


@pytest.mark.parametrize("population", [True, False])
def test_a_generator_that_promised_to_go_on_and_ends_ends_the_search(tmp_path, population):
    tuner = new_tuner(CASES[0], tmp_path, population=population)
    three = once((X, Y))  # 3 batches: enough for the first epoch, and then one is left
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FatalError) as error:
            tuner.search(three, steps_per_epoch=2, epochs=2, validation_data=(X, Y), verbose=0)
    assert "after 3 batches" in four_parts(error.value)[1]
    assert not tuner.oracle.get_best_trials(2)


def test_the_page_shows_the_table_of_the_registry():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    shown = page.split("table() -->\n")[1].split("\n<!-- end")[0]
    assert shown == kinds.table()


def test_every_kind_of_the_table_is_tried():

    tried = {case.kind for case in CASES} | {kinds.GENERATOR}
    assert [kind.name for kind in kinds.KINDS if kind not in tried and f"| {kind.name} |" in kinds.table()] == []
