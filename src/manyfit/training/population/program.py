"""A program: what executions of one structure share, and the passes that are compiled for them.

Executions whose traces have one key are one program up to the numbers in which they differ. Those numbers come to light
one execution after another, so a program has *versions*: where a newcomer differs in a number that was written into the
passes so far, that number becomes an input, and the passes are compiled anew. Nothing here knows of members: a program
is asked for a pass, given states and numbers by whoever trains, and stays from call to call.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, MutableMapping, Sequence
from typing import TypeAlias

from manyfit.training.population.arrays import State, copied
from manyfit.training.population.compile import Tier
from manyfit.training.population.data import FitArguments, ResidentRows, Stream
from manyfit.training.population.layout import Layout, LayoutChoice, Remembered, candidates, recall, remember
from manyfit.training.population.lift import Lift
from manyfit.training.population.outlines import Outline
from manyfit.training.population.passes import Pass, StreamPass
from manyfit.training.population.probe import find_mismatch
from manyfit.training.population.rows_pass import RowsPass
from manyfit.training.population.sharding import num_slots, spread
from manyfit.training.population.trace import CannotTrace, Trace
from manyfit.training.program_report import ProgramRecord

PassKey: TypeAlias = tuple[str, Layout, int, bool]
"""Kind, layout, slots, and whether each member reads the rows in its own order."""

SharedPassKey: TypeAlias = tuple[tuple[object, ...], Layout, int, bool, int]
"""The steps, the layout, slots, whether each member reads the rows in its own order, and the length of the arrays."""

_turns = itertools.count()
_PROBED = 2  # members that a probe compares


@dataclasses.dataclass(frozen=True)
class _Sample:
    """What a probe needs of an execution."""

    trace: Trace
    state: State


class SharedProgram:
    """The steps that executions of one structure share, and the compiled passes that serve them.

    Passes are asked for by threads that train, while the thread that builds adds further executions: hence the lock.

    Args:
        trace: the steps of the first execution.
        data: what they train on.
        structure: its model in a few words.
        frozen: what is computed once of the rows, in words.
        together: whether several executions are expected at the same time.
        first_tier: how to compile at first, where nothing is remembered.
        passes: over resident rows, which programs share that differ in other things: in their validation, or in
            training only. Each lives as long as a program holds it.

    Attributes:
        last_served: greater than that of all programs whose latest member came before this one's.
    """

    def __init__(
        self,
        trace: Trace,
        data: FitArguments,
        structure: str,
        *,
        frozen: str = "",
        together: bool = False,
        first_tier: Tier = "quick",
        passes: MutableMapping[SharedPassKey, RowsPass] | None = None,
    ) -> None:
        self.key = trace.key
        self.structure, self.frozen, self._first_tier = structure, frozen, first_tier
        self._data: FitArguments | None = data
        self.lift = Lift.of(trace)
        options = candidates(trace, streams=isinstance(data.training, Stream), together=together)
        sources = [source for source in (data.training, data.validation) if source is not None]
        self._room = data.training.room if isinstance(data.training, ResidentRows) else 0
        self._streams = any(isinstance(source, Stream) for source in sources)
        # What a layout's speed depends on beside the steps: the length of the arrays, the batches of a stream, and what
        # there is to choose from.
        lengths = [one.room if isinstance(one, ResidentRows) else (one.shapes, one.num_steps) for one in sources]
        self._name = f"{trace.key} {lengths} {options[0]}"  # in the memory of other processes
        self._recalled = recall(self._name, options)
        self.choice = LayoutChoice(options if self._recalled is None else (self._recalled.layout,))
        self.mismatch: str | None = None
        self.num_trained = 0
        self.num_versions = 1
        self._samples: list[_Sample] = []
        self._verified: set[tuple[int, bool]] = set()
        self._passes: dict[PassKey, Pass] = {}
        self._held: dict[SharedPassKey, RowsPass] = {}  # these, those of earlier versions, and of other lifts
        self._is_compiled = False
        self._known_bytes: dict[Layout, float] = {}  # what a member takes in passes that it has let go of
        self.last_served = next(_turns)
        self.num_compilations = 0  # training passes that no other program has made before
        self._shared_passes = {} if passes is None else passes
        self._retired_seconds = 0.0
        self._lock = threading.Lock()
        self._probing = threading.Lock()

    @property
    def data(self) -> FitArguments:
        """What is trained on now, in arrays of one length always."""
        assert self._data is not None  # our bug: nobody trains here
        return self._data

    @property
    def outline(self) -> Outline | None:
        """How wide it is, where members of several structures share it."""
        return None

    def serve(self, data: FitArguments | None) -> None:
        """Trains on these data from now on; None: lets go of them, until others come."""
        self._data = data
        self.last_served = next(_turns)

    @property
    def streams(self) -> bool:
        """Whether batches come one by one, so that it serves no other data."""
        return self._streams

    def add(self, trace: Trace, state: State) -> None:
        """Takes in one more execution; lifts what it differs in, and forgets passes compiled before that was known.

        Raises:
            ValueError: it is of another structure, though its first steps are equal.
        """
        lift = self.lift.widened([trace])
        with self._lock:
            self._become(lift)
            if len(self._samples) < _PROBED and all(trace is not other.trace for other in self._samples):
                # A copy: callbacks may predict with the model, and Keras donates the arrays that it predicts with.
                taken = (state[0], trace.without_idle(state[1]), state[2])
                self._samples.append(_Sample(trace, copied(taken)))

    def include(self, lift: Lift) -> None:
        """Lifts what another process had lifted, so that what trained there goes on in the same version."""
        with self._lock:
            self._become(self.lift.joined(lift))

    def _become(self, lift: Lift) -> None:
        """Another version, if that is another lift."""
        if lift is not self.lift and self._is_compiled:
            self._retire()
            self._is_compiled = False
            self.num_versions += 1
            self._samples.clear()  # those that made the new version necessary are the ones to probe
        self.lift = lift

    def _retire(self) -> None:
        self._retired_seconds += sum(each.compile_seconds for each in self._passes.values())
        self._passes.clear()

    def rest(self) -> None:
        """Lets go of what is compiled. Who trains in it next has it compiled again: read from the cache on disk."""
        self.remember()
        counts, tier = self.compiled_counts(), self.tier
        with self._lock:
            layouts = {layout for _, layout, _, _ in self._passes}
        known = {layout: self.bytes_per_member(layout) for layout in layouts}
        with self._lock:
            self._known_bytes |= known
            self._recalled = Remembered(self.choice.best, tuple(counts), tier)
            self._retire()
            self._held.clear()

    @property
    def is_at_rest(self) -> bool:
        """Whether it holds nothing that is compiled."""
        return not self._passes

    def extend(self, traces: Sequence[Trace]) -> None:
        """Takes in the steps for shapes of batches that have just come up in a stream.

        Args:
            traces: completed, of all executions that train now.

        Raises:
            ValueError: one of them is another program than the first's.
        """
        # Not the template's: its model may be gone, and its own steps of this shape with it.
        self.lift = Lift(traces[0], self.lift.holes).widened(traces)

    @property
    def compile_seconds(self) -> float:
        """Time spent in compiling for this program."""
        # A copy of the values: another thread may add a pass meanwhile, and a number a little too old does no harm.
        return self._retired_seconds + sum(each.compile_seconds for each in list(self._passes.values()))

    @property
    def price_seconds(self) -> float:
        """What the first execution waits for: tracing and compiling."""
        return self.lift.template.seconds + self.compile_seconds

    @property
    def is_compiled(self) -> bool:
        """Whether there was a pass of this version, or one is being made."""
        return self._is_compiled

    def record(self) -> ProgramRecord:
        """What is known of this program, for showing."""
        measured, layout = self.choice.seconds, self.choice.best
        return ProgramRecord(
            program=self.key,
            structure=self.structure,
            members=self.num_trained,
            lifted=self.lift.count,
            versions=self.num_versions,
            compilations=self.num_compilations,
            layout=str(layout),
            tier=self.tier,
            compile_seconds=self.compile_seconds,
            epoch_seconds={str(each): seconds for each, seconds in measured.items()},
            epochs_timed=self.choice.epochs_timed,
            frozen=self.frozen,
        )

    def count_for(self, num_members: int, max_members: int) -> int:
        """Slots of the pass that trains `num_members`: the smallest that is compiled, else see `num_slots`."""
        wanted = num_slots(num_members, max_members, spread().num_devices)
        most = max(wanted, max_members)
        compiled = self.compiled_counts()
        # Also what an earlier process has compiled: it lies in the cache, so it is as good as compiled.
        compiled |= set(() if self._recalled is None else self._recalled.counts)
        return min((count for count in compiled if num_members <= count <= most), default=wanted)

    def compiled_counts(self, layout: Layout | None = None) -> set[int]:
        """Numbers of slots for which there are passes of a layout, or of any: its own, or another program's."""
        with self._lock:
            found = {(one, count) for _, one, count, _ in self._passes}
            if not self._streams:
                key = self.lift.fingerprint("train"), self._room
                found |= {
                    (one, count) for name, one, count, _, room in list(self._shared_passes) if (name, room) == key
                }
        return {count for one, count in found if layout in (None, one)}

    @property
    def tier(self) -> Tier:
        """The tier that the training runs in; one exchange tells for all numbers of slots."""
        with self._lock:
            trained = [each for (kind, *_), each in self._passes.items() if kind == "train" and each.tiers.seconds]
        if not trained:
            return self._first_tier if self._recalled is None else self._recalled.tier
        # Not before it has run so: what was compiled to the very end of a search has brought nothing.
        runs_in_full = [each.tiers.tier == "full" and "full" in each.tiers.seconds for each in trained]
        return "full" if any(runs_in_full) else "quick"

    def due_exchanges(self, layout: Layout, count: int, epochs_left: int) -> list[Pass]:
        """The passes over resident rows whose steps are to be compiled in full now, see `Pass.begins_exchange`.

        Args:
            layout: of the passes.
            count: their slots.
            epochs_left: that the program's members have before them.
        """
        with self._lock:
            found = [each for (_, one, slots, _), each in self._passes.items() if (one, slots) == (layout, count)]
        return [
            each
            for each in found
            if isinstance(each, RowsPass)
            and each.begins_exchange(epochs_left * each.tiers.seconds.get("quick", 0.0) / count)
        ]

    def remember(self) -> None:
        """Writes down for later processes which layout was the fastest, and how it was compiled."""
        best, tier = self.choice.best, self.tier
        if self.choice.seconds and (self._recalled is None or self._recalled.tier != tier):
            counts = self.compiled_counts(best) | set(() if self._recalled is None else self._recalled.counts)
            remember(self._name, Remembered(best, tuple(counts), tier))

    def bytes_per_member(self, layout: Layout) -> float:
        """Memory that one member of this layout's passes takes, by the compiler's analysis; 0 if none is compiled."""
        with self._lock:
            found = [(count, each.num_bytes) for (_, one, count, _), each in self._passes.items() if one == layout]
        if not found:
            return self._known_bytes.get(layout, 0.0)
        count, num_bytes = max(found)
        return max(0.0, num_bytes - self.data.num_bytes) / count

    def probe(self, layout: Layout, *, wait: bool = True) -> None:
        """Compares shared steps with each execution's own, once per version and way of standing side by side.

        Only where executions differ; what is found is kept in `mismatch`.

        Args:
            layout: of the passes that are to be trusted.
            wait: for another thread that is at it; else leaves it to that one.
        """
        if self._probing.acquire(blocking=wait):
            try:
                self._probe(fused=layout.members == "vmap")
            finally:
                self._probing.release()

    def _probe(self, *, fused: bool) -> None:
        with self._lock:
            key, lift = (self.num_versions, fused), self.lift
            samples = list(self._samples)
        if key in self._verified or all(each.trace is lift.template for each in samples):
            return
        # One member that differs is enough where members do not share an axis; each costs two compilations.
        probed = samples if fused else [each for each in samples if each.trace is not lift.template][:1]
        found = find_mismatch(
            lift,
            [each.trace for each in probed],
            [each.state for each in probed],
            self.data.training.some_batch(),
            fused=fused,
        )
        self._verified.add(key)
        if found is not None:
            self.mismatch = f"a step of program {self.key} is not that of {found}"

    def ensure_probed(self, layout: Layout) -> None:
        """Probes if that has not been done.

        Raises:
            CannotTrace: a shared step is not that of an execution.
        """
        self.probe(layout)
        if self.mismatch is not None:
            raise CannotTrace(self.mismatch)

    def rows_pass(
        self, kind: str, layout: Layout, count: int, *, own_order: bool = False, lift: Lift | None = None
    ) -> RowsPass:
        """The pass over resident rows, made if need be; of this version, or with another lift of the same steps."""
        rows = self.data.training if kind == "train" else self.data.validation
        assert isinstance(rows, ResidentRows)
        shapes, tier = rows.shapes[0], self.tier if kind == "train" else "quick"

        def make(lift: Lift) -> RowsPass:
            made = RowsPass(kind, lift, layout=layout, count=count, shapes=shapes, own_order=own_order, tier=tier)
            # Two threads may have made one; the first that is there serves both, so that it is compiled once.
            key = lift.fingerprint(kind), layout, count, own_order, rows.room
            found = self._held[key] = self._shared_passes.setdefault(key, made)
            self.num_compilations += kind == "train" and found is made
            return found

        if lift is not None:
            return make(lift)
        found = self._pass((kind, layout, count, own_order), lambda: make(self.lift))
        assert isinstance(found, RowsPass)
        return found

    def stream_pass(self, kind: str, layout: Layout, count: int) -> StreamPass:
        """The pass over a stream, made if need be."""
        stream = self.data.training if kind == "train" else self.data.validation
        assert isinstance(stream, Stream)

        def make() -> StreamPass:
            self.num_compilations += kind == "train"
            return StreamPass(kind, self.lift, layout=layout, count=count, stream=stream)

        found = self._pass((kind, layout, count, False), make)
        assert isinstance(found, StreamPass)
        return found

    def _pass(self, key: PassKey, make: Callable[[], Pass]) -> Pass:
        with self._lock:
            if key not in self._passes:
                self._passes[key] = make()
                self._is_compiled = True
            return self._passes[key]
