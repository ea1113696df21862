"""The examples of docs/competitions.md run, in order."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "competitions.md"


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    programs = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict = {}
    for program in programs:
        exec(compile(program, str(PAGE), "exec"), names)
    shown = capsys.readouterr().out
    assert len(programs) == 4 and "rows in all" in shown
    assert 'keras.layers.Dense(3, activation="softmax"),' in shown and "def train(run, data):" in shown
    answers = names["answers"]
    right = answers[f"trial {names['best']}, 0"] > 0.5
    assert (right == (names["y_test"].to_numpy() == 0)).mean() > 0.9
    assert names["joint"].weights["theirs"] > 0.5
