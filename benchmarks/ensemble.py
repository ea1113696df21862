"""Ensembling against its rivals, on kept predictions of real searches. `make bench-ensemble`.

Parts (``--parts quality null speed fused``):

quality  20 resplits of each search's held-out rows into validation rows (200, 1,000, 5,000, or half where there are
         fewer) and test rows; every combiner sees the validation rows only. Test losses, ranks, and stated gains
         against gains on test rows.
null     members are one model plus a whiff of noise: the share of refusals.
speed    1,000 members x 10,000 rows x 10 classes: greedy selection and convex weights, against a Python loop.
fused    `Ensemble.predict` of 8 MLPs of one structure against 8 `predict` calls, as typed and in large batches.

Data: MNIST and California housing in the folder MANYFIT_DATA (default ``../shared/data``), or downloaded by Keras.
The searches run once (``cache/ensemble`` beside this file); results go to ``results/ensemble.md``.
"""

from __future__ import annotations

import os

import conditions

os.environ.setdefault("KERAS_BACKEND", "jax")

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from combiners import RIVALS, entries_of, log_loss, squared_error
from ensemble_searches import SEARCHES, Replay, replay
from scipy.stats import rankdata

from manyfit.ensemble import Ensemble
from manyfit.ensemble.metrics import default_metric
from manyfit.ensemble.pools import LinearPool, Pool, softmax
from manyfit.ensemble.problem import PredictionTask, make_problem
from manyfit.ensemble.weights.exact import log_loss_weights
from manyfit.ensemble.weights.gradient import one_thread
from manyfit.ensemble.weights.greedy import greedy_weights

HERE = Path(__file__).parent
DATA = Path(os.environ.get("MANYFIT_DATA", HERE.parent / "../shared/data"))
SIZES = (200, 1_000, 5_000)
RESPLITS = 20
OURS = "Manyfit"
NAMES = (OURS, *RIVALS)


def sizes_of(rows: int) -> list[int]:
    """Validation rows: those of `SIZES` that leave half of the rows for the test, or half of the rows."""
    sizes = [size for size in SIZES if size <= rows // 2]
    return sizes if rows // 2 >= 2 * SIZES[1] else sorted({*sizes, rows // 2})


def split(search: Replay, size: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Validation rows and test rows of one resplit."""
    order = np.random.default_rng([number, size]).permutation(len(search.y))
    return order[:size], order[size:]


def rivals_on(search: Replay, size: int, number: int) -> dict[str, Any]:
    """Test losses of the rivals on one resplit, and what it took to fit them."""
    chosen, test = split(search, size, number)
    loss = squared_error if search.is_regression else log_loss
    seen = entries_of(search.predictions[:, chosen], search.y[chosen], search.is_regression)
    unseen = entries_of(search.predictions[:, test], search.y[test], search.is_regression)
    losses, seconds = {}, {}
    for name, combine in RIVALS.items():
        started = time.perf_counter()
        weights = combine(seen, loss)
        seconds[name] = time.perf_counter() - started
        losses[name] = float(loss(weights @ unseen))
    return {"losses": losses, "seconds": seconds}


def ours_on(search: Replay, size: int, number: int) -> dict[str, Any]:
    """Test loss of Manyfit on one resplit, what it stated, and what the ensemble it speaks of gains on test rows."""
    chosen, test = split(search, size, number)
    loss = squared_error if search.is_regression else log_loss
    task = PredictionTask.REGRESSION if search.is_regression else PredictionTask.MULTICLASS
    started = time.perf_counter()
    ensemble = Ensemble.fit(list(search.predictions[:, chosen]), search.y[chosen], task=task, seed=number)
    seconds = time.perf_counter() - started
    unseen = search.predictions[:, test]

    def loss_of(pool: Pool) -> float:
        pooled = pool(unseen, task)
        return float(loss(entries_of(pooled[None], search.y[test], search.is_regression))[0])

    single = next(one.pool for one in ensemble.choice.candidates if one.name == "single best")
    gain = ensemble.gain
    return {
        "losses": {OURS: loss_of(ensemble.pool)},
        "seconds": {OURS: seconds},
        "method": ensemble.choice.ensemble.name,
        "refused": ensemble.refused,
        "stated": gain.estimate,
        "error": gain.standard_error,
        "true": loss_of(single) - loss_of(ensemble.choice.ensemble.pool),
    }


def quality(folder: Path, names: list[str], resplits: int) -> str:
    """Runs what has not been run, and makes the tables of what has."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        search = replay(name, folder, DATA if DATA.exists() else None)
        for size in sizes_of(len(search.y)):
            both = [
                _kept(folder / f"{role} {name} {size}.json", run, search, size, resplits)
                for role, run in (("rivals", rivals_on), ("ours", ours_on))
            ]
            found[f"{name}, {len(search.predictions)} members, {size:,} rows"] = [
                {**ours, **{key: rivals[key] | ours[key] for key in rivals}} for rivals, ours in zip(*both, strict=True)
            ]
            print(f"{name} {size}: done", flush=True)
    count = f"{resplits} resplits of the rows of {', '.join(names)}."
    return "\n\n".join([count, _loss_table(found), _gain_table(found)])


def _kept(path: Path, run: Any, search: Replay, size: int, resplits: int) -> list[dict[str, Any]]:
    rows = json.loads(path.read_text()) if path.exists() else []
    for number in range(len(rows), resplits):
        rows.append(run(search, size, number))
        path.write_text(json.dumps(rows))
    return rows[:resplits]


def _loss_table(found: dict[str, list[dict[str, Any]]]) -> str:
    lines = [f"| validation rows | {' | '.join(NAMES)} |", "|---" * (len(NAMES) + 1) + "|"]
    ranks, worse = [], []
    for title, rows in found.items():
        losses = np.array([[row["losses"][name] for name in NAMES] for row in rows])
        ranks += [rankdata(row) for row in losses]
        lines.append(f"| {title} | " + " | ".join(f"{mean:.4f}" for mean in losses.mean(axis=0)) + " |")
        apart = losses[:, 0] - losses[:, NAMES.index("single best")]
        error = apart.std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else np.inf
        if apart.mean() > 2 * error:
            worse.append(f"{title}: {apart.mean():+.2g} with standard error {error:.1g}")
    lines.append("| **mean rank** | " + " | ".join(f"**{mean:.2f}**" for mean in np.mean(ranks, axis=0)) + " |")
    seconds = [[row["seconds"][name] for name in NAMES] for rows in found.values() for row in rows]
    lines.append("| median seconds to fit | " + " | ".join(f"{s:.2g}" for s in np.median(seconds, axis=0)) + " |")
    verdict = "; ".join(worse) or "nowhere"
    return "\n".join([*lines, "", f"Worse than the single best by more than two standard errors: {verdict}."])


def _gain_table(found: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "| validation rows | stated gain | its standard error | gain on test rows | difference | refused | methods |",
        "|---" * 7 + "|",
    ]
    scaled, apart = [], []
    for title, rows in found.items():
        stated, true, error = (np.array([row[key] for row in rows]) for key in ("stated", "true", "error"))
        difference = float((stated - true).mean())
        own = float(error.mean())
        scaled.append(difference / own)
        apart.append(difference / float((stated - true).std(ddof=1) / np.sqrt(len(rows))))
        refused = float(np.mean([row["refused"] for row in rows]))
        methods = Counter(row["method"] for row in rows).most_common(3)
        named = "; ".join(f"{method}: {count}" for method, count in methods)
        lines.append(
            f"| {title} | {stated.mean():.4f} | {own:.4f} | {true.mean():.4f} | {difference:+.4f} | {refused:.0%} "
            f"| {named} |"
        )
    spread = np.std(apart, ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else float("nan")
    text = (
        "Stated minus true gain, mean over resplits, in standard errors of one statement: mean over the lines "
        f"{np.mean(scaled):+.2f}, at most {np.max(np.abs(scaled)):.2f}; within one on "
        f"{np.mean(np.abs(scaled) <= 1):.0%} of the lines. In standard errors of the mean over resplits: mean over the "
        f"lines {np.mean(apart):+.2f} (standard error {spread:.2f})."
    )
    return "\n".join([*lines, "", text])


def null(trials: int) -> str:
    """The share of refusals where members are one calibrated model plus noise of 0.05 on its logits."""
    lines = []
    for rows in (200, 1_000):
        refused = 0
        for seed in range(trials):
            rng = np.random.default_rng([seed, rows])
            logits = 1.5 * rng.normal(size=(rows, 3))
            y = (softmax(logits).cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1)
            members = [softmax(logits + 0.05 * rng.normal(size=logits.shape)) for _ in range(5)]
            refused += Ensemble.fit(members, y, seed=seed).refused
        lines.append(f"{rows:,} rows: refused in {refused} of {trials} ({refused / trials:.1%})")
    return "Null test, goal 95 %: " + "; ".join(lines) + "."


def speed() -> str:
    """Greedy selection and convex weights on 1,000 x 10,000 x 10, and a greedy that loops over members in Python."""
    rng = np.random.default_rng(0)
    num_members, num_rows, num_classes = 1_000, 10_000, 10
    y = rng.integers(0, num_classes, num_rows)
    predictions = np.empty((num_members, num_rows, num_classes), np.float32)
    signal = 2.0 * np.eye(num_classes)[y]
    for member in predictions:
        member[:] = softmax(signal + rng.normal(scale=rng.uniform(1.5, 3), size=signal.shape))
    problem = make_problem(predictions, y, task="multiclass")
    seconds = {}
    with one_thread():  # as in `Ensemble.fit`
        started = time.perf_counter()
        probability = problem.true_probability
        seconds["prepared"] = time.perf_counter() - started
        started = time.perf_counter()
        weights = greedy_weights(problem, default_metric(PredictionTask.MULTICLASS), num_steps=25)
        seconds["greedy"] = time.perf_counter() - started
        started = time.perf_counter()
        solution = log_loss_weights(probability, tolerance=1e-9)
        seconds["convex"] = time.perf_counter() - started
    return (
        f"1,000 members x 10,000 rows x 10 classes: probabilities of the truth {seconds['prepared']:.2f} s, once; "
        f"greedy 25 {seconds['greedy']:.2f} s ({np.count_nonzero(weights)} members); convex weights "
        f"{seconds['convex']:.2f} s (gap {solution.gap:.0e}). "
        + _python_loops(predictions, y, seconds["prepared"] + seconds["greedy"])
    )


def _python_loops(predictions: np.ndarray, y: np.ndarray, ours: float, *, num_steps: int = 25) -> str:
    """Greedy selection that loops over members: the leanest that we can write, and one that calls a library's metric,
    as AutoGluon does. One step, or a part of one, is enough to know."""
    from sklearn.metrics import log_loss as library_loss

    rows, total, told = np.arange(len(y)), np.zeros(predictions.shape[1:]), []
    ways = {
        "taking the true column": (len(predictions), lambda pooled: -np.log(pooled[rows, y]).mean()),
        "calling scikit-learn's log_loss": (40, lambda pooled: library_loss(y, pooled)),
    }
    for name, (count, metric) in ways.items():
        started = time.perf_counter()
        for member in predictions[:count]:
            metric((total + member) / 1.0)
        seconds = num_steps * len(predictions) / count * (time.perf_counter() - started)
        told.append(
            f"{name} {seconds:.1f} s, {seconds / ours:.0f}x ({count:,} of {num_steps * len(predictions):,} timed)"
        )
    return f"A Python loop over members: {'; '.join(told)}."


def fused() -> str:
    """Eight MLPs of one structure: one program against eight calls of `predict`, as typed and in batches of 1,024."""
    import keras

    from manyfit.ensemble import EnsembleMember

    lines = [
        "8 MLPs, milliseconds (ratio to `Ensemble.predict`); the matrix products alone are those of NumPy:",
        "",
        "| MLP | rows | `Ensemble.predict` | 8 x `predict(x)` | 8 x `predict(x, batch_size=1024)` | products alone |",
        "|---" * 6 + "|",
    ]
    for units in ((784, 64, 10), (20, 64, 64, 10)):
        models = []
        for seed in range(8):
            keras.utils.set_random_seed(seed)
            hidden = [keras.layers.Dense(width, activation="relu") for width in units[1:-1]]
            last = keras.layers.Dense(units[-1], activation="softmax")
            models.append(keras.Sequential([keras.Input(units[:1]), *hidden, last]))
        members = [EnsembleMember(f"m{number}", model) for number, model in enumerate(models)]
        ensemble = Ensemble(members, LinearPool(np.full(8, 1 / 8)), PredictionTask.MULTICLASS, num_outputs=units[-1])
        kernels = [[np.asarray(weights) for weights in model.get_weights()[::2]] for model in models]
        for num_rows in (100, 1_000, 10_000):
            x = np.random.default_rng(0).random((num_rows, units[0]), dtype=np.float32)
            lines.append(f"| {'-'.join(map(str, units))} | {num_rows:,} | {_fused_row(ensemble, models, kernels, x)} |")
    return "\n".join(lines)


def _fused_row(ensemble: Ensemble, models: list[Any], kernels: list[list[np.ndarray]], x: np.ndarray) -> str:
    def products() -> None:
        first = x @ np.concatenate([layers[0] for layers in kernels], axis=1)
        for hidden, layers in zip(np.split(first, len(kernels), axis=1), kernels, strict=True):
            for kernel in layers[1:]:
                hidden = hidden @ kernel

    ways = {
        "fused": lambda: ensemble.predict(x),
        "calls": lambda: np.mean([model.predict(x, verbose=0) for model in models], axis=0),
        "large": lambda: np.mean([model.predict(x, batch_size=1024, verbose=0) for model in models], axis=0),
        "products": products,
    }
    np.testing.assert_allclose(ways["fused"](), ways["calls"](), atol=1e-5)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(7):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    median = {name: 1e3 * float(np.median(values)) for name, values in seconds.items()}
    told = [f"{median[name]:.1f} ({median[name] / median['fused']:.1f}x)" for name in ("calls", "large", "products")]
    return " | ".join([f"{median['fused']:.1f}", *told])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["quality", "null", "speed", "fused"])
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES))
    parser.add_argument("--resplits", type=int, default=RESPLITS)
    parser.add_argument("--null-trials", type=int, default=100)
    parser.add_argument("--cache", type=Path, default=HERE / "cache" / "ensemble")
    arguments = parser.parse_args()
    conditions.show()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    makers = {
        "quality": lambda: quality(arguments.cache, arguments.searches, arguments.resplits),
        "null": lambda: null(arguments.null_trials),
        "speed": speed,
        "fused": fused,
    }
    for part in arguments.parts:
        text = makers[part]()
        (arguments.cache / f"part {part}.md").write_text(text + "\n")
        print(text, flush=True)
    texts = [path.read_text() for part in makers if (path := arguments.cache / f"part {part}.md").exists()]
    results = HERE / "results" / "ensemble.md"
    results.parent.mkdir(exist_ok=True)
    head = "Losses are log loss, or mean squared error for California housing; means over resplits."
    results.write_text("\n".join(["# `make bench-ensemble`", "", head, "", *texts]))


if __name__ == "__main__":
    main()
