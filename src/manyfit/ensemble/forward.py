"""Predicts many models as they come, without a compilation for each.

`model.predict` traces and compiles anew for every model, which takes longer than many a small model trains. On the JAX
backend models that differ only in their variables share one compiled program here, and those that come together go
over the rows together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from manyfit.ensemble.batches import count_rows, flat_arrays, padded, slice_rows, sliceable
from manyfit.ensemble.members import as_columns, emits_logits, is_keras, link, model_predictions
from manyfit.ensemble.program import backend, is_slower_stacked, structure_of, values_of

_MAX_PROGRAMS = 64
_TOGETHER = 4  # models of one program
_MOST_KEPT = 1 << 26  # numbers


class Forward:
    """A memory of compiled programs, by structure.

    Args:
        keeps_rows: whether the rows predicted last stay on the device, up to a size: for many models that predict the
            same ones. They must not be changed in place then.

    Example:

    >>> class Double:
    ...     def predict(self, x):
    ...         return 2 * x
    >>> Forward().predict(Double(), np.array([1.0, 2.0])).tolist()
    [[2.0], [4.0]]
    """

    def __init__(self, *, keeps_rows: bool = False) -> None:
        self._programs: dict[str, Callable[..., Any]] = {}
        self._keeps_rows = keeps_rows
        self._kept: tuple[Any, int, list[Any]] = (None, 0, [])  # rows, batch size, batches on the device

    def predict(self, model: Any, x: Any, *, batch_size: int = 1024) -> np.ndarray:
        """(n, C) predictions of one model: probabilities or values, as `model_predictions` gives them.

        Args:
            model: a Keras model or an estimator.
            x: rows.
            batch_size: rows per batch.

        Raises:
            UsageError: the model has several outputs.
            UsageTypeError: it cannot predict.
        """
        return self.predict_several([model], x, batch_size=batch_size)[0]

    def predict_several(self, models: Sequence[Any], x: Any, *, batch_size: int = 1024) -> list[np.ndarray]:
        """What `predict` gives for each of several models; a few of one structure share the reading of the rows.

        Args:
            models: Keras models or estimators.
            x: rows.
            batch_size: rows per batch.

        Raises:
            UsageError: a model has several outputs.
            UsageTypeError: one cannot predict.
        """
        answers: dict[int, np.ndarray] = {}
        by_structure: dict[str, list[int]] = {}
        for place, model in enumerate(models):
            if is_keras(model) and backend() == "jax" and sliceable(x) and _is_plain(model):
                by_structure.setdefault(structure_of(model), []).append(place)
            else:
                answers[place] = model_predictions(model, x, batch_size)
        for structure, places in by_structure.items():
            together = 1 if is_slower_stacked(models[places[0]]) else _TOGETHER
            for start in range(0, len(places), together):
                some = places[start : start + together]
                found = self._predict(structure, [models[place] for place in some], x, batch_size)
                answers.update(zip(some, found, strict=True))
        return [answers[place] for place in range(len(models))]

    def _predict(self, structure: str, models: list[Any], x: Any, batch_size: int) -> list[np.ndarray]:
        """One model, or up to `_TOGETHER` of this structure."""
        slots = models if len(models) == 1 else [*models, *[models[-1]] * (_TOGETHER - len(models))]
        program = self._program(structure, slots)
        variables = [values_of(model) for model in slots]
        num_rows = count_rows(x)
        size = min(batch_size, 1 << max(num_rows - 1, 0).bit_length())
        parts = [program(variables, rows) for rows in self._batches(x, size)]  # queued before the first is fetched
        joined = np.concatenate([np.asarray(part) for part in parts], axis=1)[:, :num_rows]
        return [link(as_columns(one), emits_logits(model)) for one, model in zip(joined, models, strict=False)]

    def _batches(self, x: Any, size: int) -> Iterable[Any]:
        if self._kept[0] is x and self._kept[1] == size:
            return self._kept[2]
        batches = (padded(slice_rows(x, start, start + size), size) for start in range(0, count_rows(x), size))
        if not self._keeps_rows or sum(map(np.size, flat_arrays(x))) > _MOST_KEPT:
            return batches
        import jax

        self._kept = (x, size, [jax.device_put(batch) for batch in batches])
        return self._kept[2]

    def _program(self, structure: str, models: Sequence[Any]) -> Callable[..., Any]:
        """A compiled function of the variables of so many models, and of rows: (models, rows, ...) in float32."""
        key = f"{len(models)} {structure}"
        if key not in self._programs:
            import jax
            import jax.numpy as jnp

            model = models[0]

            def run(variables: list[Any], rows: Any) -> Any:
                def one(trainable: Any, fixed: Any) -> Any:
                    return jnp.asarray(model.stateless_call(trainable, fixed, rows, training=False)[0], jnp.float32)

                if len(variables) == 1:
                    return one(*variables[0])[None]
                return jax.vmap(one)(*jax.tree.map(lambda *values: jnp.stack(values), *variables))

            if len(self._programs) >= _MAX_PROGRAMS:
                del self._programs[next(iter(self._programs))]
            self._programs[key] = jax.jit(run)
        return self._programs[key]


def _is_plain(model: Any) -> bool:
    """Whether variables and configuration say all about a built model with one output: layers of Keras's own, none of
    them with adapted state or code of the user's."""
    layers = model._flatten_layers()
    return (
        model.built
        and not isinstance(getattr(model, "output", None), list | tuple | dict)
        and all(
            type(layer).__module__.startswith("keras.")
            and not hasattr(layer, "adapt")
            and type(layer).__name__ != "Lambda"
            for layer in layers
        )
    )
