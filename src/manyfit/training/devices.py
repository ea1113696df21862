"""One model over several devices: Keras's distributions, and the checks that Keras does not make."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import keras

from manyfit.core.errors import FatalValueError, explain
from manyfit.data.call import Call
from manyfit.training.keras_internals.building import layout_rules

Devices: TypeAlias = "str | keras.distribution.DataParallel | keras.distribution.ModelParallel | None"
"""None: each model on one device; "data_parallel": each model on all of them; or a Keras distribution."""

Distribution: TypeAlias = "keras.distribution.DataParallel | keras.distribution.ModelParallel"
"""How one model is laid out over devices."""


def check_devices(devices: object) -> None:
    """Checks an argument `devices`.

    Raises:
        FatalValueError: it is no distribution, or Keras's backend has none.
    """
    if devices is None:
        return
    if devices != "data_parallel" and not hasattr(devices, "get_variable_layout"):
        raise FatalValueError(
            explain(
                "devices",
                devices,
                '"data_parallel", a keras.distribution.DataParallel or ModelParallel, or None',
                "Leave it out: the models of a search are spread over all devices by themselves.",
            )
        )
    backend = keras.backend.backend()
    if backend != "jax":
        instead = {
            "tensorflow": "Type distribution_strategy=tf.distribute.MirroredStrategy() instead.",
        }.get(backend, "Set KERAS_BACKEND=jax, or leave it out.")
        raise FatalValueError(explain("devices", f"{devices!r} on {backend}", "the JAX backend", instead))


def distribution_of(devices: Devices) -> Distribution | None:
    """The distribution that an argument `devices` names.

    One over several processes reads each process's own part of the data, so Keras is not asked to divide them.
    """
    if devices != "data_parallel":
        return devices
    return keras.distribution.DataParallel(auto_shard_dataset=False)


@contextlib.contextmanager
def distributed(distribution: Distribution | None) -> Iterator[None]:
    """Models that are built and trained inside are laid out over devices; without a distribution nothing happens."""
    if distribution is None:
        yield
        return
    with distribution.scope():
        yield


class LayoutCheck(keras.callbacks.Callback):
    """Before the first step, refuses layout rules that match no variable of the model.

    Keras leaves what no rule matches whole on every device, without a word: a renamed layer shows as memory that runs
    out.

    Raises:
        FatalValueError: a rule matches nothing.
    """

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        self._rules = list(layout_rules(distribution))

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        paths = [variable.path for variable in self.model.variables]
        idle = [rule for rule in self._rules if not any(rule == path or re.fullmatch(rule, path) for path in paths)]
        if idle:
            raise FatalValueError(
                explain(
                    "devices=ModelParallel(layout_map=...)",
                    f"rule {idle[0]!r}, which matches no variable, so nothing would be divided by it",
                    f"regular expressions that match a whole path, such as {', '.join(paths[:4])}",
                    f"Type {_suggestion(idle[0], paths)!r}, say, or remove the rule.",
                )
            )


def _suggestion(rule: str, paths: Sequence[str]) -> str:
    """A rule that does match: the same one for a part of the path, or the first path."""
    inside = f".*{rule}.*"
    return inside if any(re.fullmatch(inside, path) for path in paths) else paths[0]


def check_batches(distribution: Distribution | None, call: Call) -> None:
    """Refuses batches that cannot be divided equally between a distribution's copies of the model.

    Args:
        distribution: a Keras distribution, or None.
        call: of `fit`.

    Raises:
        FatalValueError: a full batch, or the short one at the end, does not divide.
    """
    if distribution is None:
        return
    copies = max(1, distribution.num_model_replicas // distribution.num_processes)
    size = call.get("batch_size") or 32
    validation_size = call.get("validation_batch_size") or size
    validation = call.validation_rows()
    rows, held_out = call.training_rows().num_rows, None if validation is None else validation.num_rows
    for count, batch in ((rows, size), (held_out, validation_size)):
        if count is None:
            continue
        for part in (min(batch, count), count % batch):
            if part % copies:
                fitting = max(1, batch // copies) * copies
                raise FatalValueError(
                    explain(
                        "search(batch_size=...)",
                        f"{count} rows in batches of {batch}: one has {part} rows, for {copies} copies of the model",
                        f"batches, the last one included, whose rows {copies} divides",
                        f"Type batch_size={fitting} and pass {count - count % copies} rows, or leave devices out.",
                    )
                )
