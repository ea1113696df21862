"""What a model is but for what can be data: the outlines by which models of different structure find one twin.

An outline is read from a built model's configuration. It is a graph of *places*: one layer with weights or a shape of
its own, and what follows it alone: an activation, a normalisation, another activation, a dropout, each of which may be
absent. Places of one kind that follow each other are a *run*, whose length is the depth. Widths, activations, whether
there is a normalisation or a dropout, the depth and the optimizer are data; the rest is the outline's `kind`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from manyfit.training.population.embeddings import Widening, multiplications, rule_of

ABSENT = ""
"""The text of a normalisation or a dropout that is not there."""

STAGES = ("before", "norm", "after", "dropout")
FIXED = -1


@dataclasses.dataclass(frozen=True)
class Place:
    """One place of a run: its width and what may follow it, each a sorted tuple of texts of layers."""

    width: int
    before: tuple[str, ...]
    norm: tuple[str, ...]
    after: tuple[str, ...]
    dropout: tuple[str, ...]

    def covers(self, other: Place) -> bool:
        """Whether all of another is in it."""
        return self.width >= other.width and all(
            set(getattr(other, stage)) <= set(getattr(self, stage)) for stage in STAGES
        )

    @staticmethod
    def joined(places: Sequence[Place]) -> Place:
        """The least that covers all."""
        texts = [tuple(sorted({text for place in places for text in getattr(place, stage)})) for stage in STAGES]
        return Place(max(place.width for place in places), *texts)


@dataclasses.dataclass(frozen=True)
class Run:
    """Places of one kind that follow each other.

    Attributes:
        text: their layer, as a text of its class and configuration without what is data.
        inputs: numbers of the runs whose outputs the first of them reads.
        tie: the first of the runs whose widths are one; -1 where the width is not data.
        positions: at how many positions of an image or a sequence the layer is applied.
        least: how many of the places each member has; it may leave the run behind any of the others, too.
        places: in their order.
    """

    text: str
    inputs: tuple[int, ...]
    tie: int
    positions: int
    least: int
    places: tuple[Place, ...]

    @property
    def layer(self) -> tuple[str, dict[str, Any]]:
        """Class and configuration."""
        name, config = json.loads(self.text)
        return name, config

    @property
    def is_wide(self) -> bool:
        """Whether its width is data."""
        return self.tie != FIXED

    def covers(self, other: Run) -> bool:
        """Whether all of another of its kind is in it."""
        return (
            len(self.places) >= len(other.places)
            and self.least <= other.least
            and all(mine.covers(its) for mine, its in zip(self.places, other.places, strict=False))
        )


@dataclasses.dataclass(frozen=True)
class Outline:
    """What one twin serves.

    Attributes:
        runs: in the order of the layers.
        outputs: which runs are the model's inputs and outputs, as Keras nests them; the names of several; as a text.
        compiled: loss, metrics and so on, as a text.
        optimizers: the texts of those that occur.
    """

    runs: tuple[Run, ...]
    outputs: str
    compiled: str
    optimizers: tuple[str, ...]

    @functools.cached_property
    def kind(self) -> str:
        """Equal for models that one twin can serve, if it is wide enough."""
        parts = [(run.text, run.inputs, run.tie, run.positions) for run in self.runs]
        text = json.dumps([parts, self.outputs, self.compiled])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def covers(self, other: Outline) -> bool:
        """Whether a twin of this outline serves the models of another."""
        return (
            self.kind == other.kind
            and set(other.optimizers) <= set(self.optimizers)
            and all(mine.covers(its) for mine, its in zip(self.runs, other.runs, strict=True))
        )

    def joins(self, other: Outline) -> bool:
        """Whether one twin may serve the models of both: of a class of optimizers it has one, with its numbers."""
        texts = {*self.optimizers, *other.optimizers}
        return self.kind == other.kind and len(set(map(class_of_optimizer, texts))) == len(texts)

    def told(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Outline:
        """The inverse of `told`."""
        runs = []
        for run in told["runs"]:
            places = [Place(place["width"], *(tuple(place[stage]) for stage in STAGES)) for place in run["places"]]
            runs.append(Run(**{**run, "inputs": tuple(run["inputs"]), "places": tuple(places)}))
        return cls(tuple(runs), told["outputs"], told["compiled"], tuple(told["optimizers"]))

    @functools.cached_property
    def flops(self) -> float:
        """Multiplications of a training step for one row: forward, and twice as many backward."""
        sizes: list[int] = []
        total = 0.0
        for run in self.runs:
            name, config = run.layer
            rule = rule_of(name, config)
            read = [sizes[each] for each in run.inputs]
            written = []
            for place in run.places:
                size = size_of_output(rule, place.width, read, run.positions, config)
                if rule is not None:  # what has no rule is the same in all that are compared
                    total += multiplications(name, config, rule, (sum(read), size), run.positions)
                read = [size]
                written.append(size)
            sizes.append(sum(written[run.least - 1 :]))
        return 3 * total


def class_of_optimizer(text: str) -> str:
    """Its name, of one of the texts in `Outline.optimizers`."""
    name, _ = json.loads(text)
    return str(name)


def size_of_output(
    rule: Widening | None, width: int, inputs: Sequence[int], positions: int, config: Mapping[str, Any]
) -> int:
    """Units that a layer writes: its width, or what comes of those that it reads."""
    if rule is None or rule.output == "out" or not inputs:
        return width
    if rule.output == "both":
        return 2 * width
    if rule.output == "join":
        return sum(inputs)
    times = {"flat": positions, "deep": config.get("depth_multiplier", 1)}.get(rule.output, 1)
    return inputs[0] * times


def joined(outlines: Sequence[Outline], multiple: int = 8, *, alike: bool = False) -> Outline:
    """The least outline that covers several of one kind, with widths rounded up.

    Args:
        outlines: of one kind.
        multiple: widths become multiples of it; those below it, powers of two.
        alike: whether what may follow one place of a run may follow each: what is normalised in one place is so in
            others, as soon as a deeper model comes.
    """
    first = outlines[0]
    runs = []
    for parts in zip(*(outline.runs for outline in outlines), strict=True):
        depth = max(len(run.places) for run in parts)
        places = [
            Place.joined([run.places[number] for run in parts if number < len(run.places)]) for number in range(depth)
        ]
        if alike:
            each = Place.joined(places)
            places = [dataclasses.replace(each, width=place.width) for place in places]
        runs.append(dataclasses.replace(parts[0], places=tuple(places), least=min(run.least for run in parts)))
    optimizers = sorted({text for outline in outlines for text in outline.optimizers})
    widths = _wide_enough(runs, multiple)
    runs = [
        dataclasses.replace(
            run, places=tuple(dataclasses.replace(p, width=w) for p, w in zip(run.places, wide, strict=True))
        )
        for run, wide in zip(runs, widths, strict=True)
    ]
    return dataclasses.replace(first, runs=tuple(runs), optimizers=tuple(optimizers))


def _wide_enough(runs: Sequence[Run], multiple: int) -> list[list[int]]:
    widths = []
    for run in runs:
        wide = [place.width for place in run.places]
        if run.is_wide:
            tied = [place.width for other in runs if other.tie == run.tie for place in other.places]
            wide = [rounded_up(width, multiple) for width in wide]
            if sum(other.tie == run.tie for other in runs) > 1:
                wide = [rounded_up(max(tied), multiple)] * len(wide)
        widths.append(wide)
    return widths


def rounded_up(width: int, multiple: int) -> int:
    """The next multiple, or the next power of two where that is less."""
    step = min(multiple, 1 << max(width - 1, 0).bit_length())
    return math.ceil(width / step) * step
