"""A model read as places: which of its layers belong together, which widths are data, and which layers repeat.

See `outlines` for the words. Everything is read from configurations; the layers are kept beside, for `twins` to find
their variables.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from manyfit.training.population.embeddings import Widening, inner_config, rule_of, with_width
from manyfit.training.population.outlines import ABSENT, FIXED, STAGES, Place, Run
from manyfit.training.population.twin_layers import ELEMENTWISE, LINEAR, keeps_zero

_ACTIVATIONS = ("Activation", "ReLU", "LeakyReLU", "ELU")
_NORMALISATIONS = ("BatchNormalization", "LayerNormalization")
_DROPOUTS = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")
_ACTIVATED = ("Dense", *(f"{kind}Conv{n}D" for kind in ("", "Depthwise", "Separable") for n in (1, 2, 3)))
_ACTIVATED += tuple(f"Conv{n}DTranspose" for n in (1, 2, 3))
_DEEPENS = ("Dense", "Conv1D", "Conv2D", "Conv3D", "LSTM", "GRU", "SimpleRNN")
_NEVER_STRUCTURE = ("name", "seed", "unit_forget_bias")


@dataclasses.dataclass(eq=False)
class Node:
    """One place of a model, while it is read.

    Attributes:
        kind: the class of its layer; "Pass" for none.
        config: of that layer, without what is never structure.
        inputs: numbers of the nodes that it reads.
        positions: see `Run`.
        layer: the model's own; None for none.
        texts: what follows it, by stage.
        layers: the model's own layers of these.
        widened: whether its width is data.
        number: of its run and its place in that.
    """

    kind: str
    config: dict[str, Any]
    inputs: list[int]
    positions: int
    layer: keras.layers.Layer | None
    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    layers: dict[str, keras.layers.Layer] = dataclasses.field(default_factory=dict)
    widened: bool = False
    number: tuple[int, int] = (0, 0)

    @property
    def rule(self) -> Widening | None:
        """How its layer is widened; None: not at all."""
        return rule_of(self.kind, self.config)

    @property
    def width(self) -> int:
        """Units of its own, or 0."""
        return 0 if self.rule is None or self.rule.width is None else int(inner_config(self.config)[self.rule.width])

    @property
    def variables(self) -> list[keras.Variable]:
        """Of its layer and of what follows it."""
        layers = [self.layer, *self.layers.values()]
        return [variable for layer in layers if layer is not None for variable in layer.variables]

    def attaches(self, stage: str) -> bool:
        """Whether a layer of a stage may follow as part of it: in the order of the stages, each once."""
        return STAGES.index(stage) > max((STAGES.index(each) for each in self.texts), default=-1)

    def attach(self, stages: Sequence[str], name: str, layer: keras.layers.Layer) -> None:
        """Takes in a layer at the first of these stages at which it may follow.

        Raises:
            Unsuited: it drops everything.
        """
        stage = next(filter(self.attaches, stages))
        config = layer.get_config()
        if config.get("rate", 0) == 1:
            raise Unsuited("a dropout drops everything")
        # A rate is data; one of 0 is no dropout, for which Keras makes no seed.
        kept = {key: value for key, value in plain(config).items() if key != "rate"}
        self.texts[stage] = ABSENT if config.get("rate") == 0 else text_of(name, kept)
        self.layers[stage] = layer

    def place(self) -> Place:
        """Its entry in an outline."""
        absent = {"before": LINEAR, "norm": ABSENT, "after": LINEAR, "dropout": ABSENT}
        width = self.width
        if not width and self.layer is not None and (self.rule is None or not self.inputs):
            width = self.layer.output.shape[-1] or 0 if len(self.layer.output.shape) > 1 else 0
        return Place(width, *((self.texts.get(stage, absent[stage]),) for stage in STAGES))


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A layer's configuration without names, seeds and initial values: the member's own model has drawn its weights."""
    kept = {key: value for key, value in config.items() if key not in _NEVER_STRUCTURE}
    for key, value in kept.items():
        if key.endswith("_initializer"):
            kept[key] = "zeros"
        elif key in ("layer", "backward_layer"):
            inner = {part: value[part] for part in ("module", "class_name", "registered_name")}
            kept[key] = {**inner, "config": plain(value["config"])}
    return kept


def text_of(layer: str, config: Mapping[str, Any]) -> str:
    """Class and configuration as a text."""
    return json.dumps([layer, config], sort_keys=True)


class Unsuited(Exception):
    """A model that no twin can serve."""


def graph_of(model: keras.Model) -> Iterator[tuple[keras.layers.Layer, list[str]]]:
    """The layers of a model with the names of those that they read, inputs first.

    Raises:
        Unsuited: a layer that is called twice, or with more than tensors.
    """
    config = model.get_config()
    if isinstance(model, keras.Sequential):
        before: list[str] = []
        if config["layers"][0]["class_name"] != "InputLayer":
            raise Unsuited("it has no input layer")
        # `Sequential.layers` leaves the input layer out.
        names = [each["config"]["name"] for each in config["layers"]]
        own = {layer.name: layer for layer in model.layers}
        for name in names:
            yield own.get(name, _input_layer(config["layers"][0])), before
            before = [name]
        return
    by_name = {layer.name: layer for layer in model.layers}
    for each in config["layers"]:
        if len(each["inbound_nodes"]) > 1:
            raise Unsuited("a layer is called twice")
        read: list[str] = []
        for node in each["inbound_nodes"]:
            if any(value is not None and value is not False for value in node["kwargs"].values()):
                raise Unsuited("a layer is called with arguments")
            histories = list(_histories(node["args"]))
            if any(history[1:] != [0, 0] for history in histories):
                raise Unsuited("a layer has several outputs")
            read = [history[0] for history in histories]
        layer = by_name.get(each["config"]["name"])
        if layer is None:
            raise Unsuited("an operation that is no layer")
        if not hasattr(layer.output, "shape"):
            raise Unsuited("a layer has several outputs")
        yield layer, read


def _input_layer(written: Mapping[str, Any]) -> keras.layers.Layer:
    return keras.layers.deserialize(dict(written))


def _histories(value: Any) -> Iterator[list[Any]]:
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            yield value["config"]["keras_history"]
        else:
            for each in value.values():
                yield from _histories(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _histories(each)


class Reading:
    """A model as places.

    Args:
        model: built and compiled.

    Raises:
        Unsuited: no twin can serve it.
    """

    def __init__(self, model: keras.Model) -> None:
        self.nodes: list[Node] = []
        self._of_layer: dict[str, int] = {}
        self._group: list[int] = []  # a forest: of each node the next towards the one that stands for its width
        config = model.get_config()
        layers = list(graph_of(model))
        ends = config.get("output_layers", [layers[-1][0].name, 0, 0])
        self.output_names: list[str] = []
        named(ends, self.output_names.append)
        readers = collections.Counter(name for _, read in layers for name in read)
        readers.update(self.output_names)
        if isinstance(config.get("input_layers"), dict):
            raise Unsuited("its inputs are a dictionary")
        several = sum(not read for _, read in layers) > 1
        for layer, read in layers:
            self._read(layer, read, readers, keeps_name=several)
        self.outputs = named(ends, lambda name: self._of_layer[name])
        starts: list[str] = []
        named(config.get("input_layers", [layers[0][0].name, 0, 0]), starts.append)
        self.inputs = [self._of_layer[name] for name in starts]
        self._find_widths()
        self.runs = self._collapsed()

    def _read(
        self, layer: keras.layers.Layer, read: Sequence[str], readers: Mapping[str, int], *, keeps_name: bool
    ) -> None:
        if isinstance(layer, keras.Model):
            raise Unsuited(f"{layer.name} is a model itself")
        name, config = type(layer).__name__, layer.get_config()
        if config.get("lora_rank") or config.get("quantization_config"):
            raise Unsuited(f"{layer.name} is not in one piece")
        inputs = [self._of_layer[each] for each in read]
        if stages := _stages_of(name, config, layer):
            alone = readers[read[0]] == 1
            if not alone or not any(map(self.nodes[inputs[0]].attaches, stages)):
                self._add(Node("Pass", {}, inputs, 1, None))
                inputs = [len(self.nodes) - 1]
            self.nodes[inputs[0]].attach(stages, name, layer)
            self._of_layer[layer.name] = inputs[0]
            return
        kept = plain(config) | ({"name": layer.name} if keeps_name and not read else {})
        node = Node(name, kept, inputs, _positions(name, layer), layer)
        self._of_layer[layer.name] = len(self.nodes)
        self._add(node)
        # An activation of a layer's own is data as one that follows it.
        if node.width and name in _ACTIVATED and kept["activation"] in ELEMENTWISE and kept["activation"] != "linear":
            node.texts["before"] = text_of("Activation", {"activation": kept["activation"], "dtype": kept["dtype"]})

    def _add(self, node: Node) -> None:
        self._group.append(len(self.nodes))
        self.nodes.append(node)

    # -- which widths are data ------------------------------------------------------------------------------------

    def _find_widths(self) -> None:
        fixed: set[int] = set()
        for number, node in enumerate(self.nodes):
            node.widened = _has_free_width(node)
            if node.rule is None or not _reads_any_width(node):
                fixed.update(leaf for each in node.inputs for leaf in self._leaves(each))
            elif len(node.inputs) > 1 and node.rule.output != "join":
                self._tie(node, fixed)
            if not node.widened and (node.rule is None or node.rule.owns_output or not node.inputs):
                fixed.add(number)
        named(self.outputs, lambda number: fixed.update(self._leaves(number)))
        grown = True
        while grown:
            groups = {self._root(number) for number in fixed}
            more = {n for n in range(len(self.nodes)) if self._root(n) in groups} - fixed
            fixed |= more
            grown = bool(more)
        for number, node in enumerate(self.nodes):
            node.widened = node.widened and number not in fixed
            if not node.widened and "before" not in node.layers:
                node.texts.pop("before", None)  # an activation of the layer's own stays in it

    def _leaves(self, number: int) -> list[int]:
        """The nodes whose widths make that of a node's output."""
        node = self.nodes[number]
        if node.rule is None or node.rule.owns_output or not node.inputs:
            return [number]
        # What is merged has one width, that of each.
        read = node.inputs if node.rule.output == "join" else node.inputs[:1]
        return [leaf for each in read for leaf in self._leaves(each)]

    def _tie(self, node: Node, fixed: set[int]) -> None:
        """Inputs that are added have one width, if each has one of its own; else their widths stay."""
        leaves = [self._leaves(each) for each in node.inputs]
        shapes = {tensor.shape[-1] for tensor in node.layer.input}  # type: ignore[union-attr]
        direct = all(
            len(each) == 1 and not self._goes_flat(number) for each, number in zip(leaves, node.inputs, strict=True)
        )
        if not direct or len(shapes) > 1:
            fixed.update(leaf for each in leaves for leaf in each)
            return
        for (leaf,) in leaves[1:]:
            one, other = sorted((self._root(leaves[0][0]), self._root(leaf)))
            self._group[other] = one

    def _goes_flat(self, number: int) -> bool:
        """Whether a node's output is not its leaf's units as they are."""
        node = self.nodes[number]
        if node.rule is None or node.rule.output == "out" or not node.inputs:
            return False
        return node.rule.output != "in" or any(map(self._goes_flat, node.inputs))

    def _root(self, number: int) -> int:
        while self._group[number] != number:
            number = self._group[number]
        return number

    # -- runs -----------------------------------------------------------------------------------------------------

    def _collapsed(self) -> tuple[Run, ...]:
        runs: list[list[int]] = []
        texts: list[str] = []
        for number, node in enumerate(self.nodes):
            config = dict(node.config)
            if node.widened and node.rule is not None and node.rule.width is not None:
                config = with_width(config, node.rule.width, None)
                if node.kind in _ACTIVATED:
                    config["activation"] = "linear"
            text = text_of(node.kind, config)
            if runs and self._continues(runs[-1], number) and texts[-1] == text:
                runs[-1].append(number)
            else:
                runs.append([number])
                texts.append(text)
            node.number = len(runs) - 1, len(runs[-1]) - 1
        self.outputs = named(self.outputs, lambda number: self.nodes[number].number[0])
        self.inputs = [self.nodes[number].number[0] for number in self.inputs]
        return tuple(self._run(numbers, text) for numbers, text in zip(runs, texts, strict=True))

    def _continues(self, run: Sequence[int], number: int) -> bool:
        """Whether a node deepens a run: the same kind of layer, which keeps the geometry, on top of it and of no other.

        A layer that is left out hands on what it reads, so nothing else may depend on its width.
        """
        node, last = self.nodes[number], self.nodes[run[-1]]
        readers = sum(each.inputs.count(run[-1]) for each in self.nodes)
        tied = [self._root(each) for each in range(len(self.nodes))]
        alone = all(tied.count(self._root(each)) == 1 for each in (run[-1], number))
        same = node.config.get("padding", "same") == "same" and set(_flat(node.config.get("strides", 1))) == {1}
        sequences = node.config.get("return_sequences", True)
        return (
            node.widened and last.widened and node.inputs == [run[-1]] and readers == 1 and alone and same
            and sequences and node.kind in _DEEPENS
        )  # fmt: skip

    def _run(self, numbers: Sequence[int], text: str) -> Run:
        first = self.nodes[numbers[0]]
        inputs = tuple(self.nodes[each].number[0] for each in first.inputs)
        tie = self.nodes[self._root(numbers[0])].number[0] if first.widened else FIXED
        places = tuple(self.nodes[each].place() for each in numbers)
        return Run(text, inputs, tie, first.positions, len(places), places)


def named(ends: Any, number_of: Any) -> Any:
    """Keras's nest of [layer's name, 0, 0], or of numbers, with something else for each of its names."""
    if isinstance(ends, Mapping):
        return {key: named(each, number_of) for key, each in ends.items()}
    if isinstance(ends, list | tuple) and len(ends) == 3 and isinstance(ends[0], str):
        return number_of(ends[0])
    return [named(each, number_of) for each in ends] if isinstance(ends, list | tuple) else number_of(ends)


def _flat(value: int | Sequence[int]) -> Sequence[int]:
    return [value] if isinstance(value, int) else list(value)


def _stages_of(name: str, config: Mapping[str, Any], layer: keras.layers.Layer) -> list[str]:
    """The stages at which a layer may be part of the place that it reads; none for a layer with a place of its own."""
    if config.get("activity_regularizer"):
        return []
    if name in _DROPOUTS:
        return ["dropout"]
    if name in _NORMALISATIONS:
        is_plain = _on_last_axis(config["axis"], layer) and not config.get("rms_scaling") and not config.get("renorm")
        return ["norm"] if is_plain else []
    elementwise = config.get("activation", "relu") in ELEMENTWISE
    return ["before", "after"] if name in _ACTIVATIONS and elementwise else []


def _on_last_axis(axis: int | Sequence[int], layer: keras.layers.Layer) -> bool:
    return _flat(axis) in ([-1], [len(layer.output.shape) - 1])


def _positions(name: str, layer: keras.layers.Layer) -> int:
    """At how many places of an image or a sequence a layer is applied; of one whose size is unknown, 1."""
    reads = name in ("LSTM", "GRU", "SimpleRNN", "Bidirectional", "Flatten") or name.endswith("Transpose")
    tensor = layer.input if reads else layer.output
    shape = getattr(tensor, "shape", ())
    return math.prod(size or 1 for size in shape[1:-1])


def _has_free_width(node: Node) -> bool:
    if not node.width or not _is_plain(node):
        return False
    config = inner_config(node.config)
    activation = config.get("activation", "linear")
    if node.rule is not None and node.rule.is_recurrent:
        # A unit that is not there has to stay 0 in the loop.
        inner = config.get("recurrent_activation", "sigmoid") in ELEMENTWISE
        inner = inner and not (config["recurrent_dropout"] or config["stateful"] or config["return_state"])
        return inner and _is_calm(activation)
    return activation in ELEMENTWISE


def _is_calm(activation: str) -> bool:
    return activation in ELEMENTWISE and keeps_zero(keras.layers.Activation(activation))


def _reads_any_width(node: Node) -> bool:
    """Whether units that are not there may stand among those that it reads."""
    if node.rule is not None and node.rule.is_recurrent and inner_config(node.config)["dropout"]:
        return False  # it would drop others
    stays = bool(node.width) or node.kind not in _ACTIVATED or _is_calm(node.config["activation"])
    return stays and _is_plain(node)


def _is_plain(node: Node) -> bool:
    config = inner_config(node.config)
    if config.get("data_format", "channels_last") != "channels_last" or config.get("groups", 1) != 1:
        return False
    if node.kind == "Concatenate" and not _on_last_axis(config["axis"], node.layer):
        return False
    # A penalty on what a layer puts out would be taken before its activation; one on angles divides by its size.
    if config.get("activity_regularizer") or "OrthogonalRegularizer" in json.dumps(config):
        return False
    return not (node.kind == "Flatten" and None in node.layer.input.shape[1:-1])  # type: ignore[union-attr]
