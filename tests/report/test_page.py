"""The report: one file that asks nobody for anything, says what the records say, and runs no text of a project."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html.parser
import json
import os
import re
import subprocess
import sys

import manyfit as kt  # isort: skip

import drawn_projects
import pytest

from manyfit.cli import main
from manyfit.core.errors import UsageError
from manyfit.report.checks import checks
from manyfit.report.page import page
from manyfit.report.snapshot import Snapshot
from manyfit.store import ProjectStore

pytest.importorskip("vl_convert", reason="the extra manyfit[report] is not installed")
pytest.importorskip("jinja2", reason="the extra manyfit[report] is not installed")

HARM = "{{7*7}}</script><script>alert('1')</script><img src=x onerror=alert(2)>"
NOW = drawn_projects.START + 3600


class Reader(html.parser.HTMLParser):
    """What a browser would find: elements with their attributes, scripts with their text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.texts, self._inside = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = [tag]
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = []

    def handle_data(self, data):
        if self._inside == ["script"]:
            self.scripts[-1] += data
        elif self._inside != ["style"]:
            self.texts.append(data)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    kinds = {
        "plain": drawn_projects.Drawn(trials=40, failed=2),
        "harm": drawn_projects.Drawn(failed=2, prefix=HARM),
        "none": drawn_projects.Drawn(trials=0),
        "all failed": drawn_projects.Drawn(trials=6, failed=6),
    }
    seen = {kind: Snapshot.of(drawn_projects.write(folder / kind, drawn)) for kind, drawn in kinds.items()}
    return {kind: page(one, now=NOW) for kind, one in seen.items()} | {"snapshot": seen["plain"]}


def test_it_begins_with_a_sentence_with_an_interval(pages):
    [heading] = re.findall("<h1>(.*?)</h1>", pages["plain"])
    assert re.match(r"Trained afresh, trial \d+ should show val_score 0\.\d+ \[0\.\d+, 0\.\d+\] on new rows\.", heading)
    assert "noisy scores is lucky" in pages["plain"]
    assert "<h1>No trial has a score yet.</h1>" in pages["none"]
    assert "<h1>No trial has a score: 6 trials failed.</h1>" in pages["all failed"]


def test_the_order_is_that_of_what_matters(pages):
    ids = re.findall('<section id="(.*?)">', pages["plain"])
    assert ids == ["real", "checks", "history", "curves", "hyperparameters", "trials", "time", "failures", "records"]


def test_nothing_in_it_leads_elsewhere(pages):
    read = Reader(pages["plain"])
    links = [(tag, each[name]) for tag, each in read.elements for name in ("src", "href", "action") if name in each]
    assert links == [("link", "data:,")]
    assert "@import" not in pages["plain"].partition("</style>")[0]


@pytest.mark.parametrize("kind", ["plain", "harm"])
def test_the_browser_may_run_its_scripts_and_no_others(kind, pages):
    read = Reader(pages[kind])
    [policy] = [each["content"] for tag, each in read.elements if each.get("http-equiv") == "Content-Security-Policy"]
    allowed = re.findall("'sha256-(.*?)'", policy)
    plain = [text for text in read.scripts if not text.startswith("{")]
    assert len(plain) == len(read.scripts) - 1 == 2
    assert [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in plain] == allowed
    assert "default-src 'none'" in policy and "connect-src 'none'" in policy and "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]


def test_names_that_are_markup_are_texts(pages):
    read = Reader(pages["harm"])
    assert not [tag for tag, each in read.elements if tag == "img" or "onerror" in each]
    assert "alert(1)" not in "".join(read.scripts[1:]) and any("alert" in text for text in read.texts)
    assert "{{7*7}}" in "".join(read.texts) and "no such <b>layer</b>" in "".join(read.texts)
    data = json.loads(read.scripts[0])
    assert any("</script>" in name for name in data["names"].values())


def test_rows_of_trials_are_written_once(pages):
    data = json.loads(Reader(pages["plain"]).scripts[0])
    assert all("datasets" not in one["spec"] for one in data["charts"].values())
    assert sum("slice" in name for name in data["charts"]) == 4 and len(data["datasets"]["slices"]) == 40
    assert {name for one in data["charts"].values() for name in one["rows"]} == set(data["datasets"])


def test_no_number_has_sixteen_digits(pages):
    read = Reader(pages["plain"])
    assert not re.search(r"\d\.\d{7,}", " ".join(read.texts))


def test_300_trials_of_3_runs_and_30_epochs_are_less_than_3_megabytes(tmp_path):
    drawn = drawn_projects.Drawn(trials=300, executions=3, epochs=30, failed=10)
    assert len(page(Snapshot.of(drawn_projects.write(tmp_path / "large", drawn))).encode()) < 3e6


def test_a_page_that_is_written_again_loads_itself(pages):
    again = page(pages["snapshot"], every_seconds=10, now=NOW)
    assert (
        '<meta http-equiv="refresh" content="10">' in again and "refresh" not in pages["plain"].partition("<style")[0]
    )
    live = Reader(page(pages["snapshot"], live="/project/one", now=NOW))
    [policy] = [each["content"] for tag, each in live.elements if each.get("http-equiv") == "Content-Security-Policy"]
    assert "connect-src 'self'" in policy and json.loads(live.scripts[0])["live"] == "/project/one"


def test_on_the_command_line_and_in_python(tmp_path, capsys):
    folder = drawn_projects.write(tmp_path / "one", drawn_projects.Drawn(trials=6))
    assert main(["report", str(folder), "-o", str(tmp_path / "made" / "r.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "made" / "r.html")
    assert (tmp_path / "made" / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    path = kt.open_project(folder).report(tmp_path / "p.html")
    assert path.read_text(encoding="utf-8").count("<h1>") == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"report\(path\).*cannot be written.*writable folder"):
        kt.open_project(folder).report(tmp_path / "file" / "r.html")


def test_without_the_extra_it_says_what_to_install(tmp_path):
    folder = drawn_projects.write(tmp_path / "one", drawn_projects.Drawn(trials=6))
    code = (
        "import sys\nsys.modules['jinja2'] = sys.modules['vl_convert'] = None\nimport manyfit as kt\n"
        f"seen = kt.open_project({str(folder)!r})\nkt.plot.history(seen)._repr_mimebundle_()\nseen.report('r.html')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "ImportError: Reports and pictures need jinja2" in done.stderr
    assert "pip install manyfit[report]" in done.stderr


# Checks -----------------------------------------------------------------------------------------------------------


def titles(snapshot):
    return {check.title: check for check in checks(snapshot)}


def test_checks_of_a_drawn_project(pages):
    found = titles(pages["snapshot"])
    assert found["The winner is within noise"].line == "tuner.confirm()"
    assert "2 other trials may be as good" in found["The winner is within noise"].evidence
    assert found["Curves still rise at their end"].line == "tuner.search(..., epochs=12)"
    assert not [title for title in found if title.startswith("rate has no effect")]


def test_what_does_nothing_is_named_and_what_decides_is_not(tmp_path):
    named = []
    for seed in range(4):
        drawn = drawn_projects.Drawn(trials=200, epochs=1)
        named += titles(Snapshot.of(drawn_projects.write(tmp_path / str(seed), drawn, seed)))
    assert [title for title in named if title.startswith(("idle has no effect", "kind has no effect"))]
    assert not [title for title in named if title.startswith("rate has no effect")]


def changed(snapshot, change):
    return dataclasses.replace(snapshot, trials=tuple(change(trial) for trial in snapshot.trials))


def test_a_best_value_at_the_edge_widens_the_range(pages):
    rate = "rate"
    best = [trial.trial_id for trial in pages["snapshot"].best(5)]

    def at_the_edge(trial):
        place = best.index(trial.trial_id) if trial.trial_id in best else None
        value = trial.values[rate] / 10 if place is None else 0.1 * 0.9**place
        return dataclasses.replace(trial, values={**trial.values, rate: max(1e-4, value)})

    found = titles(changed(pages["snapshot"], at_the_edge))["The best rate lies at the upper edge of its range"]
    assert found.line == 'hp.Float("rate", 0.0001, 1, sampling="log")'  # ten times as far
    assert "5 of the best 5 lie in that fifth" in found.evidence
    inside = titles(changed(pages["snapshot"], lambda t: dataclasses.replace(t, values={**t.values, rate: 0.003})))
    assert not [title for title in inside if "edge" in title and "rate" in title]


def test_where_training_diverges(pages):
    def diverges(trial):
        if trial.values["rate"] < 0.02:
            return trial
        return dataclasses.replace(trial, status="FAILED", ending="diverged", score=None, ended_at=trial.started_at)

    seen = changed(pages["snapshot"], diverges)
    [found] = [check for title, check in titles(seen).items() if "diverges above" in title]
    limit = max(trial.values["rate"] for trial in seen.trials if trial.is_completed)
    assert found.line == f'hp.Float("rate", 0.0001, {limit:.3g}, sampling="log")'
    assert not [title for title in titles(pages["snapshot"]) if "diverges" in title]


def test_much_compiling_names_what_splits_programs(tmp_path):
    seen = Snapshot.of(drawn_projects.write(tmp_path / "one", drawn_projects.Drawn(trials=30)))

    def dear(trial):
        program = f"of {trial.values['units'] // 64}"
        costs = {"structure": program, "build": 0.0, "compile": 30.0, "epoch": 0.01, "predict": 0.0}
        runs = tuple(dataclasses.replace(run, outcome={**run.outcome, "costs": costs}) for run in trial.runs)
        return dataclasses.replace(
            trial, runs=runs, values={**trial.values, "units": 64 * (trial.values["units"] // 64)}
        )

    [found] = [check for title, check in titles(changed(seen, dear)).items() if "splits programs" in title]
    assert "units splits programs" in found.title and found.line.startswith('hp.Int("units"')


def test_test_rows_that_were_looked_at_twice(pages):
    looks = [{"data": "abc", "models": ["a"]}, {"data": "abc", "models": ["b"]}, {"data": "x", "models": ["c"]}]
    seen = dataclasses.replace(pages["snapshot"], facts={**pages["snapshot"].facts, "test_uses": looks})
    assert "measured 2 choices" in titles(seen)["Test rows were looked at more than once"].evidence
    once = dataclasses.replace(seen, facts={**seen.facts, "test_uses": looks[1:]})
    assert "Test rows were looked at more than once" not in titles(once)


def with_facts(snapshot, **facts):
    return dataclasses.replace(snapshot, facts={**snapshot.facts, **facts})


REPEATED = {"num_rows": 200, "num_repeated": 30, "num_same_target": 28, "num_training": 800, "num_distinct": 790}


def test_rows_of_validation_that_are_trained_on(pages):
    seen = pages["snapshot"]
    found = titles(with_facts(seen, repeated_rows={**REPEATED, "is_held_out": True}))["Validation rows are trained on"]
    assert found.evidence.startswith("30 of 200 validation rows (15%) have the features of a training row, 28 its")
    assert "nature" not in found.evidence and "np.unique(x, axis=0" in found.line
    few = {**REPEATED, "is_held_out": True, "num_distinct": 100}
    assert "only 100 of 800" in titles(with_facts(seen, repeated_rows=few))["Validation rows are trained on"].evidence
    once = {**REPEATED, "is_held_out": True, "num_repeated": 1}
    assert not [title for title in titles(with_facts(seen, repeated_rows=once)) if "trained on" in title]
    # Without rows that validate it matters in folds alone.
    without = with_facts(seen, repeated_rows={**REPEATED, "is_held_out": False})
    assert not [title for title in titles(without) if "twice" in title]

    def in_folds(trial):
        runs = [dataclasses.replace(run, outcome={**run.outcome, "notes": {"folds": ["a"]}}) for run in trial.runs]
        return dataclasses.replace(trial, runs=tuple(runs))

    assert "Rows are there twice, in several folds" in titles(changed(without, in_folds))


def on_parts(snapshot, *scores):
    """The project with trials that were trained on a quarter, a half and all of the rows."""
    own = iter(scores)
    return changed(
        snapshot,
        lambda trial: dataclasses.replace(
            trial, by_rows=tuple(zip((0.25, 0.5, 1.0), one, strict=True)) if (one := next(own, None)) else ()
        ),
    )


def test_what_more_rows_would_bring(pages):
    """Outside witness: gains of .10 and then .05 per doubling, so .025 is next; t = 4.303 on three trials."""
    scores = [(0.50, 0.60, 0.65), (0.52, 0.62, 0.67 + 0.006), (0.54, 0.64, 0.69 - 0.006)]
    [found] = [title for title in titles(on_parts(pages["snapshot"], *scores)) if "Twice as many rows" in title]
    half = 0.5 * 4.3027 * 0.006 / 3**0.5
    assert found == f"Twice as many rows would let val_score rise by 0.0250 [{0.025 - half:.4f}, {0.025 + half:.4f}]"
    flat = [(0.50, 0.60, 0.60), (0.52, 0.62, 0.63), (0.54, 0.64, 0.63)]
    assert [
        title for title in titles(on_parts(pages["snapshot"], *flat)) if "more rows would help is not seen" in title
    ]
    [one] = [check for check in checks(on_parts(pages["snapshot"], scores[0])) if "more rows" in check.title]
    assert one.title == "What more rows would bring is not known" and "rose by 0.1 and then 0.05" in one.evidence


def test_what_more_rows_would_bring_is_asked_with_a_line(pages):
    seen = with_facts(pages["snapshot"], repeated_rows={**REPEATED, "is_held_out": True, "num_repeated": 0})

    def by_a_loop_of_the_users(trial):
        runs = [dataclasses.replace(run, outcome={**run.outcome, "costs": None}) for run in trial.runs]
        return dataclasses.replace(trial, runs=tuple(runs))

    found = titles(seen)["What more rows would bring is not known"]
    assert found.line == (
        "kt.RandomSearch(build_model, 'val_score', max_trials=12, scheduler=kt.RowHalving([200, 400], factor=2))"
    )
    assert "What more rows would bring is not known" not in titles(changed(seen, by_a_loop_of_the_users))


def test_how_different_the_members_of_the_ensemble_are(pages):
    told = {
        "members": ["trial 01", "trial 02"], "disagreement": [[0.0, 0.08], [0.08, 0.0]], "decides": True,
        "loss": "log loss", "alone": 0.3012, "gives_back": 0.0208,
    }  # fmt: skip
    facts = {"method": "greedy", "metric": "accuracy", "weights": {"trial 01": 0.6, "trial 02": 0.4}, "score": 0.9,
             "gain": [0.01, 0.002, 0.02], "refused": False, "notes": [], "diversity": told}  # fmt: skip
    text = page(with_facts(pages["snapshot"], ensemble=facts), now=NOW)
    assert "Two members decide differently on 8 % of the rows, in the mean." in text
    assert "log loss: members average 0.301 alone, and their differences give back 0.0208 of it." in text
    charts = json.loads(Reader(text).scripts[0])["charts"]
    assert charts["diversity"]["rows"] == ["diversity"]
    # One of an earlier version, or of one member, is shown without.
    assert "decide differently" not in page(
        with_facts(pages["snapshot"], ensemble={**facts, "diversity": None}), now=NOW
    )


def test_every_writes_again_until_the_search_is_over(tmp_path, monkeypatch, capsys):
    folder = drawn_projects.write(tmp_path / "one", drawn_projects.Drawn(trials=6, is_over=False))
    output, written = tmp_path / "r.html", []

    def wait(seconds):
        written.append((seconds, output.read_text(encoding="utf-8")))
        if len(written) == 2:
            store = ProjectStore(folder)
            store.put(activity={**store.get("activity"), "until": NOW})
            store.close()

    monkeypatch.setattr("manyfit.cli.time.sleep", wait)
    assert main(["report", str(folder), "-o", str(output), "--every", "10"]) == 0
    assert [(seconds, 'content="10"' in text) for seconds, text in written] == [(10, True)] * 2
    assert 'http-equiv="refresh"' not in output.read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == str(output)


def test_hundreds_of_trials_have_a_page_with_all_charts(tmp_path):
    """More than a contour or a list takes: some of them stand for all."""
    drawn = drawn_projects.Drawn(trials=400, executions=1, epochs=2)
    assert "400" in page(Snapshot.of(drawn_projects.write(tmp_path / "many", drawn)), now=NOW)
