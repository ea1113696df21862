"""Objects of Keras as the Python code that makes them: layers, models, optimizers, losses, metrics."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import keyword
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from manyfit.training.seeding import seeded

_LONG = 100  # characters of a line
_SEED = "next(draws)"
_BY_MODEL = ("mask", "training")  # what a model says to the calls of its layers, whatever stood there


class UnwritableError(Exception):
    """Something whose code nobody knows: it has to be made from its configuration, or by the user."""


@dataclasses.dataclass
class CodeWriter:
    """Writes code, and notes what it needs of the user.

    Args:
        pins: whether seeds that Keras drew are written as `next(draws)`, and noted in `draws`.

    Attributes:
        needed: names of the user's own objects, with where they come from.
        functions: code of functions that have to stand before the rest: models inside of models.
        draws: the seeds of what was written, in the order of the code.

    Example:

    >>> CodeWriter().object(keras.layers.Dense(3, activation="relu"))
    'keras.layers.Dense(3, activation="relu")'
    """

    pins: bool = False
    needed: dict[str, str] = dataclasses.field(default_factory=dict)
    functions: list[str] = dataclasses.field(default_factory=list)
    draws: list[int] = dataclasses.field(default_factory=list)

    def object(self, thing: Any) -> str:
        """The code of a layer, an optimizer, a loss, a metric, or of plain Python values that hold some."""
        if isinstance(thing, Mapping):
            return "{" + ", ".join(f"{self.value(key)}: {self.object(value)}" for key, value in thing.items()) + "}"
        if isinstance(thing, list | tuple):
            return "[" + ", ".join(map(self.object, thing)) + "]"
        if inspect.isfunction(thing) or inspect.isclass(thing):
            return self._named(thing)
        if hasattr(thing, "get_config"):
            return self.made(keras.saving.serialize_keras_object(thing), thing)
        return self.value(thing)

    def value(self, value: Any, thing: Any = None) -> str:
        """The code of a value from a configuration; `thing` is the object that it stands for, where it is at hand."""
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, str):
            return quoted(value)
        if value is None or isinstance(value, bool | int):
            return repr(value)
        if isinstance(value, float):
            return _short(value)
        if isinstance(value, Mapping):
            if "class_name" in value and "config" in value:
                return self.made(value, thing)
            return "{" + ", ".join(f"{self.value(key)}: {self.value(part)}" for key, part in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(self.value, value)) + "]"
        if isinstance(value, tuple):
            return "(" + ", ".join(map(self.value, value)) + ("," if len(value) == 1 else "") + ")"
        if inspect.isfunction(value):
            return self._named(value)
        raise UnwritableError(f"a {type(value).__name__}")

    def made(self, config: Mapping[str, Any], thing: Any = None) -> str:
        """The code of an object that Keras has written out.

        Args:
            config: of `keras.saving.serialize_keras_object`.
            thing: the object, for the seeds that it drew; None: it is not at hand.
        """
        name, settings = str(config["class_name"]), config["config"]
        if name == "function":
            return self._needs(str(settings), str(config.get("module") or ""))
        if isinstance(thing, keras.Model) and name in ("Sequential", "Functional"):
            return self._model_inside(thing)
        if not isinstance(settings, Mapping) or name.startswith("__"):
            raise UnwritableError(f"a {name}")
        kind = _of_keras(config)
        if kind is None:
            shown = {key: value for key, value in settings.items() if not _is_plain(key, value, name)}
            arguments = [f"{key}={self.value(value)}" for key, value in shown.items()]
            return f"{self._needs(name, str(config.get('module') or ''))}({', '.join(arguments)})"
        return f"{config['module']}.{name}({', '.join(self._arguments(kind, name, settings, thing))})"

    def _arguments(self, kind: type, name: str, settings: Mapping[str, Any], thing: Any) -> Iterator[str]:
        """Those that differ from what the class takes by itself."""
        parameters = inspect.signature(kind).parameters
        takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        required = [one.name for one in parameters.values() if one.default is one.empty and one.kind in by_place]
        required = [one for one in required if one in settings]
        usual = _usual(kind, {key: settings[key] for key in required})
        in_order = True
        for key in [*required, *(key for key in settings if key not in required)]:
            value, part = settings[key], getattr(thing, key, None)
            drawn = self._drawn(key, value, thing)
            if drawn is not None:
                yield f"seed={drawn}"
            elif key in required and in_order and list(parameters)[: len(required)] == required:
                yield self.value(value, part)
            elif key == "dtype" and not _is_plain(key, value, name):
                yield f"dtype={quoted(value['config']['name'] if isinstance(value, Mapping) else value)}"
            elif _is_plain(key, value, name) or not (key in parameters or takes_any):
                continue
            elif key in required or key not in usual or usual[key] != value or self._has_drawn(value, part):
                yield f"{key}={self.value(value, part)}"

    def _drawn(self, key: str, value: Any, thing: Any) -> str | None:
        """The code of a seed that Keras drew for an object; None where the key is none, or seeds are not written."""
        if not self.pins or key != "seed" or value is not None or (seed := _seed_of(thing)) is None:
            return None
        self.draws.append(seed)
        return _SEED

    def _has_drawn(self, value: Any, part: Any) -> bool:
        settings = value.get("config") if isinstance(value, Mapping) else None
        return self.pins and isinstance(settings, Mapping) and "seed" in settings and _seed_of(part) is not None

    def _named(self, thing: Any) -> str:
        name = str(thing.__name__)
        for module in ("losses", "metrics", "activations", "optimizers"):
            if getattr(getattr(keras, module), name, None) is thing:
                return f"keras.{module}.{name}"
        if name == "<lambda>":
            raise UnwritableError("a lambda")
        return self._needs(name, f"{thing.__module__}, line {_line_of(thing)}")

    def _needs(self, name: str, where: str) -> str:
        self.needed.setdefault(name, where)
        return name

    # Models --------------------------------------------------------------------------------------------------------

    def _model_inside(self, model: keras.Model) -> str:
        name = f"build_{_identifier(model.name)}"
        parameter = "draws" if self.pins else ""
        self.functions.append(f"def {name}({parameter}):\n" + "\n".join(f"    {line}" for line in self.model(model)))
        return f"{name}({parameter})"

    def model(self, model: keras.Model) -> list[str]:
        """The lines of a function that makes a model, uncompiled.

        Raises:
            UnwritableError: a class of the user's own, or a call that cannot be written.
        """
        if type(model) is keras.Sequential:
            layers = [_input_code(_input_of(model))] if model.inputs else []
            layers += [self.object(layer) for layer in model.layers]
            return ["return keras.Sequential(", "    [", *(f"        {layer}," for layer in layers), "    ]", ")"]
        if type(model) not in (keras.Model, type(keras.Model(*_one_layer()))):
            raise UnwritableError(f"a model of the class {type(model).__name__}")
        return _Graph(self, model).lines()


class _Graph:
    """The code of a functional model: a line for every layer, and for every call."""

    def __init__(self, writer: CodeWriter, model: keras.Model) -> None:
        self._writer, self._model = writer, model
        self._config = model.get_config()
        self._tensors: dict[tuple[str, int, int], str] = {}
        self._lines: list[str] = []

    def lines(self) -> list[str]:
        """The lines of the function."""
        waiting = [(entry, number) for entry in self._config["layers"] for number, _ in self._nodes(entry)]
        made: dict[str, str] = {}
        while waiting:
            ready = next((one for one in waiting if self._is_ready(*one)), None)
            if ready is None:
                raise UnwritableError("a graph whose calls have no order")
            waiting.remove(ready)
            self._call(*ready, made)
        ends = (self._end(self._config["input_layers"]), self._end(self._config["output_layers"]))
        return [*self._lines, f"return keras.Model({ends[0]}, {ends[1]})"]

    def _nodes(self, entry: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any] | None]]:
        return list(enumerate(entry["inbound_nodes"])) or [(0, None)]  # an input is called by nobody

    def _is_ready(self, entry: Mapping[str, Any], number: int) -> bool:
        node = self._nodes(entry)[number][1]
        return all(key in self._tensors for key in _tensors_in(node))

    def _call(self, entry: Mapping[str, Any], number: int, made: dict[str, str]) -> None:
        name, node = entry["name"], self._nodes(entry)[number][1]
        variable = _identifier(name) + (f"_{number}" if number else "")
        operation = self._operation(name)
        if node is None:
            self._lines.append(f"{variable} = {self._input(entry)}")
        else:
            arguments = [self._argument(part) for part in node["args"]]
            kept = {key: part for key, part in node["kwargs"].items() if part is not None and key not in _BY_MODEL}
            arguments += [f"{key}={self._argument(part)}" for key, part in kept.items()]
            if isinstance(operation, keras.layers.Layer):
                several = len(entry["inbound_nodes"]) > 1
                if name not in made:
                    made[name] = self._writer.made(entry, operation)
                    if several:
                        self._lines.append(f"{_identifier(name)}_layer = {made[name]}")
                call = f"{_identifier(name)}_layer" if several else made[name]
            else:
                call, more = _function_of(entry)
                arguments += [f"{key}={self._writer.value(value)}" for key, value in more.items()]
            self._lines.append(f"{variable} = {call}({', '.join(arguments)})")
        self._tensors[name, number, 0] = variable

    def _operation(self, name: str) -> Any:
        return next(one for one in self._model.operations if one.name == name)

    def _input(self, entry: Mapping[str, Any]) -> str:
        return _input_code(entry["config"])

    def _argument(self, part: Any) -> str:
        if isinstance(part, Mapping) and part.get("class_name") == "__keras_tensor__":
            return self._tensors[_key_of(part)]
        if isinstance(part, list | tuple):
            return "[" + ", ".join(map(self._argument, part)) + "]"
        return self._writer.value(part)

    def _end(self, part: Any) -> str:
        if isinstance(part, Mapping):
            return "{" + ", ".join(f"{quoted(key)}: {self._end(one)}" for key, one in part.items()) + "}"
        if len(part) == 3 and isinstance(part[0], str):
            return self._tensors[part[0], part[1], part[2]]
        return "[" + ", ".join(map(self._end, part)) + "]"


def _tensors_in(part: Any) -> Iterator[tuple[str, int, int]]:
    if isinstance(part, Mapping):
        if part.get("class_name") == "__keras_tensor__":
            yield _key_of(part)
            return
        part = list(part.values())
    if isinstance(part, list | tuple):
        for one in part:
            yield from _tensors_in(one)


def _key_of(tensor: Mapping[str, Any]) -> tuple[str, int, int]:
    name, node, place = tensor["config"]["keras_history"]
    return str(name), int(node), int(place)


def _function_of(entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The function of `keras.ops` that an operation in a graph came from, and its settings."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(entry["class_name"])).lower()
    if not hasattr(keras.ops, name):
        raise UnwritableError(f"the operation {entry['class_name']}")
    return f"keras.ops.{name}", {key: value for key, value in entry["config"].items() if key not in ("name", "dtype")}


def _input_of(model: keras.Sequential) -> Mapping[str, Any]:
    """The configuration of the input of a stack, which is none of its layers."""
    tensor = model.inputs[0]
    return {"batch_shape": tuple(tensor.shape), "dtype": tensor.dtype, "name": tensor.name}


def _input_code(config: Mapping[str, Any]) -> str:
    shape = tuple(config["batch_shape"])
    first = f"{shape[1:]!r}" if shape[0] is None else f"batch_shape={shape!r}"
    more = "" if config["dtype"] == keras.config.floatx() else f", dtype={quoted(config['dtype'])}"
    named = (
        "" if re.fullmatch(r"(input_layer|keras_tensor)(_\d+)?", config["name"]) else f", name={quoted(config['name'])}"
    )
    return f"keras.Input({first}{more}{named})"


@functools.cache
def _one_layer() -> tuple[Any, Any]:
    one = keras.Input((1,))
    return one, keras.layers.Dense(1)(one)


def _of_keras(config: Mapping[str, Any]) -> type | None:
    """The public class of Keras's that a configuration names; None for a class of the user's."""
    parts = str(config.get("module") or "").split(".")
    if parts[0] != "keras" or parts[1:2] == ["src"]:
        return None
    found: Any = functools.reduce(lambda one, name: getattr(one, name, None), parts[1:], keras)
    kind = getattr(found, str(config["class_name"]), None)
    return kind if isinstance(kind, type) else None


def _usual(kind: type, required: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of an object of this class that was made with what it has to be given alone."""
    try:
        with seeded(0):  # it may draw a seed of its own
            given = {key: keras.saving.deserialize_keras_object(value) for key, value in required.items()}
            found: Mapping[str, Any] = kind(**given).get_config()
            return found
    except Exception:  # a class that wants more than it says: then all of its arguments are written
        return {}


def _is_plain(key: str, value: Any, name: str) -> bool:
    """Whether an argument is what every object has: a name that was counted, the usual type."""
    if key == "name":
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        return value is None or bool(re.fullmatch(rf"{re.escape(snake)}(_\d+)?", str(value), re.IGNORECASE))
    if key == "trainable":
        return value is True
    if key == "dtype":
        known = value["config"].get("name") if isinstance(value, Mapping) else value
        return known in (None, keras.config.dtype_policy().name)
    return False


def _seed_of(thing: Any) -> int | None:
    """The seed that Keras drew for an initializer, or for the generator of a layer."""
    seed = getattr(thing, "seed", None)
    if isinstance(seed, int):
        return seed
    state = getattr(getattr(thing, "seed_generator", None), "state", None)
    return None if state is None else int(keras.ops.convert_to_numpy(state)[0])


def _short(value: float) -> str:
    """A number in as few digits as name it: those of single precision, where it came from there."""
    if value != value or value in (float("inf"), -float("inf")):
        return f'float("{value}")'
    single = np.float32(value)
    return repr(float(str(single))) if float(single) == value else repr(value)


def _identifier(name: str) -> str:
    text = re.sub(r"\W", "_", name)
    text = text if not text[:1].isdigit() else f"x{text}"
    return f"{text}_" if keyword.iskeyword(text) or text in ("keras", "np", "draws") else text


def _line_of(thing: Callable[..., Any] | type) -> int | str:
    try:
        return inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):
        return "unknown"


def quoted(text: object) -> str:
    """A text as code, in double quotes.

    Example:

    >>> print(quoted("relu"))
    "relu"
    """
    return json.dumps(str(text), ensure_ascii=False)


def call_of(name: str, arguments: Sequence[str]) -> list[str]:
    """The lines of a call, one argument a line where it is long."""
    line = f"{name}({', '.join(arguments)})"
    return [line] if len(line) <= _LONG else [f"{name}(", *(f"    {one}," for one in arguments), ")"]


def joined(lines: Sequence[str], indent: str = "    ") -> str:
    """Lines of a block."""
    return "\n".join(indent + line if line else "" for line in lines)
