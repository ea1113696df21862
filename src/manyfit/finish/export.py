"""A folder with everything about a final model: the model, its values, seeds, versions, curves, and a model card."""

from __future__ import annotations

import csv
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import keras

from manyfit.core.errors import UsageError, explain
from manyfit.core.history import at_epoch
from manyfit.oracles import Oracle, Trial
from manyfit.oracles.trial import SEARCH, Execution
from manyfit.report.confirmation import Confirmation
from manyfit.space.hyperparameter import HyperParameter
from manyfit.training.estimators import save_final

_PACKAGES = ("manyfit", "keras", "numpy", "scipy", "jax", "tensorflow", "torch")


class Savable(Protocol):
    """A Keras model or an ensemble: whatever writes itself to one file."""

    def save(self, path: Path) -> object: ...


def export(
    folder: str | os.PathLike[str],
    model: Savable,
    trials: Sequence[Trial],
    oracle: Oracle,
    *,
    test_uses: Sequence[Mapping[str, Any]] = (),
    overwrite: bool = False,
) -> Path:
    """Writes a final model and its story.

    Args:
        folder: where to; it is made.
        model: the model.
        trials: the configurations in it.
        oracle: the search.
        test_uses: see `manyfit.finish.evaluation.test_uses`.
        overwrite: whether files in the folder may be replaced.

    Returns:
        The folder, with `model.keras` (of an estimator `model.pickle`), `values.json`, `seeds.json`, `versions.json`,
        `curves.csv` and `README.md`, the model card.

    Raises:
        UsageError: the folder has files and `overwrite` is False.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        instead = "Type another folder, or overwrite=True."
        raise UsageError(explain(f'export("{folder}")', "a folder with files", "an empty or a new folder", instead))
    folder.mkdir(parents=True, exist_ok=True)
    # The model first: if it cannot be saved, no folder tells its story without it.
    save_final(model, folder / "model.keras")
    _write_json(folder / "values.json", {trial.trial_id: dict(trial.hyperparameters.values) for trial in trials})
    _write_json(folder / "seeds.json", _seeds(trials, oracle))
    versions = _versions()
    _write_json(folder / "versions.json", versions)
    _write_curves(folder / "curves.csv", trials)
    stored = None if oracle.book.store is None else oracle.book.store.get("confirmation")
    confirmation = None if stored is None else Confirmation.from_dict(stored)
    (folder / "README.md").write_text(model_card(model, trials, oracle, confirmation, test_uses, versions))
    return folder


def model_card(
    model: Savable,
    trials: Sequence[Trial],
    oracle: Oracle,
    confirmation: Confirmation | None,
    test_uses: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
) -> str:
    """The model card as Markdown: what was searched, what was confirmed, and how sure it is."""
    sections = [
        "# Model card",
        _what_it_is(model, trials),
        "## What was searched",
        _what_was_searched(oracle),
        "## What was confirmed, and how sure it is",
        _what_was_confirmed(trials, oracle, confirmation),
        "## Held-out scores",
        _held_out(test_uses),
        "## Loading it",
        '```python\nimport keras\n\nmodel = keras.models.load_model("model.keras")\n```',
        "Made with " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    return "\n\n".join(sections) + "\n"


def _what_it_is(model: Savable, trials: Sequence[Trial]) -> str:
    lines = [f"Exported on {time.strftime('%Y-%m-%d')}. Trials in it: {', '.join(trial.trial_id for trial in trials)}."]
    epochs = getattr(getattr(model, "history", None), "epoch", None)
    if epochs:
        lines.append(f"Its last training had {len(epochs)} epochs.")
    for trial in trials:
        rows = [{"hyperparameter": name, "value": value} for name, value in trial.hyperparameters.values.items()]
        lines.append(f"\nTrial {trial.trial_id}:\n\n{_markdown(rows)}")
    return "\n".join(lines)


def _what_was_searched(oracle: Oracle) -> str:
    everything = list(oracle.trials.values())
    completed = oracle.book.by_search_score()
    runs = sum(len(trial.executions) for trial in everything)
    sampler = type(oracle).__name__ if oracle.sampler is None else oracle.sampler.settings()["name"]
    space = [
        {"hyperparameter": hp.name, "kind": type(hp).__name__, "range": _range(hp)} for hp in oracle.get_space().space
    ]
    return (
        f"{len(everything)} configurations were tried in {runs} training runs ({len(completed)} completed), "
        f"proposed by `{sampler}`, for how long decided by `{oracle.scheduler.settings()['name']}`. "
        f"Objective: `{oracle.objective.name}` ({oracle.objective.direction}). Seed of the search: {oracle.seed}.\n\n"
        f"{_markdown(space) if space else 'There was nothing to tune.'}"
    )


def _what_was_confirmed(trials: Sequence[Trial], oracle: Oracle, confirmation: Confirmation | None) -> str:
    if confirmation is None:
        count = len(oracle.book.by_search_score())
        best = "\n".join(f"- trial {trial.trial_id}: {trial.score:.6g}" for trial in trials if trial.score is not None)
        return (
            f"Nothing was confirmed on fresh seeds. The scores below are of the search, chosen as the best of {count} "
            f"noisy numbers, so they are too good, by an unknown amount.\n\n{best}"
        )
    outside = [trial.trial_id for trial in trials if trial.trial_id not in {row.trial_id for row in confirmation.rows}]
    lines = [f"- {sentence}" for sentence in confirmation.sentences()]
    lines += [f"- Trial {trial_id} of this model was not among the finalists." for trial_id in outside]
    return "\n".join(lines) + f"\n\n{_markdown(confirmation.table())}"


def _held_out(test_uses: Sequence[Mapping[str, Any]]) -> str:
    if not test_uses:
        return "No test data have been looked at."
    rows = [
        {
            "when": time.strftime("%Y-%m-%d %H:%M", time.gmtime(use["at"])),
            "test data": use["data"],
            "model": name,
            **scores,
            "interval": f"{use['confidence']:.0%}, over the rows",
        }
        for use in test_uses
        for name, scores in use["with_intervals"].items()
    ]
    uses = {use["data"]: sum(other["data"] == use["data"] for other in test_uses) for use in test_uses}
    notes = [
        f"Test data {data} were used for {count} different choices: the better of several choices looks better on the "
        "rows that it was chosen by than it is."
        for data, count in uses.items()
        if count > 1
    ]
    return "\n\n".join([_markdown(rows), *notes])


def _range(hyperparameter: HyperParameter) -> str:
    config = dict(hyperparameter.get_config())
    kept = ("values", "value", "min_value", "max_value", "step", "sampling")
    return ", ".join(f"{name}={config[name]}" for name in kept if config.get(name) is not None)


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [row.get(name) for name in names]
        lines.append(
            "| " + " | ".join("" if c is None else f"{c:.6g}" if isinstance(c, float) else str(c) for c in cells) + " |"
        )
    return "\n".join(lines)


def _runs(trial: Trial) -> list[tuple[str, Execution]]:
    runs = [(SEARCH, run) for _, run in sorted(trial.executions.items())]
    return runs + [(phase, run) for phase, kind in trial.replicates.items() for _, run in sorted(kind.items())]


def _seeds(trials: Sequence[Trial], oracle: Oracle) -> dict[str, Any]:
    executions = {
        trial.trial_id: [{"phase": phase, "execution": run.index, "seed": run.seed} for phase, run in _runs(trial)]
        for trial in trials
    }
    return {"search": oracle.seed, "executions": executions}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**versions, "backend": keras.backend.backend(), "platform": platform.platform()}


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n")


def _write_curves(path: Path, trials: Sequence[Trial]) -> None:
    rows = [
        {
            "trial": trial.trial_id,
            "phase": phase,
            "execution": run.index,
            "epoch": epoch + 1,
            **at_epoch(run.history, epoch),
        }
        for trial in trials
        for phase, run in _runs(trial)
        for epoch in range(run.num_epochs)
    ]
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["trial", "phase", "execution", "epoch"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
