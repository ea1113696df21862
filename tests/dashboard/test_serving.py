"""The command, a real server, and a page that follows a search of another process."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import manyfit as kt  # isort: skip

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
pytest.importorskip("vl_convert")

from manyfit.cli import main  # noqa: E402
from manyfit.dashboard import command  # noqa: E402

#: Trials that say how far they are, and wait to be told to go on: no test waits for a time.
SEARCH = """
import itertools, sys, time
from pathlib import Path
import manyfit as kt
import numpy as np
import tiny
from manyfit.oracles.requests import RequestDesk

def go_on(number):
    deadline = time.monotonic() + 60
    while not Path(sys.argv[1], f"go{number}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)

class Steps(tiny.Formula):
    def train(self, supply, task):
        report = supply.report
        self.number = 0
        def reported(epochs):
            self.number += 1
            go_on(self.number)
            return report(epochs)
        supply.report = reported
        super().train(supply, task)

tuner = tiny.searched(Steps(num_epochs=3), max_trials=2, seed=0, directory=sys.argv[1], project_name="p")
tuner.oracle.requests = RequestDesk(tuner.oracle, now=itertools.count().__next__)  # looks each time
tuner.search(np.zeros((4, 3)), np.zeros(4), verbose=0)
"""


def environment():
    paths = [str(path) for path in sys.path if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@contextlib.contextmanager
def process(*arguments):
    command_line = [sys.executable, *map(str, arguments)]
    with subprocess.Popen(command_line, env=environment(), stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def until(found, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (value := found()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


@contextlib.contextmanager
def served(folder):
    """A real server in a thread of this process, on a port of its own; yields a client of it."""
    import uvicorn

    urls, servers = [], []

    class Server(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            servers.append(self)

        def install_signal_handlers(self):
            pass

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(uvicorn, "Server", Server)
        thread = threading.Thread(target=command.serve, args=(folder,), kwargs={"port": 0, "said": urls.append})
        thread.start()
        assert until(lambda: urls and servers and servers[0].started)
    try:
        with httpx.Client(base_url=urls[0], timeout=30.0) as client:
            yield client
    finally:
        servers[0].should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_a_page_follows_a_search_of_another_process(tmp_path):
    (tmp_path / "search.py").write_text(SEARCH, encoding="utf-8")
    with process(tmp_path / "search.py", tmp_path) as search:
        assert until(lambda: (tmp_path / "p" / "manyfit.sqlite").exists() and kt.open_project(tmp_path / "p").trials)
        key = hashlib.sha256(b".").hexdigest()[:16]
        with served(tmp_path / "p") as client:
            first = client.get(f"/p/{key}/")
            assert "No trial has a score yet" in first.text
            state = client.get(f"/p/{key}/state").json()
            assert f"process {search.pid}" in state["state"] and state["kind"] == "runs"
            # The page that has the newest state waits; it is answered because an epoch has ended.
            token = until(lambda: settled(client, key))
            (tmp_path / "go1").touch()
            answer = client.get(f"/p/{key}/live", params={"seen": token})
            assert answer.status_code == 200 and answer.headers["etag"].strip('"') != token
            assert kt.open_project(tmp_path / "p").trials[0].searched[0].num_epochs == 1
            # What the page asks for is done by that process, and answered.
            token = re.search('data-token="(.+?)"', first.text)[1]
            headers = {"origin": str(client.base_url).rstrip("/"), "x-manyfit-token": token}
            asked = client.post(f"/p/{key}/requests", json={"what": "stop", "details": {}}, headers=headers)
            assert asked.status_code == 202, asked.text
            for number in range(2, 9):
                (tmp_path / f"go{number}").touch()
            assert search.wait(timeout=60) == 0
            state = client.get(f"/p/{key}/state").json()
            assert state["kind"] == "rests"
            assert (
                state["answers"][0][1] == "stop: the search stops; trials that run end with the epochs that they have"
            )
    assert kt.open_project(tmp_path / "p").ended_by == "The search ended after 1 trial: it was asked to."


def test_a_real_browser_follows_a_search_and_shows_what_cannot_be_read(made, tmp_path):
    """An epoch that ends reaches an open page by itself; a request that is typed there stops the other process."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium")
    (tmp_path / "search.py").write_text(SEARCH, encoding="utf-8")
    for name in ("corrupt", "newer"):
        shutil.copytree(made / name, tmp_path / name)
    complaints, asked = [], []
    with process(tmp_path / "search.py", tmp_path) as search, playwright.sync_playwright() as started:
        assert until(lambda: (tmp_path / "p" / "manyfit.sqlite").exists() and kt.open_project(tmp_path / "p").trials)
        with served(tmp_path) as client:
            origin = str(client.base_url).rstrip("/")
            browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 390, "height": 800})
            page.set_default_timeout(60_000)
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda line: line.type == "error" and complaints.append(line.text))
            page.goto(origin)
            text = page.locator("main").inner_text()
            assert "cannot be read" in text and "up to version" in text
            page.get_by_role("link", name="p", exact=True).click()
            page.wait_for_selector("body[data-drawn]")
            assert page.locator("h1").inner_text() == "No trial has a score yet."
            page.evaluate("window.stays = true")
            for number in range(1, 4):  # the first trial ends
                (tmp_path / f"go{number}").touch()
            page.locator("h1", has_text="Trial 0 leads with loss").wait_for()
            assert page.evaluate("window.stays")  # nobody has loaded the page again
            page.locator("#ask summary").click()
            page.locator('form[data-ask="stop"] button').click()
            page.locator("#answers", has_text="within a second").wait_for()
            (tmp_path / "go4").touch()
            page.locator("#answers", has_text="the search stops").wait_for()
            for number in range(5, 9):  # the formula ends its epochs whatever it is told
                (tmp_path / f"go{number}").touch()
            assert search.wait(timeout=60) == 0
            browser.close()
    assert kt.open_project(tmp_path / "p").ended_by == "The search ended after 2 trials: it was asked to."
    assert complaints == [] and all(url.startswith((origin, "data:")) for url in asked)


def settled(client, key):
    token = client.get(f"/p/{key}/").headers["etag"].strip('"')
    return None if token.endswith("~") else token


def test_ctrl_c_ends_the_command_cleanly(tmp_path):
    with process("-m", "manyfit", "dashboard", tmp_path, "--port", "0", "--no-open") as started:
        assert started.stdout.readline().startswith("Reading ")
        assert started.stdout.readline().startswith("Manyfit's dashboard: http://127.0.0.1:")
        started.send_signal(signal.SIGINT)
        rest, _ = started.communicate(timeout=60)
        assert "The dashboard has ended; searches go on." in rest and "Traceback" not in rest
        assert started.returncode == 0


def test_what_cannot_be_served_is_said(tmp_path, capsys):
    assert main(["dashboard", str(tmp_path / "missing"), "--no-open"]) == 1
    assert "Type the directory= of your tuners." in capsys.readouterr().err
    with contextlib.closing(command._listening("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["dashboard", str(tmp_path), "--port", port, "--no-open"]) == 1
    assert "Type --port 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["dashboard", str(tmp_path), "--port", "99999"])


def test_the_extra_is_named_where_it_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["dashboard", str(tmp_path), "--no-open"]) == 1
    assert "pip install 'manyfit[dashboard]'" in capsys.readouterr().err
