"""The programs in the README run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"


def programs() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_programs_run_and_their_numbers_are_good(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    fit, steps = programs()
    # Not for a minute: with two trials it does the same things.
    assert "max_seconds=60" in fit
    fit = fit.replace("max_seconds=60", "max_trials=2, epochs=10")
    names: dict = {}
    exec(compile(fit, str(README), "exec"), names)
    x, y = names["x_test"], names["y_test"]
    shown = capsys.readouterr().out
    assert "Winner: " in shown and "Held-out scores on 397 rows" in shown
    saved = keras.models.load_model("minute/winner.keras")
    np.testing.assert_allclose(saved.predict(x, verbose=0), names["winner"].predict(x), rtol=1e-4, atol=1e-5)
    assert np.mean(names["winner"].predict(x).argmax(axis=1) == y) > 0.9
    exec(compile(steps, str(README), "exec"), names)
    shown = capsys.readouterr().out
    assert "Showing 3 best trials" in shown and shown.count("Trial ") >= 3
    assert len(names["tuner"].oracle.trials) == 8
    assert len(names["models"]) == 3
    saved = keras.models.load_model("digits/winner.keras")
    predicted = saved.predict(x, verbose=0)
    assert np.mean(predicted.argmax(axis=1) == y) > 0.9
    np.testing.assert_allclose(predicted, names["ensemble"].predict(x), rtol=1e-4, atol=1e-5)


# A claim of the README, and the test that holds it. The others are held by the program above.
CLAIMS = {
    "train side by side (JAX)": "training/population/test_differences.py::test_one_program",
    "one line says why": "training/population/test_trainer.py::test_falls_back_with_one_line_of_reason",
    "there trials train one after another": "tuners/test_endings.py::test_other_backends_say_what_they_do_without",
    "says so and trains nothing": "tuners/test_endings.py::test_a_search_that_is_complete_says_what_to_type",
    "says why it ended": "tuners/test_endings.py::test_the_reason_is_said_stored_and_shown",
    "from the fourth to the ninth trial": "test_keras_tuner_algorithms.py::test_the_model_decides_from_the_ninth_trial",
    "no configuration twice": "test_keras_tuner_defects.py::test_finite_spaces_are_exhausted_without_a_duplicate",
    "promoted trials continue": "tuners/test_schedules.py::test_promoted_trials_equal_those_that_never_stopped",
    "Kill the process at any": "tuners/test_resume.py::test_death_at_any_commit_changes_nothing",
    "one message groups and counts": "tuners/test_failures.py::test_when_all_failed_one_error_groups_and_counts",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_each_claim_has_its_test(claim):
    text = " ".join(README.read_text(encoding="utf-8").split())
    assert claim in text
    file, name = CLAIMS[claim].split("::")
    assert f"def {name}" in (Path(__file__).parent / file).read_text(encoding="utf-8")


def test_programs_import_manyfit_before_keras():
    root = README.parent
    pages = [README, *sorted((root / "docs").glob("*.md")), *sorted((root / "examples").rglob("*.py"))]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        blocks = [text] if page.suffix == ".py" else re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
        for block in blocks:
            ours, theirs = (re.search(rf"^import {name}\b", block, flags=re.M) for name in ("manyfit", "keras"))
            if ours and theirs:
                assert ours.start() < theirs.start(), f"{page.name} lets Keras choose its backend"
