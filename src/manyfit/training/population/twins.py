"""Twins: one wide Keras model that trains members of different structure, each exactly as its own model would.

A twin is built from an outline: Keras's own layers, as wide as the outline says, and between them the layers of
`twin_layers`, which hold what is a member's own. It is compiled with the very optimizer, loss and metrics. Its trace is
the program of all its members, in which nothing has to be lifted.

A member's state stays narrow wherever it rests: `Embedding.widen` lays it into the twin before an epoch, `narrow` takes
it out again, so that weights, callbacks, files and resuming see the user's model alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from manyfit.training.keras_internals.draws import draws_by_default
from manyfit.training.population.arrays import variables_of
from manyfit.training.population.embeddings import (
    Axis,
    Embedding,
    Placing,
    Widening,
    order_of_slots,
    rule_of,
    slots_of,
    with_width,
)
from manyfit.training.population.outlines import ABSENT, Outline, Run, joined
from manyfit.training.population.places import Node, Reading, Unsuited, named
from manyfit.training.population.structure_key import compile_config, structure_key
from manyfit.training.population.twin_layers import (
    LINEAR,
    Chosen,
    Gate,
    OneOfSeveral,
    WideDropout,
    WideLayerNormalization,
    first_number,
    keeps_zero,
)
from manyfit.training.seeding import seeded

__all__ = ["Outline", "Twin", "joined", "outline_of"]

# A list, not a rule: each leaves a weight of 0 with a gradient of 0 at 0, and looks at no size.
_EXACT = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam", "Lion", "Lamb", "Ftrl")


def outline_of(model: keras.Model) -> Outline | None:
    """What a model is but for what can be data; None for one that no twin can serve.

    By configuration alone: a model of the user's own classes, or whose configuration does not say everything, has none.

    Args:
        model: built and compiled.
    """
    if structure_key(model) is None or not draws_by_default():
        return None
    compiled = compile_config(model)
    written = compiled.pop("optimizer")
    optimizer = optimizer_text(written)
    if optimizer is None:
        return None
    compiled["loss_scale_factor"] = written["config"].get("loss_scale_factor")
    try:
        reading = Reading(model)
    except Unsuited:
        return None
    known = {id(variable) for node in reading.nodes for variable in node.variables}
    if any(id(each) not in known for each in [*model.trainable_variables, *model.non_trainable_variables]):
        return None
    # Several outputs are named in the logs.
    names = reading.output_names if len(reading.output_names) > 1 else []
    ends = {"inputs": reading.inputs, "outputs": reading.outputs, "names": names}
    return Outline(reading.runs, json.dumps(ends), json.dumps(compiled, sort_keys=True), (optimizer,))


def optimizer_text(written: Mapping[str, Any]) -> str | None:
    """An optimizer without its name and learning rate; None for one that does not leave a weight of 0 at 0.

    Args:
        written: as Keras serialises it.
    """
    if written["class_name"] not in _EXACT:
        return None
    config = {key: value for key, value in written["config"].items() if key != "name"}
    if isinstance(config["learning_rate"], float):
        config["learning_rate"] = "state"
    return json.dumps([written["class_name"], config], sort_keys=True)


class Found:
    """What is found of one model's variables in a twin.

    Args:
        numbers: by id of the twin's variables: part of the state, and number in it.
    """

    def __init__(self, numbers: Mapping[int, tuple[int, int]]) -> None:
        self._numbers = numbers
        self.placings: dict[int, Placing] = {}  # by id of the model's variable
        self.values: dict[tuple[int, int], np.ndarray] = {}  # by part of the twin's state, and number in it

    def place(self, narrow: keras.Variable, wide: keras.Variable, axes: Sequence[Axis]) -> None:
        """A variable of the model lies in this one."""
        self.placings[id(narrow)] = Placing(self._numbers[id(wide)][1], tuple(axes))

    def place_all(
        self,
        narrow: Sequence[keras.Variable],
        wide: Sequence[keras.Variable],
        rule: Widening,
        axes: Mapping[str, Axis],
    ) -> None:
        """The variables of a layer lie in those of another one of its class."""
        for one, other in zip(narrow, wide, strict=True):
            names = rule.weights.get(one.name, ())
            sizes = other.shape[len(other.shape) - len(names) :]
            self.place(one, other, [axes.get(name) or Axis.leading(n, n) for name, n in zip(names, sizes, strict=True)])

    def own(self, wide: keras.Variable, value: np.ndarray | np.generic) -> None:
        """A variable of the twin's that the model has not, and what it is for this model."""
        self.values[self._numbers[id(wide)]] = np.asarray(value)


_OF_UNITS = Widening(weights=dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), ("out",)))


class TwinPlace:
    """The layers of a twin that stand for one place.

    Args:
        run: of its outline.
        number: of the place in its run.
        name: what its layers' names begin with.
        inputs: the tensors that it reads.
        keeps: the name of its layer in the user's model, where that matters.
    """

    def __init__(self, run: Run, number: int, name: str, inputs: list[Any], keeps: str | None) -> None:
        place = run.places[number]
        kind, config = run.layer
        self._name = name
        self.main: keras.layers.Layer | None = None
        self.gates: dict[str, Gate] = {}  # by what they let in: "place", or the text of a normalisation
        self.layers: dict[str, keras.layers.Layer] = {}  # by text; activations by stage
        self._place = place
        tensor = inputs[0] if inputs else None
        if kind != "Pass":
            config = {**config, "name": keeps or name}
            if run.is_wide and (width := (rule_of(kind, config) or Widening()).width):
                config = with_width(config, width, place.width)
            self.main = restored(kind, config)
            tensor = self.main.output if not inputs else self.main(inputs if len(inputs) > 1 else inputs[0])
        tensor = self._chosen("before", place.before, tensor)
        for text in place.norm:
            if text != ABSENT:
                layer = self.layers[text] = normalisation_of(text, f"{name}_norm_{len(self.layers)}")
                normalised = layer(tensor)
                tensor = self._gated(text, normalised, tensor) if len(place.norm) > 1 else normalised
        tensor = self._chosen("after", place.after, tensor)
        for text in place.dropout:
            if text != ABSENT:
                kind, config = json.loads(text)
                repeats = _repeats(kind, config, len(tensor.shape))
                size = 1 if len(tensor.shape) - 1 in repeats else tensor.shape[-1]
                layer = WideDropout(size, repeats, name=f"{name}_{kind.lower()}", dtype=config["dtype"])
                self.layers[text] = layer
                tensor = layer(tensor)
        self.output = self._gated("place", tensor, inputs[0]) if number >= run.least else tensor

    def embed(self, node: Node | None, rule: Widening | None, read: Sequence[Axis], found: Found) -> Axis:
        """Says where one model's own layers of this place lie in here, and what is its own.

        Args:
            node: the model's place; None where the model is not as deep.
            rule: of its layer.
            read: the axes that it reads.
            found: takes what is found.

        Returns:
            The axis that it writes.
        """
        if "place" in self.gates:
            found.own(self.gates["place"].open, np.bool_(node is not None))
        if node is None:
            return read[0]
        weights = rule or Widening()
        axis_in = Axis.joined(read) if weights.output == "join" or not read else read[0]
        width = Axis.leading(node.place().width, self._place.width)
        out = self._axis(node, rule, axis_in, width)
        if self.main is not None and node.layer is not None:
            deep = axis_in.divided(node.config.get("depth_multiplier", 1))
            gates = width.repeated(weights.gates)
            known = {"in": axis_in, "out": width, "gates": gates, "deep": deep}
            found.place_all(node.layer.variables, self.main.variables, weights, known)
        for stage, texts in (("before", self._place.before), ("after", self._place.after)):
            self._embed_activation(
                stage, texts.index(node.texts.get(stage, LINEAR)) if stage in self.layers else 0, out, found
            )
        for text in filter(None, self._place.norm):
            is_its = node.texts.get("norm") == text
            if text in self.gates:
                found.own(self.gates[text].open, np.bool_(is_its))
            layer = self.layers[text]
            if isinstance(layer, WideLayerNormalization):
                found.own(layer.inside, out.inside)
            if is_its:
                variables = [each for each in layer.variables if each.name != "inside"]
                found.place_all(node.layers["norm"].variables, variables, _OF_UNITS, {"out": out})
        for text in filter(None, self._place.dropout):
            self._embed_dropout(text, node if node.texts.get("dropout") == text else None, out, found)
        return out

    @staticmethod
    def _axis(node: Node, rule: Widening | None, read: Axis, width: Axis) -> Axis:
        if rule is None or rule.output == "out" or not node.inputs:
            return width
        if rule.output == "both":
            return width.repeated(2)
        if rule.output == "flat":
            return read.repeated(node.positions)
        return read.divided(node.config["depth_multiplier"]) if rule.output == "deep" else read

    def _embed_activation(self, stage: str, which: int, out: Axis, found: Found) -> None:
        layer = self.layers.get(stage)
        if isinstance(layer, Chosen) and layer.which is not None:
            found.own(layer.which, np.int32(which))
        if isinstance(layer, Chosen) and layer.inside is not None:
            found.own(layer.inside, out.inside)

    def _embed_dropout(self, text: str, node: Node | None, out: Axis, found: Found) -> None:
        layer = self.layers[text]
        assert isinstance(layer, WideDropout)
        if node is None:
            found.own(layer.keep, np.float32(1))  # all numbers drawn are below it
            return
        its = node.layers["dropout"]
        repeated = layer.columns.shape[0] != out.size  # one draw for all units
        found.own(layer.keep, np.float32(1.0 - its.rate))
        found.own(layer.columns, np.zeros(1, np.uint32) if repeated else out.columns)
        found.own(layer.num_columns, np.uint32(1 if repeated else len(out.places)))
        found.place(its.seed_generator.state, layer.seed_generator.state, ())

    def _gated(self, key: str, new: Any, old: Any) -> Any:
        gate = self.gates[key] = Gate(name=f"{self._name}_gate_{len(self.gates)}", dtype=new.dtype)
        return gate([new, old])

    def _chosen(self, stage: str, texts: Sequence[str], tensor: Any) -> Any:
        activations = [activation_of(text) for text in texts]
        if texts == (LINEAR,):
            return tensor
        size = None if all(map(keeps_zero, activations)) else tensor.shape[-1]
        layer = self.layers[stage] = Chosen(activations, size, name=f"{self._name}_{stage}", dtype=tensor.dtype)
        return layer(tensor)


def restored(kind: str, config: dict[str, Any], **changes: Any) -> keras.layers.Layer:
    """A layer of Keras's own from its class and configuration."""
    return keras.layers.deserialize({"module": "keras.layers", "class_name": kind, "config": {**config, **changes}})


def activation_of(text: str) -> keras.layers.Layer:
    """An activation as a layer, from its text."""
    if text == LINEAR:
        return keras.layers.Activation("linear")
    kind, config = json.loads(text)
    return restored(kind, config)


def normalisation_of(text: str, name: str) -> keras.layers.Layer:
    """A normalisation from its text."""
    kind, config = json.loads(text)
    if kind == "LayerNormalization":
        return WideLayerNormalization.from_config({**config, "name": name})
    return restored(kind, config, name=name)


def _repeats(kind: str, config: dict[str, Any], ndim: int) -> tuple[int, ...]:
    """The axes along which a dropout repeats its mask."""
    if kind.startswith("Spatial"):
        return tuple(range(1, ndim - 1))
    return tuple(axis for axis, size in enumerate(config["noise_shape"] or ()) if size == 1)


class Twin:
    """One wide model for many.

    Args:
        model: a built and compiled model of the outline's kind; its loss, metrics and names are taken.
        outline: what it is to serve.

    Attributes:
        model: a built and compiled Keras model.
    """

    def __init__(self, model: keras.Model, outline: Outline) -> None:
        self.outline = outline
        reading = Reading(model)
        # Names and first values of its own: nothing is drawn from the user's generators.
        with seeded(0):
            self._places = _places_of(outline, reading)
            self.model = _model_of(outline, self._places, reading)
        self._state = variables_of(self.model)[:3]
        self._numbers = {id(v): (part, n) for part, group in enumerate(self._state) for n, v in enumerate(group)}
        self._shapes = [[(tuple(v.shape), np.dtype(v.dtype)) for v in group] for group in self._state]
        self._starts = [[first_number(variable) for variable in group] for group in self._state]

    def embedding(self, model: keras.Model) -> Embedding:
        """The way of one model's state into the twin and back.

        Args:
            model: built, of an outline that the twin's covers. Its optimizer may have no variables yet.
        """
        reading = Reading(model)
        nodes = {node.number: node for node in reading.nodes}
        found = Found(self._numbers)
        axes: list[Axis] = []
        for number, (places, run) in enumerate(zip(self._places, self.outline.runs, strict=True)):
            read = [axes[each] for each in run.inputs]
            rule = rule_of(*run.layer)
            for depth, place in enumerate(places):
                read = [place.embed(nodes.get((number, depth)), rule, read, found)]
            axes.append(read[0])
        trainable = [found.placings[id(variable)] for variable in model.trainable_variables]
        fixed = [found.placings[id(variable)] for variable in model.non_trainable_variables]
        optimizer = self._place_optimizer(model, trainable, found)
        return Embedding(self._shapes, self._starts, (trainable, fixed, optimizer), found.values)

    def _place_optimizer(self, model: keras.Model, trainable: Sequence[Placing], found: Found) -> list[Placing]:
        chosen, numbers = self.model.optimizer, list(range(len(self._state[2])))
        if isinstance(chosen, OneOfSeveral):
            text = optimizer_text(compile_config(model)["optimizer"])
            which = self.outline.optimizers.index(str(text))
            found.own(chosen.which, np.int32(which))
            chosen, numbers = chosen.choices[which], chosen.places[which]
        slots = slots_of([each.name for each in chosen.variables], [each.path for each in self._state[0]])
        axes = {placing.number: placing.axes for placing in trainable}
        order = order_of_slots(slots, [placing.number for placing in trainable])
        weights = [slots[number].weight for number in order]
        return [
            Placing(numbers[number], () if weight is None else axes[weight])
            for number, weight in zip(order, weights, strict=True)
        ]


def _places_of(outline: Outline, reading: Reading) -> list[list[TwinPlace]]:
    runs: list[list[TwinPlace]] = []
    own = {node.number: node.layer.name for node in reading.nodes if node.kind == "InputLayer" and node.layer}
    for number, run in enumerate(outline.runs):
        tensors = [runs[each][-1].output for each in run.inputs]
        places: list[TwinPlace] = []
        for depth in range(len(run.places)):
            name = f"wide_{run.layer[0].lower()}_{number}_{depth}"
            places.append(TwinPlace(run, depth, name, tensors, own.get((number, depth))))
            tensors = [places[-1].output]
        runs.append(places)
    return runs


def _model_of(outline: Outline, places: Sequence[Sequence[TwinPlace]], reading: Reading) -> keras.Model:
    ends, names = json.loads(outline.outputs), iter(reading.output_names)
    inputs = [places[run][0].main.output for run in ends["inputs"]]  # type: ignore[union-attr]
    outputs = named(ends["outputs"], lambda run: keras.layers.Identity(name=next(names))(places[run][-1].output))
    model = keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name="twin")
    arguments = keras.saving.deserialize_keras_object(json.loads(outline.compiled))
    scale = arguments.pop("loss_scale_factor")
    choices = [optimizer_of(text) for text in outline.optimizers]
    model.compile(optimizer=choices[0] if len(choices) == 1 else OneOfSeveral(choices, scale), **arguments)
    model.optimizer.build(model.trainable_variables)
    return model


def optimizer_of(text: str) -> keras.optimizers.Optimizer:
    """An optimizer from its text, with a learning rate that is state."""
    kind, config = json.loads(text)
    if config["learning_rate"] == "state":
        config["learning_rate"] = 0.001
    # Not `deserialize`, which does not know all of them by the names that it writes.
    return getattr(keras.optimizers, kind).from_config(config)  # type: ignore[no-any-return]
