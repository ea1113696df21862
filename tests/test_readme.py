"""The program in the README runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"


def programs() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_program_runs_and_its_numbers_are_good(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    [program] = programs()
    names: dict = {}
    exec(compile(program, str(README), "exec"), names)
    shown = capsys.readouterr().out
    assert "Showing 3 best trials" in shown and shown.count("Trial ") >= 3
    assert len(names["tuner"].oracle.trials) == 8
    assert len(names["models"]) == 3
    x, y = names["x_test"], names["y_test"]
    saved = keras.models.load_model("digits/winner.keras")
    predicted = saved.predict(x, verbose=0)
    assert np.mean(predicted.argmax(axis=1) == y) > 0.9
    np.testing.assert_allclose(predicted, names["ensemble"].predict(x), rtol=1e-4, atol=1e-5)
