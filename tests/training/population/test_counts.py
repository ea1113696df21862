"""What a search takes, in numbers that do not depend on the machine: traces, programs, device calls and commits.

Seconds cannot be asserted, since a neighbour on the machine moves them; but what costs them can. Whoever makes one of
these numbers larger has made a search slower and should know why; whoever makes one smaller writes the new one here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from marks import needs_jax

pytestmark = [
    needs_jax,
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the counts are those of one core"),
]

TRIALS, EPOCHS, SLOTS = 16, 2, 4
FUNCTIONS = 2  # of an epoch in one program: a loop over all batches, in training and in validation


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """Counts by search, from a process with caches of its own."""
    folder = tmp_path_factory.mktemp("counts")
    environment = {**os.environ, "KERAS_BACKEND": "jax", "MANYFIT_CACHE_DIR": str(folder / "cache")}
    program = Path(__file__).with_name("counted_searches.py")
    run = subprocess.run(
        [sys.executable, str(program), str(folder / "projects")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_sixteen_trials_of_one_structure(counts):
    found = counts["one structure"]
    assert counts["members of one structure"] == [TRIALS]
    batches = TRIALS // SLOTS * EPOCHS
    # The probe: one step of two members side by side, and of each of them on its own.
    assert found["programs"] == FUNCTIONS + 3
    assert found["device calls"] == FUNCTIONS * batches + 3
    # Each member has numbers of its own in its steps: metrics' results, a batch of training and one of validation. How
    # these serve short batches is seen from two further traces of the first one.
    assert found["traces"] == 3 * TRIALS + 2


def test_sixteen_trials_of_two_structures(counts):
    found = counts["two structures"]
    assert counts["members of two structures"] == [3, 13]
    batches = (1 + 4) * EPOCHS  # three members in four slots; thirteen in four times four
    # By two trials the first structure gets a program of its own. Of the second so few come that all are there when it
    # is decided what they train in: for them alone nothing has to be wider.
    assert found["programs"] == FUNCTIONS * 2
    assert found["device calls"] == FUNCTIONS * batches
    assert found["traces"] == 5 + 5


def test_confirming_three_winners(counts):
    found = counts["confirm"]
    executions = 14
    # What runs next depends on results, so on one core each execution runs alone, in programs for one slot.
    assert found["programs"] == FUNCTIONS
    assert found["device calls"] == FUNCTIONS * executions * EPOCHS
    assert "traces" not in found  # the search's programs and traces are still there


@pytest.mark.parametrize(("search", "batches"), [("one structure", 8), ("two structures", 10)])
def test_a_search_commits_once_per_epoch_of_a_batch_and_twice_per_trial(counts, search, batches):
    handed_out = TRIALS // SLOTS  # four trials at a time
    data, clock, end = 1, 1, 1  # which rows it has, the seconds it took, why it ended
    besides = handed_out + 2 * TRIALS + data + clock + end
    # Batches of several programs that end at the same moment are reported together.
    assert besides + batches / 2 <= counts[search]["commits"] <= besides + batches


def test_confirming_commits_once_per_epoch_and_execution(counts):
    rules, rounds, outcome = 1, 4, 1  # four looks at the finalists: who was dropped, and how often it was asked
    said = 2  # to those who look from outside: that it has begun, and that it is over
    assert counts["confirm"]["commits"] == 14 * EPOCHS + 14 + rules + rounds + outcome + said


@pytest.mark.parametrize(("search", "most"), [("one structure", 20), ("two structures", 18), ("confirm", 4)])
def test_jax_compiles_little_beside_the_programs(counts, search, most):
    # A bound, since it depends on the versions of Keras and JAX how many small programs draw weights and make the
    # optimizer's variables; with those of this repository it is met exactly.
    assert counts[search]["programs"] <= counts[search]["compilations of JAX"] <= most
