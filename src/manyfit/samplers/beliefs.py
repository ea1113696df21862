"""Where good values of usual hyperparameters lie: a table by name, and the unit cube seen through it.

A search of minutes has room for a dozen configurations, and the lowest corner of a space, where a hyperparameter
without a default begins, is a poor first one. Names tell much: nobody calls anything else a learning rate. So `fit`
begins where the table says, and looks there first. Like any belief these fade as results come in, and exclude nothing.

The table holds conventions, defaults of Keras and of papers; each line says which. None of its numbers was tuned on the
benchmarks of this repository.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from manyfit.core.records import Value
from manyfit.samplers.base import OTHER_CATEGORY, Belief
from manyfit.space.categorical import Choice
from manyfit.space.encoding import Dimension, Encoding
from manyfit.space.hyperparameter import HyperParameter
from manyfit.space.hyperparameters import HyperParameters
from manyfit.space.numerical import Numerical

_NARROWEST, _WIDEST = 0.1, 0.35  # spreads, as shares of a range: a belief neither decides alone nor says nothing


@dataclasses.dataclass(frozen=True)
class Usual:
    """What is usual for hyperparameters of a name.

    Attributes:
        names: the words by which they go, each written as `a_b`; a name matches that contains them as whole words.
        values: the value, or several of which the first is taken that the hyperparameter has; None: the middle of its
            range on a log scale.
        factor: a good value is mostly no further than this factor from it; None: a quarter of the range.
        most: the range has to end there at the latest, or the name means something else.
        reason: why.
    """

    names: tuple[str, ...]
    values: tuple[Value, ...] | None
    reason: str
    factor: float | None = None
    most: float = math.inf


#: The first line counts whose words a name contains.
USUAL: tuple[Usual, ...] = (
    Usual(
        ("sgd_learning_rate", "sgd_lr", "learning_rate_sgd", "lr_sgd"),
        (1e-2,),
        "Keras's default for SGD; it takes larger steps than Adam",
        factor=3.0,
    ),
    Usual(
        ("learning_rate", "lr"),
        (1e-3,),
        "Keras's default for Adam; what is much larger diverges, what is much smaller is not done in minutes",
        factor=3.0,
    ),
    Usual(
        ("dropout", "dropout_rate", "drop_rate", "drop"),
        (0.2,),
        ".1 to .3 costs little where there is nothing to regularise, and .5 was for layers of 4096 units",
        factor=2.0,
        most=1.0,
    ),
    Usual(
        ("weight_decay", "l2", "regularizer", "regularization", "reg", "decay"),
        (1e-4,),
        "the convention since the first image models; an order of magnitude either way is common",
        factor=10.0,
        most=1.0,
    ),
    Usual(("l1",), (1e-5,), "weaker than l2, since it does not fade with the weights", factor=10.0, most=1.0),
    Usual(("momentum",), (0.9,), "the convention since Sutskever et al. 2013", most=1.0),
    Usual(("beta_1",), (0.9,), "Kingma and Ba 2015", most=1.0),
    Usual(("beta_2",), (0.999,), "Kingma and Ba 2015", most=1.0),
    Usual(("clipnorm", "clip_norm", "global_clipnorm"), (1.0,), "the convention for recurrent models", factor=3.0),
    Usual(
        ("optimizer",),
        ("adam", "adamw", "nadam"),
        "works with a learning rate that nobody has tuned; plain SGD rarely does",
    ),
    Usual(
        ("activation", "act"),
        ("relu", "gelu", "swish", "silu", "selu"),
        "the cheapest to compute, and rarely far behind",
    ),
    Usual(
        ("batch_size",),
        (64, 32, 128),
        "32 to 128: enough steps per epoch to learn, and few enough to be quick",
        factor=2.0,
    ),
    Usual(
        ("layers", "depth", "blocks", "num_layers", "n_layers"),
        (2,),
        "two fit most tables and small images; a third has to earn its seconds",
        factor=1.6,
    ),
    Usual(("heads", "num_heads"), (4,), "between 2 and 8 in models that train in minutes", factor=2.0),
    Usual(("kernel", "kernel_size"), (3,), "Simonyan and Zisserman 2015: several of 3 do what one larger does"),
    Usual(("pool", "pool_size"), (2,), "halves each side, as nearly all models do"),
    Usual(
        ("units", "neurons", "hidden", "width", "filters", "channels", "hidden_size", "hidden_dim", "embedding_dim"),
        None,
        "the middle of the range on a log scale: the ends are there for those who need them",
    ),
)


@dataclasses.dataclass(frozen=True)
class Held:
    """A belief that a search holds by itself.

    Attributes:
        belief: where good values are expected.
        reason: why, for people.
        begins: whether the first trial takes it; False: the user's own default is the first.
    """

    belief: Belief
    reason: str
    begins: bool = True

    def __str__(self) -> str:
        value = self.belief.value
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        return f"{self.belief.name} near {shown}: {self.reason}"


def usual_beliefs(space: HyperParameters, own: Sequence[Belief] = ()) -> list[Held]:
    """What the table says of a space.

    A default that the user has given is a belief of the user's, and is the centre in place of the table's value. (A
    default that is the first or the lowest value counts as not given, since nobody can tell.) Where the table's value
    is not in the range, the user knows something that the table does not, and it says nothing.

    Args:
        space: the search space as known so far.
        own: beliefs of the user's, which come first; the table says nothing of their names.

    Example:

    >>> space = HyperParameters()
    >>> _ = space.Float("learning_rate", 1e-4, 1e-1, sampling="log"), space.Int("units_1", 32, 512)
    >>> _ = space.Choice("optimizer", ["sgd", "Adam"]), space.Float("temperature", 0.0, 1.0)
    >>> for held in usual_beliefs(space):
    ...     print(held.belief.name, held.belief.value, round(held.belief.spread, 2))
    learning_rate 0.001 0.16
    units_1 128 0.25
    optimizer Adam 0.15
    """
    known = {belief.name: belief for belief in own}
    is_sgd = _is_of_sgd(space)
    found: list[Held] = []
    for name in dict.fromkeys(each.name for each in space.space):
        alike = [each for each in space.space if each.name == name]
        if name in known:
            found.append(Held(known[name], "your belief", begins=not _has_default(alike[0])))
            continue
        usual = _usual(name, is_sgd=is_sgd)
        # Under several conditions a name may mean several ranges: a value that one of them lacks is none.
        if usual is None or any(each.num_values == 1 or not each.same_domain(alike[0]) for each in alike):
            continue
        held = _held(alike[0], usual)
        if held is not None:
            found.append(held)
    return found


def _usual(name: str, *, is_sgd: bool = False) -> Usual | None:
    """The line of the table that a name belongs to; the plain learning rate of SGD is that of its longer names."""
    # "denseUnits2", "dense/units_2" and "dense-units-2" are the same three words.
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    words = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z]{3})\d+", "", apart)).strip("_")
    for usual in USUAL:
        if any(re.search(rf"(^|_){each}(_|$)", words) for each in usual.names):
            return USUAL[0] if is_sgd and usual is USUAL[1] else usual
    return None


def _is_of_sgd(space: HyperParameters) -> bool:
    """Whether the optimizer of a space is SGD, as far as names tell: it has a momentum, and there is no choice."""
    names = [usual.names[0] for each in space.space if (usual := _usual(each.name)) is not None]
    return "momentum" in names and "optimizer" not in names


def _has_default(hyperparameter: HyperParameter) -> bool:
    """Whether the user has given a default, as far as one can tell."""
    lowest = hyperparameter.prob_to_value(0.0), next(iter(hyperparameter.values), None)
    return hyperparameter.default not in lowest


def _held(hyperparameter: HyperParameter, usual: Usual) -> Held | None:
    value = _value(hyperparameter, usual)
    if value is None:
        return None
    if _has_default(hyperparameter):
        return Held(
            Belief(hyperparameter.name, hyperparameter.default, _spread(hyperparameter, hyperparameter.default, usual)),
            "your default",
            begins=False,
        )
    return Held(Belief(hyperparameter.name, value, _spread(hyperparameter, value, usual)), usual.reason)


def _value(hyperparameter: HyperParameter, usual: Usual) -> Value | None:
    """The usual value as this hyperparameter has it; None where the line is not about such a one."""
    if isinstance(hyperparameter, Choice) and isinstance(hyperparameter.default, str):
        names = {str(each).lower(): each for each in hyperparameter.values}
        wanted = (str(each) for each in usual.values or ())
        return next((names[each] for each in wanted if each in names), None)
    numbers = [each for each in usual.values or () if not isinstance(each, str)]
    bounds = _bounds(hyperparameter)
    if bounds is None or bounds[1] > usual.most or (usual.values is not None and not numbers):
        return None
    low, high = bounds
    if usual.values is None:
        centre = math.sqrt(low * high) if low > 0 else high / 4
    else:
        within = [float(each) for each in numbers if low <= float(each) <= high]
        if not within:
            return None
        centre = within[0]
    if isinstance(hyperparameter, Choice):
        return min(hyperparameter.values, key=lambda value: abs(math.log(float(value) or 1e-12) - math.log(centre)))
    if hyperparameter.contains(centre):
        return hyperparameter.cast(centre)
    return hyperparameter.prob_to_value(hyperparameter.value_to_prob(centre))


def _bounds(hyperparameter: HyperParameter) -> tuple[float, float] | None:
    """Lowest and highest of numbers; None for what is none, or may be negative."""
    if isinstance(hyperparameter, Numerical):
        bounds = float(hyperparameter.min_value), float(hyperparameter.max_value)
    elif isinstance(hyperparameter, Choice) and isinstance(hyperparameter.default, int | float):
        if isinstance(hyperparameter.default, bool):
            return None
        numbers = [float(each) for each in hyperparameter.values]
        bounds = min(numbers), max(numbers)
    else:
        return None
    return None if bounds[0] < 0 else bounds


def _spread(hyperparameter: HyperParameter, value: Value, usual: Usual) -> float:
    """The spread, as a share of the range on the hyperparameter's own scale."""
    if isinstance(value, str):
        return 0.15  # categories ignore it
    if usual.factor is None:
        return 0.25
    if isinstance(hyperparameter, Choice):
        return min(max(1.0 / len(list(hyperparameter.values)), _NARROWEST), _WIDEST)
    low, high = (hyperparameter.value_to_prob(float(value) * each) for each in (1 / usual.factor, usual.factor))
    # Beyond a bound there is nothing to see of the factor: what is seen counts twice.
    centre = hyperparameter.value_to_prob(value)
    reach = max(high - centre, centre - low)
    return min(max(reach, _NARROWEST), _WIDEST)


def first_values(space: HyperParameters, held: Sequence[Held]) -> dict[str, Value]:
    """The configuration that a search begins with: the user's defaults, and the table's where there are none.

    Example:

    >>> space = HyperParameters()
    >>> _ = space.Float("lr", 1e-5, 1e-1, sampling="log"), space.Int("steps", 1, 9, default=4)
    >>> first_values(space, usual_beliefs(space))
    {'lr': 0.001, 'steps': 4}
    """
    return Encoding(space).adapt({each.belief.name: each.belief.value for each in held if each.begins})


Array = NDArray[np.float64]


class Prior:
    """The unit cube through beliefs: uniform points become points that are as likely as they are believed in.

    Numbers follow a normal distribution around the belief, cut off at the bounds; a category other than the one
    believed in is a fifth as likely. What nobody has a belief about stays uniform.

    Args:
        encoding: of the space.
        beliefs: names that the space does not have are passed over.

    Example:

    >>> space = HyperParameters()
    >>> _ = space.Float("rate", 0.0, 1.0), space.Choice("kind", ["a", "b"])
    >>> prior = Prior(Encoding(space), [Belief("rate", 0.8, spread=0.1), Belief("kind", "b")])
    >>> prior.through(np.array([[0.5, 0.1], [0.5, 0.9]])).round(2).tolist()
    [[0.8, 0.25], [0.8, 0.75]]
    """

    def __init__(self, encoding: Encoding, beliefs: Sequence[Belief]) -> None:
        self._encoding = encoding
        self._beliefs: Mapping[str, Belief] = {each.name: each for each in beliefs}

    def through(self, points: Array) -> Array:
        """(n, d) points of the cube, uniform ones, as legal points of the prior; NaN where inactive."""
        seen = points.copy()
        for column, dimension in enumerate(self._encoding.dimensions):
            belief = self._beliefs.get(dimension.name)
            if belief is not None:
                shape = _of_category if dimension.kind == "unordered" else _of_number
                seen[:, column] = shape(dimension, belief, points[:, column])
        return self._encoding.snap(seen)


def _of_number(dimension: Dimension, belief: Belief, uniform: Array) -> Array:
    """Quantiles of a normal distribution that is cut off at 0 and 1."""
    centre = dimension.hyperparameter.value_to_prob(belief.value)
    low, high = ndtr((0.0 - centre) / belief.spread), ndtr((1.0 - centre) / belief.spread)
    found: Array = np.clip(centre + belief.spread * ndtri(low + uniform * (high - low)), 0.0, 1.0)
    return found


def _of_category(dimension: Dimension, belief: Belief, uniform: Array) -> Array:
    """The centres of categories, each as often as it is likely."""
    count = dimension.num_values or 1
    weights = np.full(count, OTHER_CATEGORY)
    weights[int(dimension.hyperparameter.nearest([belief.value])[0])] = 1.0
    ends = np.cumsum(weights) / weights.sum()
    chosen = np.minimum(np.searchsorted(ends, uniform, side="right"), count - 1)
    return dimension.hyperparameter.centres(chosen)
