"""One artefact, one card: what lies in the folder is what its card speaks of, and evaluates as the object does."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tiny

import manyfit as kt
from manyfit.core.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

RNG = np.random.default_rng(7)
X = RNG.normal(size=(160, 3)).astype("float32")
Y = (X[:, :1] + 0.4 * RNG.normal(size=(160, 1)) > 0).astype("float32")
TRAIN, VALIDATION, TEST = slice(0, 80), slice(80, 120), slice(120, 160)

WITHOUT_MANYFIT = """
import sys
sys.modules["manyfit"] = None  # importing it fails
import hashlib, json
import keras
import numpy as np
with np.load(sys.argv[1]) as file:
    x, y = file["x"], file["y"]
for path in sys.argv[2:]:
    model = keras.saving.load_model(path)
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(weight.tobytes())
    told = model.evaluate(x, y, verbose=0, return_dict=True)
    print(json.dumps({"weights": digest.hexdigest(), **{name: float(value) for name, value in told.items()}}))
"""


@pytest.fixture(scope="module")
def tuner(tmp_path_factory):
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=4, seed=0, directory=tmp_path_factory.mktemp("export"))
    tuner.search(X[TRAIN], Y[TRAIN], validation_data=(X[VALIDATION], Y[VALIDATION]), epochs=5, verbose=0)
    tuner.confirm(top=3, max_rounds=4, verbose=0)
    yield tuner
    tuner.close()


@pytest.fixture(scope="module")
def exported(tuner, tmp_path_factory):
    """A retrained model and an ensemble: object, evaluation, folder, and what a process without Manyfit says of it."""
    place = tmp_path_factory.mktemp("exported")
    np.savez(place / "rows.npz", x=X[TEST], y=Y[TEST])
    [model] = tuner.retrain(1, verbose=0)
    ensemble = tuner.ensemble(method="uniform", verbose=0)
    made = {}
    for name, one in (("model", model), ("ensemble", ensemble)):
        evaluation = tuner.evaluate(X[TEST], Y[TEST], models={name: one})
        made[name] = one, evaluation, tuner.export(place / name, one)
    command = [sys.executable, "-c", WITHOUT_MANYFIT, place / "rows.npz"]
    command += [folder / "model.keras" for *_, folder in made.values()]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-2:]
    return {name: (*parts, json.loads(line)) for (name, parts), line in zip(made.items(), lines, strict=True)}


def num_measured(tuner, one):
    """How many models have been measured on the test rows, where `one` is among them."""
    return tuner.evaluate(X[TEST], Y[TEST], models=one).luck.num_models


def card_of(folder):
    return (folder / "README.md").read_text()


def test_the_file_of_a_retrained_model_is_the_model_that_was_measured(tuner, exported):
    model, evaluation, folder, told = exported["model"]
    facts = json.loads((folder / "artefact.json").read_text())
    assert facts["weights"] == facts["model"] == told["weights"] and told["weights"] in card_of(folder)
    assert facts["sha256"] == hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest()
    [row] = evaluation.scores.values()
    for name, interval in row.items():
        assert told[name] == pytest.approx(interval.estimate, rel=1e-5)
        assert str(interval) in card_of(folder)
    # Measured once more from the file: no other choice, and no further look.
    again = tuner.evaluate(X[TEST], Y[TEST], models=keras.saving.load_model(folder / "model.keras"))
    assert again.luck.num_models == num_measured(tuner, model) >= 2, "this one and the ensemble"
    assert "more rows than the runs that were measured" in card_of(folder)


def test_the_file_of_an_ensemble_is_the_ensemble_that_was_measured(tuner, exported):
    ensemble, evaluation, folder, told = exported["ensemble"]
    facts = json.loads((folder / "artefact.json").read_text())
    for name in ("loss", "accuracy"):
        assert told[name] == pytest.approx(evaluation[name], rel=1e-4)
    assert facts["weights"] == told["weights"] != facts["model"]
    card = card_of(folder)
    assert facts["weights"] in card and facts["model"] in card
    assert "the ensemble itself was not" in card and str(evaluation.scores["ensemble"]["loss"]) in card
    loaded = keras.saving.load_model(folder / "model.keras")
    assert tuner.evaluate(X[TEST], Y[TEST], models=loaded).luck.num_models == num_measured(tuner, ensemble) >= 2


def test_a_card_of_another_trial_than_the_recommended_says_so(tuner, tmp_path):
    best, second = (trial.trial_id for trial in tuner.oracle.get_best_trials(2))
    tuner.retrain([second], verbose=0)
    card = card_of(tuner.export(tmp_path / "second"))
    assert f"This model is of trial {second}; the confirmation recommends trial {best}." in card
    confirmed = card.split("## What was confirmed")[1].split("The other finalists")
    assert f"| {second} |" in confirmed[0] and f"| {best} |" not in confirmed[0] and f"| {best} |" in confirmed[1]
    outside = [one for one in tuner.oracle.trials if f"| {one} |" not in "".join(confirmed)]
    assert len(outside) == 1, "four trials, three finalists"
    tuner.retrain(outside, verbose=0)
    assert "was not among the finalists" in card_of(tuner.export(tmp_path / "outside"))


def test_scores_of_other_models_stand_in_no_card(tuner, tmp_path):
    first, second = tuner.retrain(2, epochs=3, verbose=0)
    rows = slice(120, 150)
    scores = tuner.evaluate(X[rows], Y[rows], models={"first": first, "second": second}).scores
    card = card_of(tuner.export(tmp_path / "first", first))
    assert str(scores["first"]["loss"]) in card and str(scores["second"]["loss"]) not in card
    assert "different models: the best of them looks better than it is" in card
    [never] = tuner.retrain(1, epochs=7, verbose=0)  # as no other test has it
    assert "has not been measured on test rows" in card_of(tuner.export(tmp_path / "never", never))


def test_weights_that_were_changed_since_are_noticed(tuner, tmp_path):
    [model] = tuner.get_best_models(1)
    assert "Trained by the search" in card_of(tuner.export(tmp_path / "search", model))
    model.set_weights([weight + 1 for weight in model.get_weights()])
    assert "weights were changed since Manyfit made it" in card_of(tuner.export(tmp_path / "changed", model))


def test_the_card_of_a_bag_tells_of_its_folds(tuner, tmp_path):
    bag = tuner.bag(top=1, folds=3, verbose=0)
    folder = tuner.export(tmp_path / "bag")
    assert "3 x A model of a fold, trial" in card_of(folder) and "changed" not in card_of(folder)
    told = keras.saving.load_model(folder / "model.keras").evaluate(X[TEST], Y[TEST], verbose=0, return_dict=True)
    assert told["loss"] == pytest.approx(bag.evaluate(X[TEST], Y[TEST])["loss"], rel=1e-4)


def test_a_retrained_model_is_known_by_its_weights_in_another_process(tuner, tmp_path):
    [model] = tuner.retrain(1, epochs=4, verbose=0)
    model.save(tmp_path / "kept.keras")
    loaded = keras.saving.load_model(tmp_path / "kept.keras")
    assert "Retrained, trial" in card_of(tuner.export(tmp_path / "loaded", loaded))
    loaded.set_weights([weight + 1 for weight in loaded.get_weights()])
    with pytest.raises(UsageError, match="did not make") as error:
        tuner.export(tmp_path / "strange", loaded)
    tiny.four_parts(error.value)


# Every path counts -----------------------------------------------------------------------------------------------


def test_what_a_winner_or_an_ensemble_is_asked_itself_is_a_look_too(tuner, capsys, monkeypatch):
    rows = slice(121, 159)
    [winner] = tuner.get_best_models(1)
    plain = keras.models.clone_model(winner)
    plain.set_weights(winner.get_weights())
    plain.compile(loss="binary_crossentropy", metrics=["accuracy"])
    told = winner.evaluate(X[rows], Y[rows], verbose=0, return_dict=True)
    assert told == pytest.approx(plain.evaluate(X[rows], Y[rows], verbose=0, return_dict=True))
    assert winner.evaluate(X[rows], Y[rows], verbose=0) == pytest.approx([told["loss"], told["accuracy"]])
    [second] = tuner.retrain(1, epochs=1, verbose=0)
    monkeypatch.setattr(tuner, "verbose", 1)
    capsys.readouterr()
    second.evaluate(X[rows][::-1], Y[rows][::-1], verbose=0)
    assert "look at these 38 rows" in capsys.readouterr().out
    ensemble = tuner.ensemble(method="uniform", verbose=0).with_latency({})
    ensemble.evaluate(X[rows][:30], Y[rows][:30])
    assert "look at these 30 rows" in capsys.readouterr().out
    monkeypatch.setattr(tuner, "verbose", 0)
    [retrained] = tuner.retrain(1, epochs=2, verbose=0)
    retrained.evaluate(X[rows][5:30], Y[rows][5:30], verbose=0)
    evaluation = tuner.evaluate(X[rows], Y[rows], models={"retrained": retrained})
    assert evaluation.luck.num_models >= 3 and evaluation.luck.amounts["loss"] > 0
    assert "lucky by" in str(evaluation)


def test_validating_while_it_trains_is_no_look(tuner):
    [model] = tuner.get_best_models(1)
    rows = X[:30] + 9
    model.fit(X[TRAIN], Y[TRAIN], validation_data=(rows, Y[:30]), verbose=0)
    assert tuner.evaluate(rows, Y[:30], models=tuner.get_best_models(1)).luck.num_models == 1


def test_after_the_project_is_closed_a_model_still_answers_and_it_is_said_that_nobody_counts(tmp_path, capsys):
    tuner = kt.GridSearch(tiny.build, "val_loss", max_trials=1, directory=tmp_path)
    tuner.search(X[TRAIN], Y[TRAIN], validation_data=(X[VALIDATION], Y[VALIDATION]), epochs=1, verbose=0)
    [model] = tuner.get_best_models(1)
    tuner.close()
    tuner.verbose = 1
    told = model.evaluate(X[TEST], Y[TEST], verbose=0, return_dict=True)
    assert set(told) == {"loss", "accuracy"} and "is not counted" in capsys.readouterr().out
