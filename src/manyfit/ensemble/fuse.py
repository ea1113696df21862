"""Fusing: one Keras model out of many, and one compiled program for members in memory.

The model that is saved uses Keras's own layers and operations only (no Lambda, no class of ours), so it loads where
Manyfit is not installed. Weighted sums are written as one `Rescaling` per member and an `Add`, not as a matrix
product, because accelerators may run products in reduced precision.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
import zipfile
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.ensemble.members import Member, emits_logits, is_keras
from manyfit.ensemble.pools import Pool
from manyfit.ensemble.problem import EPSILON, Task


def fused_model(members: list[Member], pool: Pool, task: Task, num_outputs: int) -> Any:
    """Builds one Keras model that predicts what the pool of the members predicts.

    Args:
        members: all members, in the order of the pool's weights; those with weight zero are left out.
        pool: how they are combined.
        task: what they predict.
        num_outputs: columns of a prediction.

    Raises:
        UsageError: a member that is used is no Keras model.
        UsageError: members take inputs of different structure.
    """
    used = [(index, members[index]) for index in pool.support]
    for _, member in used:
        if not member.all_keras:
            raise UsageError(
                explain(
                    'Ensemble.save("....keras")',
                    f"member {member.name!r}, which is no Keras model",
                    "Keras members only",
                    'Save to a folder instead: ensemble.save("winner").',
                )
            )
    import keras

    with tempfile.TemporaryDirectory() as folder:
        copies = [
            [
                _copy(model, f"member_{index}" + (f"_{part}" if part else ""), folder)
                for part, model in enumerate(m.models)
            ]
            for index, m in used
        ]
    inputs = _inputs_like(copies[0][0], [model for group in copies for model in group])
    outputs = [
        _output(group, member, inputs, task, num_outputs) for group, (_, member) in zip(copies, used, strict=True)
    ]
    pooled = _Layers(pool, task, num_outputs).pool(outputs)
    return keras.Model(inputs, pooled, name="ensemble")


def _copy(model: Any, name: str, folder: str) -> Any:
    """A copy under another name, by way of a file: the only way that brings along state beyond `weights`, such as
    the statistics of an adapted `Normalization` and the vocabulary of a `StringLookup`."""
    import keras

    path = pathlib.Path(folder) / "member.keras"
    model.save(path)
    custom = {type(model).__name__: type(model)} if not type(model).__module__.startswith("keras.") else None
    copy = keras.saving.load_model(path, custom_objects=custom, compile=False)
    copy.name = name  # layers of one model need different names
    return copy


def load_saved(path: pathlib.Path, custom_objects: Any = None) -> Any:
    """A Keras model from its file, compiled as it was, with a fresh optimizer.

    `load_model` alone refuses models whose optimizer had no slots yet, as those of a search have.
    """
    import keras

    model = keras.saving.load_model(path, custom_objects=custom_objects, compile=False)
    with zipfile.ZipFile(path) as archive:
        compiled = json.loads(archive.read("config.json")).get("compile_config")
    if compiled:
        with keras.saving.custom_object_scope(custom_objects or {}):
            model.compile_from_config(compiled)
    return model


def _inputs_like(model: Any, models: list[Any]) -> Any:
    import keras

    shapes = [_structure(other) for other in models]
    if any(shape != shapes[0] for shape in shapes):
        odd = next(index for index, shape in enumerate(shapes) if shape != shapes[0])
        raise UsageError(
            explain(
                "Ensemble.save",
                f"members with inputs {shapes[0]} and {shapes[odd]}",
                "members with the same inputs",
                "Put the reshaping into the models, so that all take the same x.",
            )
        )
    structure = _tensors(model)
    if isinstance(structure, dict):
        return {
            name: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=name) for name, tensor in structure.items()
        }
    fresh = [keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=f"input_{k}") for k, tensor in enumerate(structure)]
    return fresh if len(fresh) > 1 else fresh[0]


def _tensors(model: Any) -> Any:
    """The symbolic inputs of a model: a dictionary, or a list. Subclassed models tell the shape of their build."""
    import keras

    if isinstance(model, keras.Sequential) or not getattr(model, "inputs", None):
        if getattr(model, "inputs", None):
            return list(model.inputs)
        built = model.get_build_config() or {}
        shape = built.get("input_shape") or next(iter((built.get("shapes_dict") or {"": None}).values()))
        if not isinstance(shape, list | tuple) or not shape or not all(n is None or isinstance(n, int) for n in shape):
            raise UsageError(
                explain(
                    "Ensemble.save",
                    f"model {model.name!r}, whose inputs are not known",
                    "Sequential and Functional models, and subclassed ones that take one array",
                    'Save to a folder instead: ensemble.save("winner").',
                )
            )
        return [keras.KerasTensor(tuple(shape), dtype="float32")]
    return dict(model.input) if isinstance(model.input, dict) else list(model.inputs)


def _structure(model: Any) -> Any:
    tensors = _tensors(model)
    if isinstance(tensors, dict):
        return {name: tuple(tensor.shape[1:]) for name, tensor in tensors.items()}
    return [tuple(tensor.shape[1:]) for tensor in tensors]


def _output(models: list[Any], member: Member, inputs: Any, task: Task, num_outputs: int) -> Any:
    import keras

    parts = []
    for model, original in zip(models, member.models, strict=True):
        # One step in float32 first: members trained in mixed precision may answer in half precision.
        part = keras.layers.Activation("linear", dtype="float32", name=f"{model.name}_float32")(model(inputs))
        if part.shape[-1] != 1 and len(part.shape) == 1:
            part = keras.layers.Reshape((1,), dtype="float32")(part)
        if emits_logits(original):
            activation = "sigmoid" if part.shape[-1] == 1 else "softmax"
            part = keras.layers.Activation(activation, dtype="float32", name=f"{model.name}_{activation}")(part)
        if task.two_class and num_outputs == 1 and part.shape[-1] == 2:
            part = part[:, 1:]
        parts.append(part)
    return parts[0] if len(parts) == 1 else keras.layers.Average(dtype="float32")(parts)


class _Layers:
    """Writes a pool with layers; each method mirrors one of `Pool`."""

    def __init__(self, pool: Pool, task: Task, num_outputs: int) -> None:
        self.kind = pool
        self.task = task
        self.num_outputs = num_outputs
        self.used = pool.support

    def pool(self, outputs: list[Any]) -> Any:
        """The output tensor of the ensemble."""
        if self.kind.kind == "rank":
            return self._ranks(outputs)
        if not self.task.probabilistic:
            return self._values(outputs)
        if self.kind.member_inverse_temperatures is not None:
            betas = self.kind.member_inverse_temperatures[self.used]
            outputs = [self._sharpened(output, beta) for output, beta in zip(outputs, betas, strict=True)]
        if self._plain:
            return self._sum(outputs, "pool")
        if not self.task.two_class:
            return self._softmax(self._logits(outputs))
        return self._two_class(outputs)

    @property
    def _plain(self) -> bool:
        return self.kind.kind == "linear" and self.kind.inverse_temperature == 1.0

    def _sharpened(self, output: Any, beta: float) -> Any:
        import keras

        if not self.task.two_class:
            return keras.layers.Softmax(dtype="float32")(self._scaled(self._log(output), beta))
        logs = [self._log(output), self._log(self._scaled(output, -1.0, 1.0))]
        logit = self._scaled(keras.layers.Subtract(dtype="float32")(logs), beta)
        return keras.layers.Activation("sigmoid", dtype="float32")(logit)

    def _values(self, outputs: list[Any]) -> Any:
        pool = self.kind
        if pool.kind == "stacking":
            assert pool.class_weights is not None and pool.bias is not None
            return self._scaled(self._sum(outputs, "pool_sum", pool.class_weights[self.used]), 1.0, pool.bias, "pool")
        if pool.kind == "exponential":
            import keras

            a, logs = pool.parameter, np.log(pool.weights[self.used])
            terms = [self._scaled(output, a, log) for output, log in zip(outputs, logs, strict=True)]
            return self._scaled(keras.ops.logsumexp(keras.ops.stack(terms), axis=0), 1 / a, 0.0, "pool")
        return self._sum(outputs, "pool")

    def _logits(self, outputs: list[Any], name: str = "pool_sum") -> Any:
        """The log of the pool, up to a constant per row."""
        pool, beta = self.kind, self.kind.inverse_temperature
        if pool.kind == "linear":
            return self._scaled(self._log(self._sum(outputs, name)), beta)
        if pool.kind == "exponential":
            raised = [self._activation("exponential", self._scaled(output, pool.parameter)) for output in outputs]
            mean = self._scaled(self._log(self._sum(raised, name), floor=False), 1 / pool.parameter)
            return self._scaled(self._log(mean), beta)
        logs = [self._log(output) for output in outputs]
        if pool.kind == "power":
            raised = [self._activation("exponential", self._scaled(log, pool.parameter)) for log in logs]
            return self._scaled(self._log(self._sum(raised, name)), beta / pool.parameter)
        if pool.kind == "geometric":
            return self._scaled(self._sum(logs, name), beta)
        assert pool.class_weights is not None and pool.bias is not None
        total = self._sum(logs, name, pool.class_weights[self.used])
        return self._scaled(total, beta, beta * pool.bias)

    def _two_class(self, outputs: list[Any]) -> Any:
        """Pools (1 - p, p) of every column by itself: sigmoid of the difference of the two logits."""
        import keras

        bias = self.kind.bias
        if self.kind.kind == "stacking":
            assert bias is not None and self.kind.class_weights is not None
            return self._two_class_stacking(outputs)
        ones = self._logits(outputs, "pool_ones")
        zeros = self._logits([self._scaled(output, -1.0, 1.0) for output in outputs], "pool_zeros")
        difference = keras.layers.Subtract(dtype="float32", name="pool_logit")([ones, zeros])
        return keras.layers.Activation("sigmoid", dtype="float32", name="pool")(difference)

    def _two_class_stacking(self, outputs: list[Any]) -> Any:
        import keras

        pool, beta = self.kind, self.kind.inverse_temperature
        assert pool.class_weights is not None and pool.bias is not None
        weights = pool.class_weights[self.used]
        zeros = [self._log(self._scaled(output, -1.0, 1.0)) for output in outputs]
        ones = [self._log(output) for output in outputs]
        total = keras.layers.Subtract(dtype="float32")(
            [self._sum(ones, "pool_ones", weights[:, 1]), self._sum(zeros, "pool_zeros", weights[:, 0])]
        )
        logit = self._scaled(total, beta, beta * float(pool.bias[1] - pool.bias[0]))
        return keras.layers.Activation("sigmoid", dtype="float32", name="pool")(logit)

    def _ranks(self, outputs: list[Any]) -> Any:
        import keras

        assert self.kind.knots is not None and self.kind.heights is not None
        ranked = []
        for member, output in zip(self.used, outputs, strict=True):
            columns = [
                self._rank(output[:, c : c + 1], self.kind.knots[member][c], self.kind.heights[member][c])
                for c in range(self.num_outputs)
            ]
            joined = columns[0] if len(columns) == 1 else keras.layers.Concatenate(dtype="float32")(columns)
            ranked.append(joined)
        return self._sum(ranked, "pool")

    def _rank(self, column: Any, knots: np.ndarray, heights: np.ndarray) -> Any:
        """Linear interpolation as a sum of ramps, each clipped to [0, 1]: no term is large, so nothing cancels."""
        import keras

        if len(knots) == 1:
            return self._scaled(column, 0.0, float(heights[0]))
        widths, rises = np.diff(knots), np.diff(heights)
        repeated = keras.layers.Concatenate(dtype="float32")([column] * len(widths)) if len(widths) > 1 else column
        # Normalization computes (x - mean) / sqrt(variance): it subtracts first, which keeps steep ramps exact.
        ramps = keras.layers.Normalization(mean=knots[:-1].tolist(), variance=(widths**2).tolist(), dtype="float32")(
            repeated
        )
        clipped = keras.layers.ReLU(max_value=1.0, dtype="float32")(ramps)
        rising = self._scaled(clipped, rises, 0.0)
        return self._scaled(keras.ops.sum(rising, axis=-1, keepdims=True), 1.0, float(heights[0]))

    def _sum(self, outputs: list[Any], name: str, weights: np.ndarray | None = None) -> Any:
        import keras

        weights = self.kind.weights[self.used] if weights is None else weights
        terms = [
            self._scaled(output, weight, 0.0, f"{name}_weight_{member}")
            for output, weight, member in zip(outputs, weights, self.used, strict=True)
        ]
        return terms[0] if len(terms) == 1 else keras.layers.Add(dtype="float32", name=name)(terms)

    def _scaled(self, value: Any, scale: Any, offset: Any = 0.0, name: str | None = None) -> Any:
        import keras

        plain = [
            number.tolist() if isinstance(number, np.ndarray | np.generic) else number for number in (scale, offset)
        ]
        return keras.layers.Rescaling(plain[0], plain[1], dtype="float32", name=name)(value)

    def _activation(self, name: str, value: Any) -> Any:
        import keras

        return keras.layers.Activation(name, dtype="float32")(value)

    def _log(self, value: Any, floor: bool = True) -> Any:
        import keras

        return keras.ops.log(keras.ops.maximum(value, EPSILON) if floor else value)

    def _softmax(self, logits: Any) -> Any:
        import keras

        return keras.layers.Softmax(dtype="float32", name="pool")(logits)


def compiled_like(model: Any, source: Any) -> Any:
    """Compiles `model` with the loss and the metrics of the Keras model `source`, on probabilities; returns `model`.

    Without a compiled source the model stays uncompiled. A loss or metric that cannot be copied is left out.
    """
    import keras

    if not is_keras(source) or getattr(source, "loss", None) is None:
        return model
    try:
        config = keras.saving.deserialize_keras_object(source.get_compile_config() or {})
    except (TypeError, ValueError, AttributeError):
        config = {}
    loss = _on_probabilities(config.get("loss") or source.loss)
    metrics = [_on_probabilities(metric) for metric in _flat(config.get("metrics"))]
    # An optimizer without slots: any other warns at loading that its slots were never filled.
    model.compile(optimizer="sgd", loss=loss, metrics=metrics or None)
    return model


def _flat(metrics: Any) -> list[Any]:
    if metrics is None:
        return []
    if isinstance(metrics, dict):
        metrics = list(metrics.values())
    return [inner for metric in metrics for inner in (metric if isinstance(metric, list | tuple) else [metric])]


def _on_probabilities(thing: Any) -> Any:
    if not getattr(thing, "from_logits", False) and not (
        hasattr(thing, "get_config") and thing.get_config().get("from_logits")
    ):
        return thing
    return type(thing).from_config({**thing.get_config(), "from_logits": False})


def compiled_metrics(source: Any, prediction: np.ndarray, y: Any, sample_weight: Any) -> dict[str, float]:
    """The loss and metrics that the Keras model `source` was compiled with, of `prediction` (n, C).

    Empty if `source` is None or not compiled.
    """
    if source is None or getattr(source, "loss", None) is None:
        return {}
    import keras

    inputs = keras.Input((prediction.shape[1],), dtype="float32")
    judge = compiled_like(keras.Model(inputs, keras.layers.Identity(dtype="float32")(inputs)), source)
    answer = judge.evaluate(
        prediction, np.asarray(y), sample_weight=sample_weight, batch_size=4096, verbose=0, return_dict=True
    )
    return {name: float(value) for name, value in answer.items()}
