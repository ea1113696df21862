"""Members that saw other encodings of the same rows, and members of other programs: rows are known by their names."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pandas as pd
import pytest
import tiny
from sklearn.linear_model import LogisticRegression

from manyfit.core.errors import UsageError

NUM_ROWS = 90


@pytest.fixture(scope="module")
def rows():
    """Categories and a number, a binary target, and a name of each row."""
    rng = np.random.default_rng(3)
    kind, size = rng.integers(0, 3, NUM_ROWS), rng.normal(size=NUM_ROWS).astype("float32")
    y = ((kind == 1) + size + 0.4 * rng.normal(size=NUM_ROWS) > 0.5).astype("int32")
    names = np.array([f"house {number}" for number in rng.permutation(NUM_ROWS)])
    return kind, size, y, names


def encoded(rows, how):
    """The same rows: categories as numbers, or one-hot."""
    kind, size, _, _ = rows
    numbers = np.stack([kind, size], axis=1) if how == "numbers" else np.column_stack([np.eye(3)[kind], size])
    return numbers.astype("float32")


def build(hp):
    return LogisticRegression(C=hp.Float("C", 0.01, 10.0, sampling="log"))


def searched(folder, x, y, *, name="search", **arguments):
    """A search of estimators, which need no compiler, over three folds."""
    tuner = kt.RandomSearch(build, "val_loss", max_trials=2, seed=0, directory=folder, project_name=name)
    tuner.search(x, y, verbose=0, **{"cross_validation": 3, **arguments})
    return tuner


def test_names_match_rows_that_were_encoded_and_shuffled(tmp_path, rows):
    _, _, y, names = rows
    order = np.random.default_rng(0).permutation(NUM_ROWS)
    one = searched(tmp_path, encoded(rows, "numbers"), y, name="one", row_id=names)
    two = searched(tmp_path, encoded(rows, "hot")[order], y[order], name="two", row_id=names[order])
    ensemble = one.ensemble(others=[two], method="uniform")
    assert ensemble.problem.num_rows == NUM_ROWS
    for member in ensemble.members:
        if not member.models:
            continue
        trial_id = member.name.rpartition(" ")[2]
        kept = (one if member.name.startswith("one") else two).predictions_archive.get(trial_id, [0, 1, 2])
        own = kept.predictions if member.name.startswith("one") else kept.predictions[np.argsort(order)]
        np.testing.assert_array_equal(member.predictions, own)


@pytest.mark.parametrize("population", [True, False])
def test_networks_and_estimators_know_each_others_rows(tmp_path, rows, population):
    def network(hp):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")])
        model.compile(keras.optimizers.SGD(hp.Float("rate", 0.05, 0.5)), "binary_crossentropy")
        return model

    _, _, y, names = rows
    hot, split = encoded(rows, "hot"), {"cross_validation": None, "validation_split": 1 / 3, "row_id": names}
    arguments = {"max_trials": 1, "seed": 0, "directory": tmp_path, "population": population}
    net = kt.RandomSearch(network, "val_loss", **arguments)
    net.search(hot, y, epochs=1, validation_data=(hot[60:], y[60:]), row_id=[*range(NUM_ROWS), *names[60:]], verbose=0)
    other = searched(tmp_path, encoded(rows, "numbers"), y, name="other", **split)
    assert net.ensemble(others=[other], method="uniform").problem.num_rows == 30


def test_the_index_of_a_frame_names_its_rows(tmp_path, rows):
    _, _, y, names = rows
    frames = [pd.DataFrame(encoded(rows, how), index=names) for how in ("numbers", "hot")]
    order = np.random.default_rng(0).permutation(NUM_ROWS)
    one = searched(tmp_path, frames[0], y, name="one")
    two = searched(tmp_path, frames[1].iloc[order], y[order], name="two")
    ensemble = one.ensemble(others=[two], method="uniform")
    assert ensemble.problem.num_rows == NUM_ROWS and "by the index of their frames" in ensemble.summary()


def test_places_match_rows_where_targets_show_one_order(tmp_path, rows):
    y = rows[2]
    one = searched(tmp_path, encoded(rows, "numbers"), y, name="one")
    two = searched(tmp_path, encoded(rows, "hot"), y, name="two")
    ensemble = one.ensemble(others=[two], method="uniform")
    assert ensemble.problem.num_rows == NUM_ROWS and "by their places" in ensemble.summary()


def test_sorted_targets_show_no_order(tmp_path, rows):
    """Places would match any two data sets that are sorted by class."""
    order = np.argsort(rows[2], kind="stable")
    one = searched(tmp_path, encoded(rows, "numbers")[order], rows[2][order], name="one")
    two = searched(tmp_path, encoded(rows, "hot")[order], rows[2][order], name="two")
    with pytest.raises(UsageError, match="row_id=") as caught:
        one.ensemble(others=[two])
    tiny.four_parts(caught.value)


def test_validation_rows_have_the_last_names(tmp_path, rows):
    _, _, y, names = rows
    x, hot = encoded(rows, "numbers"), encoded(rows, "hot")
    given = {"cross_validation": None, "row_id": names}
    one = searched(tmp_path, x[:60], y[:60], name="one", validation_data=(x[60:], y[60:]), **given)
    two = searched(tmp_path, hot, y, name="two", validation_split=1 / 3, **given)
    assert one.predictions_archive.labels().names.names.tolist() == names[60:].tolist()
    assert one.ensemble(others=[two], method="uniform").problem.num_rows == 30


def test_one_name_for_two_targets_is_an_error(tmp_path, rows):
    _, _, y, names = rows
    one = searched(tmp_path, encoded(rows, "numbers"), y, name="one", row_id=names)
    two = searched(tmp_path, encoded(rows, "hot"), y, name="two", row_id=names[::-1])
    with pytest.raises(UsageError, match="another target") as caught:
        one.ensemble(others=[two])
    tiny.four_parts(caught.value)


@pytest.mark.parametrize(
    ("row_id", "words"),
    [
        (np.arange(NUM_ROWS - 1), "89 names for 90 rows of x"),
        ([*range(NUM_ROWS - 1), 3], "the name 3 for more than one row"),
        ([*range(NUM_ROWS - 1), np.nan], "no name for row 89"),
        (np.zeros((NUM_ROWS, 2)), r"shape \(90, 2\)"),
    ],
)
def test_names_that_are_none_are_refused_before_training(tmp_path, rows, row_id, words):
    with pytest.raises(UsageError, match=words) as caught:
        searched(tmp_path, encoded(rows, "numbers"), rows[2], row_id=row_id)
    tiny.four_parts(caught.value)


def test_names_of_training_rows_alone_are_refused(tmp_path, rows):
    x, y = encoded(rows, "numbers"), rows[2]
    arguments = {"cross_validation": None, "validation_data": (x[60:], y[60:]), "row_id": np.arange(60)}
    with pytest.raises(UsageError, match="60 rows of x and 30 rows of validation_data") as caught:
        searched(tmp_path, x[:60], y[:60], **arguments)
    tiny.four_parts(caught.value)


# Predictions of other programs ------------------------------------------------------------------------------------


@pytest.fixture
def tuner(tmp_path, rows):
    return searched(tmp_path, encoded(rows, "numbers"), rows[2], row_id=rows[3])


@pytest.fixture
def oracle_like(rows):
    """What another program might say: better than any model, for half of the rows more than the search has."""
    _, _, y, names = rows
    rng = np.random.default_rng(1)
    said = np.clip(0.1 + 0.8 * y + 0.05 * rng.normal(size=NUM_ROWS), 0.01, 0.99)
    order = rng.permutation(NUM_ROWS)
    return pd.DataFrame({"row_id": names[order], "prediction": said[order]}), said


@pytest.mark.parametrize("form", ["frame", "path", "index", "mapping", "series"])
def test_predictions_of_another_program_join_by_name(tmp_path, tuner, oracle_like, form):
    frame, said = oracle_like
    given = {
        "frame": frame,
        "path": tmp_path / "forest.csv",
        "index": frame.set_index("row_id"),
        "mapping": {name: frame[name].to_numpy() for name in frame},
        "series": frame.set_index("row_id")["prediction"],
    }[form]
    frame.to_csv(tmp_path / "forest.csv", index=False)
    ensemble = tuner.ensemble(others=[given], method="convex")
    name = "forest" if form == "path" else "outside"
    [member] = [one for one in ensemble.members if one.name == name]
    np.testing.assert_allclose(member.predictions[:, 0], said, rtol=1e-6)
    assert ensemble.weights[name] > 0.5, "it is nearly always right"


def test_rows_that_the_search_has_not_are_left_out(tuner, oracle_like):
    frame, said = oracle_like
    more = pd.concat([frame, pd.DataFrame({"row_id": ["shed"], "prediction": [0.5]})])
    ensemble = tuner.ensemble(others=[more], method="uniform")
    np.testing.assert_allclose(ensemble.members[-1].predictions[:, 0], said, rtol=1e-6)


def test_columns_may_be_called_like_classes_in_any_order(tmp_path, rows):
    kind, _, y, names = rows
    texts = np.array(["no", "yes", "maybe"])[(y + kind) % 3]
    tuner = searched(tmp_path, encoded(rows, "numbers"), texts, row_id=names)
    said = np.random.default_rng(0).dirichlet(np.ones(3), NUM_ROWS)
    outside = {"row_id": names, "yes": said[:, 2], "maybe": said[:, 0], "no": said[:, 1]}
    ensemble = tuner.ensemble(others=[outside], method="uniform")
    assert list(ensemble.classes) == ["maybe", "no", "yes"]
    np.testing.assert_allclose(ensemble.members[-1].predictions, said, rtol=1e-6)


def test_places_are_names_where_nobody_gave_any(tmp_path, rows):
    tuner = searched(tmp_path, encoded(rows, "numbers"), rows[2])
    said = np.linspace(0.1, 0.9, NUM_ROWS)
    ensemble = tuner.ensemble(others=[pd.DataFrame({"p": said})], method="uniform")
    np.testing.assert_allclose(ensemble.members[-1].predictions[:, 0], said, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.rename(columns={"row_id": "house"}).to_dict("list"), "none of them is 'row_id' or 'id'"),
        (lambda f: f.assign(row_id=[None, *f.row_id[1:]]), "no name in line 0"),
        (lambda f: f.assign(row_id=[f.row_id[1], *f.row_id[1:]]), "more than once"),
        (lambda f: f.iloc[1:], "89 of the 90 rows"),
        (lambda f: f.assign(row_id=range(NUM_ROWS)), "0 of the 90 rows"),
        (lambda f: f.assign(prediction=[np.nan, *f.prediction[1:]]), "nan in line 0"),
        (lambda f: f.assign(prediction="high"), "holds no numbers"),
        (lambda f: f.assign(b=0.1, c=0.2), "3 columns of predictions"),
        (lambda f: f[["row_id"]], "no predictions"),
        (lambda f: "nowhere.csv", "cannot be read"),
        (lambda f: 7, "int"),
    ],
)
def test_what_cannot_be_aligned_is_refused_in_four_parts(tuner, oracle_like, change, words):
    with pytest.raises(UsageError, match=words) as caught:
        tuner.ensemble(others=[change(oracle_like[0])])
    tiny.four_parts(caught.value)
