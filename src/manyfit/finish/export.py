"""A folder with everything about a final model: the model, its values, seeds, versions, curves, and a model card.

A card speaks of the model beside it and of no other: its hash stands in the card and can be computed from the file,
what was confirmed is told of its own configurations, and held-out scores are those of this very model.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
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
from manyfit.core.files import writing, written_whole
from manyfit.core.history import at_epoch
from manyfit.core.records import SEARCH
from manyfit.data.classes import ProjectFacts
from manyfit.evidence.test_rows import Look, Looks, luck_of_best
from manyfit.finish.artefacts import Artefacts, weights_hash
from manyfit.oracles import Oracle, Trial
from manyfit.oracles.trial import Execution
from manyfit.report.confirmation import Confirmation
from manyfit.space.hyperparameter import HyperParameter
from manyfit.training.estimators import save_final

_AGAIN = "call export again, with overwrite=True."
_PACKAGES = ("manyfit", "keras", "numpy", "scipy", "jax", "tensorflow", "torch")


class Savable(Protocol):
    """A Keras model or an ensemble: whatever writes itself to one file."""

    def save(self, path: Path) -> object: ...


@dataclasses.dataclass(frozen=True)
class Artefact:
    """A final model, as its card describes it.

    Attributes:
        trials: the configurations in it.
        hash: of its weights: see `weights_hash`.
        origin: how it was made, in words.
    """

    trials: Sequence[Trial]
    hash: str
    origin: str


def export(
    folder: str | os.PathLike[str],
    model: Savable,
    artefact: Artefact,
    oracle: Oracle,
    *,
    store: ProjectFacts,
    overwrite: bool = False,
) -> Path:
    """Writes a final model and its story.

    Args:
        folder: where to; it is made.
        model: the model.
        artefact: what is known of it.
        oracle: the search.
        store: of the project.
        overwrite: whether files in the folder may be replaced.

    Returns:
        The folder, with `model.keras` (of an estimator `model.pickle`), `artefact.json`, `values.json`, `seeds.json`,
        `versions.json`, `curves.csv` and `README.md`, the model card.

    Raises:
        UsageError: the folder has files and `overwrite` is False.
        ProjectError: the disk is full or cannot be written to.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        instead = "Type another folder, or overwrite=True."
        raise UsageError(explain(f'export("{folder}")', "a folder with files", "an empty or a new folder", instead))
    with writing(f'export("{folder}")', again=_AGAIN):
        folder.mkdir(parents=True, exist_ok=True)
    # The model first: if it cannot be saved, no folder tells its story without it.
    path = save_final(model, folder / "model.keras")
    file = _file_facts(path, artefact.hash)
    if file["weights"] is not None:
        Artefacts(store).note_file(file["weights"], artefact.hash)
    trials = artefact.trials
    ids = [trial.trial_id for trial in trials]
    _write_json(folder / "artefact.json", {**file, "model": artefact.hash, "origin": artefact.origin, "trials": ids})
    _write_json(folder / "values.json", {trial.trial_id: dict(trial.hyperparameters.values) for trial in trials})
    _write_json(folder / "seeds.json", _seeds(trials, oracle))
    versions = _versions()
    _write_json(folder / "versions.json", versions)
    _write_curves(folder / "curves.csv", trials)
    stored = None if oracle.book.store is None else oracle.book.store.get("confirmation")
    confirmation = None if stored is None else Confirmation.from_dict(stored)
    sections = {
        "Model card": _what_it_is(model, artefact, file),
        "What was searched": _what_was_searched(oracle),
        "What was confirmed, and how sure it is": _what_was_confirmed(artefact, oracle, confirmation),
        "Held-out scores": _held_out(artefact, Looks(store).all()),
        "Loading it": _loading(file),
    }
    with _file(folder / "README.md") as partial:
        partial.write_text(_card(sections, versions))
    return folder


def _file(path: Path) -> contextlib.AbstractContextManager[Path]:
    return written_whole(path, "export", again=_AGAIN, lasts=True)


def _card(sections: Mapping[str, str], versions: Mapping[str, str]) -> str:
    """The sections as Markdown."""
    parts = [f"{'#' if place == 0 else '##'} {title}\n\n{text}" for place, (title, text) in enumerate(sections.items())]
    return "\n\n".join([*parts, "Made with " + ", ".join(f"{n} {v}" for n, v in versions.items()) + "."]) + "\n"


def _file_facts(path: Path, expected: str) -> dict[str, Any]:
    """Name and hashes of the file, and of the weights that come out of it when it is loaded."""
    facts = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "weights": None}
    if path.suffix == ".keras":
        try:
            facts["weights"] = weights_hash(keras.saving.load_model(path, compile=False))
        except Exception:  # layers of the user's that are not registered: whoever loads it has to name them
            facts["weights"] = None
    elif path.suffix == ".pickle":
        facts["weights"] = expected
    return facts


def _what_it_is(model: Savable, artefact: Artefact, file: Mapping[str, Any]) -> str:
    lines = [
        f"Exported on {time.strftime('%Y-%m-%d')}. {artefact.origin}",
        f"Trials in it: {', '.join(trial.trial_id for trial in artefact.trials)}.",
        f"File `{file['file']}`, SHA-256 `{file['sha256']}`.",
    ]
    if file["weights"] is None:
        lines.append(
            f"Weights `{artefact.hash}`. Here the file could not be loaded without classes of its own "
            "(`custom_objects`), so that these are the weights of the object that was saved."
        )
    elif file["weights"] == artefact.hash:
        lines.append(f"Weights `{artefact.hash}`: all that this card says is of the model with these.")
    else:
        lines.append(
            f"Weights of the model in the file `{file['weights']}`; it holds the ensemble `{artefact.hash}`, of which "
            "this card speaks."
        )
    epochs = getattr(getattr(model, "history", None), "epoch", None)
    if epochs:
        lines.append(f"Its last training had {len(epochs)} epochs.")
    for trial in artefact.trials:
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


def _what_was_confirmed(artefact: Artefact, oracle: Oracle, confirmation: Confirmation | None) -> str:
    trials = artefact.trials
    if confirmation is None:
        count = len(oracle.book.by_search_score())
        best = "\n".join(f"- trial {trial.trial_id}: {trial.score:.6g}" for trial in trials if trial.score is not None)
        return (
            f"Nothing was confirmed on fresh seeds. The scores below are of the search, chosen as the best of {count} "
            f"noisy numbers, so they are too good, by an unknown amount.\n\n{best}"
        )
    table = dict(zip([row.trial_id for row in confirmation.rows], confirmation.table(), strict=True))
    inside = [trial.trial_id for trial in trials if trial.trial_id in table]
    lines = [
        f"- Trial {trial.trial_id} of this model was not among the finalists: of its configuration nothing was "
        "confirmed."
        for trial in trials
        if trial.trial_id not in table
    ]
    best = confirmation.recommended.trial_id
    if [trial.trial_id for trial in trials] == [best]:
        lines += [f"- {sentence}" for sentence in confirmation.sentences()]
    elif len(trials) == 1:
        lines.insert(0, f"- This model is of trial {trials[0].trial_id}; the confirmation recommends trial {best}.")
    else:
        lines.insert(0, "- The configurations of its members were confirmed one by one, the ensemble itself was not.")
    lines.append("- What is measured are fresh trainings of a configuration, not the very model in this folder.")
    parts = ["\n".join(lines)]
    if inside:
        parts.append(_markdown([table[trial_id] for trial_id in inside]))
    if [trial.trial_id for trial in trials] == [best]:
        parts.append(f"Methods: {confirmation.methods_paragraph()}")
    others = [row for trial_id, row in table.items() if trial_id not in inside]
    if others:
        parts += ["The other finalists, which are not in this folder:", _markdown(others)]
    return "\n\n".join(parts)


def _held_out(artefact: Artefact, looks: Sequence[Look]) -> str:
    """The scores of this model, and how often somebody has looked at the same rows."""
    own = [look for look in looks if artefact.hash in look.choice]
    if not looks:
        return "No test data have been looked at."
    if not own:
        return (
            f"This model has not been measured on test rows. Other models of the project were, {len(looks)} times: "
            "see `tuner.evaluate`."
        )
    rows = [
        {
            "when": time.strftime("%Y-%m-%d %H:%M", time.gmtime(look.at)),
            "rows": "unknown" if look.rows is None else look.rows.num_rows,
            "model": name,
            **model.intervals,
            "interval": f"{look.confidence:.0%}, over the rows",
        }
        for look in own
        for name, model in look.models.items()
        if model.artefact == artefact.hash
    ]
    notes = []
    shared = [look for look in looks if look.shares_rows(own[-1])]
    models = {one for look in shared for one in look.choice}
    if len(models) > 1:
        luck = luck_of_best([*(look for look in shared if look is not own[-1]), own[-1]])
        amount = f", by {luck}" if any(luck.amounts.values()) else ""
        notes.append(
            f"These test rows were used for {len(models)} different models: the best of them looks better than it "
            f"is{amount}."
        )
    return "\n\n".join([_markdown(rows), *notes])


def _loading(file: Mapping[str, Any]) -> str:
    if not file["file"].endswith(".keras"):
        return f'```python\nimport pickle\n\nmodel = pickle.load(open("{file["file"]}", "rb"))\n```'
    code = (
        "```python\nimport hashlib\n\nimport keras\n\n"
        f'model = keras.saving.load_model("{file["file"]}")\n'
        "digest = hashlib.sha256()\nfor weight in model.get_weights():\n    digest.update(weight.tobytes())\n"
    )
    check = "" if file["weights"] is None else f'assert digest.hexdigest() == "{file["weights"]}"\n'
    return code + check + "```"


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
    with _file(path) as partial:
        partial.write_text(json.dumps(data, indent=2) + "\n")


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
    with _file(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
