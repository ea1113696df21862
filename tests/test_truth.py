"""The benchmark of truth, small: its generator has the truths that it states, and its tables are whole."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def bench(monkeypatch):
    """Loads a module of the benchmarks."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module


@pytest.mark.parametrize(
    ("metric", "seeds", "lucky_rows"),
    [("loss", "normal", False), ("loss", "skew", True), ("accuracy", "t3", False)],
)
def test_the_generator_has_the_truth_and_the_variances_that_it_states(bench, metric, seeds, lucky_rows):
    simulated = bench("simulated_searches")
    cell = simulated.Cell("equal", 20, 300, seeds, metric, lucky_rows=lucky_rows)
    rng = np.random.default_rng(0)
    searches = [simulated.SimulatedSearch(cell, rng) for _ in range(150)]
    levels = np.array([search.search_losses.mean() for search in searches])
    assert levels.mean() == pytest.approx(searches[0].truths[0], abs=4 * levels.std() / 150**0.5)
    within = np.mean([search.search_losses.var(ddof=1) for search in searches])
    assert within == pytest.approx(cell.noise**2, rel=0.12)
    runs = np.array([search.runs(0, 0, 4).mean(axis=1, dtype=float) for search in searches])
    parts = cell.variances
    assert runs.var(axis=1, ddof=1).mean() == pytest.approx(parts["rest"] / 300 + parts["seed"], rel=0.25)
    assert (searches[0].runs(3, 0, 4)[2:] == searches[0].runs(3, 2, 4)).all()  # a run is the same whoever asks for it


def test_the_first_column_drops_whom_only_seeds_make_worse(bench):
    """A clear winner is the only one left, equals stay together, and rows are looked at by nobody."""
    old = bench("race_on_seeds")
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal((3, 30))
    clear = old.race_on_seeds(np.array([[0.0], [1.0], [1.0]]) + noise)
    assert clear.left == (0,) and {one for one, _ in clear.worse} == {1, 2} and clear.num_executions >= 9
    assert len(old.race_on_seeds(noise).left) > 1
    assert old.student_interval(np.array([0.90, 0.92, 0.91, 0.93])) == pytest.approx((0.8945, 0.915, 0.9355), abs=5e-5)


def test_equals_are_told_apart_before_and_not_now(bench):
    """Few searches: the intervals over seeds miss the truth in most of them, those of now in few; no wrong words."""
    simulated, measures, procedures = map(bench, ("simulated_searches", "truth_measures", "truth_procedures"))
    cell = simulated.Cell("equal", 20, 200, lucky_rows=True)
    found = measures.measure(cell, {"before": procedures.before, "now": procedures.now}, 30, seed=1)
    assert found["before"].cover.value < 0.6 < 0.85 <= found["now"].cover.value
    assert found["before"].wrong.value > 0.5 and found["now"].wrong.count <= 2
    assert abs(found["now"].bias) < 0.5 and 0.5 < found["now"].width < 1.5


def test_calls_never_contradict_each_other(bench):
    simulated, calls = map(bench, ("simulated_searches", "truth_calls"))
    found = calls.sequences(simulated.Cell("normal", 12, 80, spread=4), 8, seed=0)
    assert found.contradictions == 0 and found.interrupted.count == 0 and found.calls > 16


def test_what_contradicts_is_seen(bench):
    calls = bench("truth_calls")
    earlier = calls.Saying({1: 0}, frozenset({0}), frozenset({0, 1}), {0: 5, 1: 5}, {0: (0.1, 0.2), 1: (0.3, 0.4)})
    later = calls.Saying({}, frozenset({0, 1}), frozenset({0, 1}), {0: 4, 1: 5}, {0: (0.1, np.inf), 1: (0.3, 0.4)})
    assert len(calls.contradictions(earlier, later)) == 5
    assert calls.contradictions(earlier, earlier) == []


def test_a_real_oracle_searches_the_simulated_surface(bench):
    oracles = bench("truth_oracles")
    finished = oracles.Finished(oracles.OracleCell("asha", 12, 60), seed=0)
    lengths = [len(finished.curve(trial)) for trial in finished.oracle.trials.values()]
    assert len(lengths) == 12 and max(lengths) == 30 and min(lengths) < 30
    claim = oracles.now(finished)
    assert claim.low < claim.estimate < claim.high and claim.truth > 0


def test_the_table_is_printed(bench, monkeypatch, capsys):
    truth = bench("truth")
    monkeypatch.setattr(truth, "QUICK_CELLS", truth.QUICK_CELLS[:1])
    monkeypatch.setattr(truth, "measure", lambda cell, procedures, replications, seed: small(bench, cell, procedures))
    truth.searches(quick=True)
    heading, line, row, *verdict = capsys.readouterr().out.split("\n")
    assert heading.count("|") == line.count("|") == row.count("|") and row.count("→") == 10
    assert "of 1 cells cover" in "\n".join(verdict)


def small(bench, cell, procedures):
    return bench("truth_measures").measure(cell, procedures, 3, seed=0)


def test_draws_that_were_made_are_not_made_again(bench, tmp_path):
    draws = bench("truth_draws")
    ledger = draws.Ledger(tmp_path / "folder" / "part.jsonl")

    def make(name, number):
        return {"claimed": 2.0 * number, "gain": 1.0 * number, "right": number > 0}

    assert [(one["name"], one["number"]) for one in ledger.fill(["a", "b"], 1, make)] == [("a", 0), ("b", 0)]
    with ledger.path.open("a") as file:
        file.write('{"name": "a", "number": 1, "cla')  # a kill in the middle of a line
    again = draws.Ledger(ledger.path)
    assert [one["number"] for one in again.fill(["a"], 3, make)] == [1, 2]
    assert [one["number"] for one in again.draws("a")] == [0, 1, 2] and len(again.draws()) == 4
    assert draws.slope(again.draws("a"), "claimed", "gain") == "0.50 ± 0.00"
    assert draws.share(again.draws("a"), "right").startswith("66.7 ± ")
    assert draws.share([], "right") == draws.slope([], "claimed", "gain") == "-"


def test_the_calls_of_users_are_handed_what_a_simulated_search_knows(bench, tmp_path, capsys):
    draws, api = bench("truth_draws"), bench("truth_api")
    cell = bench("simulated_searches").Cell("terrible", 12, 80)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "CELLS", {str(cell): cell})
        api.through_calls(draws.Ledger(tmp_path / "api.jsonl"), 2)
    found = draws.Ledger(tmp_path / "api.jsonl").draws()
    assert all(one["num_rows"] == 80 and abs(one["bias"]) < 4 for one in found)
    assert f"| {cell} | 2 | " in capsys.readouterr().out


def test_members_that_hardly_differ_gain_hardly_anything(bench, tmp_path, capsys):
    draws, null = bench("truth_draws"), bench("truth_null")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(null, "CELLS", {"60 rows, five folds": (60, "five folds")})
        null.null(draws.Ledger(tmp_path / "null.jsonl"), 2)
    found = draws.Ledger(tmp_path / "null.jsonl").draws()
    assert all(0 < one["gain"] < 0.02 and not one["false"] for one in found)
    assert "| 60 rows, five folds | 2 | " in capsys.readouterr().out
