"""What `structures.py` measures in processes of their own: one question, one answer as JSON on the last line.

    KERAS_BACKEND=torch python benchmarks/measured.py '["epoch", {"fit": true}]'

Manyfit is imported where it is asked about only, so that an interpreter with KerasTuner alone can answer for the rival.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import typical_spaces as spaces
from keras import layers
from typical_spaces import SPACES, Space, Split


@dataclasses.dataclass
class Cost:
    """What a part of a process took."""

    seconds: float = 0.0
    cpu: float = 0.0

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Adds what happens inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu


class Epochs(keras.callbacks.Callback):
    """Notes when epochs end, and with what loss. Both libraries copy callbacks, so the notes are the class's."""

    notes: list[tuple[float, float, float]] = []  # wall clock, CPU, validation loss

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {}).get("val_loss", float("nan"))
        self.notes.append((time.perf_counter(), time.process_time(), float(loss)))


def arguments(space: Space, split: Split, epochs: int | None, callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    """What both libraries pass to `search`."""
    return {
        "x": split.x, "y": split.y, "validation_data": (split.x_held_out, split.y_held_out), "verbose": 0,
        "batch_size": space.batch_size, "epochs": epochs or space.length, "callbacks": list(callbacks),
    }  # fmt: skip


def of_manyfit(space: Space, trials: int, options: dict[str, Any], **tuner_options: Any) -> tuple[Cost, Any]:
    """A random search of Manyfit: what it took, and the tuner."""
    import manyfit

    cost = Cost()
    with tempfile.TemporaryDirectory() as folder, cost.measured():
        tuner = manyfit.RandomSearch(
            space.build, "val_loss", max_trials=trials, seed=0, directory=folder, project_name="bench", **tuner_options
        )
        tuner.search(**options)
    if tuner.programs().reasons or any(trial.status != "COMPLETED" for trial in tuner.oracle.trials.values()):
        raise RuntimeError(f"not all trials trained together to the end: {tuner.programs()}")
    return cost, tuner


def memory() -> float:
    """The most that this process had in memory, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def search(name: str, trials: int, epochs: int | None = None, warm: bool = False, watch: bool = False) -> dict:
    """Manyfit's search through one of the spaces, and, warm, the same search once more."""
    space = SPACES[name]
    options = arguments(space, space.data(), epochs, [Epochs()] if watch else [])
    Epochs.notes.clear()
    started = time.perf_counter()
    cost, tuner = of_manyfit(space, trials, options)
    found = {**dataclasses.asdict(cost), "memory": memory(), "programs": len(tuner.programs().records)}
    found["table"] = str(tuner.programs())
    found["reached"] = [(at - started, loss) for at, _, loss in Epochs.notes]
    given = [trial.hyperparameters for trial in tuner.oracle.trials.values()]
    if warm:
        again, _ = of_manyfit(space, trials, options)
        found["warm"] = dataclasses.asdict(again)
    if len(given) > space.of_rival:
        given.sort(key=lambda hp: space.build(hp.copy()).count_params())
    return {**found, "values": [hp.values for hp in given]}


def search_keras_tuner(
    name: str, values: list[dict[str, Any]], epochs: int | None = None, limit: float = 1e9, watch: bool = False
) -> dict:
    """KerasTuner's search with given values; none is begun once the limit has passed."""
    import keras_tuner

    space = SPACES[name]
    options = arguments(space, space.data(), epochs, [Epochs()] if watch else [])
    Epochs.notes.clear()
    waiting, started = list(values), time.perf_counter()

    class Given(keras_tuner.oracles.RandomSearchOracle):
        def populate_space(self, trial_id: str) -> dict[str, Any]:
            late = time.perf_counter() - started > limit and len(waiting) < len(values)
            if late or not waiting:
                return {"status": "STOPPED", "values": None}
            return {"status": "RUNNING", "values": waiting.pop(0)}

    cost = Cost()
    with tempfile.TemporaryDirectory() as folder, cost.measured():
        oracle = Given("val_loss", max_trials=len(values), seed=0)
        tuner = keras_tuner.Tuner(oracle, space.build, directory=folder, project_name="bench")
        tuner.search(**options)
    if any(trial.status != "COMPLETED" for trial in tuner.oracle.trials.values()):
        raise RuntimeError("a trial of the rival failed")
    reached = [(at - started, loss) for at, _, loss in Epochs.notes]
    return {**dataclasses.asdict(cost), "trials": len(values) - len(waiting), "memory": memory(), "reached": reached}


def folds(trials: int = 4, number: int = 5) -> dict:
    """Programs of a cross-validated search through G3; its folds have unequal numbers of rows."""
    space = SPACES["G3"]
    split = spaces.table(rows=1003)()
    options = {"x": split.x, "y": split.y, "verbose": 0, "batch_size": space.batch_size, "epochs": 3}
    cost, tuner = of_manyfit(space, trials, {**options, "cross_validation": number})
    records = tuner.programs().records
    return {**dataclasses.asdict(cost), "programs": len(records), "compiled": sum(one.compilations for one in records)}


def three_convolutions(hp: Any) -> keras.Model:
    """The CNN of `epoch`, and the unseen one."""
    parts = [layers.Input((28, 28, 1))]
    for filters in (16, 32, 64):
        parts += [layers.Conv2D(filters, 3, padding="same", activation="relu"), layers.MaxPooling2D()]
    model = keras.Sequential([*parts, layers.Flatten(), layers.Dense(10, activation="softmax")])
    return spaces.compiled(model, spaces.adam(hp))


def hidden_layers(*range_of_units: int, step: int = 32) -> Any:
    """Build functions of two hidden layers; one number leaves no choice."""

    def build(hp: Any) -> keras.Model:
        first, second = (hp.Int(f"units_{n}", range_of_units[0], range_of_units[-1], step=step) for n in range(2))
        parts = [layers.Dense(first, activation="relu"), layers.Dense(second, activation="relu"), layers.Dropout(0.25)]
        model = keras.Sequential([layers.Input((784,)), *parts, layers.Dense(10, activation="softmax")])
        return spaces.compiled(model, spaces.adam(hp))

    return build


def unseen(kind: str, epochs: int = 6) -> dict:
    """CPU seconds until the first epoch of a new structure is done, less those of a later epoch."""
    kinds = {
        "MLP": Space(hidden_layers(224), spaces.pixels(2000), epochs),
        "one that joins": Space(hidden_layers(240), spaces.pixels(2000), epochs),
        "LSTM": Space(spaces.lstm, spaces.series(), epochs),
        "CNN": Space(three_convolutions, spaces.images(2000), epochs),
    }
    space = kinds[kind]
    split = space.data()
    if kind == "one that joins":  # the widest there is, and others beside it, so that there is what it may join
        before, several = Space(hidden_layers(256, 384), space.data, epochs), 8
    else:
        before, several = Space(spaces.small_table, spaces.table(), epochs=1), 1
    _, tuner = of_manyfit(before, several, arguments(before, split if several > 1 else before.data(), None))
    begin = time.process_time()
    _, tuner = of_manyfit(space, 1, arguments(space, split, None, [Epochs()]))
    ends = [cpu for _, cpu, _ in Epochs.notes]
    epoch = min(after - at for at, after in itertools.pairwise(ends))
    return {"cpu": ends[0] - begin - epoch, "epoch": epoch, "table": str(tuner.programs())}


def epoch(epochs: int = 8, fit: bool = False) -> dict:
    """Seconds of the fastest epoch of one CNN, by a population of one or by `model.fit`."""
    space = Space(three_convolutions, spaces.images(3000), epochs)
    options = arguments(space, space.data(), None, [Epochs()])
    table = ""
    if fit:
        import keras_tuner

        space.build(keras_tuner.HyperParameters()).fit(**options)
    else:
        table = str(of_manyfit(space, 1, options, population_size=1)[1].programs())
    ends = [wall for wall, _, _ in Epochs.notes]
    return {"seconds": min(after - at for at, after in itertools.pairwise(ends)), "table": table}


def programs(name: str, trials: int) -> dict:
    """Programs of a search through one of the ten spaces."""
    space = spaces.OF_PROGRAMS[name]
    cost, tuner = of_manyfit(space, trials, arguments(space, space.data(), None))
    records = tuner.programs().records
    return {**dataclasses.asdict(cost), "programs": len(records), "compiled": sum(one.compilations for one in records)}


def backend() -> dict:
    """Whether this interpreter has KerasTuner and the backend."""
    import keras_tuner

    return {"keras_tuner": keras_tuner.__version__, "backend": keras.backend.backend()}


QUESTIONS = {
    one.__name__: one for one in (search, search_keras_tuner, folds, unseen, epoch, programs, backend)
}  # fmt: skip


def answer(questions: dict[str, Any]) -> None:
    """Answers the question of the command line."""
    question, what = json.loads(sys.argv[1])
    with contextlib.redirect_stdout(sys.stderr):
        found = questions[question](**what)
    print(json.dumps(found))


if __name__ == "__main__":
    answer(QUESTIONS)
