"""The report in a real browser: charts have marks, a click picks a trial everywhere, nobody is asked for anything."""

from __future__ import annotations

import shutil

import drawn_projects
import pytest

from manyfit.report.page import page
from manyfit.report.snapshot import Snapshot

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("vl_convert", reason="the extra manyfit[report] is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

HARM = "<img src=x onerror=\"document.title='harm'\"></script><script>document.title='harm'</script>"
KINDS = {
    "plain": drawn_projects.Drawn(trials=30, failed=2),
    "harm": drawn_projects.Drawn(failed=2, prefix=HARM),
    "none": drawn_projects.Drawn(trials=0),
    "one": drawn_projects.Drawn(trials=1),
    "all failed": drawn_projects.Drawn(trials=6, failed=6),
    "thousands": drawn_projects.Drawn(trials=5000, epochs=30, failed=100),
}
WAIT = 60_000  # milliseconds; a loaded machine is slow, and nothing is measured here


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    for kind, drawn in KINDS.items():
        seen = Snapshot.of(drawn_projects.write(folder / kind, drawn))
        (folder / f"{kind}.html").write_text(page(seen), encoding="utf-8")
    return folder


class Shown:
    """A page of the browser, with what it has asked for and complained of."""

    def __init__(self, browser, path, trial="", **options):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        self.page = self.context.new_page()
        self.asked, self.complaints = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda line: self.complaints.append(line.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri() + (f"#trial={trial}" if trial else ""))
        self.page.wait_for_selector("body[data-drawn]", timeout=WAIT)

    def picked(self):
        """The trial that the table, the panel and each chart say is picked."""
        marks = self.page.evaluate(
            """() => Object.fromEntries([...document.querySelectorAll(".chart")].map((box) =>
            [box.dataset.chart, box.querySelectorAll('[fill="#d9730d"], [stroke="#d9730d"]').length]))"""
        )
        rows = self.page.locator("tr.picked").evaluate_all("rows => rows.map((row) => row.dataset.trial)")
        return set(rows), self.page.locator("#picked strong").all_inner_texts(), marks


@pytest.fixture
def show(browser, files):
    shown = []

    def opened(kind, **options):
        shown.append(Shown(browser, files / f"{kind}.html", **options))
        return shown[-1]

    yield opened
    for one in shown:
        one.context.close()
        assert one.complaints == []
        # The file itself, once, and nobody else.
        assert len([url for url in one.asked if not url.startswith("data:")]) == 1


def test_every_chart_has_marks(show):
    seen = show("plain").page
    shapes = ", ".join(f"svg .role-mark {shape}" for shape in ("path", "line", "rect"))
    marks = seen.locator(".chart").evaluate_all(
        "(boxes, shapes) => Object.fromEntries(boxes.map((one) => "
        "[one.dataset.chart, one.querySelectorAll(shapes).length]))",
        shapes,
    )
    assert set(marks) == {
        "finalists", "history", "curves", "importance", "slice0", "slice1", "slice2", "slice3", "contour", "time",
    }  # fmt: skip
    assert all(count > 3 for count in marks.values()), marks
    assert marks["history"] >= 28 and marks["contour"] > 200


def test_five_thousand_trials_are_drawn_and_a_click_on_one_of_them_picks_it_elsewhere(show):
    seen = show("thousands")
    _, _, before = seen.picked()
    assert {"finalists", "history", "curves", "importance", "slice0", "contour", "time"} <= set(before)
    points = seen.page.locator('.chart[data-chart="slice0"] svg path[aria-roledescription="point"]')
    assert points.count() >= 400
    # The last one drawn lies above the others, where thousands share a place.
    points.last.scroll_into_view_if_needed()
    points.last.click(force=True)
    seen.page.wait_for_selector("#picked strong", timeout=WAIT)
    _, [panel], after = seen.picked()
    assert panel.startswith("trial ") and seen.page.url.endswith(f"#{panel.replace(' ', '=')}")
    assert all(after[name] > before[name] for name in ("history", "slice1", "contour"))


def test_a_click_in_one_chart_picks_the_trial_in_all(show):
    seen = show("plain")
    _, _, before = seen.picked()
    point = seen.page.locator('.chart[data-chart="slice0"] svg path[aria-roledescription="point"]').nth(3)
    point.scroll_into_view_if_needed()
    point.click(force=True)
    seen.page.wait_for_selector("tr.picked", state="attached", timeout=WAIT)
    rows, panel, after = seen.picked()
    [trial] = rows
    assert panel == [f"trial {trial}"] and f"#trial={trial}" in seen.page.url
    assert all(after[name] > before[name] for name in ("history", "slice0", "slice1", "slice2", "slice3", "contour"))
    seen.page.keyboard.press("Escape")
    assert seen.picked()[0] == set() and seen.page.locator("#picked").is_hidden()


def test_the_keyboard_alone_is_enough(show):
    seen = show("plain")
    first = seen.page.locator("#trials [data-pick]").first
    first.focus()
    seen.page.keyboard.press("Enter")
    trial = first.inner_text()
    assert seen.picked()[0] == {trial}
    seen.page.keyboard.press("ArrowDown")
    second = seen.page.locator("#trials [data-pick]").nth(1).inner_text()
    assert seen.picked()[0] == {second} and second != trial
    assert seen.page.evaluate("document.activeElement.dataset.pick") == second


def test_a_heading_sorts(show):
    seen = show("plain").page
    column = seen.locator("#trials tbody tr td:nth-child(2)")
    seen.locator("#trials th button").nth(1).click()
    scores = [float(text) for text in column.all_inner_texts() if text]
    assert scores == sorted(scores)
    seen.locator("#trials th button").nth(1).click()
    again = [float(text) for text in column.all_inner_texts() if text]
    assert again == sorted(scores, reverse=True)


def test_a_page_that_is_loaded_again_keeps_the_picked_trial(show):
    seen = show("plain", trial="07")
    seen.page.wait_for_selector("tr.picked", state="attached", timeout=WAIT)
    assert seen.picked()[0] == {"07"}


def test_what_is_new_arrives_and_what_has_not_changed_stays(show, files, tmp_path):
    seen = show("plain", trial="07")
    seen.page.wait_for_selector("tr.picked", state="attached", timeout=WAIT)
    seen.page.evaluate("window.kept = document.querySelector('.chart[data-chart=\"finalists\"]')")
    text = (files / "plain.html").read_text(encoding="utf-8").replace("<h1>Trained afresh", "<h1>Later: trained afresh")
    seen.page.evaluate("text => window.manyfit.take(text)", text)
    assert seen.page.locator("h1").inner_text().startswith("Later: trained afresh")
    assert seen.page.evaluate("document.querySelector('.chart[data-chart=\"finalists\"]') === window.kept")
    assert seen.picked()[0] == {"07"}


@pytest.mark.parametrize("kind", ["none", "one", "all failed", "harm"])
def test_other_projects(kind, show):
    seen = show(kind).page
    assert seen.locator("h1").inner_text().strip() and seen.title().endswith(kind)
    assert seen.locator("img").count() == 0


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_screen(width, show):
    seen = show("harm", viewport={"width": width, "height": 800}).page
    assert seen.evaluate("document.documentElement.scrollWidth") <= width


def test_dark_pages_and_paper(show):
    seen = show("plain", color_scheme="dark").page
    ink = "getComputedStyle(document.querySelector('.chart svg text')).fill"
    paper = "getComputedStyle(document.body).backgroundColor"
    assert brightness(seen.evaluate(ink)) > 180 > 60 > brightness(seen.evaluate(paper))
    seen.emulate_media(media="print")
    assert brightness(seen.evaluate(ink)) < 60 < 180 < brightness(seen.evaluate(paper))


def brightness(color):
    red, green, blue = (float(part) for part in color.partition("(")[2].rstrip(")").split(",")[:3])
    return (red + green + blue) / 3
