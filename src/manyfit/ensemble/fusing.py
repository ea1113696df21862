"""One Keras model out of many: what an ensemble is where Manyfit is not installed.

The hard part is that members are whole models with names, states and input structures of their own: each is copied
under another name, all are called on one set of fresh inputs, and what they answer is brought to single precision and
to probabilities before the pool is built on top. It uses Keras's own layers and operations only; pools write themselves
with layers (`Pool.to_keras`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from manyfit.core.errors import UsageError, explain
from manyfit.ensemble.members import EnsembleMember, emits_logits
from manyfit.ensemble.outputs import Outputs
from manyfit.ensemble.pools import Pool
from manyfit.ensemble.problem import PredictionTask

if TYPE_CHECKING:  # Keras takes seconds to load, and fitting on kept predictions does not need it
    import keras

Inputs: TypeAlias = Any
"""The symbolic inputs of a model, in its own structure: a tensor, or lists and dictionaries of such."""


def fused_model(
    members: Sequence[EnsembleMember], pool: Pool, task: PredictionTask, num_outputs: int, outputs: Outputs
) -> keras.Model:
    """Builds one Keras model that predicts what the pool of the members predicts.

    Args:
        members: all members, in the order of the pool's weights; those with weight zero are left out.
        pool: how they are combined.
        task: what they predict.
        num_outputs: columns of a prediction.
        outputs: how predictions are laid out.

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

    originals = [model for _, member in used for model in member.models]
    inputs = _inputs_like(originals)
    copies = [
        [_copy(model, f"member_{index}" + (f"_{part}" if part else ""), inputs) for part, model in enumerate(m.models)]
        for index, m in used
    ]
    answers = [[model(inputs) for model in group] for group in copies]
    if outputs.several:
        pooled = _pooled_apart(answers, [member for _, member in used], pool, outputs)
    else:
        answered = [
            [_Answer(answer, model.name, emits_logits(original))
             for answer, model, original in zip(several, group, member.models, strict=True)]
            for several, group, (_, member) in zip(answers, copies, used, strict=True)
        ]  # fmt: skip
        one_column = task.two_class and num_outputs == 1
        pooled = pool.to_keras([_output(group, one_column=one_column) for group in answered], task, num_outputs)
    return keras.Model(inputs, pooled, name="ensemble")


def _pooled_apart(answers: list[list[Any]], members: Sequence[EnsembleMember], pool: Pool, outputs: Outputs) -> Any:
    """The pool of each output, in the members' own structure. Each is a model within the model, since layers are named.

    Args:
        answers: of every model of every member with weight, in the structure of its outputs.
        members: those with weight.
        pool: among all members.
        outputs: how they are laid out.
    """
    import keras

    first = members[0].models[0]
    names = getattr(first, "output_names", None) or outputs.keys
    pooled = []
    for place, (key, name) in enumerate(zip(outputs.keys, names, strict=True)):
        own = [
            _output([
                _Answer(outputs.parts(answer)[place], f"{member_place}_{part}_{name}", emits_logits(model, key))
                for part, (answer, model) in enumerate(zip(group, member.models, strict=True))
            ])
            for member_place, (group, member) in enumerate(zip(answers, members, strict=True))
        ]  # fmt: skip
        fresh = [keras.Input(tensor.shape[1:], dtype="float32") for tensor in own]
        apart = keras.Model(fresh, pool.to_keras(fresh, PredictionTask.REGRESSION, own[0].shape[-1]), name=str(name))
        pooled.append(apart(own))
    return pooled if outputs.names is None else dict(zip(outputs.names, pooled, strict=True))


def _copy(model: keras.Model, name: str, inputs: Inputs) -> keras.Model:
    """A copy under another name: layers of one model need different names."""
    import keras

    from manyfit.training.copies import UncopyableModelError, copy_model  # imports Keras

    try:
        # Copies, since two members may share a layer (a frozen base), and Keras's files know each layer from one place.
        copy = copy_model(model)
        copy.name = name
    except UncopyableModelError:
        # The model itself, inside of another that has the name.
        copy = keras.Model(inputs, model(inputs), name=name)
    return copy


def _inputs_like(models: Sequence[keras.Model]) -> Inputs:
    """Fresh inputs of the kind that all models take.

    Raises:
        UsageError: they take inputs of different structure.
    """
    import keras

    taken = [_inputs_of(model) for model in models]
    shapes = [keras.tree.map_structure(lambda tensor: tuple(tensor.shape[1:]), one) for one in taken]
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
    # One member that takes batches of one size only decides for all.
    fixed = [one for one in taken if keras.tree.flatten(one)[0].shape[0] is not None]
    return keras.tree.map_structure(
        lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name), (fixed or taken)[0]
    )


def _inputs_of(model: keras.Model) -> Inputs:
    """The symbolic inputs of a model, in its own structure. Subclassed models tell the shape of their build."""
    import keras

    if getattr(model, "inputs", None):
        return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    built = model.get_build_config() or {}
    shape = built.get("input_shape") or next(iter((built.get("shapes_dict") or {"": None}).values()))
    try:
        return _tensors(shape, "input")
    except TypeError:
        raise UsageError(
            explain(
                "Ensemble.save",
                f"model {model.name!r}, whose inputs are not known",
                "Sequential and Functional models, and subclassed ones that take one argument",
                "Call it on a batch before.",
            )
        ) from None


def _tensors(shape: Any, name: str) -> Inputs:
    """Tensors of the shapes that a subclassed model was built with, the rows of any number."""
    import keras

    if isinstance(shape, Mapping):
        return {key: _tensors(part, str(key)) for key, part in shape.items()}
    if any(isinstance(size, list | tuple) for size in shape):
        return [_tensors(part, f"{name}_{place}") for place, part in enumerate(shape)]
    return keras.KerasTensor((None, *shape[1:]), dtype="float32", name=name)


class _Answer(NamedTuple):
    """What a model answers, symbolically."""

    tensor: keras.KerasTensor
    name: str
    logits: bool


def _output(answers: Sequence[_Answer], *, one_column: bool = False) -> keras.KerasTensor:
    """The mean of what the models of a member answer, in single precision and as probabilities."""
    import keras

    parts = []
    for part, name, logits in answers:
        # One step in float32 first: members trained in mixed precision may answer in half precision.
        part = keras.layers.Activation("linear", dtype="float32", name=f"{name}_float32")(part)
        if len(part.shape) == 1:
            part = keras.layers.Reshape((1,), dtype="float32")(part)
        if logits:
            activation = "sigmoid" if part.shape[-1] == 1 else "softmax"
            part = keras.layers.Activation(activation, dtype="float32", name=f"{name}_{activation}")(part)
        if one_column and part.shape[-1] == 2:
            part = part[..., 1:]
        parts.append(part)
    return parts[0] if len(parts) == 1 else keras.layers.Average(dtype="float32")(parts)
