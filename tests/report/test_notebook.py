"""What notebooks show: sentences first, tables after, texts escaped."""

from __future__ import annotations

import re

import manyfit as kt  # isort: skip

import numpy as np
import pytest
import tiny

from manyfit.core.html import bars, piece, table
from manyfit.training.program_report import ProgramRecord, Programs

HARM = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def tuner(tmp_path_factory):
    def run(trial):
        if trial.number == 2:
            raise ValueError(HARM)
        return {"score": trial.hyperparameters["units"]}

    made = tiny.numbers(
        run, objective=kt.Objective("score", "max"), max_trials=5, max_consecutive_failed_trials=9, seed=0,
        directory=tmp_path_factory.mktemp("notebook"), project_name="one",
    )  # fmt: skip
    made.search(verbose=0)
    return made


def cells(html, column):
    body = html.partition("<tbody>")[2].partition("</tbody>")[0]
    return [re.findall("<td.*?>(.*?)</td>", row)[column] for row in re.findall("<tr>.*?</tr>", body)]


def test_a_tuner_and_an_opened_project_begin_with_the_verdict(tuner):
    for shown in (tuner._repr_html_(), kt.open_project(tuner.project_dir)._repr_html_()):
        best = tuner.oracle.get_best_trials(1)[0]
        assert re.search(f'<p class="lead">Trial {best.trial_id} leads with score', shown)
        assert cells(shown, 0)[0] == best.trial_id and "1 trial failed" in shown


def test_results_are_sorted_best_first_and_can_be_sorted(tuner):
    html = tuner.results()._repr_html_()
    scores = [float(text) for text in cells(html, 2) if text]
    assert scores == sorted(scores, reverse=True) and cells(html, 3)[-1] == "failed"
    [name] = re.findall('<table id="(.*?)">', html)
    assert f'getElementById("{name}")' in html and "5 trials, 5 executions, best first" in html
    assert kt.open_project(tuner.project_dir).results()._repr_html_().count("<tr>") == html.count("<tr>")


def test_no_markup_of_a_project_gets_through(tuner):
    failed = tuner.oracle.trials["2"]
    recorded = kt.open_project(tuner.project_dir).trial("2")
    for html in (failed._repr_html_(), recorded._repr_html_(), tuner._repr_html_()):
        assert HARM not in html and "&lt;script&gt;" in html
    for html in (piece([HARM], table([HARM], [[HARM]]), [HARM]), bars({HARM: 1.0})):
        assert HARM not in html


def test_trials_programs_and_ensembles(tuner):
    best = tuner.oracle.get_best_trials(1)[0]
    assert f"Trial {best.trial_id}: completed, score" in best._repr_html_()
    record = ProgramRecord("abc", "Dense; 5 parameters", 3, 2, 1, 1, "scan", 1.5, {"scan": 0.25}, 4)
    html = Programs((record,), {"an odd <layer>": ("1",)})._repr_html_()
    assert "3 executions trained as 1 programs, compiled in 1.5 s" in html and "an odd &lt;layer&gt;" in html
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    ensemble = kt.Ensemble.fit([y + rng.normal(size=200), y + rng.normal(size=200)], y)
    html = ensemble._repr_html_()
    assert sorted(map(float, cells(html, 1)), reverse=True) == [float(text) for text in cells(html, 1)]
    assert set(cells(html, 0)) == {name for name, weight in ensemble.weights.items() if weight}
