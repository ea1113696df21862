"""Looks at test rows: which rows are the same, and how lucky the best of several models is."""

from __future__ import annotations

import numpy as np
import pytest

from manyfit.evidence import test_rows as looking
from manyfit.evidence.test_rows import Look, Looks, MeasuredModel, RowSet, change_since, luck_of_best

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 3))


class Facts(dict):
    """A project's facts."""

    def put(self, **facts):
        self.update(facts)


def look(losses, *, x=X, metric="loss", data="d"):
    """A look at models by name -> losses of rows."""
    rows, order = RowSet.ordered(x)
    models = {
        name: MeasuredModel(name, {metric: float(own.mean())}, {}, {metric: (own - own.mean())[order]})
        for name, own in losses.items()
    }
    return Look(data, rows, models, 0.95)


# Which rows ------------------------------------------------------------------------------------------------------


def test_rows_are_the_same_in_any_order_in_part_and_in_another_type():
    whole = RowSet.of(X)
    assert RowSet.of(X[::-1]).key == whole.key == RowSet.of(X.astype("float32")).key
    assert RowSet.of(X[37:120]).overlaps(whole) and whole.overlaps(RowSet.of(X[37:120]))
    other = np.random.default_rng(1).normal(size=(400, 3))
    assert not RowSet.of(other).overlaps(whole)
    assert not RowSet.of(np.concatenate([X[:190], other[:210]])).overlaps(whole)
    assert RowSet.of(np.concatenate([X[:210], other[:190]])).overlaps(whole)


def test_contents_that_every_sample_has_tell_no_sample_from_another():
    few, others = RNG.integers(0, 3, (500, 2)), RNG.integers(0, 3, (500, 2))
    assert not RowSet.of(few).overlaps(RowSet.of(others)) and RowSet.of(few).overlaps(RowSet.of(few[::-1]))


def test_of_many_rows_some_stand_for_all(monkeypatch):
    monkeypatch.setattr(looking, "MAX_KEPT_ROWS", 100)
    whole, part = RowSet.of(X), RowSet.of(X[:80])
    assert len(whole.identities) == 100 and whole.num_rows == 400
    other = RowSet.of(np.random.default_rng(1).normal(size=(400, 3)))
    assert whole.overlaps(part) and part.overlaps(whole) and not whole.overlaps(other)
    assert whole.overlaps(RowSet.of(np.random.default_rng(2).permutation(X)[:300]))


# Luck ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4])
def test_the_luck_of_the_best_of_equals_is_as_large_as_it_says(count):
    """Equal models whose luck is half common: what the best shows below the truth against what is said, 600 draws.

    Monte Carlo: the luck's own standard deviation is about the noise of one model, so the error is 4 % of it.
    """
    rng = np.random.default_rng(3)
    shown, said = [], []
    for _ in range(600):
        table = rng.normal(size=400) + rng.normal(size=(count, 400))
        common = table.mean()  # what the rows do to all of them is no luck of the best
        shown.append(common - table.mean(axis=1).min())
        said.append(luck_of_best([look({f"m{place}": row for place, row in enumerate(table)})]).amounts["loss"])
    assert np.mean(said) == pytest.approx(np.mean(shown), rel=0.06)


def test_many_models_of_which_one_is_clearly_best_are_not_lucky():
    rng = np.random.default_rng(4)
    gaps = [0.0, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6]
    table = {f"m{place}": gap + rng.normal(size=400) for place, gap in enumerate(gaps)}
    found = luck_of_best([look(table)])
    assert (
        not found.is_bound
        and found.amounts["loss"] < 0.5 * luck_of_best([look(dict(list(table.items())[:4]))]).amounts["loss"]
    )
    assert luck_of_best([look(dict(list(table.items())[:4]))]).is_bound


def test_models_that_do_the_same_on_every_row_are_no_luck():
    losses = RNG.exponential(size=400)
    found = luck_of_best([look({"a": losses}), look({"b": losses + 0.0})])
    assert found.num_models == 2 and found.amounts == {"loss": 0.0}


def test_what_is_unknown_is_not_made_up():
    stream = Look("stream", None, {"a": MeasuredModel("a", {"loss": 1.0})}, 0.95)
    assert luck_of_best([stream]).amounts == {} and luck_of_best([stream, look({"b": X[:, 0]})]).amounts == {}


# The book --------------------------------------------------------------------------------------------------------


def test_looks_are_kept_with_their_losses_and_counted_once_per_choice():
    facts = Facts()
    book, losses = Looks(facts), 1e9 * RNG.exponential(size=400)  # squared errors of prices
    first = look({"a": losses})
    assert book.before(first) == []
    book.add(first)
    book.add(first)
    [kept] = Looks(facts).all()
    error = kept.models["a"].losses["loss"] - first.models["a"].losses["loss"]
    assert np.abs(error).max() < 1e-3 * losses.max(), "half precision: 11 bits of the largest"
    part = look({"b": losses[40:100] * 1.1}, x=X[40:100], data="another array")
    assert [one.choice for one in book.before(part)] == [frozenset({"a"})]
    assert book.before(look({"a": losses}, x=X[::-1], data="reversed")) == []  # the same choice
    assert book.before(look({"b": losses}, x=X + 1, data="other rows")) == []


def test_looks_of_the_first_release_count_by_their_data():
    old = {"data": "d", "choice": "c", "models": ["winner"], "scores": {"winner": {"loss": 1.0}}, "at": 0.0}
    book = Looks(Facts(test_uses=[old]))
    assert [list(one.models) for one in book.before(look({"b": X[:, 0]}))] == [["winner"]]


def test_a_change_is_told_in_standard_errors():
    one = RNG.normal(size=400)
    other = one + 0.2 * RNG.normal(size=400)
    found = change_since(look({"b": other}), look({"a": one}))["loss"]
    difference = other - one
    assert found == pytest.approx(difference.mean() / (difference.std(ddof=1) / 20), rel=0.02)
