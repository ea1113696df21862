"""Results as files: what pandas and pyarrow read from them is what the results are."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import csv

import pytest
import tiny

from manyfit.cli import main
from manyfit.report.files import write_csv


def test_parquet_is_read_back_as_it_was_measured(tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: make test-extras")
    hp = kt.HyperParameters()
    hp.Int("units", 1, 50)
    hp.Choice("rate", [1.0, 0.5])
    tuner = tiny.numbers(
        lambda trial: {"score": trial.hyperparameters["units"] / 50}, hyperparameters=hp, max_trials=4, seed=0,
        objective=kt.Objective("score", "max"), directory=str(tmp_path), project_name="search",
    )  # fmt: skip
    tuner.search(verbose=0)
    tuner.close()
    assert main(["export", str(tuner.project_dir), "--to", "parquet", "-o", str(tmp_path / "rows.parquet")]) == 0
    rows, results = parquet.read_table(tmp_path / "rows.parquet").to_pylist(), tuner.results()
    assert [(row["trial_id"], row["score"], row["units"]) for row in rows] == [
        (one.trial_id, one.score, one.values["units"]) for one in results
    ]
    assert [row["rate"] for row in rows] == [one.values["rate"] for one in results]
    assert capsys.readouterr().out == ""


def test_rows_with_unlike_columns_are_one_table(tmp_path):
    write_csv([{"a": 1}, {"b": "x,y", "a": None}], tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text() == 'a,b\n1,\n,"x,y"\n'


def test_no_name_or_value_of_a_strangers_is_a_formula_in_a_spreadsheet(tmp_path):
    """A cell that begins as formulas do runs in a spreadsheet; numbers begin so, too, and stay what they are."""
    row = {"=cmd|' /C calc'!A0": "@SUM(A1)", "rate": -0.5, "text": "-1e-3", "b": "+1+1", "c": "\t=1", "d": "a=b"}
    write_csv([{**row, "e": None}], tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        names, values = csv.reader(file)
    assert names == ["'=cmd|' /C calc'!A0", "rate", "text", "b", "c", "d", "e"]
    assert values == ["'@SUM(A1)", "-0.5", "-1e-3", "'+1+1", "'\t=1", "a=b", ""]
