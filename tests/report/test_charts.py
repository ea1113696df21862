"""Charts of drawn projects: what is in them, and that Vega-Lite's own compiler takes each."""

from __future__ import annotations

import json
import re

import drawn_projects
import pytest

from manyfit.report import bars, charts
from manyfit.report.chart_rows import finalist_rows, trial_rows
from manyfit.report.snapshot import Snapshot

vl_convert = pytest.importorskip("vl_convert", reason="the extra manyfit[report] is not installed")

KINDS = {
    "plain": drawn_projects.Drawn(failed=2),
    "lower is better": drawn_projects.Drawn(direction="min"),
    "markup": drawn_projects.Drawn(prefix="<script>alert('1')</script> \"\\.[x]" + "y" * 200),
    "one": drawn_projects.Drawn(trials=1),
    "none": drawn_projects.Drawn(trials=0),
    "all failed": drawn_projects.Drawn(trials=6, failed=6),
    "runs": drawn_projects.Drawn(is_over=False),
}


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    return {kind: Snapshot.of(drawn_projects.write(folder / kind, what)) for kind, what in KINDS.items()}


@pytest.fixture(scope="module")
def plain(projects):
    return projects["plain"]


def all_charts(seen):
    several = [charts.history, charts.curves, charts.contour, charts.pareto]
    several += [bars.importance, bars.finalists, bars.time, bars.ensemble]
    made = [*(draw(seen) for draw in several), *charts.slices(seen).values()]
    return [spec for spec in made if spec is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_the_compiler_takes_each_and_numbers_are_short(kind, projects):
    for spec in all_charts(projects[kind]):
        text = json.dumps(spec, allow_nan=False)
        assert not re.search(r"\d\.\d{9,}", json.dumps(spec["datasets"])), "sixteen digits are nobody's"
        assert vl_convert.vegalite_to_vega(text)["marks"]


def test_what_is_drawn_of_nothing(projects):
    assert all_charts(projects["none"]) == []
    assert charts.history(projects["all failed"]) is None
    assert len(all_charts(projects["plain"])) == 10


def test_the_axis_of_scores_is_that_of_the_better_half_and_holds_the_band(plain):
    spec = charts.history(plain)
    low, high = spec["layer"][1]["encoding"]["y"]["scale"]["domain"]
    scores = sorted(trial.score for trial in plain.trials if trial.score is not None)
    assert min(scores) < low <= min(scores[len(scores) // 2], plain.leader.low)
    assert high > max(*scores, plain.leader.high)
    [band] = spec["datasets"]["band"]
    assert (band["low"], band["high"]) == pytest.approx((plain.leader.low, plain.leader.high), rel=1e-4)


def test_rows_of_trials_are_those_of_the_snapshot(plain):
    rows = charts.history(plain)["datasets"]["trials"]
    assert [row["trial"] for row in rows] == [trial.trial_id for trial in plain.trials]
    scores = [trial.score for trial in plain.trials[:-2]]
    assert [row["score"] for row in rows[:-2]] == pytest.approx(scores, rel=1e-4)
    assert [row["score"] for row in rows[-2:]] == [None, None]
    assert rows[-3]["epochs"] == sum(len(run.logs) for trial in plain.trials for run in trial.runs)
    assert {row["trial"] for row in rows if row["standing"] == "leads"} == {plain.leader.trial_id}


def test_curves_are_means_and_stopped_ones_are_marked(projects):
    seen = projects["plain"]
    sets = charts.curves(seen)["datasets"]
    own = [row["value"] for row in sets["curves"] if row["trial"] == "00"]
    assert own == pytest.approx(seen.trial("0").searched[0].curves["val_score"], rel=1e-4)
    assert {row["trial"] for row in sets["ends"]} == {"04", "09", "14"}
    assert {row["end"] for row in sets["ends"]} == {"stopped"}


def test_of_many_curves_the_best_are_drawn_and_the_others_are_an_area(tmp_path):
    seen = Snapshot.of(drawn_projects.write(tmp_path / "many", drawn_projects.Drawn(trials=230, epochs=2)))
    sets = charts.curves(seen)["datasets"]
    assert {row["trial"] for row in sets["curves"]} == {trial.trial_id for trial in seen.best(200)}
    first, second = sets["others"]
    others = sorted(trial.searched[0].curves["val_score"][0] for trial in seen.best()[200:])
    assert min(others) - 1e-4 <= first["low"] < first["high"] <= max(others) + 1e-4 and second["epoch"] == 2


def test_of_many_trials_the_best_and_an_even_sample_are_drawn_and_small_charts_have_none_that_large_ones_lack(tmp_path):
    seen = Snapshot.of(drawn_projects.write(tmp_path / "many", drawn_projects.Drawn(trials=1000, epochs=1)))
    few, more, even = (
        {row["trial"]: row["number"] for row in trial_rows(seen, most, best_too=best_too)}
        for most, best_too in ((100, True), (400, True), (100, False))
    )
    assert set(few) < set(more) and set(even) < {trial.trial_id for trial in seen.trials}
    assert {trial.trial_id for trial in seen.best(50)} <= set(few)
    tenths = [sum((number - 1) // 100 == tenth for number in even.values()) for tenth in range(10)]
    assert sum(tenths) == 100 and min(tenths) >= 8 and max(tenths) <= 13


def test_finalists_are_those_of_the_search_until_there_are_others(plain):
    rows = finalist_rows(plain)
    assert [row["trial"] for row in rows] == [one[0] for one in plain.leader.finalists]
    assert [row["open"] for row in rows] == [True] * 3 + [False] * 5
    assert all(row["low"] < row["expected"] < row["high"] for row in rows)


def test_the_surface_follows_the_trials_and_is_blank_where_there_are_none(plain):
    sets = charts.contour(plain)["datasets"]
    assert 0 < len(sets["surface"]) < 24 * 24
    near = min(sets["surface"], key=lambda cell: abs(cell["left"] - 0.01))
    far = min(sets["surface"], key=lambda cell: cell["left"])
    assert near["score"] > far["score"]  # the best rate is about 0.01
    assert charts.contour(plain, "kind", "rate") is None
