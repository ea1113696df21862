"""Predictions of many rows by many models are held some rows at a time: counted, not weighed."""

from __future__ import annotations

import numpy as np
import pytest

from manyfit.data.classes import Classes
from manyfit.data.row_names import NamedBy, RowNames
from manyfit.data.rows import Rows
from manyfit.ensemble import in_parts
from manyfit.ensemble.in_parts import InParts
from manyfit.finish import prediction_table
from manyfit.finish.prediction_table import PredictionTable, columns_of
from manyfit.store import answers as stored_answers
from manyfit.store.answers import Answers, AskedRows, MeanOfStored
from manyfit.store.parts import StoredArray

NUM_ROWS, NUM_CLASSES = 5_000, 4


class Counted:
    """A model that counts the rows that it is asked for at once."""

    def __init__(self, factor=1.0):
        self.factor, self.asked = factor, []

    def predict(self, x):
        self.asked.append(len(x))
        return self.factor * np.repeat(x[:, :1], NUM_CLASSES, axis=1)


class CountedArray:
    """An array that counts the rows that are read of it at once."""

    def __init__(self, array):
        self._array, self.shape, self.read = array, array.shape, []

    def __len__(self):
        return len(self._array)

    def __getitem__(self, rows):
        found = self._array[rows]
        self.read.append(len(found))
        return found


@pytest.fixture
def x():
    return np.arange(NUM_ROWS, dtype="float32")[:, None]


@pytest.fixture
def little_memory(monkeypatch):
    """Room for 2,048 rows of two models."""
    monkeypatch.setattr(in_parts, "MOST_NUMBERS", 2 * 2_048 * NUM_CLASSES)


def test_no_more_rows_are_predicted_at_once_than_there_is_room_for(x, little_memory):
    from manyfit.ensemble.prediction import Forward

    models, predict = [Counted(), Counted(2.0)], InParts(Forward())
    found = list(predict(models, x))
    assert models[0].asked == [1_024, 2_048, 1_928]  # a first part tells how large an answer is
    for place, model in enumerate(models):
        whole = np.concatenate([said[place] for _, said in found])
        np.testing.assert_allclose(whole, model.factor * np.repeat(x, NUM_CLASSES, axis=1))
    models[0].asked.clear()
    list(predict(models, x))
    assert models[0].asked == [2_048, 2_048, 904]
    few = x[:1_500]
    (_, said), = predict(models, few)  # fmt: skip
    assert models[0].asked[-1] == 1_500 and len(said[0]) == 1_500


@pytest.fixture
def answers(tmp_path):
    found = Answers(tmp_path)
    found.keep_rows(AskedRows(RowNames(np.arange(NUM_ROWS), NamedBy.POSITION), "rows"))
    return found


def said_by(x, factor):
    return {"a": factor * x, "b": [factor * np.repeat(x, NUM_CLASSES, axis=1)]}


def test_answers_are_written_and_read_some_rows_at_a_time(x, answers, tmp_path):
    parts = ([said_by(x[rows], 1.0), said_by(x[rows], 3.0)] for rows in (slice(0, 1_024), slice(1_024, None)))
    answers.keep([("0", 0), ("0", 1)], parts, "rows")
    assert answers.executions("0", [0, 1, 2]) == [0, 1]
    whole = answers.get("0", [0, 1])
    np.testing.assert_allclose(whole["a"], 2 * x)
    np.testing.assert_allclose(whole["b"][0], np.repeat(2 * x, NUM_CLASSES, axis=1))
    some = answers.stored("0", [0, 1])["b"][0]
    np.testing.assert_allclose(some[4_000:4_003], whole["b"][0][4_000:4_003])
    assert answers.get("0", [0, 2]) is None
    answers.keep_rows(AskedRows(RowNames(np.arange(NUM_ROWS), NamedBy.POSITION), "other rows"))
    assert answers.get("0", [0]) is None


def test_what_numpy_has_written_is_read_in_parts(tmp_path):
    """Files of earlier versions, and of any shape."""
    arrays = {"said": np.arange(24.0).reshape(6, 2, 2), "one": np.arange(5, dtype="int16"), "x" * 60: np.ones((3, 1))}
    np.savez(tmp_path / "some.npz", **arrays)
    for name, array in arrays.items():
        stored = StoredArray(tmp_path / "some.npz", name)
        assert stored.shape == array.shape and len(stored) == len(array)
        for rows in (slice(None), slice(1, 4), slice(2, None, 2), slice(9, 12)):
            np.testing.assert_array_equal(stored[rows], array[rows])


def test_a_mean_of_models_reads_few_rows_of_each_at_once(x, monkeypatch):
    monkeypatch.setattr(stored_answers, "_AT_ONCE", 100)
    arrays = [CountedArray(x), CountedArray(3 * x)]
    np.testing.assert_allclose(MeanOfStored(arrays)[:], 2 * x)
    assert {max(one.read) for one in arrays} == {100}


def test_a_table_of_many_columns_is_written_some_rows_at_a_time(x, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_table, "_MOST_CELLS", 500)
    said = [CountedArray(np.repeat(factor * x[:450], NUM_CLASSES, axis=1)) for factor in (1, 2)]
    columns = {"row_id": np.arange(450)}
    for number, one in enumerate(said):
        columns |= columns_of(MeanOfStored([one]), f"trial {number}", Classes(["a", "b", "c", "d"]), "predictions()")
    table = PredictionTable(columns)
    path = table.to_csv(tmp_path / "table.csv")
    assert {max(one.read) for one in said} == {500 // len(columns)}
    lines = path.read_text().splitlines()
    assert lines[0].startswith('row_id,"trial 0, a"') and len(lines) == 451
    assert lines[450].split(",")[-1] == "898.0" and "450 rows in all" in str(table)
    np.testing.assert_array_equal(table["trial 1, d"], 2 * x[:450, 0])


def test_rows_that_find_no_room_are_not_predicted(tmp_path, x):
    """Of the archive's rows, the same of every model; and few models at once."""
    from manyfit.core.records import Plan
    from manyfit.store.predictions import Archive
    from manyfit.tuners.keeping import Keeper

    archive = Archive(tmp_path, max_bytes=2 * 100 * NUM_CLASSES)
    keeper = Keeper(archive, Rows.of(x, np.zeros(NUM_ROWS)), None)
    models = [Counted(), Counted(2.0)]
    keeper([(Plan(str(number), 0, {}, 0), model) for number, model in enumerate(models)])
    assert max(models[0].asked) == max(models[1].asked) == 100
    kept = [archive.get(str(number), [0]) for number in range(2)]
    np.testing.assert_array_equal(kept[0].rows, kept[1].rows)
    np.testing.assert_allclose(
        kept[1].predictions, np.repeat(2 * x, NUM_CLASSES, axis=1)[kept[1].rows], rtol=2e-3, atol=4
    )
    labels = archive.labels()
    np.testing.assert_array_equal(labels.row_ids[kept[0].rows], kept[0].row_ids)
