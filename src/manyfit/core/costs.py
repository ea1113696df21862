"""What an execution cost, in seconds: measured once, kept with it, and never measured anew."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Costs:
    """The seconds of one execution's parts, as they were measured.

    They are facts of history like its curve: samplers read them, a search that goes on reads those of the process
    before, and nobody measures them a second time. 0 says that nothing was spent on a part, or that nobody saw it.

    Attributes:
        structure: names the program that trained it. Executions of one structure share what was compiled, so `compile`
            is the price of the first of them. None: it shares nothing, and whoever comes next pays anew.
        build: from the values to a model that can be trained.
        compile: tracing and compiling of its program, whichever execution waited for it.
        epoch: of one epoch, validation included; of a program that several executions share, this one's share.
        predict: of the predictions that were kept.

    Example:

    >>> first = Costs("a", build=0.1, compile=4.0, epoch=0.2, predict=0.1)
    >>> second = Costs("a", build=0.3, compile=4.0, epoch=0.3)
    >>> Costs.joined([first, second])
    Costs(structure='a', build=0.2, compile=4.0, epoch=0.25, predict=0.05)
    >>> Costs.from_dict(first.to_dict()) == first
    True
    """

    structure: str | None = None
    build: float = 0.0
    compile: float = 0.0
    epoch: float = 0.0
    predict: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As the store keeps it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Costs:
        """The inverse of `to_dict`; what a later version has added is left out."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in facts.items() if name in known})

    @classmethod
    def joined(cls, costs: Iterable[Costs]) -> Costs | None:
        """Those of one execution of a trial that had several: means, and the dearest compilation; None of none."""
        several = list(costs)
        if not several:
            return None
        mean = {name: statistics.fmean(getattr(one, name) for one in several) for name in ("build", "epoch", "predict")}
        # Of programs and not of executions: the first that needs one pays for all.
        return cls(several[0].structure, compile=max(one.compile for one in several), **mean)
