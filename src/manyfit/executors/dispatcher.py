"""The driver's side: hands executions to workers, hears of them, and outlives every one of them.

Oracle and store stay here. What a worker was training when it died is handed to another, from its start: trainers go
through the epochs that are known already without reporting them again, so nothing is counted twice. An execution
whose workers keep dying ends as failed, with the reason; before that it is tried alone, so that the others of its
population do not die with it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from manyfit.core.errors import SearchError, UsageError, explain
from manyfit.core.lifecycle import is_paused
from manyfit.core.limits import readable
from manyfit.core.records import Ending, Plan, Result
from manyfit.executors.base import MakeTrainer, WorkerPool
from manyfit.executors.messages import (
    Answer,
    Begin,
    Decide,
    Finished,
    Forget,
    Go,
    Hello,
    Idle,
    Key,
    Lost,
    Message,
    OverMemory,
    Raised,
    Report,
    Stop,
    Take,
    Want,
    Work,
)
from manyfit.executors.parcels import Shelf, pack, write_files
from manyfit.executors.seats import Seat, State, WorkerRules
from manyfit.executors.worker import KerasGlobals, differences, versions
from manyfit.training.base import Supply, Task, Trainer
from manyfit.training.program_report import Programs

_WAIT_SECONDS = 1.0  # between looks at the size of the cluster
_MAX_FAILED_STARTS = 3  # one may be bad luck; three are a broken installation, and would go on for ever


class Dispatcher(Trainer):
    """A trainer whose executions are trained by the workers of a pool.

    Args:
        make_pool: starts the pool; called at the first task.
        make: makes the trainer of a worker.
        rules: how workers are used.
        folder: of the project.
        notify: takes one line of text for the user.
    """

    takes_splits = True  # workers choose a trainer that does

    def __init__(
        self,
        make_pool: Callable[[], WorkerPool],
        make: MakeTrainer,
        *,
        rules: WorkerRules,
        folder: Path,
        notify: Callable[[str], None],
    ) -> None:
        self._make_pool, self._make = make_pool, make
        self._folder = folder.absolute()
        self._rules = rules
        self._notify = notify
        self._fleet: _Fleet | None = None
        self._programs: dict[str, Programs | None] = {}  # of each worker
        self._told: set[str] = set()

    def train(self, supply: Supply, task: Task) -> None:
        """See `Trainer`."""
        if self._fleet is None:
            self._fleet = _Fleet(self._make_pool())
        try:
            work = self._packed(self._fleet, supply, task)
            _Run(
                self._fleet,
                supply,
                work,
                rules=self._rules.within(task.limits),
                folder=self._folder,
                tell=self._tell,
                programs=self._programs,
            ).go()
        except BaseException:
            self.close()  # workers are in the middle of something that nobody will answer
            raise

    def _packed(self, fleet: _Fleet, supply: Supply, task: Task) -> Work:
        fleet.shelf.begin(fleet.pool.share)
        content = (self._make, task, KerasGlobals.of_this_process())
        packed = pack(content, fleet.shelf.put, folder=self._folder, where=f"search with {self._rules.where}")
        return Work(packed, fleet.shelf.handles(), supply.independent)

    def _tell(self, line: str) -> None:
        """Tells the user a line, once for all workers."""
        if line not in self._told:
            self._told.add(line)
            self._notify(line)

    def forget(self, keys: Iterable[Key]) -> None:
        """See `Trainer`."""
        if self._fleet is None:
            return
        keys = list(keys)
        for key in keys:
            self._fleet.homes.pop(key, None)
        for seat in self._fleet.seats.values():
            seat.to_forget += keys

    def programs(self) -> Programs | None:
        """The compiled programs of all workers; None where they have none."""
        found = [programs for programs in self._programs.values() if programs is not None]
        return Programs.joined(found) if found else None

    def close(self) -> None:
        """Ends the workers."""
        fleet, self._fleet = self._fleet, None
        if fleet is not None:
            fleet.pool.close()


@dataclasses.dataclass
class _Fleet:
    """The workers of one pool, from task to task.

    Attributes:
        pool: starts, hears and ends them.
        shelf: arrays that they share. It goes with the pool: the next one cannot find what this one has put somewhere.
        seats: by worker.
        homes: paused execution -> the worker that holds it.
    """

    pool: WorkerPool
    shelf: Shelf = dataclasses.field(default_factory=Shelf)
    seats: dict[str, Seat] = dataclasses.field(default_factory=dict)
    homes: dict[Key, str] = dataclasses.field(default_factory=dict)


class _Run:
    """One call of `Dispatcher.train`: hears what workers say, one message after another, and answers.

    The idea: a worker is always in one `State`, and only `_hear` (something was said) and `_hand_out` (something is
    to be done) change it. Every execution is in exactly one place: with the supply, in `_again`, or held by or
    reserved for one seat. What a seat held when its worker is lost goes to `_again`: nothing is trained twice, and
    nothing is lost.
    """

    def __init__(
        self,
        fleet: _Fleet,
        supply: Supply,
        work: Work,
        *,
        rules: WorkerRules,
        folder: Path,
        tell: Callable[[str], None],
        programs: dict[str, Programs | None],
    ) -> None:
        self._pool, self._seats, self._homes = fleet.pool, fleet.seats, fleet.homes
        self._supply, self._work = supply, work
        self._rules, self._folder, self._tell, self._programs = rules, folder, tell, programs
        self._again: list[Plan] = []  # lost with their workers
        self._losses: dict[Key, int] = {}
        self._failed_starts = self._rejected = self._too_large = 0
        self._difference = ""
        self._seen_a_worker = time.monotonic()

    def go(self) -> None:
        """Trains until the supply has nothing more and nothing is running."""
        while True:
            self._adjust()
            self._hand_out()
            self._end_hanging()
            if self._is_over():
                break
            for worker, message in self._pool.wait(_WAIT_SECONDS):
                self._hear(worker, message)
        self._dismiss()

    # Workers ---------------------------------------------------------------------------------------------------

    def _adjust(self) -> None:
        """Starts workers where there is room for more: at the beginning, and when a cluster has grown."""
        # A rejected worker's place stays empty: another one there would be rejected for the same reason.
        wanted = self._pool.capacity() - self._rejected
        if wanted <= 0 and self._difference:
            raise UsageError(
                explain(
                    self._rules.where,
                    f"workers with other versions ({self._difference})",
                    "the same versions everywhere",
                    "Install them on every machine of the cluster.",
                )
            )
        for _ in range(len(self._seats), wanted):
            worker = self._pool.start()
            self._seats[worker] = Seat(worker)
        if any(seat.state is not State.STARTING for seat in self._seats.values()):
            self._seen_a_worker = time.monotonic()
        elif time.monotonic() - self._seen_a_worker > self._rules.start_seconds:
            raise SearchError(
                f"{self._rules.where}: no worker has started within {self._rules.start_seconds:g} seconds. What "
                "finished is kept; search again when the cluster has room, or give it more time."
            )

    def _dismiss(self) -> None:
        """Lets the trainers of the workers return, and hears what they have to say."""
        for seat in list(self._seats.values()):
            if seat.state in (State.IDLE, State.WANTING) and self._retires(seat):
                self._retire(seat)
            elif seat.state is State.WANTING:
                self._answer(seat, Take(()), State.RETURNING)
        # Not for ever: a worker that hangs after its last execution must not keep the search from returning.
        until = time.monotonic() + self._rules.start_seconds
        while any(seat.state is State.RETURNING for seat in self._seats.values()) and time.monotonic() < until:
            for worker, message in self._pool.wait(_WAIT_SECONDS):
                self._hear(worker, message)

    def _answer(self, seat: Seat, answer: Answer, state: State) -> None:
        seat.state, seat.answered_seconds = state, time.monotonic()
        self._pool.answer(seat.worker, answer)

    # Handing out -----------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Gives executions to workers that wait for some, until there are none or nobody waits.

        Turn after turn, as what one worker gets may leave something for another: a worker that is due to be replaced
        gives up its place instead, one that is idle first frees paused executions that nobody will continue, one that
        wants executions gets as many as it wants, and one that is idle is begun with the first, which is kept for it.
        """
        handed = True
        while handed:
            handed = False
            # Who has waited longest comes first, so that which worker trains what does not hang on the order of a dict.
            for seat in sorted(self._waiting(), key=lambda seat: seat.waiting_since):
                if self._retires(seat):
                    if plans := self._plans_for(seat, 1):  # else nobody has to take its place yet
                        self._again = [*plans, *self._again]
                        self._retire(seat)
                    continue
                if seat.to_forget and seat.state is State.IDLE:
                    self._answer(seat, Forget(seat.to_forget), State.RETURNING)
                    seat.to_forget = []
                    continue
                plans = self._plans_for(seat, seat.wanted if seat.state is State.WANTING else 1)
                if not plans:
                    continue
                handed = True
                if seat.state is State.WANTING:
                    self._give(seat, plans)
                else:
                    seat.reserved = [*plans, *seat.reserved]
                    self._answer(seat, Begin(self._work), State.BUSY)
            handed = handed or any(seat.reserved for seat in self._waiting())  # which a later one has left for it

    def _waiting(self) -> list[Seat]:
        return [seat for seat in self._seats.values() if seat.state in (State.IDLE, State.WANTING)]

    def _give(self, seat: Seat, plans: Sequence[Plan]) -> None:
        for plan in plans:
            seat.held[plan.key] = plan
            seat.known_epochs[plan.key] = plan.first_epoch
            seat.to_forget = [key for key in seat.to_forget if key != plan.key]
        self._answer(seat, Take([_absolute(plan) for plan in plans]), State.BUSY)

    def _plans_for(self, seat: Seat, count: int) -> list[Plan]:
        """Up to `count` executions for a worker that asks."""
        if any(self._losses.get(key) for key in seat.held):
            return []  # one that has lost a worker is tried alone
        if seat.reserved:
            plans, seat.reserved = seat.reserved[:count], seat.reserved[count:]
            return plans
        if self._again and not seat.held:
            return [self._again.pop(0)]
        count = self._share(seat, count)
        while count > 0:
            taken = self._supply.take(count)
            own = [plan for plan in taken if not self._belongs_to_another(plan, seat)]
            if own or not taken:
                return own
        return []

    def _belongs_to_another(self, plan: Plan, seat: Seat) -> bool:
        """Whether another worker holds the paused execution; it is kept for that one then."""
        # Its state lies in that worker's memory. Anywhere else it would be trained again from its first epoch.
        home = self._seats.get(self._homes.get(plan.key, ""))
        if home is None or home is seat:
            return False
        if home.state is State.BUSY and home.reserved:  # training its first epochs again is sooner done than waiting
            home.to_forget.append(plan.key)
            return False
        home.reserved.append(plan)
        return True

    def _share(self, seat: Seat, count: int) -> int:
        """How many of `count` wanted executions a worker may have: an even share of what is left at most."""
        # First come, first served would give a population everything, and leave the other workers idle.
        num_seats = max(1, len(self._seats))
        remaining = self._supply.remaining
        if remaining is None:
            return math.ceil(count / num_seats)
        unfinished = remaining + sum(len(other.held) + len(other.reserved) for other in self._seats.values())
        return max(min(count, 1 - len(seat.held)), min(count, math.ceil(unfinished / num_seats) - len(seat.held)))

    def _is_over(self) -> bool:
        busy = any(seat.held or seat.reserved for seat in self._seats.values())
        talking = any(seat.state in (State.BUSY, State.RETURNING) for seat in self._seats.values())
        waits = any(seat.state in (State.IDLE, State.WANTING) for seat in self._seats.values())
        # Without a worker that waits nobody has asked the supply, so nobody knows that it has nothing more.
        return waits and not busy and not talking and not self._again

    # Hearing ---------------------------------------------------------------------------------------------------

    def _hear(self, worker: str, message: Message) -> None:
        seat = self._seats.get(worker)
        if seat is None:
            return
        for line in dict.fromkeys(message.lines):
            self._tell(line)
        if isinstance(message, Report):
            self._report(seat, message)
        elif isinstance(message, Want):
            self._want(seat, message)
        elif isinstance(message, Finished):
            self._finish(seat, message)
        elif isinstance(message, Hello):
            self._greet(seat, message)
        elif isinstance(message, Idle):
            self._rest(seat, message)
        elif isinstance(message, Raised):
            raise message.error
        elif isinstance(message, OverMemory):
            self._end_over_memory(seat, message.used_bytes)
        elif isinstance(message, Lost):
            self._lose(seat, message)

    def _greet(self, seat: Seat, hello: Hello) -> None:
        seat.place, seat.greeted_seconds = f"process {hello.process_id} on {hello.host}", time.monotonic()
        self._failed_starts = 0
        difference = differences(versions(), hello.versions)
        if difference:
            self._difference = f"on {hello.host}: {difference}"
            self._tell(f"{self._rules.where}: a worker is not used, because it has other versions ({self._difference})")
            self._rejected += 1
            self._remove(seat)
            return
        seat.rest(State.IDLE)

    def _rest(self, seat: Seat, idle: Idle) -> None:
        self._programs[seat.worker] = idle.programs
        if seat.held:
            self._lose(seat, Lost("its trainer returned without finishing it"))
        elif seat.state is State.RETIRING:
            self._answer(seat, Stop(), State.RETIRING)
        else:
            seat.rest(State.IDLE)

    def _want(self, seat: Seat, want: Want) -> None:
        seat.wanted, seat.held_bytes = want.count, want.held_bytes
        if seat.held:  # others train meanwhile, so it does not wait
            plans = self._plans_for(seat, want.count)
            self._give(seat, plans)
        elif seat.state in (State.RETURNING, State.RETIRING):  # it was told that there is nothing, and asks once more
            self._answer(seat, Take(()), seat.state)
        else:
            seat.rest(State.WANTING)

    def _report(self, seat: Seat, report: Report) -> None:
        rows = [(seat.held[key], epoch, logs) for key, epoch, logs in report.epochs]
        for plan, epoch, _ in rows:
            seat.known_epochs[plan.key] = max(seat.known_epochs[plan.key], epoch + 1)
        self._answer(seat, Decide(list(self._supply.report(rows))), State.BUSY)

    def _finish(self, seat: Seat, message: Finished) -> None:
        result = message.result
        plan = seat.held.pop(result.plan.key)
        # The worker's values: a build function may have asked for hyperparameters that nobody knew before.
        plan = dataclasses.replace(plan, values=result.plan.values)
        folders = [self._folder]
        folders += [] if plan.weights_path is None else [Path(plan.weights_path).parent]
        # Files before the fact: a result in the store whose weights are missing could never be loaded.
        write_files(message.files, folders)
        self._homes.pop(plan.key, None)
        if is_paused(result):
            self._homes[plan.key] = seat.worker
        else:
            self._losses.pop(plan.key, None)
        seat.num_finished += 1
        self._too_large = 0
        self._supply.finish(dataclasses.replace(result, plan=plan))
        self._answer(seat, Go(), State.BUSY)

    # Losing ----------------------------------------------------------------------------------------------------

    def _retires(self, seat: Seat) -> bool:
        """Whether a worker has done its share, and ends so that its memory goes back to the system."""
        rules = self._rules
        tired = rules.recycle_after is not None and seat.num_finished >= rules.recycle_after
        heavy = rules.max_held_bytes is not None and seat.holds_too_much(rules.max_held_bytes, time.monotonic())
        return (tired or heavy) and not seat.reserved and seat.worker not in self._homes.values()

    def _retire(self, seat: Seat) -> None:
        self._answer(seat, Stop() if seat.state is State.IDLE else Take(()), State.RETIRING)

    def _remove(self, seat: Seat) -> None:
        self._pool.kill(seat.worker)
        del self._seats[seat.worker]
        for key in [key for key, home in self._homes.items() if home == seat.worker]:
            del self._homes[key]

    def _lose(self, seat: Seat, lost: Lost) -> None:
        """Hands what a lost worker had to others."""
        if seat.state is State.RETIRING:
            del self._seats[seat.worker]
            return
        if seat.state is State.STARTING:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_FAILED_STARTS:
                raise SearchError(f"{self._rules.where}: {_MAX_FAILED_STARTS} workers did not start. {lost.reason}")
        self._remove(seat)
        self._again += seat.reserved
        # Each member may have killed the worker, so each is counted; from then on it is tried alone, which tells.
        for key, plan in seat.held.items():
            if not lost.node_lost:
                self._losses[key] = self._losses.get(key, 0) + 1
            if self._losses.get(key, 0) >= self._rules.max_losses:
                reason = f"it lost {self._losses[key]} workers, the last one because: {lost.reason}"
                self._give_up(plan, Ending.FAILED, reason)
            else:
                self._again.append(dataclasses.replace(plan, first_epoch=seat.known_epochs[key]))

    def _end_over_memory(self, seat: Seat, used_bytes: int) -> None:
        """Ends a worker that uses too much. One execution is to blame; of several, each is tried alone."""
        self._remove(seat)
        self._again += seat.reserved
        used, cap = readable(used_bytes), readable(self._rules.max_memory_bytes or 0)
        self._too_large += not seat.held
        if self._too_large >= _MAX_FAILED_STARTS:
            raise SearchError(
                f"{self._rules.where}: a worker uses {used} before it trains anything, and the cap is {cap}. Raise the "
                "cap, or leave it out."
            )
        for key, plan in seat.held.items():
            if len(seat.held) == 1:
                self._give_up(plan, Ending.OUT_OF_MEMORY, f"it used {used}; the cap is {cap}")
            else:
                self._losses[key] = self._losses.get(key, 0) + 1
                self._again.append(dataclasses.replace(plan, first_epoch=seat.known_epochs[key]))

    def _end_hanging(self) -> None:
        """Ends workers that have said nothing for longer than what they train may take: a build, a step, the data.

        Between two batches a worker looks at the clock itself, so that its silence means that it is in one of these.
        One execution is to blame; of several, each is tried alone.
        """
        limits = self._rules.limits
        for seat in list(self._seats.values()):
            if not seat.hangs(limits.max_seconds, now := time.monotonic()):
                continue
            self._remove(seat)
            self._again += seat.reserved
            for key, plan in seat.held.items():
                if len(seat.held) == 1:
                    reason = limits.too_slow(now - seat.answered_seconds, f"in {seat.place}, which was ended")
                    self._give_up(plan, Ending.TOO_SLOW, str(reason))
                else:
                    self._losses[key] = self._losses.get(key, 0) + 1
                    self._again.append(dataclasses.replace(plan, first_epoch=seat.known_epochs[key]))

    def _give_up(self, plan: Plan, ending: Ending, reason: str) -> None:
        self._losses.pop(plan.key, None)
        # Without a history: the worker that had it is gone, and the supply knows the epochs that were reported.
        self._supply.finish(Result(plan, ending, {}, message=f"{self._rules.where}: {reason}"))


def _absolute(plan: Plan) -> Plan:
    """A plan whose files have names that mean the same everywhere."""
    if plan.weights_path is None:
        return plan
    return dataclasses.replace(plan, weights_path=str(Path(plan.weights_path).absolute()))
