"""How soon a dashboard is seen in a real browser, and how soon an epoch is that has ended.

    python benchmarks/look_browser.py    # needs manyfit[dashboard], playwright, and Chromium

The command `manyfit dashboard` serves a folder from a process of its own. First paint is what the browser itself
measures ("first-contentful-paint"), of the page of a project of 300 trials x 3 x 30 epochs, in a fresh context each
time; the first one is the first that the server answers. Then a search in a third process ends an epoch every two
seconds and notes when: an epoch is seen when the page that is open has changed after it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import conditions
import numpy as np
from playwright.sync_api import Page, sync_playwright

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.append(str(TESTS))
import drawn_projects  # noqa: E402

NUM_LOADS, NUM_EPOCHS, EPOCH_SECONDS = 6, 20, 2.0
SEARCH = f"""
import sys, time
import numpy as np
import tiny

class Slow(tiny.Formula):
    def train(self, supply, task):
        report = supply.report
        def reported(epochs):
            answer = report(epochs)
            print(time.time(), flush=True)
            time.sleep({EPOCH_SECONDS})
            return answer
        supply.report = reported
        super().train(supply, task)

tuner = tiny.searched(Slow(num_epochs={NUM_EPOCHS}), max_trials=1, seed=0, directory=sys.argv[1], project_name="live")
tuner.search(np.zeros((4, 3)), np.zeros(4), verbose=0)
"""
PAINTED = "performance.getEntriesByName('first-contentful-paint').map(one => one.startTime)[0]"
WATCH = """() => {
    window.changes = [];
    new MutationObserver(() => window.changes.push(Date.now())).observe(
        document, {subtree: true, childList: true, characterData: true});
}"""


@contextlib.contextmanager
def process(*words: object) -> Iterator[Iterable[str]]:
    """The lines of a process of this Python."""
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(TESTS)])}
    with subprocess.Popen([sys.executable, *map(str, words)], env=paths, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started.stdout or ()
        finally:
            started.kill()


def painted(page: Page, url: str) -> float:
    """Seconds until the first paint of a page."""
    page.goto(url)
    page.wait_for_function(f"{PAINTED} !== undefined")
    return float(page.evaluate(PAINTED)) / 1000


def main() -> None:
    """Prints both tables."""
    conditions.show()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        drawn_projects.write(Path(folder) / "drawn", drawn_projects.Drawn(trials=300, executions=3, epochs=30))
        (Path(folder) / "search.py").write_text(SEARCH)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with process("-m", "manyfit", "dashboard", folder, "--port", "0", "--no-open") as server:
            line = next(each for each in server if "http://" in each)
            [origin] = re.findall(r"http://\S+", line)
            page = browser.new_page()
            page.goto(origin)
            link = page.get_by_role("link", name="drawn", exact=True).get_attribute("href")
            url = f"{page.url.split('?')[0].rstrip('/')}{link}"
            found = [painted(browser.new_context().new_page(), url) for _ in range(NUM_LOADS)]
            print(f"first paint, s: {found[0]:.2f} the first time, then {np.median(found[1:]):.2f} (median of "
                  f"{NUM_LOADS - 1}; {max(found[1:]):.2f} at most)")  # fmt: skip
            with process(Path(folder) / "search.py", folder) as search:
                next(iter(search))  # there is a project now
                page.goto(origin)
                page.get_by_role("link", name="live", exact=True).click()
                page.wait_for_selector("h1")
                page.evaluate(WATCH)
                ended = [float(one) for one in search][2:]  # the page was there before
            time.sleep(EPOCH_SECONDS)
            changes = np.array(page.evaluate("window.changes")) / 1000
            waits = [min(changes[changes >= one] - one, default=np.inf) for one in ended]
            print(
                f"an epoch is seen after, s: median {np.median(waits):.2f}, {max(waits):.2f} at most, of {len(waits)}"
            )
        browser.close()


if __name__ == "__main__":
    main()
