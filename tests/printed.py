"""What confirmations and looks at test rows print, in every situation: `python tests/printed.py` writes it.

Each is reached through `tuner.confirm` and `tuner.evaluate`, by a search whose losses are numbers instead of trainings.
docs/confirm.md shows what this prints, and a test holds the two against each other.
"""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tiny

from manyfit.core.records import Ending, Result
from manyfit.store.predictions import RowLosses

NUM_ROWS = 400


class Told(tiny.Formula):
    """Trials score what they are told, with the luck of seeds and of rows.

    Args:
        losses: of each number of units, on fresh seeds and rows.
        seeds: deviation of a run by its seed.
        rows: deviation of a trial's own luck with a row.
        searched: losses of the search, where it was lucky.
    """

    archive: Any = None

    def __init__(
        self, losses: Mapping[int, float], *, seeds: float, rows: float, searched: Mapping[int, float] | None = None
    ) -> None:
        super().__init__()
        self.losses, self.searched = losses, dict(losses) | dict(searched or {})
        self.seeds, self.rows = seeds, rows

    def train(self, supply, task):
        while plans := supply.take(1):
            [plan] = plans
            units, is_search = plan.values.values["units"], plan.phase == "search"
            rng = np.random.default_rng([units, plan.execution, is_search])
            luck = np.random.default_rng(units).normal(size=NUM_ROWS)
            rows = self.losses[units] + self.rows * luck + self.seeds * rng.normal()
            loss = self.searched[units] if is_search else float(rows.mean())
            supply.report([(plan, 0, {"loss": loss})])
            if not is_search:
                kept = RowLosses("mse", loss, (rows - rows.mean() + loss).astype(np.float32), "these", "plain")
                self.archive.keep_losses(plan.trial_id, plan.phase, plan.execution, kept)
            supply.finish(Result(plan, Ending.COMPLETED, {"loss": [loss]}, seconds=2.0, num_parameters=100 * units))


def confirmed(folder: Path, trainer: Told, **options: Any) -> list[str]:
    """The sentences of a confirmation of all that the trainer was told, but for what the call took."""
    finalists, trainer.losses = list(trainer.losses), {**trainer.losses, **OTHERS}
    trainer.searched |= OTHERS
    tuner = tiny.searched(trainer, max_trials=len(trainer.losses), seed=0, directory=folder, overwrite=True)
    trainer.archive = tuner.predictions_archive
    for units in trainer.losses:
        tuner.enqueue({"units": units, "kind": "a"})
    tuner.search(np.zeros((8, 3)), np.zeros(8), verbose=0)
    found = tuner.confirm(top=len(finalists), proof_executions=0, **options)
    tuner.close()
    return found.sentences()[:-1]


def third_look(folder: Path) -> list[str]:
    """Three models on the same test rows."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 1)).astype("float32")
    y = (x[:, 0] + rng.normal(size=2000) > 0).astype("int32")
    tuner = tiny.searched(tiny.Formula(), max_trials=1, directory=folder, overwrite=True)
    said = []
    for name, place in {"first": 0.3, "second": 0.15, "third": 0.05}.items():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "sigmoid")], name=name)
        model.compile("sgd", "binary_crossentropy", metrics=["accuracy"])
        model.set_weights([np.ones((1, 1)), np.array([place])])
        said = str(tuner.evaluate(x, y, models=model, verbose=0)).splitlines()
    tuner.close()
    return said


#: Losses of those that are no finalists.
OTHERS = {44: 0.40, 46: 0.43, 48: 0.47, 50: 0.55}

#: Heading -> what prints it.
SITUATIONS: dict[str, Callable[[Path], Sequence[str]]] = {
    "settled": lambda folder: confirmed(folder, Told({10: 0.20, 20: 0.24, 40: 0.26}, seeds=0.01, rows=0.1)),
    "not settled": lambda folder: confirmed(
        folder, Told({10: 0.200, 20: 0.224, 40: 0.232}, seeds=0.02, rows=0.02), max_rounds=6
    ),
    "one run": lambda folder: confirmed(
        folder, Told({10: 0.20, 20: 0.21, 40: 0.22}, seeds=0.02, rows=0.1), max_rounds=1
    ),
    "equal within a margin": lambda folder: confirmed(
        folder, Told({10: 0.2005, 20: 0.2, 40: 0.2}, seeds=0.002, rows=0.01), margin=0.01
    ),
    "rows are the limit": lambda folder: confirmed(
        folder, Told({10: 0.200, 20: 0.205, 40: 0.21}, seeds=0.002, rows=0.3)
    ),
    "an overruled search winner": lambda folder: confirmed(
        folder, Told({10: 0.20, 20: 0.22, 40: 0.25}, seeds=0.01, rows=0.05, searched={20: 0.18})
    ),
    "a third look at the test rows": third_look,
}


def page() -> str:
    """All of it, as docs/confirm.md has it."""
    blocks = []
    for heading, printed in SITUATIONS.items():
        with tempfile.TemporaryDirectory() as folder:
            lines = [textwrap.fill(line, 118, subsequent_indent="  ") for line in printed(Path(folder)) if line]
        blocks.append("\n".join([f"-- {heading}", *lines]))
    return "\n\n".join(blocks)


if __name__ == "__main__":
    print(page())
