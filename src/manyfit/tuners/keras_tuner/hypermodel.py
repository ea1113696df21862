"""What is searched: a function, or a class, that builds a model from hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from manyfit.core.errors import FatalValueError, explain
from manyfit.core.records import Values
from manyfit.core.signatures import checked_arguments
from manyfit.data.rows import Rows
from manyfit.space.hyperparameters import HyperParameters

BuildFunction: TypeAlias = Callable[[HyperParameters], object]
"""Takes `HyperParameters`, asks them for values, and returns a compiled Keras model or an estimator."""


@runtime_checkable
class ReadySpace(Protocol):
    """A build function that knows where to begin, and which rows its models can take; those of `kt.brands` do."""

    @property
    def starts(self) -> Sequence[Values]:
        """Values to begin a search with; what is missing has its default."""

    def check_rows(self, rows: Rows) -> None:
        """Refuses rows that its models cannot take."""


class Fits(Protocol):
    """A model that is trained by `fit`: Keras's, scikit-learn's, and those of the boosting libraries."""

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Trains."""


class HyperModel:
    """A build function as a class, for code that wants to be named, shared, or to override `fit`.

    Args:
        name: for people.
        tunable: False builds with the defaults; what `build` asks for is not searched.

    Example:

    >>> class Doubling(HyperModel):
    ...     def build(self, hp):
    ...         return 2 * hp.Int("a", 1, 5)
    """

    @checked_arguments()
    def __init__(self, name: str | None = None, tunable: bool = True) -> None:
        self.name = name
        self.tunable = tunable
        # On the instance, as in KerasTuner: users' subclasses override `build` without calling it through `super()`,
        # and `tunable=False` has to hold for them, too.
        self._build = self.build
        self.build = self._build_wrapper  # type: ignore[method-assign]

    def build(self, hp: HyperParameters) -> Any:
        """Builds a compiled model.

        Args:
            hp: the `HyperParameters` to ask for values.
        """
        raise NotImplementedError(f"{type(self).__name__}.build(hp) is abstract: override it and return a model.")

    def _build_wrapper(self, hp: HyperParameters, *args: Any, **kwargs: Any) -> Any:
        return self._build(hp if self.tunable else hp.copy(), *args, **kwargs)

    def declare_hyperparameters(self, hp: HyperParameters) -> None:
        """Override it to declare hyperparameters before the first build."""

    def fit(self, hp: HyperParameters, model: Fits, *args: Any, **kwargs: Any) -> Any:
        """Trains a model. Override it to tune the batch size, epochs or callbacks: `return model.fit(...)`.

        Args:
            hp: the trial's `HyperParameters`.
            model: what `build` returned.
            *args: positional arguments of `search`.
            **kwargs: keyword arguments of `search`; `callbacks` has Manyfit's added, pass it on to `model.fit`.

        Returns:
            A `History`, a dict of metrics with the objective in it, a number to be minimised, or a list of these.
        """
        return model.fit(*args, **kwargs)


class DefaultHyperModel(HyperModel):
    """A plain build function.

    Args:
        build: takes `HyperParameters`, returns a compiled model.
        name: for people.
        tunable: see `HyperModel`.
    """

    def __init__(self, build: BuildFunction, name: str | None = None, tunable: bool = True) -> None:
        super().__init__(name=name)
        self.build = build  # type: ignore[method-assign, assignment]
        self.tunable = tunable


def get_hypermodel(hypermodel: HyperModel | BuildFunction | None) -> HyperModel | None:
    """Understands what a user gave as `hypermodel`: None, a `HyperModel`, or a function.

    Raises:
        FatalValueError: it is none of these.
    """
    if hypermodel is None or isinstance(hypermodel, HyperModel):
        return hypermodel
    # A model in place of a function is the commonest slip: `hypermodel=build_model(hp)`.
    if callable(hypermodel) and not hasattr(hypermodel, "get_weights"):  # a Keras model is callable, too
        return DefaultHyperModel(hypermodel)
    raise FatalValueError(
        explain(
            "hypermodel",
            f"{hypermodel!r}. The `hypermodel` argument should be either a callable with signature build(hp) "
            "returning a model, or an instance of HyperModel",
            "a function or a HyperModel",
            "Type the function's name without calling it: hypermodel=build_model.",
        )
    )


def overrides_fit(hypermodel: HyperModel | None) -> bool:
    """Whether the user trains in a `fit` of their own."""
    return hypermodel is not None and ("fit" in vars(hypermodel) or type(hypermodel).fit is not HyperModel.fit)
