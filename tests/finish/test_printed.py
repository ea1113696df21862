"""The sentences of every situation, as docs/confirm.md shows them: what is there is what is printed."""

from __future__ import annotations

from pathlib import Path

import printed
import pytest
from marks import only_on

PAGE = (Path(__file__).parents[2] / "docs" / "confirm.md").read_text(encoding="utf-8")
#: What each of them must say, whatever the numbers are.
SAID = {
    "settled": ["is the best of 3 (95 %): every other is worse on fresh seeds and fresh rows."],
    "not settled": ["One of ", " more seeds (about ", " may drop ", "Recommended by all evidence: "],
    "one run": ["One fresh run each: too few to compare. Order by all evidence: ", "seeds unknown (1 run)"],
    "equal within a margin": [" are equal within 0.01; ", " is the cheapest, at ", "it is one of the equals"],
    "rows are the limit": [" differ by less than these 400 rows can show (about ", " would)"],
    "an overruled search winner": ["The search put 1 first; on fresh seeds 0 is ahead by ", "1's lead was luck."],
    "a third look at the test rows": ["3rd look at these 2,000 rows", "The best of 3 models is lucky by up to about "],
}


@only_on("jax", "the words are the same on every backend")
@pytest.mark.parametrize("situation", printed.SITUATIONS)
def test_a_situation_is_said_as_the_page_shows_it(situation, tmp_path):
    found = " ".join(" ".join(printed.SITUATIONS[situation](tmp_path)).split())
    assert [words for words in SAID[situation] if words not in found] == []
    shown = PAGE.split(f"-- {situation}\n")[1].split("\n\n")[0].split("```")[0]
    assert " ".join(shown.split()) == found
