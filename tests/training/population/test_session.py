"""Which members of a family begin an epoch side by side."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

from types import SimpleNamespace

import keras
import pytest

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="population training needs the JAX backend")
if keras.backend.backend() == "jax":
    from manyfit.training.population.layout import Layout
    from manyfit.training.population.session import Session

    FUSED, ALONE = Layout("scan", "vmap"), Layout("scan", "sequential")

VIEW = object()


def members_at(*epochs, view=VIEW):
    return [
        SimpleNamespace(epoch=epoch, last_epoch=9, view=view, plan=SimpleNamespace(seed=n))
        for n, epoch in enumerate(epochs)
    ]


@pytest.fixture
def session():
    """A session of two workers with programs for four members each."""
    made = Session.__new__(Session)
    made.sizing = SimpleNamespace(group=4)
    made.rounds = SimpleNamespace(workers=2)
    made.task = SimpleNamespace(own_order=False)
    made.data = SimpleNamespace(shuffle=True)
    made.shuffle_seed = 5
    return made


def batch(members, layout):
    return SimpleNamespace(members=tuple(members), layout=layout)


def test_a_few_wait_for_those_that_will_be_as_far_as_they_are(session):
    early, late = members_at(2, 2, 2), members_at(4, 4, 4, 4)
    under_way = [batch(members_at(1), ALONE)]
    now, later = session._parted([*early, *late], FUSED, under_way)
    assert now == late and later == early
    now, later = session._parted([*early, *late], FUSED, [batch(members_at(6), ALONE)])
    assert (now, later) == ([*late, *early], [])  # nobody is to be expected


def test_members_of_one_epoch_fill_a_program_before_others_are_mixed(session):
    mixed = members_at(3, 1, 3, 1, 1, 3, 1, 3, 1, 7)
    family = SimpleNamespace(slots_on_cores=lambda number, group, layout, *, workers, epochs: group)
    batches = session._split(family, mixed, FUSED)
    assert [[member.epoch for member in each.members] for each in batches] == [[1] * 4, [3] * 4, [1, 7]]


def test_rows_of_another_fold_are_other_rows(session):
    mixed = [
        one for pair in zip(members_at(0, 0, 0, 0), members_at(0, 0, 0, 0, view=object()), strict=True) for one in pair
    ]
    full, rest = session._by_rows(mixed)
    assert [len({id(member.view) for member in full[start : start + 4]}) for start in (0, 4)] == [1, 1] and not rest


@pytest.mark.parametrize("reason", ["own order", "no shuffling", "one by one"])
def test_nobody_waits_where_nothing_is_shared_or_all_is(session, reason):
    session.task.own_order = reason == "own order"
    session.data.shuffle = reason != "no shuffling"
    layout = ALONE if reason == "one by one" else FUSED
    given = members_at(2, 2, 2, 2, 2)
    assert session._parted(given, layout, [batch(members_at(1), ALONE)]) == (given, [])
