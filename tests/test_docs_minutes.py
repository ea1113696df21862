"""The program in docs/minutes.md runs as it stands, but for the minute."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "minutes.md"


def test_the_program_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    [program] = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert "max_seconds=60" in program
    names: dict = {}
    exec(compile(program.replace("max_seconds=60", "max_trials=1, epochs=2"), str(PAGE), "exec"), names)
    shown = capsys.readouterr().out
    assert "Winner: " in shown and "Held-out scores on 397 rows" in shown
    saved = keras.models.load_model("minutes/winner.keras")
    x = names["x_test"]
    np.testing.assert_allclose(saved.predict(x, verbose=0), names["winner"].predict(x), rtol=1e-4, atol=1e-5)
