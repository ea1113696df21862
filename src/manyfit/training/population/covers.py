"""Which members of different widths share a program: what compiling and padding cost, and the cover that costs least.

Everything is weighed in seconds of one core: cores compile one program each and train one program each, so a second of
either is the same second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from manyfit.training.population.program import SharedProgram

_COMPILE_SECONDS = 3.0
_GUESSES = 2  # programs that the guess counts as: of the first ones only a part is compiled when it is asked
_SECONDS_PER_FLOP = 1 / 25e9  # of one multiplication, and the addition of its result
_STEP_SECONDS = 1e-4

Width = TypeVar("Width")


def cover(
    widths: Sequence[Width],
    epochs: Sequence[int],
    *,
    seconds: Callable[[Width], float],
    join: Callable[[Width, Width], Width | None],
    compile_seconds: float,
) -> list[tuple[tuple[int, ...], Width]]:
    """Programs that train members of several widths the soonest, compilation included: a greedy cover.

    Each width begins with a program of its own. Of all pairs of programs the one is put together that saves most, as
    long as one saves anything: a compilation, less the padding of all epochs.

    Args:
        widths: one per structure.
        epochs: that the members of each have left.
        seconds: of one member's epoch in a program so wide.
        join: the least width that covers two; None where no program can.
        compile_seconds: of a program.

    Returns:
        For each program the places of the structures that it serves, and its width.

    Example: an epoch takes as many seconds as the program is wide. With an epoch left, one program is worth more than
    padding; with ten, only neighbours are put together.

    >>> options = {"seconds": float, "join": max, "compile_seconds": 20}
    >>> cover([1, 2, 9], [1, 1, 1], **options)
    [((0, 1, 2), 9)]
    >>> cover([1, 2, 9], [10, 10, 10], **options)
    [((0, 1), 2), ((2,), 9)]
    """
    groups: list[tuple[tuple[int, ...], Width, int]] = [
        ((place,), width, number) for place, (width, number) in enumerate(zip(widths, epochs, strict=True))
    ]

    def saving(one: int, other: int) -> float:
        (_, width, number), (_, other_width, other_number) = groups[one], groups[other]
        both = join(width, other_width)
        if both is None:
            return 0.0
        padding = (number + other_number) * seconds(both)
        padding -= number * seconds(width) + other_number * seconds(other_width)
        return compile_seconds - padding

    savings = {(one, other): saving(one, other) for other in range(len(groups)) for one in range(other)}
    alive = set(range(len(groups)))
    while savings:
        (one, other), most = max(savings.items(), key=lambda item: (item[1], (-item[0][0], -item[0][1])))
        if most <= 0:
            break
        (places, width, number), (other_places, other_width, other_number) = groups[one], groups[other]
        both = join(width, other_width)
        assert both is not None  # it saves something
        groups.append((tuple(sorted((*places, *other_places))), both, number + other_number))
        alive -= {one, other}
        savings = {pair: saved for pair, saved in savings.items() if not {one, other} & set(pair)}
        new = len(groups) - 1
        savings.update({(old, new): saving(old, new) for old in alive})
        alive.add(new)
    return sorted((groups[place][0], groups[place][1]) for place in alive)


@dataclasses.dataclass(frozen=True)
class ProgramCosts:
    """What compiling and training cost, in seconds of one core, by what was measured so far.

    Attributes:
        compile_seconds: of a program, its steps traced and compiled.
        seconds_per_flop: of a multiplication, and of adding what comes of it.

    Example: an epoch of 1,000 rows in 10 steps, at ten billion of them a second and .1 ms a step.

    >>> round(ProgramCosts(seconds_per_flop=1e-10).epoch(flops=1e6, rows=1000, steps=10), 3)
    0.101
    """

    compile_seconds: float = _COMPILE_SECONDS
    seconds_per_flop: float = _SECONDS_PER_FLOP

    def epoch(self, *, flops: float, rows: float, steps: int) -> float:
        """Seconds of one member's epoch, of so many multiplications and additions a row."""
        return flops * rows * self.seconds_per_flop + steps * _STEP_SECONDS

    @classmethod
    def measured(cls, programs: Iterable[SharedProgram], work: Iterable[tuple[float, int, float]]) -> ProgramCosts:
        """What programs have told.

        Args:
            programs: all there are.
            work: flops, steps and a core's seconds of an epoch of those that were timed.
        """
        made = [program for program in programs if program.num_compilations]
        # Also what Python takes: a program that lies in the cache on disk costs little else.
        spent = sum(program.price_seconds for program in made)
        flops, steps, seconds = np.asarray([*work] or [(0, 0, 0)], np.float64).sum(axis=0)
        per_flop = max(seconds - steps * _STEP_SECONDS, 0.2 * seconds) / flops if flops else _SECONDS_PER_FLOP
        compile_seconds = (_GUESSES * _COMPILE_SECONDS + spent) / (_GUESSES + len(made))
        return cls(compile_seconds, float(per_flop))
