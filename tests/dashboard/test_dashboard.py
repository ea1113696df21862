"""The dashboard: what its pages say, what may be asked, and an attack each that comes to nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from html.parser import HTMLParser

import manyfit as kt  # isort: skip

import pytest
import tiny

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")
pytest.importorskip("vl_convert")

from manyfit.core.errors import ProjectError  # noqa: E402
from manyfit.dashboard import guard, pages  # noqa: E402
from manyfit.dashboard.app import Dashboard  # noqa: E402
from manyfit.dashboard.guard import Door  # noqa: E402
from manyfit.dashboard.projects import DrawnPages, Projects  # noqa: E402
from manyfit.report.snapshot import Snapshot  # noqa: E402
from manyfit.store.layout import ProjectLayout  # noqa: E402
from manyfit.store.reading import token_of  # noqa: E402
from manyfit.store.requests import read_request  # noqa: E402

MARKUP = "<script>alert(1)</script>"
HOST = "127.0.0.1:8642"


def searched(folder, name, shift=0.0, **arguments):
    hp = kt.HyperParameters()
    hp.Int("units", 1, 50)
    hp.Choice(f"{MARKUP} of {'x' * 180}", ["a", "<b>"])

    def run(trial):
        if trial.number == 3:
            raise ValueError(f"{MARKUP} exploded")
        return [{"score": trial.hyperparameters["units"] / 500 + shift + luck / 1000} for luck in (0, trial.number, 3)]

    arguments = {"objective": kt.Objective("score", "max"), "max_trials": 9, "seed": 0, **arguments}
    tuner = tiny.numbers(run, hyperparameters=hp, directory=str(folder), project_name=name, **arguments)
    tuner.search(verbose=0)
    tuner.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Projects that nobody changes: two, an odd name, a corrupt one, one of the future, one whose writer died."""
    folder = tmp_path_factory.mktemp("projects")
    searched(folder, "one")
    searched(folder, "two", shift=0.5)
    shutil.copytree(folder / "one", folder / f"deeper/{MARKUP.replace('/', '')} {'x' * 200}")
    (folder / "corrupt").mkdir()
    ProjectLayout(folder / "corrupt").database.write_text("no database")
    for name in ("newer", "died"):
        shutil.copytree(folder / "one", folder / name)
    change(folder / "newer", "schema_version", 99)
    change(
        folder / "died", "activity", {"what": "a search", "pid": 2**22 + 5, "host": os.uname().nodename, "since": 1.0}
    )
    outside = tmp_path_factory.mktemp("outside")
    searched(outside, "secret")
    (folder / "link").symlink_to(outside / "secret")
    (folder / "file").mkdir()
    ProjectLayout(folder / "file").database.symlink_to(ProjectLayout(outside / "secret").database)
    return folder


def change(folder, name, value):
    connection = sqlite3.connect(ProjectLayout(folder).database)
    connection.execute("UPDATE project SET value = ? WHERE name = ?", (json.dumps(value), name))
    connection.commit()
    connection.close()


@pytest.fixture
def running(made, tmp_path):
    """A project that this process searches, as its records have it."""
    shutil.copytree(made / "one", tmp_path / "run")
    activity = {"what": "a search", "pid": os.getpid(), "host": os.uname().nodename, "since": time.time()}
    change(tmp_path / "run", "activity", activity)
    return tmp_path / "run"


class Browser:
    """Asks a dashboard as its own pages do, unless it is told otherwise."""

    def __init__(self, folder, **door):
        self.door = Door(**{"host": "127.0.0.1", "token": "right", **door})
        self.projects = Projects(folder)
        self.app = Dashboard(self.projects, self.door).app()
        self.keys = {place.name: place.key for place in self.projects.places()}

    def ask(self, method, path, host=HOST, headers=(), **more):
        async def answered():
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
                return await client.request(method, path, headers=dict(headers), **more)

        return asyncio.run(answered())

    def get(self, path, **more):
        return self.ask("GET", path, **more)

    def post(self, path, body, *, without=(), host=HOST, **changed):
        headers = {
            "origin": f"http://{HOST}",
            "x-manyfit-token": "right",
            "content-type": "application/json",
            **changed,
        }
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        kept = {name: value for name, value in headers.items() if name not in without}
        return self.ask("POST", path, host=host, headers=kept, content=content)

    def request(self, what, **details):
        [key] = self.keys.values()
        return self.post(f"/p/{key}/requests", {"what": what, "details": details})


@pytest.fixture(scope="module")
def browser(made):
    return Browser(made)


class Tags(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.in_script = [], "", False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.in_script = tag in ("script", "style")

    def handle_endtag(self, tag):
        self.in_script = False

    def handle_data(self, data):
        self.text += "" if self.in_script else data


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


def test_a_change_within_one_tick_is_seen(tmp_path):
    searched(tmp_path, "one", max_trials=1)
    now = ProjectLayout(tmp_path / "one").database.stat().st_mtime
    assert token_of(tmp_path / "one", now=now + 0.01) != token_of(tmp_path / "one", now=now + 1.0)


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


def waiting(folder):
    return [read_request(name, path) for name, path in ProjectLayout(folder).waiting_requests().items()]


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


# Attacks ----------------------------------------------------------------------------------------------------------


def test_another_sites_page_cannot_ask_for_anything(running):
    browser = Browser(running)
    path, body = f"/p/{browser.keys['run']}/requests", {"what": "stop", "details": {}}
    assert browser.post(path, body, origin="http://evil.example").status_code == 403
    assert browser.post(path, body, origin="null").status_code == 403
    assert browser.post(path, body, without=["origin"]).status_code == 403
    assert browser.post(path, body, **{"sec-fetch-site": "cross-site"}).status_code == 403
    assert browser.post(path, body, origin="http://127.0.0.1:9999").status_code == 403  # another port is another origin
    # A form of another site can send neither the header of the token nor JSON.
    assert browser.post(path, body, without=["x-manyfit-token"]).status_code == 403
    assert browser.post(path, body, **{"x-manyfit-token": "wrong"}).status_code == 403
    assert browser.post(path, body, **{"content-type": "text/plain"}).status_code == 415
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert browser.ask(method, path).status_code == 405
    assert not waiting(running)
    answer = browser.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    assert browser.get(path.removesuffix("requests"), headers={"sec-fetch-mode": "navigate"}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example:8642", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.7"])
def test_a_name_that_resolves_to_this_machine_is_not_answered(browser, host):
    assert browser.get("/", host=host).status_code == 421
    assert browser.post("/p/x/requests", {}, host=host, origin=f"http://{host}").status_code == 421


def test_own_names_are_answered(browser):
    for host in ("localhost:8642", "127.0.0.1", "[::1]:8642", "LOCALHOST"):
        assert browser.get("/", host=host).status_code == 200


def bare(browser, path, host, query, *headers):
    """Asks as no client library would; answers status and headers."""
    answered = []

    async def send(message):
        answered.append(message)

    headers = [(b"host", host.encode()), *headers]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": headers}
    asyncio.run(browser.app(scope, None, send))
    return {"status": answered[0]["status"], "headers": dict(answered[0]["headers"])}


def test_a_host_that_is_named_twice_is_refused(browser):
    assert browser.ask("GET", "/", headers=[]).status_code == 200
    assert bare(browser, "/", HOST, b"", (b"host", b"evil.example"))["status"] == 400


def test_markup_of_projects_is_text_everywhere(browser):
    odd = next(name for name in browser.keys if "script" in name)
    key = browser.keys[odd]
    both = f"/compare?a={key}&b={browser.keys['one']}"
    for path in ("/", f"/p/{key}/", f"/p/{key}/trial/0", f"/p/{key}/trial/3", both, f"/p/{key}/live?seen=x"):
        page = Tags(browser.get(path).text)
        assert "alert(1)" in page.text, path
        scripts = [attributes for tag, attributes in page.tags if tag == "script"]
        assert len(scripts) == (1 if "/trial" in path or path in ("/", both) else len(scripts)) and scripts
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes), path
        assert not any(tag == "b" for tag, _ in page.tags)
    assert MARKUP not in browser.get(f"/p/{key}/").text


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../../etc/passwd",
        "/static/..%2f..%2f..%2fetc%2fpasswd",
        "/static/%2e%2e/%2e%2e/app.py",
        "/static/..%252fapp.py",
        "/static/report.html",
        "/p/../../etc/",
        "/p/..%2f..%2fsecret/",
        "/p/%2e%2e/",
        "/p/secret/",
        "/p/link/",
        "/p/one/",
        "/p/%00/",
        "/p/{one}/trial/..%2f..%2fx",
        "/p/{one}/../../manyfit.sqlite",
        "/compare?a=../secret&b=link",
    ],
)
def test_no_path_leads_out(browser, path):
    answer = browser.get(path.format(one=browser.keys["one"]))
    assert answer.status_code == 404 and "root:" not in answer.text and "secret" not in answer.text


def test_links_out_of_the_folder_are_no_projects(browser, made):
    assert not {"link", "file"} & set(browser.keys)
    # One that appears later, in place of a known database, is not read either.
    moved = made.parent / "moved"
    shutil.copytree(made / "one", moved / "p")
    late = Browser(moved)
    database = ProjectLayout(moved / "p").database
    database.unlink()
    database.symlink_to(ProjectLayout(made / "two").database)
    assert late.get(f"/p/{late.keys['p']}/").status_code == 422


def test_bodies_are_short(running):
    browser = Browser(running)
    path = f"/p/{browser.keys['run']}/requests"
    assert browser.post(path, b"x" * 20_001).status_code == 413
    assert browser.post(path, b"x", **{"content-length": "999999999999"}).status_code == 413

    async def endless():  # whatever its header says
        for _ in range(100):
            yield b"x" * 1000

    headers = {"origin": f"http://{HOST}", "x-manyfit-token": "right", "content-type": "application/json"}
    assert browser.ask("POST", path, headers=headers, content=endless()).status_code == 413


def test_so_many_requests_are_enough(running, monkeypatch):
    browser = Browser(running)
    monkeypatch.setattr(browser.app, "_left_at", 0.0)
    monkeypatch.setattr(browser.app, "_now", iter([0.0] * 40 + [100.0] * 5).__next__)
    codes = [browser.request("note", trial_id="1", text="odd").status_code for _ in range(41)]
    assert codes == [202] * 30 + [429] * 10 + [202]


def test_off_loopback_everything_needs_the_token(made):
    browser, host = Browser(made, host="0.0.0.0"), "192.168.1.5:8642"
    for path in ("/", "/static/dashboard.js", f"/p/{browser.keys['one']}/state"):
        assert browser.get(path, host=host).status_code == 401
    assert browser.get("/?token=wrong", host=host).status_code == 401
    let_in = browser.get("/?token=right", host=host)
    assert let_in.status_code == 303 and let_in.headers["location"] == "/"
    cookie = let_in.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    with_cookie = {"cookie": cookie.split(";")[0]}
    assert browser.get("/", host=host, headers=with_cookie).status_code == 200
    assert browser.get("/", host="evil.example", headers=with_cookie).status_code == 421
    [(_, status), (_, headers)] = [*bare(browser, "//evil.example/\n", host, b"token=right").items()]
    assert (status, headers[b"location"]) == (303, b"/evil.example/%0A")
    path = f"/p/{browser.keys['one']}/requests"
    answer = browser.post(path, {"what": "stop", "details": {}}, host=host, origin=f"http://{host}")
    assert answer.status_code == 401


def test_read_only_takes_no_requests_and_shows_no_buttons(running):
    browser = Browser(running, is_read_only=True)
    assert browser.request("stop").status_code == 403 and not waiting(running)
    assert "data-ask" not in "".join(str(tag) for tag in Tags(browser.get(f"/p/{browser.keys['run']}/").text).tags)


def test_every_answer_bears_the_headers(browser):
    for path in ("/", "/static/dashboard.js", "/nix", f"/p/{browser.keys['one']}/", f"/p/{browser.keys['corrupt']}/"):
        headers = browser.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
        assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("host", "is_on_loopback"),
    [("127.0.0.1", True), ("127.0.0.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("pc", False)],
)
def test_which_hosts_are_this_machine_alone(host, is_on_loopback):
    assert guard.Door(host, "t").is_on_loopback is is_on_loopback


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
