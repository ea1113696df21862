"""Benchmarks that wait for a machine, or for an hour, run small: their measurements answer, their tables are whole."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from marks import needs_jax

pytestmark = needs_jax


class Here:
    """Answers in this process what `structures.Children` asks processes of their own."""

    def __init__(self, questions):
        self._questions = questions
        self.asked = []

    def ask(self, question, on="jax", **what):
        self.asked.append(question)
        if question == "search_keras_tuner":  # it is installed for benchmarks only
            return {"seconds": 40.0, "cpu": 50.0, "trials": len(what["values"])}
        return self._questions[question](**what)


@pytest.fixture
def benchmarks(monkeypatch):
    """The modules `gpu`, `structures` and `measured`, on a hundredth of the rows and epochs."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    gpu, structures, measured, spaces = map(
        importlib.import_module, ("gpu", "structures", "measured", "typical_spaces")
    )
    monkeypatch.setattr(spaces, "SHARE", 0.01)
    return gpu, structures, measured


def test_the_table_of_a_gpu(benchmarks, capsys):
    gpu, structures, measured = benchmarks
    here = Here(measured.QUESTIONS | gpu.QUESTIONS)
    bench = structures.Bench(here, trials=1, backends=["jax"])
    gpu.print_table(bench, ["G3"], gpu.Parts(here, here, counts=(2,), widths=1, trials=2))
    header, _, *lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.split("\n")[:-1]
    ]
    assert [len(line) for line in lines] == [len(header)] * 8
    by_row = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    search = by_row["G3, 1 trials"]
    assert search["rival"] == "jax, 1 trials" and search["s"] == "40.0" and float(search["ratio"]) > 0
    assert {"2 members of one structure", "1 members of widths 32 to 512"} < set(by_row)
    assert set(gpu.POLICIES) < set(by_row) and "last 2" in by_row["2 trials, size found by itself"]["rival"]
    assert by_row["2 members of 3 x 64 units"]["rival"] == "it did not run out"
