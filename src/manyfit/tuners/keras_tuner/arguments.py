"""What tuners of every kind are made of, checked at the door."""

from __future__ import annotations

from collections.abc import Mapping

from manyfit.core.checks import check_left_over
from manyfit.core.errors import UsageError, explain
from manyfit.executors.base import Executor
from manyfit.oracles import Oracle


def check_parts(made: type, oracle: object, executor: object, unknown: Mapping[str, object]) -> None:
    """Checks what a tuner is given.

    Args:
        made: the class of the tuner.
        oracle: that is to decide what is tried.
        executor: where trials are to run.
        unknown: arguments that nobody has taken.

    Raises:
        UsageError: there are unknown arguments, `oracle` is none, or `executor` is none.
    """
    check_left_over(made, unknown)
    tuner = made.__name__
    if not isinstance(oracle, Oracle):
        got = f"{oracle!r}. Expected `oracle` argument to be an instance of `Oracle`"
        instead = "Type oracle=kt.Oracle(...), or use a ready tuner such as kt.RandomSearch."
        raise UsageError(explain(f"{tuner}(oracle)", got, "an Oracle", instead))
    if executor is not None and not isinstance(executor, Executor):
        instead = "Type executor=kt.ProcessExecutor(workers=2), or kt.RayExecutor()."
        raise UsageError(explain(f"{tuner}(executor)", executor, "an executor, or None for this process", instead))
