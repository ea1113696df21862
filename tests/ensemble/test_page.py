"""The examples of docs/ensembling.md run, in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "ensembling.md"


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    programs = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict = {}
    for program in programs:
        exec(compile(program, str(PAGE), "exec"), names)
    assert len(programs) == 6
    shown = capsys.readouterr().out
    assert "gain over the single best" in shown and "What cost buys" in shown
    assert {name.split(",")[0] for name in names["mixed"].weights} == {"mlp", "linear", "k-nearest"}
    assert all(len(member.models) == 6 for member in names["bag"].members)
    assert names["joint"].weights["elsewhere"] > 0.5
    assert names["combined"].gain.low > 0 and not names["combined"].refused
