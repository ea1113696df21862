"""Members in memory: on the JAX backend all Keras models predict as one compiled program.

Models of one structure are stacked on a leading axis and run under `vmap`; the others run side by side in the same
program. On a CPU convolutions are not stacked: `vmap` turns them into a grouped form that XLA runs more slowly there.
The first rows are also predicted with `model.predict`; where the program disagrees (layers that keep state outside
their variables, such as an adapted `Normalization`, cannot be stacked), the stack is undone, and if that is not
enough, the models run one after another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from manyfit.ensemble.batches import count_rows, padded, slice_rows, sliceable
from manyfit.ensemble.members import Member, as_columns, emits_logits, link, model_predictions

_CHECKED_ROWS = 16
_TOLERANCE = 1e-5
_IRRELEVANT = ("name", "seed", "rate", "build_config", "registered_name", "module", "shared_object_id")


class Program:
    """Predicts all members; compiled when first used, and again when the shape of the rows changes."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        self.models = [model for member in members for model in member.models]
        self.stacked = True
        self.compiled = backend() == "jax" and len(self.models) > 1 and all(m.all_keras for m in members)
        self._groups: list[_Group] = []
        self._run: Callable[..., list[Any]] | None = None
        self._checked = False

    def predict(self, x: Any, *, batch_size: int) -> list[np.ndarray]:
        """One (n, C) array per member."""
        if not self.compiled or not sliceable(x):
            return [member.predict(x, batch_size=batch_size) for member in self.members]
        if not self._checked:
            self._check(x, batch_size)
            return self.predict(x, batch_size=batch_size)
        return self._per_member(self._outputs(x, batch_size))

    def _per_member(self, outputs: list[np.ndarray]) -> list[np.ndarray]:
        answers, position = [], 0
        for member in self.members:
            parts = outputs[position : position + len(member.models)]
            position += len(member.models)
            answers.append(parts[0] if len(parts) == 1 else np.mean(parts, axis=0))
        return answers

    def _check(self, x: Any, batch_size: int) -> None:
        """Settles the layout: the fastest that agrees with `model.predict`."""
        few = slice_rows(x, 0, _CHECKED_ROWS)
        truth = [model_predictions(model, few, batch_size) for model in self.models]
        for stacked in (True, False):
            self.stacked = stacked
            try:
                self._build()
                outputs = self._outputs(few, batch_size)
            except (TypeError, ValueError, NotImplementedError, RuntimeError, AttributeError):
                continue  # a layer that cannot be traced
            if all(_close(output, right) for output, right in zip(outputs, truth, strict=True)):
                self._checked = True
                return
        self.compiled = False

    def _build(self) -> None:
        import jax

        by_structure: dict[str, list[int]] = {}
        for index, model in enumerate(self.models):
            alone = not self.stacked or is_slower_stacked(model)
            by_structure.setdefault(f"alone {index}" if alone else structure_of(model), []).append(index)
        self._groups = [_Group([self.models[i] for i in indices], indices) for indices in by_structure.values()]
        groups = self._groups

        def run(variables: list[Any], rows: Any) -> list[Any]:
            return [group.call(values, rows) for group, values in zip(groups, variables, strict=True)]

        self._run = jax.jit(run)

    def _outputs(self, x: Any, batch_size: int) -> list[np.ndarray]:
        assert self._run is not None
        num_rows = count_rows(x)
        size = min(batch_size, 1 << max(num_rows - 1, 0).bit_length())
        variables = [group.variables() for group in self._groups]
        parts = [
            self._run(variables, padded(slice_rows(x, start, start + size), size)) for start in range(0, num_rows, size)
        ]  # all batches are queued before the first is fetched
        answers: list[np.ndarray] = [np.empty(0)] * len(self.models)
        for position, group in enumerate(self._groups):
            joined = np.concatenate([np.asarray(part[position]) for part in parts], axis=1)[:, :num_rows]
            for place, index in enumerate(group.indices):
                answers[index] = link(as_columns(joined[place]), emits_logits(self.models[index]))
        return answers


class _Group:
    """Models that run as one call: stacked if there are several."""

    def __init__(self, models: list[Any], indices: list[int]) -> None:
        self.models = models
        self.indices = indices
        self._seen: list[Any] = []
        self._stacked: Any = None

    def variables(self) -> Any:
        """Current values of the models' variables, on a leading axis; stacked again only if one of them changed."""
        import jax.numpy as jnp

        values = [values_of(model) for model in self.models]
        flat = [leaf for pair in values for part in pair for leaf in part]
        if self._stacked is None or any(a is not b for a, b in zip(flat, self._seen, strict=True)):
            trainable = [jnp.stack(column) for column in zip(*(pair[0] for pair in values), strict=True)]
            fixed = [jnp.stack(column) for column in zip(*(pair[1] for pair in values), strict=True)]
            self._seen, self._stacked = flat, (trainable, fixed)
        return self._stacked

    def call(self, variables: Any, rows: Any) -> Any:
        """(members, rows, columns) outputs in float32."""
        import jax
        import jax.numpy as jnp

        def one(trainable: Any, fixed: Any) -> Any:
            outputs, _ = self.models[0].stateless_call(trainable, fixed, rows, training=False)
            return jnp.asarray(outputs, jnp.float32)

        if len(self.models) == 1:
            return one([v[0] for v in variables[0]], [v[0] for v in variables[1]])[None]
        return jax.vmap(one)(*variables)


def backend() -> str:
    """Keras's backend; empty where Keras is not loaded."""
    import sys

    keras = sys.modules.get("keras")
    return keras.backend.backend() if keras is not None else ""


def structure_of(model: Any) -> str:
    """A text that is equal for models that differ in their variables only."""
    shapes = [tuple(v.shape) for v in model.variables] + [str(v.dtype) for v in model.variables]
    try:
        return json.dumps([_essence(model.get_config()), shapes], default=str, sort_keys=True)
    except (NotImplementedError, TypeError, ValueError):
        return f"unknown {id(model)}"


def _essence(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            key: _essence(value)
            for key, value in config.items()
            if key not in _IRRELEVANT and not key.endswith(("_initializer", "_regularizer", "_constraint"))
        }
    if isinstance(config, list | tuple):
        if len(config) == 3 and isinstance(config[0], str) and isinstance(config[1], int):
            return [config[1], config[2]]  # the history of a tensor: the name of its layer says nothing
        return [_essence(value) for value in config]
    return config


def values_of(model: Any) -> tuple[list[Any], list[Any]]:
    """What a model's trainable and its other variables hold."""
    return [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]


def is_slower_stacked(model: Any) -> bool:
    """Whether models of this structure are slower under `vmap` than one by one, as convolutions on a CPU are."""
    import jax

    on_cpu = jax.default_backend() == "cpu"
    return on_cpu and any("Conv" in type(layer).__name__ for layer in model._flatten_layers())


def _close(output: np.ndarray, right: np.ndarray) -> bool:
    return output.shape == right.shape and bool(
        np.allclose(
            output, right, rtol=_TOLERANCE, atol=_TOLERANCE * max(float(np.abs(right).max()), 1.0), equal_nan=True
        )
    )
