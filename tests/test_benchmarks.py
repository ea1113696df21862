"""Benchmarks that wait for a machine, or for an hour, run small: their measurements answer, their tables are whole."""

from __future__ import annotations

import dataclasses
import importlib
import os
import tempfile
from pathlib import Path

import numpy as np
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
    # Only the table: searches may say something of the machine besides.
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    header, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed]
    assert [len(line) for line in lines] == [len(header)] * 8
    by_row = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    search = by_row["G3, 1 trials"]
    assert search["rival"] == "jax, 1 trials" and search["s"] == "40.0" and float(search["ratio"]) > 0
    assert {"2 members of one structure", "1 members of widths 32 to 512"} < set(by_row)
    assert set(gpu.POLICIES) < set(by_row) and "last 2" in by_row["2 trials, size found by itself"]["rival"]
    assert by_row["2 members of 3 x 64 units"]["rival"] == "it did not run out"


def test_ranks_of_minutes(monkeypatch):
    """Equal costs share their places; who was late or returned nothing is last, together with others who did."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    minutes = importlib.import_module("minutes")

    def run(contestant, seed, **told):
        return {"task": "churn", "seconds": 60, "seed": seed, "contestant": contestant, **told}

    runs = [
        run("Manyfit", 0, score=0.1, took=61),
        run("Optuna", 0, score=0.3, took=50),
        run("linear", 0, score=0.3, took=2),
        run("KerasTuner", 0, score=0.05, took=73),  # late
        run("Manyfit", 1, error="no word"),
        run("Optuna", 1, score=0.3, took=50),
        run("linear", 1, score=0.2, took=2),
        run("KerasTuner", 1, error="no word"),
        run("Manyfit", 2, score=0.3, took=50),  # others are not done yet
    ]
    names = ["Manyfit", "Optuna", "linear", "KerasTuner"]
    assert minutes.ranks(runs, names).tolist() == [[1, 2.5, 2.5, 4], [3.5, 2, 1, 3.5]]
    assert minutes.ranks(runs, ["Manyfit"]).tolist() == [[1], [1], [1]]


def test_the_final_run_of_minutes_goes_on_where_it_was_broken_off(monkeypatch, tmp_path, capsys):
    """All tasks, 60 s with three seeds and 300 s with one; whatever ends it, what was played is not played again."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    minutes = importlib.import_module("minutes")
    played = []

    def play(task, contestant, seconds, seed, python):
        if len(played) == 20 and not broken:
            broken.append(1)
            raise KeyboardInterrupt
        played.append((task, contestant, seconds, seed))
        ours = {
            "trials": 30, "per program": 8.0, "phases": {"search": 40.0, "bag": 9.0}, "reasons": ["A bag."],
            "keeping": 0.3, "ended by": "time",
        }  # fmt: skip
        return {"took": 50.0, "score": 0.1 + 0.1 * (contestant != "Manyfit")} | (
            ours if contestant == "Manyfit" else {}
        )

    broken = []
    monkeypatch.setattr(minutes, "play", play)
    monkeypatch.setattr(minutes, "wait_for_idle", lambda patience, first: 0.0)
    monkeypatch.setattr("sys.argv", ["minutes.py", "--final", "--runs", str(tmp_path / "runs.jsonl")])
    with pytest.raises(KeyboardInterrupt):
        minutes.main()
    minutes.main()
    contests = len(minutes.TASKS) * 4
    assert len(played) == len(set(played)) == contests * len(minutes.CONTESTANTS)
    told = capsys.readouterr().out
    first, last = told.split("**300 seconds**")
    assert "| Manyfit | 1.00 | 1.00-1.00 | 0-0 |" in last and f"mean rank of {len(minutes.TASKS)} |" in last
    assert f"mean rank of {3 * len(minutes.TASKS)} |" in first and f"| linear | 4.00 | 4.00-4.00 | {3 * 8}-0 |" in first
    assert "| churn | log loss | 0.1000 (50) | 0.2000 (50) |" in first and "| 1.00 |" in first
    assert "| churn 2 | 30 | 8.0 | 40.0 | 9.0 | A bag. |" in first
    assert "| share of the time | 0.60% | 0.60% |" in first


def test_scores_of_minutes(monkeypatch):
    """Against scikit-learn."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    tasks = importlib.import_module("minutes_tasks")
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 3, 50), rng.dirichlet(np.ones(3), 50)
    churn, digits, housing = (tasks.TASKS[name] for name in ("churn", "digits", "housing"))
    assert tasks.scores(churn, y, p) == pytest.approx(metrics.log_loss(y, p))
    assert tasks.scores(digits, y, p) == pytest.approx(1 - metrics.accuracy_score(y, p.argmax(axis=1)))
    assert tasks.scores(churn, y % 2, p[:, 0]) == pytest.approx(metrics.log_loss(y % 2, p[:, 0]))
    assert tasks.scores(housing, p[:, :1], p[:, 1]) == pytest.approx(metrics.root_mean_squared_error(p[:, 0], p[:, 1]))


@pytest.fixture
def kills(monkeypatch, tmp_path):
    """The module, which chooses a cache of its own when it is loaded."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    monkeypatch.setenv("MANYFIT_CACHE_DIR", os.environ["MANYFIT_CACHE_DIR"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return importlib.import_module("kills")


def test_any_two_things_that_go_together_are_killed_together(kills):
    cases = kills.pairwise(list(kills.SAMPLERS))
    assert all(case.is_possible for case in cases) and len(cases) < 60
    met = {(case.sampler, case.scheduler) for case in cases}
    assert met == {(one, other) for one in kills.SAMPLERS for other in kills.SCHEDULERS} - {("grid", "PBT")}
    steps = {(case.trainer, case.step) for case in cases}
    assert steps == {(one, other) for one in kills.TRAINERS for other in kills.STEPS}


def test_what_a_kill_may_do_wrong_is_seen(kills):
    """A driver that finds nothing proves something only if it would find what it looks for."""
    lives = importlib.import_module("kills_lives")
    run, logs = {"ending": "completed", "seed": 7, "score": 0.5}, {"loss": 1.0}
    key = ("0", "search", 0, 0)
    at = kills.Known({"0": ({"rate": 0.1}, "COMPLETED")}, {key: run}, {(*key, 0): logs}, [])
    assert not kills.lost(at, at) and not kills.proposed(at, at) and kills.compared(at, at) == "bits"
    gone = dataclasses.replace(at, executions={})
    other = dataclasses.replace(at, epochs={(*key, 0): {"loss": 1.1}})
    assert kills.lost(at, gone) == [f"lost: execution {key}"] and kills.lost(at, other) == [f"lost: epoch {(*key, 0)}"]
    assert kills.compared(at, gone) == kills.compared(at, other) == "others"
    near = dataclasses.replace(at, epochs={(*key, 0): {"loss": 1.0 + 1e-7}})
    assert kills.compared(at, near) == "rounding"
    elsewhere = dataclasses.replace(at, trials={"0": ({"rate": 0.2}, "COMPLETED")})
    assert kills.proposed(at, elsewhere) == ["proposals: trial 0"]
    second = lives.Life("ended", (), (("0", "search", 0, 7, 0),), {}, 1.0, "")
    assert kills.redone(at, second) == [f"redone: {key[0], key[1], key[3]}"] and not kills.redone(gone, second)
    assert kills.strays({"a": 1, "b": 1}, {"a": 2, "c": 1}) == ["stray: a, c", "missing: b"]


@pytest.fixture
def mutants(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module("mutants")


def test_mutants_are_all_different(mutants):
    found = mutants.all_mutants(["schedulers"])
    assert len(found) > 500 and len({each.key for each in found}) == len(found)
    assert {"comparison", "condition", "constant", "left out"} <= {each.change for each in found}


def test_mutants_are_drawn_alike_whatever_else_there_is(mutants):
    found = mutants.all_mutants(["stats"])
    some, seldom = mutants.drawn(found, 0), set(found[::3])
    assert some != found and sorted(map(repr, some)) == sorted(map(repr, found)) and some != mutants.drawn(found, 1)
    assert mutants.drawn(found[::3], 0) == [each for each in some if each in seldom]


def test_a_mutant_takes_the_place_of_a_function_and_another_puts_it_back(mutants):
    from manyfit.core import untrusted

    [mutant] = [
        each
        for each in mutants.all_mutants(["core"])
        if (each.path, each.function, each.change) == ("core/untrusted.py", "read_json", "nothing returned")
    ]
    whole = untrusted.read_json.__code__
    imported = untrusted.read_json  # by another name, as other modules have it
    functions = mutants.functions_of_process()
    try:
        assert mutants.exchange(mutant, functions) and imported("1") is None
        imported.__code__ = whole
        assert mutants.exchange(mutants.certain_of(mutant), functions)
        with pytest.raises(KeyboardInterrupt):
            imported("1")
    finally:
        untrusted.read_json.__code__ = whole
    assert imported("1") == 1 and mutants.source_of(mutant).startswith("return ")


def test_the_table_of_mutants_counts_what_no_test_reaches_as_survived(mutants):
    mutate = importlib.import_module("mutate")
    some = [mutants.Mutant("stats/a.py", "f", line, line, line, "constant") for line in range(6)]
    fates = ("killed", "no end", "survived", "not reached", "no mutant", "waits")
    counted = dict(zip([each.key for each in some], fates, strict=True))
    line = mutate.table(some, counted, {"stats": (9, 10), "core": (0, 10)}).splitlines()[-1]
    assert line == "| all | 5 | 1 | 1 | 1 | 1 | 1 | 40% | 9 of 20, 45.0% |"
