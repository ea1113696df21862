"""The programs in docs/search.md run as they stand, one after another."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "search.md"


def test_the_programs_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    programs = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(programs) == 4
    for program in programs:
        exec(compile(program, str(PAGE), "exec"), names)
    assert "(" in capsys.readouterr().out  # the front was printed
    assert {"weight_bytes", "val_loss"} <= set(names["best"].metrics)
