"""Projects that nobody has searched: records of drawn trials, written through the store, for what reads projects."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from manyfit.space.hyperparameters import HyperParameters
from manyfit.store import ProjectStore
from manyfit.store.facts import Activity, Leader, SearchPlan, to_fact

START = 1_790_000_000.0  # seconds since 1970
NOISE = 0.01  # of one run's score


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What is drawn.

    Attributes:
        trials: completed ones and others.
        executions: of each.
        epochs: of each execution.
        failed: of the trials, the last ones.
        prefix: of the names of the hyperparameters, for names that mean harm.
        direction: "max" or "min".
        is_over: whether the search has ended.
        facts: further ones of the project.
    """

    trials: int = 20
    executions: int = 1
    epochs: int = 6
    failed: int = 0
    prefix: str = ""
    direction: str = "max"
    is_over: bool = True
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def space(self) -> HyperParameters:
        """`rate` decides, `units` a little, `kind` and `idle` do not."""
        hp = HyperParameters()
        hp.Float(f"{self.prefix}rate", 1e-4, 1e-1, sampling="log")
        hp.Int(f"{self.prefix}units", 8, 128, step=8)
        hp.Choice(f"{self.prefix}kind", ["relu", "tanh"])
        hp.Float(f"{self.prefix}idle", 0.0, 0.5)
        return hp


def write(folder: Path, drawn: Drawn, seed: int = 0) -> Path:
    """Writes a project.

    Args:
        folder: where; it is made.
        drawn: what.
        seed: of the draws.

    Returns:
        The folder.
    """
    rng = np.random.default_rng(seed)
    store = ProjectStore(folder)
    rates = np.exp(rng.uniform(math.log(1e-4), math.log(1e-1), drawn.trials))
    units = 8 * rng.integers(1, 17, drawn.trials)
    truths = 0.9 - 0.02 * (np.log10(rates) + 2) ** 2 + 0.0002 * units
    scores = truths[:, None] + rng.normal(0, NOISE, (drawn.trials, drawn.executions))
    trials, epochs = [], []
    for number in range(drawn.trials):
        trial_id = f"{number:0{len(str(max(1, drawn.trials - 1)))}d}"
        values = {
            f"{drawn.prefix}rate": float(rates[number]),
            f"{drawn.prefix}units": int(units[number]),
            f"{drawn.prefix}kind": ["relu", "tanh"][int(rng.integers(2))],
            f"{drawn.prefix}idle": float(rng.uniform(0, 0.5)),
        }
        has_failed = number >= drawn.trials - drawn.failed
        stopped = not has_failed and number % 5 == 4
        score = None if has_failed else _score(drawn, float(scores[number].mean()))
        trials.append(
            {
                "id": trial_id, "number": number, "status": "FAILED" if has_failed else "COMPLETED", "attempt": 0,
                "values": values, "started_at": START + number, "ended_at": START + number + 5,
                "outcome": {
                    "score": score, "best_step": drawn.epochs - 1, "confirmed": None,
                    "ending": "failed" if has_failed else "stopped" if stopped else "completed",
                    "message": "ValueError: no such <b>layer</b>" if has_failed else None,
                },
            }
        )  # fmt: skip
        for execution in range(0 if has_failed else drawn.executions):
            num_epochs = max(1, drawn.epochs // 2) if stopped else drawn.epochs
            own = _score(drawn, float(scores[number, execution]))
            curve = [_curve(drawn, own, epoch, num_epochs) for epoch in range(num_epochs)]
            logs = [{"val_score": value, "loss": 1 / (epoch + 1)} for epoch, value in enumerate(curve)]
            epochs += [(trial_id, "search", 0, execution, epoch, each) for epoch, each in enumerate(logs)]
            store.save_execution(
                (trial_id, "search", 0, execution),
                {
                    "seed": execution, "ending": "stopped" if stopped else "completed", "seconds": 0.5,
                    "message": None, "score": own, "best_epoch": num_epochs - 1, "num_epochs": num_epochs,
                    "metrics": {"val_score": own},
                    "costs": {
                        "structure": f"s{number % 3}", "build": 0.1, "compile": 2.0, "epoch": 0.05, "predict": 0.1,
                    },
                },
            )  # fmt: skip
    store.save_epochs(epochs)
    best = _best(drawn, scores)
    step = dataclasses.replace(Activity.here("a search", START), until=START + drawn.trials if drawn.is_over else None)
    facts = {
        "search": {"objective": f'Objective(name="val_score", direction="{drawn.direction}")'},
        "space": drawn.space.get_config(),
        "plan": to_fact(SearchPlan(max_trials=drawn.trials, max_epochs=drawn.epochs)),
        "activity": to_fact(step),
        "spent_seconds": float(drawn.trials),
        **({} if best is None else {"leader": to_fact(best)}),
        **drawn.facts,
    }
    store.save_trials(trials, **facts)
    store.close()
    return folder


def _score(drawn: Drawn, score: float) -> float:
    return score if drawn.direction == "max" else 1 - score


def _curve(drawn: Drawn, own: float, epoch: int, num_epochs: int) -> float:
    away = 0.3 * (1 - (epoch + 1) / num_epochs)
    return own - away if drawn.direction == "max" else own + away


def _best(drawn: Drawn, scores: np.ndarray) -> Leader | None:
    """The leader, with intervals of its rivals; no statistics, only something to show."""
    num_scored = drawn.trials - drawn.failed
    if num_scored < 5:
        return None
    means = scores[:num_scored].mean(axis=1)
    order = np.argsort(-means)[:8]
    width = len(str(drawn.trials - 1))
    told = [(f"{place:0{width}d}", float(means[place])) for place in order]
    ends = [sorted(_score(drawn, one) for one in (mean - 2.2 * NOISE, mean + 1.8 * NOISE)) for _, mean in told]
    (first, best), *rest = told
    return Leader(
        first, _score(drawn, best), num_scored, _score(drawn, best - 0.4 * NOISE), *ends[0],
        rivals=tuple(one for one, _ in rest[:2]), num_rows=400, noise=NOISE, luck=0.4 * NOISE,
        finalists=tuple(
            (one, _score(drawn, mean - 0.4 * NOISE), *end) for (one, mean), end in zip(told, ends, strict=True)
        ),
    )  # fmt: skip
