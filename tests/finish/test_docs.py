"""The programs in the pages on scheduling and on confirming run as they stand, one after another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from marks import only_on

PAGES = Path(__file__).parents[2] / "docs"


@only_on("jax", "the other backends are slow, and show nothing new here")
@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("how-long.md", ["epochs instead of", "Epochs:", "without the scheduler."]),
        ("confirm.md", ["trained afresh", "best with", "Folds:", "Held-out scores on 597 rows", "# Model card"]),
    ],
)
def test_the_programs_run(page, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (PAGES / page).read_text(encoding="utf-8")
    names: dict = {}
    for program in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        exec(compile(program, page, "exec"), names)
    printed = capsys.readouterr().out
    assert [words for words in said if words not in printed] == []
