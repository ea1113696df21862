"""Limits of a trial: what may be typed, and what is looked at."""

from __future__ import annotations

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from manyfit.core import limits
from manyfit.core.errors import UsageError
from manyfit.core.lifecycle import failure_of
from manyfit.core.limits import MemoryGauge, TrialLimits, bytes_or_none
from manyfit.core.records import Ending


@given(st.integers(1, 2**50), st.sampled_from([("", 1), ("kB", 1000), ("MiB", 2**20), (" GB", 10**9), ("tib", 2**40)]))
def test_sizes_with_a_unit(number, unit):
    assert bytes_or_none("max_memory", f"{number}{unit[0]}") == pytest.approx(number * unit[1])
    assert bytes_or_none("max_memory", number) == number


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "", "GB", "2 PB", "-1GB", "0", "1e3GB", b"2GB", [2]])
def test_what_is_no_size_is_refused(wrong):
    with pytest.raises(UsageError) as caught:
        bytes_or_none("max_memory", wrong)
    tiny.four_parts(caught.value)


def test_a_limit_on_memory_needs_a_system_that_tells(monkeypatch):
    monkeypatch.setattr(limits, "held_bytes", lambda: 0)  # as on macOS
    with pytest.raises(UsageError) as caught:
        TrialLimits.of(None, "2GB")
    tiny.four_parts(caught.value)
    assert not TrialLimits.of(None, None) and TrialLimits.of(5, None)


def test_what_is_held_for_nothing_is_given_back_before_anybody_fails(monkeypatch):
    held = [200, 90, 200, 150]
    monkeypatch.setattr(limits, "give_back", lambda: None)
    gauge = MemoryGauge(100, held=lambda: held.pop(0), now=iter([0.0, 1.0]).__next__)
    assert gauge.excess() is None and gauge.excess() == 150 and not held


@pytest.mark.parametrize(
    "text",
    [
        "RESOURCE_EXHAUSTED: Out of memory allocating 137438953472 bytes.",  # XLA
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        "OOM when allocating tensor with shape[100000,100000]",  # TensorFlow
        "Unable to allocate 7.45 GiB for an array with shape (1000000000,)",  # NumPy, in another process
        "std::bad_alloc",
        "[Errno 12] Cannot allocate memory",
    ],
)
def test_what_libraries_say_of_memory_that_has_run_out_is_understood(text):
    assert failure_of(RuntimeError(text)).ending is Ending.OUT_OF_MEMORY
    assert failure_of(RuntimeError("no room for a broom")).ending is Ending.FAILED


def test_broken_limits_are_endings_of_their_own_that_no_retry_mends():
    found = TrialLimits(2.0, 3 << 30)
    slow, large = failure_of(found.too_slow(2.5)), failure_of(found.too_large(4 << 30))
    assert (slow.ending, slow.final, large.ending, large.final) == (Ending.TOO_SLOW, True, Ending.OUT_OF_MEMORY, True)
    assert "2.5 seconds" in slow.message and "max_seconds_per_trial=2" in slow.message
    assert "holds 4.0 GiB (max_memory=3.0 GiB)" in large.message
