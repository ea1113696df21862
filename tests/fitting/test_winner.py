"""The winner: what it says of itself, what it predicts, and that it comes back from its file in another process."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tiny

from manyfit.core.errors import ProjectError, UsageError
from manyfit.evidence.test_rows import Looks
from manyfit.fitting.card import WinnerCard
from manyfit.fitting.winner_files import WinnerFacts

RNG = np.random.default_rng(4)
X = RNG.normal(size=(120, 3)).astype("float32")
Y = (X.sum(axis=1) + RNG.normal(size=120) > 0).astype("int32")
TIME = {"search": 6.0, "confirm": 3.0, "bag": 1.0}
REASONS = ("trial 2 is ahead of 3 others on fresh seeds",)


@pytest.fixture(scope="module")
def tuner(tmp_path_factory):
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=3, seed=0, directory=tmp_path_factory.mktemp("winner"))
    tuner.search(X[:60], Y[:60], validation_data=(X[60:90], Y[60:90]), epochs=2, batch_size=32, verbose=0)
    return tuner


def single(tuner, **more):
    [model] = tuner.get_best_models(1)
    return kt.Winner(model=model, search=tuner, time=TIME, ended_by="time", reasons=REASONS, **more)


def together(tuner, **more):
    models = tuner.get_best_models(2)
    predictions = [model.predict(X[60:90], verbose=0) for model in models]
    never_refused = kt.ensemble.EnsembleSettings(refuse=False)
    found = kt.Ensemble.fit(predictions=predictions, models=models, y=Y[60:90], settings=never_refused, method="convex")
    return kt.Winner(ensemble=found, search=tuner, time=TIME, ended_by="time", reasons=REASONS, **more)


def logistic():
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit(X[:60], Y[:60])


def test_it_says_what_it_is_how_sure_that_is_where_the_time_went_and_why_it_ended(tuner):
    text = repr(single(tuner))
    trial = tuner.oracle.get_best_trials(1)[0]
    assert f"trial {trial.trial_id}: units={trial.hyperparameters.get('units')}" in text
    assert "the best of 3 noisy scores, so too good, by an unknown amount" in text
    assert "search 6.0 s (60 %), confirm 3.0 s (30 %), bag 1.0 s (10 %); 10.0 s in all" in text
    assert "the time was up" in text and f"- {REASONS[0]}" in text


def test_a_confirmed_winner_has_an_interval_in_words_of_all_kinds_of_luck(tuner):
    confirmation = tuner.confirm(top=2, max_executions=11, verbose=0)
    winner = single(tuner, confirmation=confirmation)
    best = confirmation.recommended
    assert winner.confirmation is confirmation and "by seeds" in repr(winner) and "by rows (30 rows)" in repr(winner)
    told = best.estimate.of_a_new_model()
    sentence = winner.card.quality[0]
    low, high = (float(end) for end in sentence.split("[")[1].split("]")[0].split(", "))
    assert (low, high) == pytest.approx((told.low, told.high), rel=0.1)
    assert "a model trained afresh will show" in sentence
    assert "The finalists" in winner._repr_html_() and "manyfit-confirmation" in winner._repr_html_()


def test_an_ensemble_is_told_with_the_interval_over_rows_of_its_cross_fitted_score(tuner):
    winner = together(tuner)
    scores = winner.ensemble.choice.score
    losses = winner.ensemble.problem
    combined = winner.ensemble.pool(losses.predictions, losses.task)
    rows = -np.log(np.where(Y[60:90] == 1, combined[:, 0], 1 - combined[:, 0]))
    half = 2.045 * rows.std(ddof=1) / np.sqrt(30)  # Student's quantile for 29 degrees of freedom
    ends = winner.card.quality[0].split("[")[1].split("]")[0].split(", ")
    # The interval is one of a loss, which cannot fall below 0: on a logarithmic scale its lower end is nearer.
    assert float(ends[0]) == pytest.approx(scores * np.exp(-half / scores), abs=0.02)
    assert float(ends[1]) == pytest.approx(scores * np.exp(half / scores), abs=0.02)
    assert "2 configurations together, 2 models" in repr(winner) and "its best member alone" in repr(winner)


def test_no_number_has_sixteen_digits_and_no_line_more_than_100_columns(tuner):
    long = dict(zip("abcdefghijklm", RNG.random(13) * 1000, strict=True))
    for winner in (single(tuner), together(tuner), kt.Winner(model=logistic(), time=long, reasons=["word " * 60] * 9)):
        text = repr(winner)
        assert max(map(len, text.splitlines())) <= 100
        assert not any(len(word.strip(".,[]()").partition(".")[2]) > 6 for word in text.split() if word[0].isdigit())


def test_html_escapes_what_it_is_told(tuner):
    winner = kt.Winner(model=logistic(), reasons=["<script>alert(1)</script>"])
    assert "<script>" not in winner._repr_html_() and "&lt;script&gt;" in winner._repr_html_()


def test_model_is_one_keras_model_also_of_an_ensemble_and_none_of_an_estimator(tuner):
    one, several, other = single(tuner), together(tuner), kt.Winner(model=logistic())
    assert one.model in tuner.model_origins and one.ensemble is None
    assert isinstance(several.model, keras.Model) and several.model is several.model
    np.testing.assert_allclose(several.model.predict(X, verbose=0), several.predict(X), atol=1e-5)
    assert other.model is None and other.estimator is not None
    np.testing.assert_allclose(other.predict(X)[:, -1], other.estimator.predict_proba(X)[:, 1], atol=1e-6)


def test_what_is_too_large_to_be_one_model_is_none(tuner, monkeypatch):
    monkeypatch.setattr("manyfit.fitting.winner.MOST_FUSED_BYTES", 10)
    assert together(tuner).model is None


def test_a_winner_needs_a_model_and_a_known_end(tuner):
    with pytest.raises(UsageError, match="neither a model nor an ensemble"):
        kt.Winner()
    with pytest.raises(UsageError, match="one of time, trials, space"):
        kt.Winner(model=logistic(), ended_by="boredom")


def test_evaluate_counts_as_a_look_and_gives_intervals(tuner):
    winner = single(tuner)
    first = winner.evaluate(X[90:], Y[90:])
    assert first["accuracy"] == pytest.approx(winner.model.evaluate(X[90:], Y[90:], verbose=0)[1], abs=1e-6)
    assert first.scores["winner"]["accuracy"].low < first["accuracy"] < first.scores["winner"]["accuracy"].high
    again = together(tuner).evaluate(X[90:], Y[90:])
    assert again.times_used == 2
    fused = together(tuner).model
    assert tuner.evaluate(X[90:], Y[90:], models=fused, verbose=0).times_used == 2  # the same ensemble
    looks = len(Looks(tuner.store).all())
    fused.evaluate(X[:20], Y[:20], verbose=0)  # other rows, by the model's own method
    assert len(Looks(tuner.store).all()) == looks + 1


def test_one_keras_file_holds_model_and_card(tuner, tmp_path):
    for winner in (single(tuner), together(tuner)):
        path = winner.save(tmp_path / "winner.keras")
        assert path == tmp_path / "winner.keras" and list(tmp_path.iterdir()) == [path]
        back = kt.load_winner(path)
        assert repr(back) == repr(winner) and back.search is None and back.time == TIME and back.reasons == REASONS
        np.testing.assert_allclose(back.predict(X), winner.predict(X), atol=1e-6)
        plain = keras.saving.load_model(path, compile=False)  # Keras alone does not mind the card
        np.testing.assert_allclose(plain.predict(X, verbose=0), winner.predict(X), atol=1e-6)


def test_a_path_without_an_ending_becomes_what_fits(tuner, tmp_path, monkeypatch):
    assert single(tuner).save(tmp_path / "one") == tmp_path / "one.keras"
    monkeypatch.setattr("manyfit.fitting.winner.MOST_FUSED_BYTES", 10)
    winner = together(tuner)
    assert winner.save(tmp_path / "several") == tmp_path / "several"
    back = kt.load_winner(tmp_path / "several")
    assert repr(back) == repr(winner)
    np.testing.assert_allclose(back.predict(X), winner.predict(X), atol=1e-6)
    with pytest.raises(UsageError, match=r'winner.save\(".*several"\)'):
        winner.save(tmp_path / "several.keras")
    with pytest.raises(UsageError, match=r'winner.save\(".*one.keras"\)'):
        single(tuner).save(tmp_path / "one.h5")


def test_an_estimator_is_a_pickle_that_only_its_writer_may_load(tmp_path):
    winner = kt.Winner(model=logistic(), time=TIME)
    path = winner.save(tmp_path / "winner.keras")
    assert path.name == "winner.pickle" and repr(kt.load_winner(path)) == repr(winner)
    path.write_bytes(path.read_bytes()[:-1] + b"0" if path.read_bytes()[-1:] != b"0" else path.read_bytes()[:-1] + b"1")
    with pytest.raises(ProjectError, match=r"kt.load_winner\(.*trust=True\)"):
        kt.load_winner(path)
    np.testing.assert_array_equal(kt.load_winner(path, trust=True).predict(X), winner.predict(X))


def test_what_is_no_winner_is_told_in_words(tmp_path):
    for path, why in ((tmp_path / "nothing", "is not there"), (tmp_path, "is no winner")):
        with pytest.raises(UsageError, match=why):
            kt.load_winner(path)
    model = tiny.compiled(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")]))
    model.save(tmp_path / "plain.keras")  # of somebody who has no Manyfit
    assert "nobody has measured" in repr(kt.load_winner(tmp_path / "plain.keras"))
    with zipfile.ZipFile(tmp_path / "plain.keras", "a") as archive:
        archive.writestr("manyfit.json", json.dumps({"card": {"format": 9}, "confirmation": None, "classes": None}))
    with pytest.raises(UsageError, match="Update Manyfit"):
        kt.load_winner(tmp_path / "plain.keras")


def test_a_damaged_card_is_told_in_words():
    for text in ("{", "[]", '{"card": {}}'):
        with pytest.raises(UsageError, match=r"format|damaged"):
            WinnerFacts.from_json(text)


def test_a_card_comes_back_as_it_was():
    card = WinnerCard("A model.", ("good", "sure"), {"search": 1.5}, "space", ("because",))
    assert WinnerCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card


def test_another_process_needs_neither_project_nor_build_function(tuner, tmp_path):
    winner = together(tuner)
    path = winner.save(tmp_path / "winner.keras")
    np.save(tmp_path / "x.npy", X)
    code = (
        "import sys, numpy as np, manyfit as kt\n"
        "winner = kt.load_winner(sys.argv[1] + '/winner.keras')\n"
        "x = np.load(sys.argv[1] + '/x.npy')\n"
        "np.save(sys.argv[1] + '/out.npy', winner.predict(x))\n"
        "y = (x.sum(axis=1) > 0).astype('int32')\n"
        "print(winner.evaluate(x, y).times_used, winner.evaluate(x, y).times_used)\n"
        "print(winner)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), winner.predict(X), atol=1e-6)
    assert run.stdout == f"1 1\n{kt.load_winner(path)!r}\n"


def test_names_of_classes_travel_with_the_file(tmp_path):
    names = np.where(Y == 1, "yes", "no")
    from sklearn.linear_model import LogisticRegression

    def build(hp):
        return LogisticRegression(C=hp.Float("c", 0.1, 1.0))

    tuner = kt.RandomSearch(build, "val_loss", max_trials=1, seed=0, directory=tmp_path, project_name="named")
    tuner.search(X[:60], names[:60], validation_data=(X[60:90], names[60:90]), verbose=0)
    winner = kt.Winner(model=tuner.get_best_models(1)[0], search=tuner)
    back = kt.load_winner(winner.save(tmp_path / "winner"))
    assert back.evaluate(X[90:], names[90:])["accuracy"] == winner.evaluate(X[90:], names[90:])["accuracy"]
