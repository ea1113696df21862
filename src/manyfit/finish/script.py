"""A trial as a plain program of Keras that reproduces its score.

The program builds the model explicitly, compiles it, and trains it under the seeds, on the rows and in the order of the
trial's executions. What is written is tried here first: a model that the code makes has to begin with the weights that
the build function's begins with. Where seeds that Keras drew by itself do not follow from the code (layers that were
made in another order), they are written out. What cannot be written, the user is told to supply.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from manyfit.core import seeds
from manyfit.core.errors import UsageError, explain
from manyfit.core.objective import MEASURES, Objective
from manyfit.core.records import Plan
from manyfit.data.call import Call
from manyfit.data.folds import FoldPlan
from manyfit.data.kinds import Ability, FitData, is_nested
from manyfit.data.rows import Rows
from manyfit.finish.script_code import CodeWriter, UnwritableError, call_of, joined, quoted
from manyfit.oracles import Execution, Trial
from manyfit.training.base import Task
from manyfit.training.keras_internals.building import compile_arguments, spares_weights_decay
from manyfit.training.keras_settings import clear_session
from manyfit.training.models import build_model
from manyfit.training.replay import FITTED, ORDERED, recorded_call
from manyfit.training.seeding import seeded

_NOT_COMPILED_WITH = ("optimizer", "jit_compile", "auto_scale_loss")  # written first, or found by Keras itself
_OF_ROWS = ("x", "y", "sample_weight", "validation_data", "validation_split", "batch_size", "shuffle")
_NOT_PASSED = (*_OF_ROWS, "epochs", "callbacks", "verbose", "initial_epoch")


@dataclasses.dataclass
class _Script:
    """What is known of the program while it is written."""

    trial: Trial
    task: Task
    call: Call
    folds: FoldPlan | None
    objective: Objective
    runs: Sequence[Execution]
    writer: CodeWriter
    needs: list[str] = dataclasses.field(default_factory=list)


def script_of(trial: Trial, task: Task, folds: FoldPlan | None, objective: Objective) -> str:
    """The text of a program that trains what a trial has trained, and prints its score beside the trial's.

    Args:
        trial: completed.
        task: of the search, with the trial's own call of `fit`, and its rows.
        folds: of the search, or None.
        objective: what is ranked.

    Raises:
        UsageError: an estimator, a training loop of the user's own, a trial without a training, or a pipeline.
    """
    runs = [run for _, run in sorted(trial.executions.items()) if run.ending.has_score and run.num_epochs]
    call = task.calls.get(trial.trial_id, task.call)
    inside = [run.notes[FITTED] for run in runs if FITTED in run.notes]
    if not runs or (task.fit is not None and (not inside or inside[0]["num_fits"] != 1)):
        got = "a trial that was trained by a loop of your own" if runs else "a trial that has no training with a score"
        instead = "Take its code for the script."
        raise UsageError(explain("to_script(trial)", got, "one that model.fit trained", instead))
    if inside:
        call = recorded_call(inside[0], call)
    call.rows.require(Ability.TAKEN, "to_script(trial)", "Search with arrays; what pipelines brought is not written.")
    script = _Script(trial, task, call, folds, objective, runs, CodeWriter())
    model_code = _model_code(script)
    parts = [
        _head(script, model_code),
        *script.writer.functions,
        model_code,
        _compile_code(script),
        _data_code(script),
        _TAKE,
        *([_ORDER] if all(ORDERED in run.notes for run in runs) else []),
        _main_code(script),
    ]
    needed = [f"{name}, from {where or 'your program'}" for name, where in script.writer.needed.items()]
    return _with_needs("\n\n\n".join(part.strip("\n") for part in parts) + "\n", [*needed, *script.needs])


# The model ---------------------------------------------------------------------------------------------------------


def _built(script: _Script) -> keras.Model:
    clear_session()
    return build_model(script.task.build, script.trial.hyperparameters.copy())


def _model_code(script: _Script) -> str:
    """The function `build_model` of the program, in the plainest form that begins with the trial's weights."""
    first = script.runs[0]
    with seeded(first.seed):
        model = _built(script)
    for pins in (False, True):
        script.writer = CodeWriter(pins=pins)
        try:
            lines = script.writer.model(model)
        except UnwritableError:
            break
        parameter = "draws" if pins else ""
        code = f'def build_model({parameter}):\n    """The model of the trial, not compiled."""\n{joined(lines)}'
        if script.writer.needed or _begins_alike(script, code, first, model):
            return code if not pins else f"{_draws_code(script)}\n\n\n{code}"
    script.writer = CodeWriter()
    return _from_configuration(script, model)


def _begins_alike(script: _Script, code: str, run: Execution, model: keras.Model) -> bool:
    """Whether a model of this code has the weights, and the generators, that the build function's has."""
    space: dict[str, Any] = {"keras": keras, "np": np, "json": json}
    draws = [iter(script.writer.draws)] if script.writer.pins else []
    with seeded(run.seed):
        try:
            exec("\n\n".join([*script.writer.functions, code]), space)  # our own text, of Keras's classes alone
            keras.utils.set_random_seed(run.seed)
            made = space["build_model"](*draws)
        except Exception:  # whatever it is: then it is written in another form
            return False
    mine, theirs = made.variables, model.variables
    return len(mine) == len(theirs) and all(
        np.array_equal(keras.ops.convert_to_numpy(one.value), keras.ops.convert_to_numpy(other.value))
        for one, other in zip(mine, theirs, strict=True)
    )


def _draws_code(script: _Script) -> str:
    """The seeds that Keras drew for each run, in the order of the code."""
    rows = []
    for run in script.runs:
        with seeded(run.seed):
            writer = CodeWriter(pins=True)
            writer.model(_built(script))
        rows.append(f"    {writer.draws!r},")
    comment = "# What Keras drew for initial weights and dropout, run by run: layers were made in another order then."
    return "\n".join([comment, "DRAWS = [", *rows, "]"])


def _from_configuration(script: _Script, model: keras.Model) -> str:
    """Where calls cannot be written: the model's own configuration, and the classes of the user's by name."""
    try:
        config = {**keras.saving.serialize_keras_object(model), "compile_config": None}
        text = json.dumps(config)
    except Exception:
        script.needs.append("build_model, from your program: this model does not say how it was made")
        values = dict(script.trial.hyperparameters.values)
        return (
            'def build_model():\n    """The model of the trial, not compiled."""\n'
            f'    raise NotImplementedError("put your build function here, with the values {values}")'
        )
    own = sorted({name for name, where in _own_classes(config)})
    for name, where in _own_classes(config):
        script.writer.needed.setdefault(name, where)
    known = "{" + ", ".join(f'"{name}": {name}' for name in own) + "}"
    lines = ["MODEL = json.loads(", *(f"    {part!r}" for part in textwrap.wrap(text, 100, drop_whitespace=False)), ")"]
    code = (
        "\n".join(lines) + '\n\n\ndef build_model():\n    """The model of the trial, not compiled."""\n'
        f"    return keras.saving.deserialize_keras_object(MODEL, custom_objects={known})"
    )
    if own or _begins_alike(script, code, script.runs[0], model):
        return code
    return (
        "# Layers were made in another order: initial weights, and so the score, are others than the trial's.\n" + code
    )


def _own_classes(config: Any) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if isinstance(config, Mapping):
        module = str(config.get("module") or "")
        if isinstance(config.get("class_name"), str) and module and module.split(".")[0] != "keras":
            name = config["config"] if config["class_name"] == "function" else config["class_name"]
            found.append((str(name), module))
        config = list(config.values())
    if isinstance(config, list | tuple):
        found += [pair for part in config for pair in _own_classes(part)]
    return found


def _compile_code(script: _Script) -> str:
    with seeded(script.runs[0].seed):
        model = _built(script)
    given = compile_arguments(model)
    if spares_weights_decay(given.get("optimizer")):
        script.needs.append("the optimizer's exclude_from_weight_decay(...), as in your build function")
    names = ["optimizer", *(name for name in given if name not in _NOT_COMPILED_WITH)]
    usual = {"run_eagerly": False, "steps_per_execution": 1}
    shown = [name for name in names if given.get(name) is not None and usual.get(name) != given[name]]
    arguments = [f"{name}={_written(script, name, given[name])}" for name in shown]
    lines = joined(call_of("model.compile", arguments))
    return f'def compile_model(model):\n    """Loss, metrics and optimizer of the trial."""\n{lines}'


def _written(script: _Script, name: str, thing: Any) -> str:
    try:
        return script.writer.object(thing)
    except UnwritableError as error:
        script.needs.append(f"{name} of model.compile: {error} that has no code of its own")
        return f"YOUR_{name.upper()}"


# The rows ----------------------------------------------------------------------------------------------------------


def _parts_of(call: Call) -> dict[str, FitData]:
    """The data of a call by the names that the program has for them."""
    validation = None if call.get("validation_data") is None else call.validation_rows()
    held_out = (None, None, None) if validation is None else validation.parts
    names = ("x", "y", "weight", "x_val", "y_val", "weight_val")
    return {name: part for name, part in zip(names, (*call.rows.parts, *held_out), strict=True) if part is not None}


def _data_code(script: _Script) -> str:
    parts = _parts_of(script.call)
    shown = ", ".join(f"{name} {Rows.of(part).num_rows} rows of {_form(part)}" for name, part in parts.items())
    saved = ", ".join(f"{key}=..." for name, part in parts.items() for key in _keys(name, part))
    values = ", ".join(f'"{name}": {_read(name, part)}' for name, part in parts.items())
    lines = [
        f'"""The rows of the search, in its order: {shown}.',
        "",
        f'Write them with np.savez("rows.npz", {saved}), or load them here in your own way.',
        '"""',
        'with np.load(sys.argv[1] if len(sys.argv) > 1 else "rows.npz") as rows:',
        f"    data = {{{values}}}",
    ]
    return "def load_data():\n" + joined([*lines, "return data"])


def _form(part: FitData) -> str:
    if is_nested(part):
        each = part.items() if isinstance(part, Mapping) else enumerate(part)
        return "{" + ", ".join(f"{key}: {_form(one)}" for key, one in each) + "}"
    return f"{getattr(part, 'dtype', type(part).__name__)} {tuple(np.shape(part)[1:])}"


def _keys(name: str, part: FitData) -> list[str]:
    if not is_nested(part):
        return [name]
    each = part.items() if isinstance(part, Mapping) else enumerate(part)
    return [key for inner, one in each for key in _keys(f"{name}_{inner}", one)]


def _read(name: str, part: FitData) -> str:
    if not is_nested(part):
        return f'rows["{name}"]'
    if isinstance(part, Mapping):
        return "{" + ", ".join(f"{quoted(key)}: {_read(f'{name}_{key}', one)}" for key, one in part.items()) + "}"
    return "[" + ", ".join(_read(f"{name}_{place}", one) for place, one in enumerate(part)) + "]"


_TAKE = '''
def take(data, rows):
    """Some rows of an array, or of each array of several."""
    return keras.tree.map_structure(lambda array: array[rows], data)
'''

_ORDER = '''
class InOrder(keras.utils.PyDataset):
    """Batches of shuffled rows, each epoch in an order of its own: that in which the search read them."""

    def __init__(self, parts, batch_size):
        super().__init__()
        self.parts, self.batch_size = parts, batch_size
        self.order = np.arange(len(keras.tree.flatten(parts)[0]))

    def __len__(self):
        return -(-len(self.order) // self.batch_size)

    def shuffle(self, seed):
        self.order = np.random.default_rng(seed).permutation(len(self.order))

    def __getitem__(self, batch):
        return take(self.parts, self.order[batch * self.batch_size : (batch + 1) * self.batch_size])
'''


# The program -------------------------------------------------------------------------------------------------------


def _head(script: _Script, model_code: str) -> str:
    trial, backend = script.trial, keras.backend.backend()
    values = ", ".join(f"{name}={value!r}" for name, value in trial.hyperparameters.values.items())
    text = "\n".join(
        [
            f'"""Trial {trial.trial_id} as a plain program of Keras: {values}.',
            "",
            f"Its score was {trial.score!r} ({' and '.join(script.objective.names)}), on {backend} with Keras "
            f"{keras.__version__}; the last line that is printed has the score of this program.",
            '"""',
            "",
            *(["import json"] if "json.loads" in model_code else []),
            "import os",
            "import sys",
            "",
            f'os.environ.setdefault("KERAS_BACKEND", "{backend}")',
            "",
            "import keras",
            "import numpy as np",
        ]
    )
    settings = []
    if keras.config.floatx() != "float32":
        settings.append(f'keras.config.set_floatx("{keras.config.floatx()}")')
    if (policy := keras.config.dtype_policy().name) != "float32":
        settings.append(f'keras.config.set_dtype_policy("{policy}")')
    return "\n".join([text, *(["", *settings] if settings else [])])


def _with_needs(text: str, needs: Sequence[str]) -> str:
    """The program with what the user has to supply, in words and as a line that says so when it runs."""
    if not needs:
        return text
    lines = ["# This program needs what only you have:", *(f"#   {one}" for one in needs)]
    lines.append("# Put it here in place of the next line.")
    listed = "; ".join(needs)
    lines.append(f"raise NotImplementedError({f'put here: {listed}'!r})")
    return text.replace("import numpy as np\n", "import numpy as np\n\n" + "\n".join(lines) + "\n", 1)


def _runs_code(script: _Script) -> list[str]:
    start, lines = _first_epoch(script), ["RUNS = ["]
    for run in script.runs:
        known = {"seed": str(run.seed), "epochs": str(start + run.num_epochs)}
        if ORDERED in run.notes:
            epochs = range(start, start + run.num_epochs)
            known["order"] = str([seeds.seed_of(run.notes[ORDERED], "batch order", epoch) for epoch in epochs])
        if script.folds is not None:
            plan = Plan(script.trial.trial_id, run.index, script.trial.hyperparameters, run.seed)
            split, rows = script.folds.split_for(plan), np.full(script.call.num_rows or 0, ".")
            rows[split.training], rows[split.validation] = "t", "v"
            known["rows"] = quoted("".join(rows))  # a letter for each row: it trains, or validates
        lines.append(f"    {{{', '.join(f'{quoted(name)}: {text}' for name, text in known.items())}}},")
    return [*lines, "]"]


def _first_epoch(script: _Script) -> int:
    return int(script.call.get("initial_epoch", 0) or 0)


def _main_code(script: _Script) -> str:
    pins = script.writer.pins
    lines = [
        'keras.utils.set_random_seed(run["seed"])  # before the model: its initial weights follow from it',
        f"model = build_model({'iter(draws)' if pins else ''})",
        "compile_model(model)",
        *_rows_code(script),
        *_fit_lines(script),
        *_score_lines(script.objective),
    ]
    train = f'def train(run, data{", draws" if pins else ""}):\n    """Trains one model; its score."""\n{joined(lines)}'
    each = "train(run, data, draws) for run, draws in zip(RUNS, DRAWS)" if pins else "train(run, data) for run in RUNS"
    main = [
        "data = load_data()",
        f"scores = [{each}]",
        f'print("score", np.mean(scores), "of the trial:", {script.trial.score!r})',
    ]
    return "\n".join([*_runs_code(script), "", "", train, "", "", 'if __name__ == "__main__":', joined(main)])


def _fit_lines(script: _Script) -> list[str]:
    """The call of `fit`, with the rows in the order in which they were read."""
    call, first = script.call, _first_epoch(script)
    batch_size, callbacks = call.get("batch_size") or 32, _callbacks(script)
    in_order = all(ORDERED in run.notes for run in script.runs)
    lines: list[str] = []
    if in_order:
        lines.append(f"batches = InOrder(parts, {batch_size})")
        seed = 'run["order"][epoch]' if not first else f'run["order"][epoch - {first}]'
        shuffle = f"lambda epoch, logs: batches.shuffle({seed})"
        callbacks = [f"keras.callbacks.LambdaCallback(on_epoch_begin={shuffle})", *callbacks]
        arguments = ["batches", "shuffle=False"]
    else:
        arguments = ["parts[0]", *(["parts[1]"] if call.y is not None else [])]
        arguments += ["sample_weight=parts[2]"] if "weight" in _parts_of(call) else []
        arguments += [f"batch_size={batch_size}", f"shuffle={_written(script, 'shuffle', call.get('shuffle', True))}"]
    if _validates(script):
        arguments.append("validation_data=held_out")
    arguments += ['epochs=run["epochs"]', *([f"initial_epoch={first}"] if first else [])]
    more = {name: value for name, value in call.arguments.items() if name not in _NOT_PASSED and value is not None}
    arguments += [f"{name}={_written(script, name, value)}" for name, value in more.items()]
    arguments += [f"callbacks=[{', '.join(callbacks)}]"] if callbacks else []
    return [*lines, *call_of("found = model.fit", [*arguments, "verbose=2"])]


def _validates(script: _Script) -> bool:
    return script.folds is not None or script.call.validation_rows() is not None


def _rows_code(script: _Script) -> list[str]:
    """Lines that make `parts`, what is trained on, and `held_out`, what validates."""
    parts = _parts_of(script.call)
    training = _tuple_of([name for name in ("x", "y", "weight") if name in parts])
    if script.folds is not None:
        return [
            f'parts, letters = {training}, np.array(list(run["rows"]))',
            'held_out = take(parts, np.flatnonzero(letters == "v"))',
            'parts = take(parts, np.flatnonzero(letters == "t"))',
        ]
    lines = [f"parts = {training}"]
    if "x_val" in parts:
        validation = _tuple_of([name for name in ("x_val", "y_val", "weight_val") if name in parts])
        return [*lines, f"held_out = {validation}"]
    if not _validates(script):
        return lines
    first = script.call.training_rows().num_rows
    return [*lines, f"parts, held_out = take(parts, slice(None, {first})), take(parts, slice({first}, None))"]


def _tuple_of(names: Sequence[str]) -> str:
    inside = ", ".join(f'data["{name}"]' for name in names)
    return f"({inside},)" if len(names) == 1 else f"({inside})"


def _callbacks(script: _Script) -> list[str]:
    """Keras's own callbacks that act on the training, whose arguments are their attributes."""
    written = []
    for callback in script.call.callbacks:
        name = type(callback).__name__
        if getattr(keras.callbacks, name, None) is not type(callback):
            script.needs.append(f"the callback {name}, from {type(callback).__module__}; add it to callbacks=[...]")
        elif name in _WRITABLE:
            arguments = {key: getattr(callback, key) for key in _WRITABLE[name]}
            if "min_delta" in arguments:
                arguments["min_delta"] = abs(arguments["min_delta"])  # turned by `on_train_begin`
            shown = ", ".join(f"{key}={script.writer.value(value)}" for key, value in arguments.items())
            written.append(f"keras.callbacks.{name}({shown})")
        elif name not in _NOT_ACTING:
            script.needs.append(f"the callback {name} as you made it; add it to callbacks=[...]")
    return written


_WRITABLE: Mapping[str, Sequence[str]] = {
    "ReduceLROnPlateau": ("monitor", "factor", "patience", "mode", "min_delta", "cooldown", "min_lr"),
    "TerminateOnNaN": (),
}
# The number of epochs is what was trained, so whatever ends a training early has nothing to do.
_NOT_ACTING = ("EarlyStopping", "ModelCheckpoint", "CSVLogger", "History", "TensorBoard", "ProgbarLogger")


def _score_lines(objective: Objective) -> list[str]:
    """The best epoch's value of the objective."""
    signs = [(name, sign) for name, sign in _signs(objective) if name not in MEASURES]
    if len(signs) == 1:
        name, sign = signs[0]
        return [f"return {'max' if sign < 0 else 'min'}(found.history[{quoted(name)}])"]
    terms = [f"{'-' if sign < 0 else '+'} np.array(found.history[{quoted(name)}])" for name, sign in signs]
    return [f"return np.min({' '.join(terms).removeprefix('+ ')})"]


def _signs(objective: Objective) -> list[tuple[str, int]]:
    terms: Callable[[Objective], Sequence[Objective]] = lambda one: getattr(one, "objectives", None) or [one]  # noqa: E731
    return [(term.name, -1 if term.direction == "max" else 1) for term in terms(objective.terms[0])]
