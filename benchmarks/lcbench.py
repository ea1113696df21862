"""The LCBench surrogate as a search problem: seven hyperparameters of an MLP, final validation accuracy.

Data: Zimmer, Lindauer and Hutter 2021, as fitted by YAHPO Gym (Pfisterer et al. 2022). Needs `onnxruntime`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import numpy as np

LAST_EPOCH = 51
NAMES = ("batch_size", "learning_rate", "momentum", "weight_decay", "num_layers", "max_units", "max_dropout")
_ACCURACY = 1  # column of the output
_REFERENCE_SEED = 12345


def data_folder() -> pathlib.Path:
    """Where the data are: `MANYFIT_DATA`, by default beside the repository."""
    default = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    return pathlib.Path(os.environ.get("MANYFIT_DATA", default)) / "lcbench"


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One hyperparameter of the benchmark."""

    name: str
    lower: float
    upper: float
    log: bool
    whole: bool


@dataclasses.dataclass(frozen=True)
class Reference:
    """What regrets are measured against: all in validation accuracy, 0 to 1."""

    best: float
    median: float
    top_decile_spread: float  # best of 20,000 random configurations minus their 90 % quantile

    def regret(self, accuracy: np.ndarray) -> np.ndarray:
        """Normalised regret: 0 at the best known configuration, 1 at the median random one, clipped."""
        return np.clip((self.best - accuracy) / (self.best - self.median), 0.0, 1.0)


class Benchmark:
    """The twelve development tasks: every third one in the order of `config_space.json`."""

    def __init__(self) -> None:
        import onnxruntime

        folder = data_folder()
        config = json.loads((folder / "config_space.json").read_text())["hyperparameters"]
        by_name = {each["name"]: each for each in config}
        self.tasks: list[str] = by_name["OpenML_task_id"]["choices"][::3]
        self.parameters = [
            Parameter(
                name,
                by_name[name]["lower"],
                by_name[name]["upper"],
                by_name[name]["log"],
                by_name[name]["type"] == "uniform_int",
            )
            for name in NAMES
        ]
        self._codes = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)

    def accuracy(self, task: str, configurations: np.ndarray) -> np.ndarray:
        """Validation accuracy, 0 to 1, after the last epoch.

        Args:
            task: one of `tasks`.
            configurations: (n, 7) values in the order of `NAMES`.
        """
        epochs = np.full((len(configurations), 1), LAST_EPOCH)
        inputs = {
            "x_cat": np.full((len(configurations), 1), self._codes[task], np.int32),
            "x_cont": np.concatenate([epochs, configurations], axis=1).astype(np.float32),
        }
        return self._session.run(None, inputs)[0][:, _ACCURACY].astype(float) / 100.0

    def configurations(self, points: np.ndarray) -> np.ndarray:
        """(n, 7) points of the unit cube as values."""
        columns = []
        for parameter, column in zip(self.parameters, points.T, strict=True):
            low, high = parameter.lower, parameter.upper
            values = low * (high / low) ** column if parameter.log else low + (high - low) * column
            columns.append(np.round(values) if parameter.whole else values)
        return np.stack(columns, axis=1)

    def reference(self, task: str, rounds: int = 60) -> Reference:
        """Best, median and spread: 20,000 random configurations, and a long local search from the best 40."""
        rng = np.random.default_rng(_REFERENCE_SEED)
        points = rng.random((20_000, len(NAMES)))
        accuracy = self.accuracy(task, self.configurations(points))
        median, decile = float(np.median(accuracy)), float(np.quantile(accuracy, 0.9))
        spread = float(accuracy.max()) - decile
        keep = np.argsort(-accuracy)[:40]
        best, values = points[keep], accuracy[keep]
        for _ in range(rounds):
            near = np.repeat(best, 100, axis=0)
            scale = 10.0 ** rng.uniform(-3, -0.5, (len(near), 1))
            moved = rng.random(near.shape) < rng.random((len(near), 1))
            near = np.clip(near + moved * scale * rng.standard_normal(near.shape), 0.0, 1.0)
            faces = rng.random(near.shape) < 0.03
            near[faces] = np.round(near[faces])
            both = np.concatenate([best, near])
            both_values = np.concatenate([values, self.accuracy(task, self.configurations(near))])
            keep = np.argsort(-both_values)[:40]
            best, values = both[keep], both_values[keep]
        return Reference(float(values[0]), median, spread)
