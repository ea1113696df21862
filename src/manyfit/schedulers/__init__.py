"""How long to train: each scheduler is a pure function of recorded history."""

from __future__ import annotations

from manyfit.core.errors import UsageError, UsageTypeError, explain
from manyfit.schedulers.asha import ASHA as ASHA
from manyfit.schedulers.base import Branch as Branch
from manyfit.schedulers.base import Limits as Limits
from manyfit.schedulers.base import Restart as Restart
from manyfit.schedulers.base import Resume as Resume
from manyfit.schedulers.base import Scheduler as Scheduler
from manyfit.schedulers.base import Start as Start
from manyfit.schedulers.full_length import FullBudget as FullBudget
from manyfit.schedulers.full_length import MedianRule as MedianRule
from manyfit.schedulers.hyperband import HyperbandScheduler as HyperbandScheduler
from manyfit.schedulers.population_based import PopulationBasedTraining as PopulationBasedTraining
from manyfit.schedulers.row_halving import RowHalving as RowHalving

#: The names that ``scheduler="..."`` takes.
NAMES = ("full", "hyperband", "asha", "median")


def scheduler_of(scheduler: Scheduler | str | None, max_epochs: int | None) -> Scheduler:
    """Returns the scheduler that a tuner's `scheduler` argument names.

    Args:
        scheduler: a scheduler, which is returned as it is; one of `NAMES`; None for full budgets.
        max_epochs: epochs of a full training, for schedulers given by name.

    Raises:
        UsageError: an unknown name, or one that needs `max_epochs` while that is None.
        UsageTypeError: neither a scheduler, nor a name, nor None.

    Example:

    >>> scheduler_of("asha", 27).rungs
    [1, 3, 9, 27]
    """
    if isinstance(scheduler, Scheduler):
        return scheduler
    if scheduler is None or scheduler == "full":
        return FullBudget(max_epochs)
    allowed = f"a scheduler, or one of {', '.join(map(repr, NAMES))}"
    if not isinstance(scheduler, str):
        raise UsageTypeError(explain("scheduler", scheduler, allowed, 'Type scheduler="asha".'))
    # Before the check of epochs: of the four it is the one, besides full budgets, that works without knowing them.
    if scheduler == "median":
        return MedianRule(max_epochs)
    if scheduler not in NAMES:
        raise UsageError(explain("scheduler", scheduler, allowed, 'Type scheduler="asha".'))
    if max_epochs is None:
        got = f"scheduler={scheduler!r} without the epochs of a full training"
        raise UsageError(explain("search()", got, "a number of epochs", "Add `epochs=...` to search()."))
    return ASHA(max_epochs) if scheduler == "asha" else HyperbandScheduler(max_epochs)
