"""Every executor passes the suite of `manyfit.testing.executors`."""

from __future__ import annotations

import manyfit as kt
from manyfit.testing.executors import ThreadExecutor, check_executor


def test_threads():
    check_executor(ThreadExecutor(2))


def test_threads_of_which_there_are_three():
    check_executor(ThreadExecutor(3))


def test_processes():
    check_executor(kt.ProcessExecutor(workers=2, max_losses=2))
