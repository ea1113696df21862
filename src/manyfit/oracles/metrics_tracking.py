"""KerasTuner's view of a trial's metrics: what was observed at which step, and which was best.

The book of trials keeps executions with whole curves; code that was written for KerasTuner asks
`trial.metrics.get_best_value("val_loss")` instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.history import numbers_of
from manyfit.core.objective import Direction, infer_metric_direction


class MetricObservation:
    """Values of a metric that were observed at one step, one per execution.

    Args:
        value: a number, or several.
        step: when it was observed, usually the epoch, counted from 0.

    Example:

    >>> MetricObservation([1.0, 3.0], step=2).mean()
    2.0
    """

    def __init__(self, value: float | Sequence[float], step: int) -> None:
        self.value: list[float] = list(value) if isinstance(value, Sequence) else [value]
        self.step = step

    def append(self, value: float | Sequence[float]) -> None:
        """Adds a number, or several."""
        self.value.extend(value if isinstance(value, Sequence) else [value])

    def mean(self) -> float:
        """The mean of the values."""
        return float(np.mean(self.value))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, as JSON."""
        return {"value": list(self.value), "step": self.step}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> MetricObservation:
        """An observation from what `get_config` gave."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MetricObservation) and (self.value, self.step) == (other.value, other.step)

    def __hash__(self) -> int:
        return hash((tuple(self.value), self.step))

    def __repr__(self) -> str:
        return f"MetricObservation(value={self.value}, step={self.step})"


class MetricHistory:
    """All observations of one metric.

    Args:
        direction: "min" or "max": where the best value is.

    Raises:
        UsageError: another direction.
    """

    def __init__(self, direction: str = "min") -> None:
        if direction not in ("min", "max"):
            raise UsageError(
                explain(
                    "MetricHistory",
                    f"`direction` should be one of {{'min', 'max'}}, but got: {direction}",
                    '"min" or "max"',
                    'Type direction="max", say.',
                )
            )
        self.direction: Direction = "max" if direction == "max" else "min"
        self._observations: dict[int, MetricObservation] = {}

    def update(self, value: float | Sequence[float], step: int) -> None:
        """Takes a value; further ones of a step that was observed before are averaged with it."""
        if step in self._observations:
            self._observations[step].append(value)
        else:
            self._observations[step] = MetricObservation(value, step)

    def get_history(self) -> list[MetricObservation]:
        """The observations in the order of their steps."""
        return sorted(self._observations.values(), key=lambda observation: observation.step)

    def set_history(self, observations: Iterable[MetricObservation]) -> None:
        """Takes observations, in addition to those that are there."""
        for observation in observations:
            self.update(observation.value, step=observation.step)

    def get_best_value(self) -> float | None:
        """The best mean; NaN never is. None without observations."""
        # KerasTuner answers NaN when nothing but NaN was observed, and None when nothing was; programs tell by it.
        means = [observation.mean() for observation in self._observations.values()]
        numbers = [mean for mean in means if not math.isnan(mean)]
        if not numbers:
            return math.nan if means else None
        return max(numbers) if self.direction == "max" else min(numbers)

    def get_best_step(self) -> int | None:
        """The first step with the best mean; None without one."""
        best = self.get_best_value()
        return next((each.step for each in self.get_history() if each.mean() == best), None)

    def get_last_value(self) -> float | None:
        """The mean at the last step; None without observations."""
        history = self.get_history()
        return history[-1].mean() if history else None

    def get_statistics(self) -> dict[str, float]:
        """Minimum, maximum, mean, median, variance and standard deviation of the means over steps."""
        means = [observation.mean() for observation in self.get_history()]
        if not means:
            return {}
        functions: dict[str, Any] = {"min": np.nanmin, "max": np.nanmax, "mean": np.nanmean, "median": np.nanmedian}
        functions |= {"var": np.nanvar, "std": np.nanstd}
        return {name: float(function(means)) for name, function in functions.items()}

    def get_config(self) -> dict[str, Any]:
        """Everything, as JSON, under KerasTuner's keys."""
        return {
            "direction": self.direction,
            "observations": [observation.get_config() for observation in self.get_history()],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> MetricHistory:
        """A history from what `get_config` gave."""
        history = cls(config["direction"])
        history.set_history(MetricObservation.from_config(each) for each in config["observations"])
        return history


class MetricsTracker(Mapping[str, float]):
    """The metrics of a trial: as a mapping, the last value of each; by method, KerasTuner's access to all of them.

    Args:
        metrics: names to register, or Keras metrics.

    Example:

    >>> tracker = MetricsTracker()
    >>> tracker.update("accuracy", 0.5, step=0)
    True
    >>> tracker.update("accuracy", 0.4, step=1)
    False
    >>> tracker.get_best_value("accuracy"), tracker.get_best_step("accuracy"), tracker["accuracy"]
    (0.5, 0, 0.4)
    """

    def __init__(self, metrics: Iterable[Any] | None = None) -> None:
        self.metrics: dict[str, MetricHistory] = {}
        self.register_metrics(metrics)

    def exists(self, name: str) -> bool:
        """Whether the metric is registered."""
        return name in self.metrics

    def register_metrics(self, metrics: Iterable[Any] | None = None) -> None:
        """Registers metrics by their names."""
        for metric in metrics or ():
            self.register(metric if isinstance(metric, str) else metric.name)

    def register(self, name: str, direction: str | None = None) -> None:
        """Registers a metric.

        Args:
            name: its name.
            direction: "min" or "max"; None: told from the name, "min" where it does not tell.

        Raises:
            UsageError: it is registered already, or the direction is another.
        """
        if self.exists(name):
            raise UsageError(
                explain("metrics.register", f"Metric already exists: {name}", "a new name", "Type metrics.update(...).")
            )
        self.metrics[name] = MetricHistory(direction or infer_metric_direction(name) or "min")

    def update(self, name: str, value: float, step: int = 0) -> bool:
        """Takes a value, registering the metric where it is new; an array as one metric per element.

        Returns:
            Whether the best value changed, of any of them.
        """
        changed = False
        for each, number in numbers_of({name: value}).items():
            if not self.exists(each):
                self.register(each)
            before = self.metrics[each].get_best_value()
            self.metrics[each].update(number, step=step)
            changed |= self.metrics[each].get_best_value() != before
        return changed

    def get_history(self, name: str) -> list[MetricObservation]:
        """The observations of a metric in the order of their steps."""
        return self._known(name).get_history()

    def set_history(self, name: str, observations: Iterable[MetricObservation]) -> None:
        """Takes observations of a metric, registering it where it is new."""
        if not self.exists(name):
            self.register(name)
        self.metrics[name].set_history(observations)

    def get_best_value(self, name: str) -> float | None:
        """The best value of a metric."""
        return self._known(name).get_best_value()

    def get_best_step(self, name: str) -> int | None:
        """The step of the best value of a metric."""
        return self._known(name).get_best_step()

    def get_statistics(self, name: str) -> dict[str, float]:
        """Minimum, maximum, mean, median, variance and standard deviation of a metric over steps."""
        return self._known(name).get_statistics()

    def get_last_value(self, name: str) -> float | None:
        """The last value of a metric."""
        return self._known(name).get_last_value()

    def get_direction(self, name: str) -> str:
        """ "min" or "max"."""
        return self._known(name).direction

    def get_config(self) -> dict[str, Any]:
        """Everything, as JSON, under KerasTuner's keys."""
        return {"metrics": {name: history.get_config() for name, history in self.metrics.items()}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> MetricsTracker:
        """A tracker from what `get_config` gave."""
        tracker = cls()
        tracker.metrics = {name: MetricHistory.from_config(each) for name, each in config["metrics"].items()}
        return tracker

    def _known(self, name: str) -> MetricHistory:
        if name not in self.metrics:
            known = ", ".join(self.metrics) or "none yet"
            raise UsageError(
                explain("metrics", f"Unknown metric: {name}", known, "Report it with oracle.update_trial first.")
            )
        return self.metrics[name]

    def __getitem__(self, name: str) -> float:
        value = self.metrics[name].get_last_value()
        return math.nan if value is None else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def __repr__(self) -> str:
        return f"MetricsTracker({dict(self)})"
