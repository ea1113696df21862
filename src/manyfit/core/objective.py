"""What is optimised. The only file that flips a sign: inside Manyfit a *loss* is an objective where lower is better.

Whether a metric is better when larger or when smaller is told from its name. KerasTuner asks Keras's registry and takes
every metric outside a fixed list for "smaller is better", so a search for `val_f1_score` or `val_r2_score` looks for
the worst model. Names carry the answer; a name that does not is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from manyfit.core.environment import compat_of
from manyfit.core.errors import UsageError, UsageTypeError, explain
from manyfit.core.signatures import NAME, SOME, checked_arguments

MEASURES = {
    "num_parameters": "trainable parameters",
    "model_bytes": "memory of all weights, trainable or not",
    "predict_seconds": "time of one prediction for one row, compiled; the fastest of several",
    "train_seconds": "time of the training run; of an execution in a population, its share",
}
"""Metrics that trainers measure by themselves when an objective or a constraint names them: name -> what it is. One
number per execution, not per epoch; smaller is better for all of them."""


def measures_among(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names that trainers have to measure, in order.

    Example:

    >>> measures_among(["val_loss", "model_bytes"])
    ('model_bytes',)
    """
    return tuple(name for name in names if name in MEASURES)


class Objective:
    """A metric's name and the direction in which it improves.

    Args:
        name: the metric as `model.fit` logs it, for instance ``"val_accuracy"``.
        direction: ``"min"`` or ``"max"``.

    Raises:
        UsageError: `direction` is neither "min" nor "max".

    Example:

    >>> str(Objective("val_loss", "min"))
    'Objective(name="val_loss", direction="min")'
    """

    @checked_arguments(name=NAME)
    def __init__(self, name: str, direction: Direction) -> None:
        if direction not in ("min", "max"):
            raise UsageError(
                explain(
                    f'Objective("{name}")', f"direction={direction!r}", '"min" or "max"', 'Write direction="max", say.'
                )
            )
        self.name = name
        self.direction: Direction = direction

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics that it needs."""
        return (self.name,)

    @property
    def terms(self) -> tuple[Objective, ...]:
        """What trials are compared by: itself, or the objectives that are not traded for one another."""
        return (self,)

    def has_value(self, logs: Mapping[str, Any]) -> bool:
        """Whether the logs hold what this objective needs."""
        return self.name in logs

    def is_complete(self, metrics: Mapping[str, Any]) -> bool:
        """Whether the metrics of a whole execution hold everything, what is measured once (`MEASURES`) included."""
        return self.name in metrics

    def get_value(self, logs: Mapping[str, Any]) -> float:
        """The objective's value in the logs of one epoch, in the metric's own direction."""
        value: float = logs[self.name]
        return value

    def better_than(self, a: float, b: float) -> bool:
        """Whether `a` is strictly better than `b`; a value that is not finite is never better than one that is."""
        return self.loss(a) < self.loss(b)

    def loss(self, value: float | None) -> float:
        """The value with its sign turned so that lower is better; `inf` for None, NaN and infinities.

        Example:

        >>> Objective("val_accuracy", "max").loss(0.9), Objective("val_loss", "min").loss(float("nan"))
        (-0.9, inf)
        """
        if value is None or not math.isfinite(value):
            return math.inf
        return -float(value) if self.direction == "max" else float(value)

    def value(self, loss: float) -> float:
        """The inverse of `loss`, for showing to people."""
        return -loss if self.direction == "max" else loss

    def epoch_losses(self, history: Mapping[str, Sequence[float | None]]) -> list[float]:
        """One loss per epoch from per-epoch metrics; NaN where an epoch did not measure it, `inf` where it diverged.

        "Not measured" (`validation_freq=2`) is marked by None in the history; a NaN there is a measured NaN.
        """
        num_epochs = max((len(curve) for curve in history.values()), default=0)
        losses = []
        for epoch in range(num_epochs):
            entries = {name: curve[epoch] for name, curve in history.items() if epoch < len(curve)}
            logs = {name: value for name, value in entries.items() if value is not None}
            losses.append(self.epoch_loss(logs))
        return losses

    def epoch_loss(self, logs: Mapping[str, float]) -> float:
        """The loss that an epoch counts with: NaN where it did not measure the objective, `inf` where it diverged.

        It has diverged where its objective is not finite, and where what the model minimises is not, whatever the
        objective reads: weights that are NaN predict one class, which may well be the most frequent one. A training
        loss that is not finite says nothing of the weights where a loss scale skips such steps.

        Example:

        >>> objective = Objective("val_accuracy", "max")
        >>> [objective.epoch_loss({"val_accuracy": 0.9, "loss": loss}) for loss in (0.3, float("nan"))]
        [-0.9, inf]
        """
        if not self.has_value(logs):
            return math.nan
        minimised = ("val_loss",) if "loss_scale" in logs else ("loss", "val_loss")
        if not all(math.isfinite(logs.get(name, 0.0)) for name in minimised):
            return math.inf
        return self.loss(self.get_value(logs))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Objective) and (self.name, self.direction) == (other.name, other.direction)

    def __hash__(self) -> int:
        return hash((self.name, self.direction))

    def __str__(self) -> str:
        return f'{type(self).__name__}(name="{self.name}", direction="{self.direction}")'

    __repr__ = __str__


class DefaultObjective(Objective):
    """Stands in when `run_trial` or `HyperModel.fit` returns one number to be minimised."""

    def __init__(self) -> None:
        super().__init__("default_objective", "min")

    def __str__(self) -> str:
        return f'Objective(name="{self.name}", direction="{self.direction}")'  # KerasTuner's text

    __repr__ = __str__


class MultiObjective(Objective):
    """Several objectives as one sum to be minimised: terms to maximise are subtracted. The terms' scales decide.

    This is what KerasTuner makes of a list. Where the objectives are not to be traded for one another at a fixed
    price, give the list itself.

    Args:
        objectives: the terms: names or `Objective`.

    Raises:
        UsageError: a direction cannot be told from a name.

    Example:

    >>> MultiObjective(["val_loss", "val_accuracy"]).get_value({"val_loss": 0.5, "val_accuracy": 0.75})
    -0.25
    """

    @checked_arguments(objectives=SOME)
    def __init__(self, objectives: Sequence[str | Objective]) -> None:
        super().__init__("multi_objective", "min")
        self.objectives = [create_objective(term) for term in objectives]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(term.name for term in self.objectives)

    def has_value(self, logs: Mapping[str, Any]) -> bool:
        logged = [term for term in self.objectives if term.name not in MEASURES]
        return self.name in logs or all(term.has_value(logs) for term in logged or self.objectives)

    def is_complete(self, metrics: Mapping[str, Any]) -> bool:
        return self.name in metrics or all(name in metrics for name in self.names)

    def get_value(self, logs: Mapping[str, Any]) -> float:
        """The sum. What is measured once per execution is left out of the logs of an epoch, where it is unknown."""
        if self.name in logs:
            return super().get_value(logs)
        return math.fsum(term.value(term.get_value(logs)) for term in self.objectives if term.has_value(logs))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and set(self.objectives) == set(other.objectives)

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.objectives)))

    def __str__(self) -> str:
        return f"{super().__str__()}: [{', '.join(map(str, self.objectives))}]"

    __repr__ = __str__


class ParetoObjective(Objective):
    """Several objectives of which none is traded for another: the best trials are those that nothing dominates.

    The first one that is logged every epoch leads: it says which epoch of an execution counts, and schedulers and
    early stopping follow it. The others are read at that epoch.

    Args:
        objectives: two or more: names or `Objective`.

    Raises:
        UsageError: fewer than two, one of them twice, or a direction that cannot be told from a name.

    Example:

    >>> ParetoObjective(["model_bytes", "val_accuracy"]).losses({"model_bytes": 100.0, "val_accuracy": 0.9})
    (100.0, -0.9)
    """

    @checked_arguments()
    def __init__(self, objectives: Sequence[str | Objective]) -> None:
        self.objectives = tuple(create_objective(term) for term in objectives)
        names = [term.name for term in self.objectives]
        if len(names) < 2 or len(set(names)) < len(names):
            raise UsageError(
                explain(
                    "objective", f"the list {names}", "two or more different objectives", 'Type objective="val_loss".'
                )
            )
        leading = next((term for term in self.objectives if term.name not in MEASURES), self.objectives[0])
        super().__init__(leading.name, leading.direction)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(term.name for term in self.objectives)

    @property
    def terms(self) -> tuple[Objective, ...]:
        return self.objectives

    def has_value(self, logs: Mapping[str, Any]) -> bool:
        """Whether the logs hold all that is logged per epoch."""
        return all(name in logs for name in self.names if name not in MEASURES) and (
            self.name in logs or self.name in MEASURES
        )

    def is_complete(self, metrics: Mapping[str, Any]) -> bool:
        return all(name in metrics for name in self.names)

    def losses(self, metrics: Mapping[str, Any]) -> tuple[float, ...]:
        """One loss per objective from the metrics of an execution; `inf` where one is missing or not finite."""
        return tuple(term.loss(metrics.get(term.name)) for term in self.objectives)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParetoObjective) and self.objectives == other.objectives

    def __hash__(self) -> int:
        return hash(self.objectives)

    def __str__(self) -> str:
        return f"ParetoObjective: [{', '.join(map(str, self.objectives))}]"

    __repr__ = __str__


ObjectiveLike: TypeAlias = str | Objective | Sequence[str | Objective] | None
"""What users may give as an objective: a metric's name, an `Objective`, a list of these, or None where `run_trial`
returns the number to be minimised."""


def create_objective(objective: ObjectiveLike, *, compat: str | None = None) -> Objective:
    """Understands what a user gave as `objective`.

    Args:
        objective: a metric's name (its direction is told from the name), an `Objective`, a list of these (none is
            traded for another), or None (the number that `run_trial` returns is minimised).
        compat: "keras_tuner": a list means the sum of its terms; so it does in a program that runs in the drop-in mode.

    Raises:
        UsageError: the direction cannot be told from the name, the list is empty, or `compat` is another name.
        UsageTypeError: the objective is of another type.

    Example:

    >>> create_objective("val_auc")
    Objective(name="val_auc", direction="max")
    """
    if compat not in (None, "keras_tuner"):
        raise UsageError(explain("compat", repr(compat), 'None or "keras_tuner"', 'Type compat="keras_tuner".'))
    if objective is None:
        return DefaultObjective()
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, str):
        direction = infer_metric_direction(objective)
        if direction is None:
            raise UsageError(
                explain(
                    "objective",
                    f'"{objective}"; Could not infer optimization direction ("min" or "max") for this metric',
                    "a metric whose name tells its direction, or an Objective",
                    f'Type kt.Objective("{objective}", direction="max") if larger is better, else direction="min".',
                )
            )
        return Objective(objective, direction)
    if isinstance(objective, Sequence):
        if not objective:
            raise UsageError(
                explain("objective", "an empty list", "at least one objective", 'Type objective="val_accuracy", say.')
            )
        if compat_of(compat) == "keras_tuner":
            return MultiObjective(objective)
        return create_objective(objective[0]) if len(objective) == 1 else ParetoObjective(objective)
    raise UsageTypeError(
        explain(
            "objective",
            f"objective not understood, expected str or Objective, got {objective!r}",
            "a name, an Objective, or a list of these",
            'Type objective="val_accuracy", say.',
        )
    )


Direction = Literal["min", "max"]

# Matched as whole words against the end of the name first: an output's prefix ("loss_head_accuracy") is harmless.
_SMALLER = (
    "loss crossentropy cross_entropy entropy ce nll error err mse mae mape msle rmse rmsle mean_squared_error "
    "mean_absolute_error mean_absolute_percentage_error mean_squared_logarithmic_error root_mean_squared_error "
    "squared_error absolute_error percentage_error logarithmic_error hinge squared_hinge categorical_hinge poisson "
    "kl_divergence kld divergence log_cosh logcosh huber perplexity brier pinball quantile ctc dice_loss tversky "
    "circle false_positives false_negatives wer cer fid latency seconds bytes num_parameters"
)
_LARGER = (
    "acc accuracy auc roc_auc auroc auprc f1 f1_score f_score fbeta fbeta_score f_beta_score precision "
    "average_precision map recall r2 r2_score r_squared iou mean_iou io_u mean_io_u binary_io_u one_hot_io_u "
    "one_hot_mean_io_u dice dice_score dice_coefficient cosine_similarity cosine_proximity true_positives "
    "true_negatives sensitivity specificity sensitivity_at_specificity specificity_at_sensitivity precision_at_recall "
    "recall_at_precision pearson pearson_correlation spearman concordance_correlation correlation kappa cohen_kappa "
    "matthews mcc psnr ssim bleu rouge ndcg mrr hit_rate hits balanced_accuracy top_k_accuracy explained_variance "
    "reward likelihood log_likelihood score"
)
_DIRECTIONS: dict[str, Direction] = {
    **dict.fromkeys(_SMALLER.split(), "min"),
    **dict.fromkeys(_LARGER.split(), "max"),
}


def infer_metric_direction(metric: object) -> Direction | None:
    """Tells in which direction a metric improves.

    `val_` and `weighted_` prefixes, the numbers that Keras appends (`auc_1`), places in an array (`f1[0]`), CamelCase
    and the names of a model's outputs (`digit_accuracy`) are seen through. The longest known ending of it decides.

    Args:
        metric: a name as it stands in the logs of `model.fit`; or a Keras metric, loss or function, by its name.

    Returns:
        "min", "max", or None where the name does not tell.

    Example:

    >>> infer_metric_direction("val_f1_score"), infer_metric_direction("val_digit_mae"), infer_metric_direction("spam")
    ('max', 'min', None)
    """
    if not isinstance(metric, str):
        metric = metric.__name__ if hasattr(metric, "__name__") else type(metric).__name__
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", metric).lower()
    name = re.sub(r"(_\d+|(\[\d+\])+)$", "", name.removeprefix("val_").removeprefix("weighted_"))
    words = name.split("_")
    for start in range(len(words)):
        direction = _DIRECTIONS.get("_".join(words[start:]))
        if direction is not None:
            return direction
    return None
