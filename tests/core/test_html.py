"""Pieces of HTML: which rows a table has, in which order, and how long its bars are."""

import re

from manyfit.core.html import MOST_ROWS, bars, cell, table


def test_bars_stand_in_the_order_of_amounts_and_are_as_long_as_their_share():
    drawn = bars({"small": 0.25, "large": 1.0, "less than nothing": -1.0})
    assert re.findall(r"<tr><td>([^<]*)</td>", drawn) == ["large", "small", "less than nothing"]
    assert re.findall(r"width: (\d+)px", drawn) == ["180", "45", "0"]
    assert bars({}) == ""
    assert bars({"none": 0.0}).count("width: 0px") == 1


def test_no_more_bars_than_anybody_reads():
    drawn = bars({f"name {number}": float(number) for number in range(MOST_ROWS + 5)})
    assert drawn.count("<tr>") == MOST_ROWS and "name 204<" in drawn and "name 4<" not in drawn


def test_a_table_sorts_only_where_it_is_to_and_finds_itself_by_a_name_of_its_own():
    plain, one, other = table(["a"], [["1"]]), *(table(["a"], [["1"]], sortable=True) for _ in range(2))
    assert "<script>" not in plain and "<button" not in plain and " id=" not in plain
    [name] = re.findall(r' id="(manyfit-[0-9a-f]{8})"', one)
    assert f'getElementById("{name}")' in one and name not in other


def test_columns_of_numbers_stand_to_the_right():
    drawn = table(["name", "score"], [["a", "0.5"]], numeric=[1])
    assert re.findall(r"<t[hd]( [^>]*)?>", drawn) == ["", ' class="number"'] * 2


def test_cells_are_as_long_as_they_may_be():
    assert cell("x" * 60) == "x" * 60 and cell("x" * 61) == "x" * 59 + "…"
