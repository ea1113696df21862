"""Predictions that a search keeps: what half precision costs, which rows survive a cap."""

import dataclasses

import numpy as np
import pytest

from manyfit.core.errors import UsageError
from manyfit.data.identity import row_identities
from manyfit.data.kinds import leaves, map_leaves
from manyfit.store.predictions import Archive, Labels, RowLosses, pack, unpack


def test_log_loss_survives_half_precision():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(5000, 10)) * 4
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    y = p.argmax(axis=1)
    y[::20] = rng.integers(0, 10, 250)
    kept = unpack(pack(p, row_identities(z)))
    rows = np.arange(5000)
    before, after = -np.log(p[rows, y]).mean(), -np.log(kept.predictions[rows, y]).mean()
    assert after == pytest.approx(before, rel=1e-3)
    np.testing.assert_allclose(kept.predictions.sum(axis=1), 1, atol=5e-3)


def test_values_keep_their_scale():
    y = np.random.default_rng(0).normal(size=(400, 2)) * [1e5, 1e-3] + [2e5, 0]
    kept = unpack(pack(y, row_identities(y)))
    assert np.abs((kept.predictions - y) / y.std(axis=0)).max() < 3e-3


def test_broken_predictions_stay_broken():
    p = np.array([[0.5], [np.nan], [np.inf]])
    kept = unpack(pack(p, row_identities(np.arange(3))))
    assert np.isfinite(kept.predictions[:, 0]).tolist() == [True, False, False]


def test_several_outputs_come_back_in_their_structure(tmp_path):
    rng = np.random.default_rng(0)
    said = {"deep": [rng.random((40, 3, 2)), rng.normal(size=40) * 1e4], "kind": rng.random((40, 1))}
    ids = row_identities(np.arange(40))
    archive = Archive(tmp_path)
    first, second = np.arange(30), np.arange(10, 40)
    for execution, rows in enumerate((first, second)):
        part = map_leaves(lambda output, rows=rows: output[rows] + 0.1 * (rows[0] > 0), said)
        archive.keep("0", execution, part, ids[rows], rows)
    kept = archive.get("0", [0, 1])
    np.testing.assert_array_equal(kept.rows, np.arange(40))
    assert [list(kept.predictions), type(kept.predictions["deep"])] == [["deep", "kind"], list]
    share = np.repeat([0, 0.05, 0.1], [10, 20, 10])  # the mean of both executions, where both predicted
    for told, right in zip(leaves(kept.predictions), leaves(said), strict=True):
        right = right.reshape(40, *told.shape[1:])
        added = share.reshape(-1, *[1] * (right.ndim - 1))
        np.testing.assert_allclose(told, right + added, rtol=2e-3, atol=2e-3 * right.std())
    # Two bytes for each of eight numbers of a row: the cap counts all outputs together.
    small = unpack(pack(said, ids, max_bytes=160))
    assert {len(output) for output in leaves(small.predictions)} == {10} == {len(small.rows)}


def test_targets_and_weights_come_back_in_their_structure(tmp_path):
    archive = Archive(tmp_path)
    y = {"kind": np.array([1, 0, 1]), "size": np.ones((3, 2))}
    archive.keep_labels(Labels(np.arange(3, dtype=np.uint64), y, [np.array([1.0, 2.0, 3.0]), None]))
    told = archive.labels().take(np.array([2, 0]))
    assert list(told.y) == ["kind", "size"]
    np.testing.assert_array_equal(told.y["kind"], [1, 1])
    np.testing.assert_array_equal(told.sample_weight[0], [3, 1])
    assert told.y["size"].shape == (2, 2) and told.sample_weight[1] is None


def test_the_cap_keeps_the_same_rows_of_every_trial():
    rng = np.random.default_rng(0)
    ids = row_identities(rng.normal(size=(1000, 3)))
    packs = [pack(rng.random((1000, 4)), ids, max_bytes=2400) for _ in range(2)]
    first, second = map(unpack, packs)
    assert first.predictions.shape == (300, 4)
    np.testing.assert_array_equal(first.row_ids, second.row_ids)
    np.testing.assert_array_equal(ids[first.rows], first.row_ids)
    assert len(packs[0]) < 300 * (8 + 8 + 4 * 2) + 1500


def test_identities_depend_on_content_only():
    x = np.random.default_rng(0).normal(size=(50, 3))
    y = np.arange(50)
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_array_equal(row_identities(x, y)[order], row_identities(x[order], y[order]))
    assert len(set(row_identities(x, y).tolist())) == 50
    assert (row_identities(x, y) != row_identities(x, y + 1)).all()
    assert row_identities({"b": x, "a": y}).tolist() == row_identities([y, x]).tolist()


def test_lengths_must_agree():
    with pytest.raises(UsageError, match="2, 3 rows"):
        row_identities(np.zeros(2), np.zeros(3))
    with pytest.raises(UsageError, match="2 predictions for 3 rows"):
        pack(np.zeros(2), np.zeros(3, dtype=np.uint64))


def test_values_a_little_above_one_are_no_probabilities():
    y = np.linspace(0.0, 1.8, 50)[:, None]
    kept = unpack(pack(y, row_identities(y)))
    np.testing.assert_allclose(kept.predictions, y, atol=2e-3)


def test_losses_of_rows_come_back_and_take_two_bytes_each_of_what_there_is(tmp_path):
    archive = Archive(tmp_path, max_bytes=20)
    losses = RowLosses("log loss", 0.5, np.linspace(0.0, 1.0, 10, dtype="float32"), "these", "as it is")
    archive.keep_losses("0", "confirm", 1, losses)
    found = archive.losses("0", "confirm", 1)
    np.testing.assert_allclose(found.rows, losses.rows, atol=1e-3)
    assert (found.metric, found.value, found.rows_are, found.scale) == ("log loss", 0.5, "these", "as it is")
    archive.keep_losses("1", "confirm", 1, dataclasses.replace(losses, rows=np.zeros(11)))
    assert archive.losses("1", "confirm", 1) is None
