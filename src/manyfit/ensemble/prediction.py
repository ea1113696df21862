"""Predicting with several models at once: those of an ensemble, again and again, or those of a search, as they come.

`model.predict` traces and compiles anew for every model, which takes longer than many a small model trains. On the JAX
backend models that differ in their variables only are one program: their variables are stacked on a leading axis, and
the model is called under `vmap`. Two users, with two ways to be sure that this is right:

- `EnsembleProgram` predicts the same members many times. All run side by side in one program. It predicts the first
  rows with `model.predict` too; where the program disagrees (layers that keep state outside their variables, such as an
  adapted `Normalization`, cannot be stacked), the stack is undone, and if that is not enough, the models run one after
  another.
- `Forward` predicts every model once, so a check would cost as much as the prediction. It takes only models that need
  none: layers of Keras's own, without adapted state. It remembers the programs by structure.

On a CPU convolutions are not stacked: `vmap` turns them into a grouped form that XLA runs more slowly there.
"""

from __future__ import annotations

import collections
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from manyfit.data.kinds import NUMPY, FitData, is_nested, kind_of, leaves, map_leaves
from manyfit.ensemble.frozen_part import CutModel, KeptFeatures
from manyfit.ensemble.members import EnsembleMember, fixed_batch, is_keras, linked, mean_of, model_predictions
from manyfit.ensemble.outputs import Prediction
from manyfit.training.base import StandIn

if TYPE_CHECKING:  # both take seconds to load, and are needed only where there is a Keras model on JAX
    import jax
    import keras

Program: TypeAlias = "Callable[[list[Variables], FitData], jax.Array]"
"""Takes the variables of some models, and rows: (models, rows, ...) in float32."""
Variables: TypeAlias = "tuple[list[jax.Array], list[jax.Array]]"
"""What a model's trainable and its other variables hold; those of several have the models on a leading axis."""

# Few rows tell: a stack that takes the wrong layer's state is wrong on nearly every row.
_CHECKED_ROWS = 16
_TOLERANCE = 1e-5
# What may differ between models of one program: names, and what only matters in training.
_IRRELEVANT = ("name", "seed", "rate", "build_config", "registered_name", "module", "shared_object_id")
# A search of many structures would fill the memory with programs that nobody asks for again.
_MAX_PROGRAMS = 64
# They read the rows once. With more slots, more of them would be filled with copies.
_TOGETHER = 4  # models of one program in `Forward`
_MAX_KEPT_NUMBERS = 1 << 26
_AHEAD = 4  # batches that are on the device at once


class EnsembleProgram:
    """Predicts all members; compiled when first used, and again when the shape of the rows changes."""

    def __init__(self, members: Sequence[EnsembleMember]) -> None:
        self.members = list(members)
        self.models = [model for member in members for model in member.models]
        self.stacked = True
        self.compiled = (
            backend() == "jax"
            and len(self.models) > 1
            and all(m.all_keras for m in members)
            and not any(map(fixed_batch, self.models))
        )
        self._groups: list[_Group] = []
        self._run: Callable[[list[Variables], FitData], list[jax.Array]] | None = None
        self._checked = False

    @property
    def group_sizes(self) -> list[int]:
        """How many models each stack holds; empty before the first prediction."""
        return [len(group.models) for group in self._groups]

    def predict(self, x: FitData, *, batch_size: int) -> list[Prediction]:
        """What each member predicts, see `EnsembleMember.predict`."""
        if not self.compiled or not sliceable(x):
            return [member.predict(x, batch_size=batch_size) for member in self.members]
        if not self._checked:
            self._check(x, batch_size)
            return self.predict(x, batch_size=batch_size)
        return self._per_member(self._outputs(x, batch_size))

    def _per_member(self, outputs: list[np.ndarray]) -> list[Prediction]:
        answers, position = [], 0
        for member in self.members:
            answers.append(mean_of(outputs[position : position + len(member.models)]))
            position += len(member.models)
        return answers

    def _check(self, x: FitData, batch_size: int) -> None:
        """Settles the layout: the fastest that agrees with `model.predict`."""
        few = _slice_rows(x, 0, _CHECKED_ROWS)
        truth = [model_predictions(model, few, batch_size) for model in self.models]
        if any(map(is_nested, truth)):
            self.compiled = False  # several outputs each
            return
        for stacked in (True, False):
            self.stacked = stacked
            try:
                self._build()
                outputs = self._outputs(few, batch_size)
            except (TypeError, ValueError, NotImplementedError, RuntimeError, AttributeError):
                continue  # a layer that cannot be traced
            if all(_close(output, np.asarray(right)) for output, right in zip(outputs, truth, strict=True)):
                self._checked = True
                return
        # Neither layout agrees. It stays so: asking again would compile again and say the same.
        self.compiled = False

    def _build(self) -> None:
        import jax

        by_structure: dict[str, list[int]] = {}
        for index, model in enumerate(self.models):
            alone = not self.stacked or _is_slower_stacked(model)
            by_structure.setdefault(f"alone {index}" if alone else _structure_of(model), []).append(index)
        groups = [_Group([self.models[i] for i in indices], indices) for indices in by_structure.values()]

        def run(variables: list[Variables], rows: FitData) -> list[jax.Array]:
            return [
                call_stacked(group.models[0], one, rows, num_models=len(group.models))
                for group, one in zip(groups, variables, strict=True)
            ]

        self._groups, self._run = groups, jax.jit(run)

    def _outputs(self, x: FitData, batch_size: int) -> list[np.ndarray]:
        run = self._run
        assert run is not None  # our bug: `_check` builds it
        variables = [group.variables() for group in self._groups]
        joined = _in_batches(lambda rows: run(variables, rows), _batches(x, batch_size), _count_rows(x))
        answers: list[np.ndarray] = [np.empty(0)] * len(self.models)
        for group, outputs in zip(self._groups, joined, strict=True):
            for place, index in enumerate(group.indices):
                answers[index] = _finished(outputs[place], self.models[index])
        return answers


class _Group:
    """Models that run as one call: stacked if there are several."""

    def __init__(self, models: list[keras.Model], indices: list[int]) -> None:
        self.models = models
        self.indices = indices
        self._seen: list[jax.Array] = []
        self._stacked: Variables | None = None

    def variables(self) -> Variables:
        """Current values of the models' variables, on a leading axis; stacked again only if one of them changed."""
        values = [_values_of(model) for model in self.models]
        flat = [leaf for pair in values for part in pair for leaf in part]
        # Arrays of JAX are never changed in place, so another value is another object: no need to compare numbers.
        if self._stacked is None or any(a is not b for a, b in zip(flat, self._seen, strict=True)):
            self._seen, self._stacked = flat, _stack(values)
        return self._stacked


class Forward:
    """Predicts models as they come, with a memory of compiled programs, by structure.

    Args:
        keeps_rows: whether the rows predicted last stay on the device: for many models that predict the same ones.
            They must not be changed in place then.
        max_kept_numbers: rows with more numbers than this do not stay.

    Example:

    >>> class Double:
    ...     def predict(self, x):
    ...         return 2 * x
    >>> Forward().predict(Double(), np.array([1.0, 2.0])).tolist()
    [[2.0], [4.0]]
    """

    def __init__(self, *, keeps_rows: bool = False, max_kept_numbers: int = _MAX_KEPT_NUMBERS) -> None:
        self._programs: dict[str, Program] = {}
        self._max_kept_numbers = max_kept_numbers if keeps_rows else 0
        self._kept: tuple[FitData | None, int, list[FitData]] = (None, 0, [])  # rows, batch size, batches on the device
        self._features = KeptFeatures(self._max_kept_numbers) if keeps_rows else None

    def predict(self, model: object, x: FitData, *, batch_size: int = 1024) -> Prediction:
        """Predictions of one model: probabilities or values, as `model_predictions` gives them.

        Args:
            model: a Keras model or an estimator.
            x: rows.
            batch_size: rows per batch.

        Raises:
            UsageTypeError: it cannot predict.
        """
        return self.predict_several([model], x, batch_size=batch_size)[0]

    def predict_several(self, models: Sequence[object], x: FitData, *, batch_size: int = 1024) -> list[Prediction]:
        """What `predict` gives for each of several models; a few of one structure share the reading of the rows.

        Args:
            models: Keras models or estimators.
            x: rows.
            batch_size: rows per batch.

        Raises:
            UsageTypeError: one cannot predict.
        """
        answers: dict[int, Prediction] = {}
        by_structure: dict[str, list[tuple[int, keras.Model | StandIn]]] = {}
        for place, model in enumerate(models):
            if isinstance(model, StandIn):  # a trainer's on JAX
                by_structure.setdefault(f"stand-in {id(model.wide)}", []).append((place, model))
            elif is_keras(model) and backend() == "jax" and sliceable(x) and _is_plain(model):
                parts = None if self._features is None else CutModel.of(model)
                if parts is None:
                    by_structure.setdefault(_structure_of(model), []).append((place, model))
                else:
                    answers[place] = _finished(self._by_parts(parts, x, batch_size), model)
            else:
                answers[place] = model_predictions(model, x, batch_size)
        for structure, found in by_structure.items():
            together = 1 if _is_slower_stacked(_shell_of(found[0][1])) else _TOGETHER
            for start in range(0, len(found), together):
                some = found[start : start + together]
                outputs = self._predict(structure, [model for _, model in some], x, batch_size)
                answers.update((place, output) for (place, _), output in zip(some, outputs, strict=True))
        return [answers[place] for place in range(len(models))]

    def _by_parts(self, parts: CutModel, x: FitData, batch_size: int) -> np.ndarray:
        assert self._features is not None  # our bug: its caller asks
        front = _structure_of(parts.front)
        features = self._features.of(
            f"{front} {parts.weights_key()}", x, lambda: self._raw(front, [parts.front], x, batch_size)[0]
        )
        return self._raw(_structure_of(parts.head), [parts.head], features, batch_size)[0]

    def _predict(
        self, structure: str, models: list[keras.Model | StandIn], x: FitData, batch_size: int
    ) -> list[np.ndarray]:
        """What one model says, or each of up to `_TOGETHER` of this structure."""
        own = [model.model if isinstance(model, StandIn) else model for model in models]
        found = self._raw(structure, models, x, batch_size)
        return [_finished(one, model) for one, model in zip(found, own, strict=True)]

    def _raw(
        self, structure: str, models: list[keras.Model | StandIn], x: FitData, batch_size: int
    ) -> list[np.ndarray]:
        """The same, as the models answer it: logits stay such."""
        # Two sizes of stack only, one and all slots: two or three models fill up with copies of the last, since a
        # program for every number would be compiled for it, and costs more than the copies.
        slots = models if len(models) == 1 else [*models, *[models[-1]] * (_TOGETHER - len(models))]
        program = self._program(structure, _shell_of(slots[0]), len(slots))
        variables = [_values_of(model) for model in slots]
        batches = self._batches_of(x, batch_size)
        outputs = _in_batches(lambda rows: [program(variables, rows)], batches, _count_rows(x))[0]
        return list(outputs[: len(models)])

    def _batches_of(self, x: FitData, batch_size: int) -> Iterable[FitData]:
        if self._kept[0] is x and self._kept[1] == batch_size:
            return self._kept[2]
        batches = _batches(x, batch_size)
        if sum(map(np.size, leaves(x))) > self._max_kept_numbers:
            return batches
        import jax

        self._kept = (x, batch_size, [jax.device_put(batch) for batch in batches])
        return self._kept[2]

    def _program(self, structure: str, model: keras.Model, num_models: int) -> Program:
        """A compiled function of the variables of so many models, and of rows: (models, rows, ...) in float32."""
        key = f"{num_models} {structure}"
        if key not in self._programs:
            import jax

            def run(variables: list[Variables], rows: FitData) -> jax.Array:
                return call_stacked(model, _stack(variables), rows, num_models=len(variables))

            if len(self._programs) >= _MAX_PROGRAMS:
                del self._programs[next(iter(self._programs))]
            # Most structures predict a few thousand rows once: to compile them quickly is worth more than to run fast.
            self._programs[key] = jax.jit(run, compiler_options=_quick_options())
        return self._programs[key]


def call_stacked(model: keras.Model, variables: Variables, rows: FitData, *, num_models: int) -> jax.Array:
    """(models, n, ...) outputs in float32 of models that differ from `model` in their variables only, see `_stack`."""
    import jax
    import jax.numpy as jnp

    def one(trainable: list[jax.Array], fixed: list[jax.Array]) -> jax.Array:
        outputs, _ = model.stateless_call(trainable, fixed, rows, training=False)
        return jnp.asarray(outputs, jnp.float32)

    if num_models > 1:
        return jax.vmap(one)(*variables)
    # One runs without `vmap`, under which some layers fail, and convolutions on a CPU are slower.
    return one(*variables)[None]


def _stack(values: Sequence[Variables]) -> Variables:
    """Those of several models on a leading axis; those of one as they are."""
    if len(values) == 1:
        return values[0]
    import jax.numpy as jnp

    trainable, fixed = (
        [jnp.stack(column) for column in zip(*(pair[part] for pair in values), strict=True)] for part in (0, 1)
    )
    return trainable, fixed


def _in_batches(
    run: Callable[[FitData], list[jax.Array]], batches: Iterable[FitData], num_rows: int
) -> list[np.ndarray]:
    """Joins what `run` says of each batch, arrays (models, rows, ...), and drops the rows that filled up the last."""
    parts: list[list[np.ndarray]] = []
    queued: collections.deque[list[jax.Array]] = collections.deque()
    for rows in batches:
        # A few ahead, so that the device does not wait for this thread; not all, which would put all rows there.
        queued.append(run(rows))
        if len(queued) > _AHEAD:
            parts.append([np.asarray(one) for one in queued.popleft()])
    parts += [[np.asarray(one) for one in found] for found in queued]
    return [np.concatenate(of_group, axis=1)[:, :num_rows] for of_group in zip(*parts, strict=True)]


def _finished(output: np.ndarray, model: object) -> np.ndarray:
    return np.asarray(linked(output, model))


def backend() -> str:
    """Keras's backend; empty where Keras is not loaded."""
    keras = sys.modules.get("keras")
    return keras.backend.backend() if keras is not None else ""


def _structure_of(model: keras.Model) -> str:
    """A text that is equal for models that differ in their variables only."""
    shapes = [tuple(v.shape) for v in model.variables] + [str(v.dtype) for v in model.variables]
    try:
        return json.dumps([_essence(model.get_config()), shapes], default=str, sort_keys=True)
    except (NotImplementedError, TypeError, ValueError):
        return f"unknown {id(model)}"


def _essence(config: object) -> object:
    """The part of a configuration that decides what a model computes at prediction."""
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


def _shell_of(model: keras.Model | StandIn) -> keras.Model:
    return model.wide if isinstance(model, StandIn) else model


def _values_of(model: keras.Model | StandIn) -> Variables:
    if isinstance(model, StandIn):
        return list(model.variables[0]), list(model.variables[1])
    return [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]


def _is_slower_stacked(model: keras.Model) -> bool:
    """Whether models of this structure are slower under `vmap` than one by one, as convolutions on a CPU are."""
    import jax

    on_cpu = jax.default_backend() == "cpu"
    return on_cpu and any("Conv" in type(layer).__name__ for layer in _layers_of(model))


def _is_plain(model: keras.Model) -> bool:
    """Whether variables and configuration say all about a built model with one output: layers of Keras's own, none of
    them with adapted state or code of the user's."""
    layers = _layers_of(model)
    return (
        model.built
        and fixed_batch(model) is None
        and not isinstance(getattr(model, "output", None), list | tuple | dict)
        and all(
            type(layer).__module__.startswith("keras.")
            and not hasattr(layer, "adapt")
            and type(layer).__name__ != "Lambda"
            for layer in layers
        )
    )


def _layers_of(model: keras.Model) -> list[keras.layers.Layer]:
    # Not at the top: it imports Keras, which an ensemble of kept predictions never needs.
    from manyfit.training.keras_internals.building import layers_of

    return layers_of(model)


def _quick_options() -> dict[str, str | bool] | None:
    """How to compile for a CPU in less time; other compilers have no such choice."""
    import jax

    # Not at the top, as in `_layers_of`.
    from manyfit.training.keras_internals.programs import quick_options

    return quick_options("2", "1") if jax.default_backend() == "cpu" else None


def _close(output: np.ndarray, right: np.ndarray) -> bool:
    if output.shape != right.shape:
        return False
    largest = max(float(np.abs(right).max()), 1.0)
    return bool(np.allclose(output, right, rtol=_TOLERANCE, atol=_TOLERANCE * largest, equal_nan=True))


def sliceable(x: FitData) -> bool:
    """Whether rows can be cut out of it as they are: numeric NumPy arrays, nested or not."""
    arrays = list(leaves(x))
    return bool(arrays) and all(kind_of(one) is NUMPY and one.dtype.kind in "biuf" and len(one) > 0 for one in arrays)


def _count_rows(x: FitData) -> int:
    return len(next(leaves(x)))


def _slice_rows(x: FitData, start: int, stop: int) -> FitData:
    """Rows from `start` to `stop`; floats become float32, as in `model.predict`."""

    def cut(array: np.ndarray) -> np.ndarray:
        some = array[start:stop]
        return some.astype(np.float32, copy=False) if array.dtype.kind == "f" else some

    return map_leaves(cut, x)


def _batches(x: FitData, batch_size: int) -> Iterator[FitData]:
    """Batches of one size: the last row is repeated to fill up, so that one compiled shape serves all of them."""
    num_rows = _count_rows(x)
    # Few rows take the next power of two: calls with 17, 18, 19, ... rows would compile a program each.
    size = min(batch_size, 1 << max(num_rows - 1, 0).bit_length())

    def filled(array: np.ndarray) -> np.ndarray:
        missing = size - len(array)
        return np.concatenate([array, np.repeat(array[-1:], missing, 0)]) if missing > 0 else array

    for start in range(0, num_rows, size):
        yield map_leaves(filled, _slice_rows(x, start, start + size))
