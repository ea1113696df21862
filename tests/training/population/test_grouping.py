"""Which members of a program begin an epoch side by side."""

import dataclasses
from types import SimpleNamespace

import keras
import pytest
from marks import needs_jax

pytestmark = needs_jax
if keras.backend.backend() == "jax":
    from manyfit.training.population.grouping import Rules, by_rows, cut, form_batches, layouts_for, parted
    from manyfit.training.population.layout import Layout

    FUSED, ALONE = Layout("scan", "vmap"), Layout("scan", "sequential")
    # Two workers with programs for four members each.
    RULES = Rules(group=4, workers=2, shuffle=True, shuffle_seed=5, share_order=True)

VIEW = SimpleNamespace(num_steps=(4,))


def members_at(*epochs, view=VIEW, program=None):
    return [
        SimpleNamespace(epoch=epoch, last_epoch=9, view=view, plan=SimpleNamespace(seed=n), program=program)
        for n, epoch in enumerate(epochs)
    ]


def batch(members, layout, program=None):
    return SimpleNamespace(members=tuple(members), layout=layout, program=program)


def program_of(best, *, choose=None):
    """A program that was timed in nothing yet, and whose layout is to be `choose` next."""
    return SimpleNamespace(
        choice=SimpleNamespace(seconds={}, best=best, choose=lambda epochs_left, compile_seconds: choose or best),
        compile_seconds=1.0,
        compiled_counts=lambda layout: set(),
        count_for=lambda num_members, group: group,
    )


def test_a_few_wait_for_those_that_will_be_as_far_as_they_are():
    early, late = members_at(2, 2, 2), members_at(4, 4, 4, 4)
    under_way = [batch(members_at(1), ALONE)]
    now, later = parted([*early, *late], FUSED, under_way, RULES)
    assert now == late and later == early
    now, later = parted([*early, *late], FUSED, [batch(members_at(6), ALONE)], RULES)
    assert (now, later) == ([*late, *early], [])  # nobody is to be expected


def test_members_of_one_epoch_fill_a_program_before_others_are_mixed():
    mixed = members_at(3, 1, 3, 1, 1, 3, 1, 3, 1, 7)
    batches = cut(program_of(FUSED), mixed, FUSED, RULES)
    assert [[member.epoch for member in each.members] for each in batches] == [[1] * 4, [3] * 4, [1, 7]]


def test_rows_of_another_fold_are_other_rows():
    mixed = [
        one
        for pair in zip(
            members_at(0, 0, 0, 0), members_at(0, 0, 0, 0, view=SimpleNamespace(num_steps=(4,))), strict=True
        )
        for one in pair
    ]
    full, rest = by_rows(mixed, RULES)
    assert [len({id(member.view) for member in full[start : start + 4]}) for start in (0, 4)] == [1, 1] and not rest


@pytest.mark.parametrize("reason", ["own order", "no shuffling", "one by one"])
def test_nobody_waits_where_nothing_is_shared_or_all_is(reason):
    rules = dataclasses.replace(RULES, share_order=reason != "own order", shuffle=reason != "no shuffling")
    layout = ALONE if reason == "one by one" else FUSED
    given = members_at(2, 2, 2, 2, 2)
    assert parted(given, layout, [batch(members_at(1), ALONE)], rules) == (given, [])


def test_one_core_tries_a_layout_and_only_one():
    members, trying = members_at(1, 1, 1, 1, 1, 1), program_of(FUSED, choose=ALONE)
    given = layouts_for(trying, members, [], epochs_left=48, rules=RULES)
    assert given == [(ALONE, members[:4]), (FUSED, members[4:])]
    under_way = [batch(members_at(1), ALONE)]
    assert layouts_for(trying, members, under_way, epochs_left=48, rules=RULES) == [(FUSED, members)]
    alone = dataclasses.replace(RULES, workers=1)  # nobody could go on meanwhile
    assert layouts_for(trying, members, [], epochs_left=48, rules=alone) == [(ALONE, members)]


def test_one_program_at_a_time_waits_until_all_of_its_members_are_back():
    rules = dataclasses.replace(RULES, workers=1)
    given = members_at(2, 2)
    assert parted(given, FUSED, [batch(members_at(1), FUSED)], rules) == ([], given)
    assert parted(given, ALONE, [batch(members_at(1), ALONE)], rules) == (given, [])


def test_programs_are_grouped_each_for_itself():
    first, second = program_of(FUSED), program_of(ALONE)
    members = [*members_at(0, 0, program=first), *members_at(0, 0, program=second), *members_at(0, program=first)]
    batches, later = form_batches(members, [], [], RULES)
    found = [(each.program, len(each.members), each.count) for each in batches]
    assert (found, later) == ([(first, 3, 4), (second, 1, 1), (second, 1, 1)], [])


def test_the_epochs_of_those_that_wait_for_a_slot_count_for_a_layout_of_their_program():
    asked = []
    program = program_of(FUSED)
    program.choice.choose = lambda epochs_left, compile_seconds: asked.append(epochs_left) or FUSED
    waiting = [*members_at(0, program=program), *members_at(0, program=program_of(FUSED))]
    form_batches(members_at(4, program=program), [], waiting, RULES)
    assert asked == [5 + 9]


def test_idle_slots_repeat_the_last_member():
    (made,) = cut(program_of(FUSED), members := members_at(0, 0, 0), FUSED, RULES)
    assert made.count == 4 and made.slots == [*members, members[-1]]
