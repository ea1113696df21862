"""Threads that may be left at work."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from manyfit.core.threads import LeavableThreads


def test_as_many_run_side_by_side_as_it_has_threads():
    meet = threading.Barrier(2, timeout=30)
    with LeavableThreads(2, name="test") as threads:
        both = [threads.submit(meet.wait) for _ in range(2)]
        assert sorted(future.result(30) for future in both) == [0, 1]
        names = {threads.submit(threading.current_thread).result(30).name for _ in range(5)}
    assert names <= {"test-0", "test-1"}


def test_errors_of_all_kinds_are_raised_where_the_result_is_asked_for():
    with LeavableThreads(1, name="test") as threads:
        failed, next_one = threads.submit(int, "x"), threads.submit(int, "3")
        with pytest.raises(ValueError, match="invalid literal"):
            failed.result(30)
        assert next_one.result(30) == 3
    with pytest.raises(RuntimeError, match="after shutdown"):
        threads.submit(int)


def test_what_waits_can_be_cancelled_and_what_runs_is_not_waited_for():
    begun, go_on = threading.Event(), threading.Event()

    def work():
        begun.set()
        return go_on.wait(30)

    threads = LeavableThreads(1, name="test")
    running, waiting = threads.submit(work), threads.submit(int)
    assert begun.wait(30)
    threads.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled() and not running.done()
    go_on.set()
    assert running.result(30) is True


PROGRAM = """
import sys, threading, time
from manyfit.core.threads import LeavableThreads

threads, begun = LeavableThreads(1, name="test"), threading.Event()
threads.submit(lambda: [begun.set(), time.sleep(600), print("it was waited for")])
begun.wait()
print("the end")
sys.exit(3)
"""


def test_a_process_ends_beside_them_with_its_own_status():
    ended = subprocess.run([sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "the end\n", "")
