"""The dashboard: what its pages say, when they are drawn anew, and what may be asked."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest
import tiny
from browsers import MARKUP, Browser, Tags, change, waiting

from manyfit.core.errors import ProjectError
from manyfit.dashboard import pages
from manyfit.dashboard.projects import DrawnPages, Projects
from manyfit.report.snapshot import Snapshot
from manyfit.store.layout import ProjectLayout
from manyfit.store.reading import token_of

# What is shown ----------------------------------------------------------------------------------------------------


def test_the_list_says_what_each_project_is_worth(browser, made):
    page = Tags(browser.get("/").text)
    assert "score 0.5" in page.text and "luck unknown" not in page.text
    assert "a search died" in page.text and "run the same script" in page.text
    assert "cannot be read" in page.text and "up to version" in page.text  # the corrupt and the newer one
    assert "secret" not in page.text and not {"link", "file"} & set(browser.keys)


def test_a_project_is_a_report_under_a_bar(browser):
    answer = browser.get(f"/p/{browser.keys['one']}/")
    page = Tags(answer.text)
    assert answer.status_code == 200 and "should show score" in page.text
    bar = next(attributes for tag, attributes in page.tags if attributes.get("id") == "bar")
    assert bar["data-token"] == "right" and bar["data-project"] == browser.keys["one"]
    policy = answer.headers["content-security-policy"]
    assert "unsafe-eval" not in policy and "script-src 'sha256-" in policy and "frame-ancestors 'none'" in policy
    assert "'unsafe-inline'" not in policy.split("style-src")[0]


def test_a_trial_has_its_values_curves_runs_and_reason(browser):
    key = browser.keys["one"]
    good, bad = (Tags(browser.get(f"/p/{key}/trial/{number}").text) for number in "13")
    assert "should show score" in good.text and good.text.count("search ") >= 3
    assert sum(tag == "svg" for tag, _ in good.tags) == 1
    assert "exploded" in bad.text and "failed" in bad.text
    assert browser.get(f"/p/{key}/trial/77").status_code == 404


def test_two_projects_are_told_apart_or_not(browser):
    def headline(one, other):
        page = browser.get(f"/compare?a={browser.keys[one]}&b={browser.keys[other]}").text
        return Tags(page).text.strip().splitlines()

    assert any("two is better than one: score by 0.5" in line for line in headline("one", "two"))
    assert any("cannot be told apart" in line for line in headline("one", "died"))
    assert browser.get(f"/compare?a={browser.keys['one']}&b=nix").status_code == 404


def test_a_loss_is_better_when_lower(browser):
    def seen(expected, direction):
        snapshot = object.__new__(Snapshot)
        vars(snapshot).update(objective="m", direction=direction)
        return snapshot, (expected, expected - 0.1, expected + 0.1)

    def told(direction, monkeypatch):
        sides = [seen(1.0, direction), seen(2.0, direction)]
        known = {id(snapshot): ends for snapshot, ends in sides}
        monkeypatch.setattr(pages, "expected_of", lambda snapshot: known[id(snapshot)])
        places = [browser.projects.place(browser.keys[name]) for name in ("one", "two")]
        return pages.difference([(place, snapshot) for place, (snapshot, _) in zip(places, sides, strict=True)])[0]

    with pytest.MonkeyPatch.context() as patched:
        assert told("min", patched) == "one is better than two: m by 1.00 [0.86, 1.14]."
        assert told("max", patched) == "two is better than one: m by 1.00 [0.86, 1.14]."


def test_states_in_words(running):
    browser = Browser(running)
    state = browser.get(f"/p/{browser.keys['run']}/state").json()
    assert state["kind"] == "runs" and state["state"].startswith(f"a search runs, process {os.getpid()}, last epoch ")
    assert browser.get("/").status_code == 307  # the one project there is


def test_what_cannot_be_read_is_said(browser, tmp_path):
    for name in ("corrupt", "newer"):
        answer = browser.get(f"/p/{browser.keys[name]}/")
        assert answer.status_code == 422 and "cannot be read" in answer.text
    empty = Browser(tmp_path)
    assert "No project is in this folder" in empty.get("/").text
    with pytest.raises(ProjectError) as raised:
        Projects(tmp_path / "missing")
    tiny.four_parts(raised.value)


def test_a_large_project_is_announced_before_it_is_drawn(made, monkeypatch):
    monkeypatch.setattr("manyfit.dashboard.app._AT_ONCE", 3)
    fresh = Browser(made)
    first = fresh.get(f"/p/{fresh.keys['one']}/")
    assert "being drawn" in first.text and "should show score" in first.text and "whole=1" in first.headers["refresh"]
    assert "being drawn" not in fresh.get(f"/p/{fresh.keys['one']}/?whole=1").text


# News -------------------------------------------------------------------------------------------------------------


def test_news_come_when_there_are_some(running, monkeypatch):
    monkeypatch.setattr("manyfit.dashboard.app._WAIT_SECONDS", 0.3)
    monkeypatch.setattr("manyfit.dashboard.projects._MOST_SHARE", 0.0)
    browser = Browser(running)
    [key] = browser.keys.values()
    token = browser.get(f"/p/{key}/").headers["etag"].strip('"').rstrip("~")
    os.utime(ProjectLayout(running).database, ns=(1, 1))  # long at rest
    calm = token_of(running)
    assert calm != token and "~" not in calm
    answer = browser.get(f"/p/{key}/live?seen=none")
    assert answer.status_code == 200 and f"seen={calm}" in answer.text
    assert browser.get(f"/p/{key}/live?seen={calm}").status_code == 204
    change(running, "seed", 7)
    assert browser.get(f"/p/{key}/live?seen={calm}").status_code == 200


def test_a_change_within_one_tick_is_seen(running):
    now = ProjectLayout(running).database.stat().st_mtime
    assert token_of(running, now=now + 0.01) != token_of(running, now=now + 1.0)


def test_large_projects_are_read_seldom(running, monkeypatch):
    times, read = [0.0], []

    class Slow(Snapshot):
        @classmethod
        def of(cls, folder):
            times[0] += 1.0
            read.append(folder)
            return Snapshot.of(folder)

    monkeypatch.setattr("manyfit.dashboard.projects.Snapshot", Slow)
    projects = Projects(running, now=lambda: times[0])
    [place] = projects.places()
    for seed in (1, 2):
        change(running, "seed", seed)
        assert projects.snapshot(place)[1].facts["seed"] == 1
    times[0] += 10.0
    assert projects.snapshot(place)[1].facts["seed"] == 2 and len(read) == 2


def test_dear_pages_are_drawn_seldom(made):
    times, drawn = [0.0], []

    def draw(place, token, snapshot):
        times[0] += 2.0
        drawn.append(token)
        return token

    kept = DrawnPages(draw, now=lambda: times[0])
    place = Projects(made).places()[0]
    for token in ("a", "a", "b"):
        kept.page(place, token, None)
    assert drawn == ["a"] and kept.rests(place.key)
    times[0] += 10.0
    assert kept.page(place, "b", None) == ("b", "b") and drawn == ["a", "b"]


# Requests ---------------------------------------------------------------------------------------------------------


def test_buttons_leave_requests(running):
    browser = Browser(running)
    for what, details in (
        ("stop", {}),
        ("stop_trial", {"trial_id": "1"}),
        ("enqueue", {"values": {"units": 7}}),
        ("raise_limit", {"max_trials": 12}),
        ("note", {"trial_id": "1", "text": MARKUP}),
    ):
        answer = browser.request(what, **details)
        assert answer.status_code == 202, answer.text
    found = waiting(running)
    assert [one.what for one in found] == ["stop", "stop_trial", "enqueue", "raise_limit", "note"]
    assert found[0].details["pid"] == os.getpid()  # this run of the search, and no later one
    assert "5 requests waiting" in browser.get(f"/p/{browser.keys['run']}/state").json()["state"]


def test_wrong_requests_are_refused_with_a_sentence(running):
    browser = Browser(running)
    for what, details in (
        ("rm", {}), ("note", {}), ("enqueue", {"values": [1]}), ("stop_trial", {"trial_id": "../1"}), (["stop"], {}),
    ):  # fmt: skip
        answer = browser.request(what, **details)
        assert answer.status_code == 400 and "Allowed:" in answer.text
    for body in (b"{", b"[1]", b'{"what": "stop"}', b"[" * 9000, b'{"what": "stop", "details": 1}'):
        assert browser.post(f"/p/{browser.keys['run']}/requests", body).status_code == 400
    assert not waiting(running)


def test_where_no_search_runs_there_is_nothing_to_stop(made, tmp_path):
    shutil.copytree(made / "died", tmp_path / "run")
    browser = Browser(tmp_path / "run")
    assert (
        browser.request("stop").status_code == 409 and browser.request("raise_limit", max_trials=99).status_code == 409
    )
    assert "next search" in browser.request("note", trial_id="0", text="odd").text
    assert [one.what for one in waiting(tmp_path / "run")] == ["note"]


def test_answers_and_notes_are_shown_as_text(running):
    record = {"what": "note", "details": {"trial_id": "1", "text": MARKUP}, "asked_at": 1.0, "taken_at": 2.0,
              "is_done": True, "answer": "noted"}  # fmt: skip
    connection = sqlite3.connect(ProjectLayout(running).database)
    connection.execute("INSERT INTO project VALUES ('request:1', ?)", (json.dumps(record),))
    connection.commit()
    connection.close()
    browser = Browser(running)
    page = Tags(browser.get(f"/p/{browser.keys['run']}/trial/1").text)
    assert MARKUP in page.text
    assert browser.get(f"/p/{browser.keys['run']}/state").json()["answers"] == [["2.0", "note 1: noted", True]]


def test_neither_keras_nor_jax_is_loaded(made):
    code = (
        "import sys; sys.argv = ['x']; from manyfit.dashboard.projects import Projects; from manyfit.dashboard.guard "
        "import Door; from manyfit.dashboard import pages, app\n"
        f"found = Projects({str(made)!r}); door = Door('127.0.0.1', 't')\n"
        "place = next(one for one in found.places() if one.name == 'one'); token, seen = found.snapshot(place)\n"
        "pages.list_of(door, found); pages.trial_page(door, '', place, seen, seen.trials[0])\n"
        "pages.report_of(door, found, place, token, seen); pages.compare_page(door, [(place, seen)] * 2)\n"
        "print([one for one in ('keras', 'jax', 'tensorflow', 'torch') if one in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert told.stdout.strip() == "[]", told.stderr[-2000:]
