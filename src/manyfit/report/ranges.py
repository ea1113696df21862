"""What trials were tried with, as columns: each hyperparameter in which they differ, with its range and scale."""

from __future__ import annotations

import dataclasses
import functools
import math
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from manyfit.core.records import Value
from manyfit.report.snapshot import RecordedTrial, Snapshot

Given = ParamSpec("Given")
Found = TypeVar("Found")

_SPACE = "space"  # fact: the search space, as `HyperParameters.get_config` has it
_NUMBERS = ("Int", "Float")


@dataclasses.dataclass(frozen=True)
class SearchedRange:
    """A hyperparameter as it was searched.

    Attributes:
        name: its name.
        low: the least value that was allowed; NaN where it is no number. So for `high`.
        high: the greatest one.
        is_log: whether it was searched on a logarithmic scale.
        is_whole: whether it is a whole number.
        step: between values; None: any.
        choices: its values where it is no number, as texts, in their order; empty where it is one.
    """

    name: str
    low: float = math.nan
    high: float = math.nan
    is_log: bool = False
    is_whole: bool = False
    step: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def is_number(self) -> bool:
        """Whether values lie on a scale."""
        return not self.choices

    def value(self, trial: RecordedTrial) -> float | str | None:
        """A trial's value: a number, or a choice as a text; None where the hyperparameter was not active."""
        value = trial.values.get(self.name)
        if value is None:
            return None
        return float(value) if self.is_number else str(value)

    def share(self, value: float) -> float:
        """Where a number lies between the ends of the range: 0 to 1.

        Example:

        >>> SearchedRange("rate", 1.0, 64.0, is_log=True).share(8.0)
        0.5
        """
        low, high, at = (math.log(one) if self.is_log else one for one in (self.low, self.high, value))
        return 0.5 if high <= low else min(1.0, max(0.0, (at - low) / (high - low)))

    def at(self, share: float) -> float:
        """The inverse of `share`."""
        if self.is_log:
            return self.low * math.exp(share * math.log(self.high / self.low))
        return self.low + share * (self.high - self.low)


def remembered(read: Callable[Concatenate[Snapshot, Given], Found]) -> Callable[Concatenate[Snapshot, Given], Found]:
    """A function of a snapshot that reads it once, and knows the answer as long as the snapshot is there.

    Args:
        read: its answers are shared, so nobody may change them.
    """
    kept: weakref.WeakKeyDictionary[Snapshot, dict[Hashable, Found]] = weakref.WeakKeyDictionary()

    @functools.wraps(read)
    def asked(snapshot: Snapshot, *given: Given.args, **named: Given.kwargs) -> Found:
        own = kept.setdefault(snapshot, {})
        key = (given, *sorted(named.items()))
        if key not in own:
            own[key] = read(snapshot, *given, **named)
        return own[key]

    return asked


@remembered
def searched_ranges(snapshot: Snapshot) -> list[SearchedRange]:
    """The hyperparameters in which trials differ, in the order of the space."""
    declared: dict[str, list[Mapping[str, object]]] = {}
    for entry in (snapshot.facts.get(_SPACE) or {}).get("space", ()):
        config = dict(entry.get("config") or {})
        declared.setdefault(str(config.get("name")), []).append({**config, "kind": entry.get("class_name")})
    tried: dict[str, list[Value]] = {name: [] for name in snapshot.varied}
    for trial in snapshot.trials:
        for name in tried:
            if name in trial.values:
                tried[name].append(trial.values[name])
    order = [name for name in declared if name in tried] + [name for name in tried if name not in declared]
    return [_range(name, declared.get(name, ()), tried[name]) for name in order]


def _range(name: str, declared: Sequence[Mapping[str, object]], tried: Sequence[Value]) -> SearchedRange:
    numbers = [float(value) for value in tried if isinstance(value, int | float) and not isinstance(value, bool)]
    kinds = {config["kind"] for config in declared}
    # Trials decide, not the declaration alone: a project that grew may have had another kind of that name before.
    if len(numbers) < len(tried) or not (kinds <= set(_NUMBERS)):
        listed = [value for config in declared for value in config.get("values") or ()]  # type: ignore[attr-defined]
        return SearchedRange(name, choices=tuple(dict.fromkeys(map(str, [*listed, *sorted(tried, key=str)]))))
    ends = [config[end] for config in declared for end in ("min_value", "max_value") if config.get(end) is not None]
    known = [*numbers, *(float(end) for end in ends)]  # type: ignore[arg-type]  # of a file: numbers, or ValueError
    is_log = bool(declared) and all(config.get("sampling") == "log" for config in declared)
    # Declared several times, under conditions: what all of them allow together has no one step.
    step = declared[0].get("step") if len(declared) == 1 else None
    return SearchedRange(
        name,
        min(known),
        max(known),
        is_log=is_log and min(known) > 0,
        is_whole="Int" in kinds or all(number.is_integer() for number in numbers),
        step=None if step is None else float(step),  # type: ignore[arg-type]
    )
