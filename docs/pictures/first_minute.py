"""The pictures at the top of the README: its first program at a terminal, and the report of its project."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

README = Path(__file__).resolve().parents[2] / "README.md"
WIDTH, HEIGHT = 104, 40


def first_program() -> str:
    """The first program of the README, as it stands there."""
    found = re.search(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    if found is None:
        raise LookupError("README.md begins without a program")
    return found[1]


@contextlib.contextmanager
def terminal(command: str, folder: Path) -> Iterator[str]:
    """A terminal of tmux in which a command runs; its name."""
    name = f"manyfit-{folder.name}"
    size = ["-x", str(WIDTH), "-y", str(HEIGHT)]
    # A server of its own, by -L: one that is there would have another environment.
    subprocess.run(["tmux", "-L", name, "new-session", "-d", *size, "-c", str(folder), command], check=True)
    try:
        yield name
    finally:
        subprocess.run(["tmux", "-L", name, "kill-server"], check=False, stderr=subprocess.DEVNULL)


def screen(name: str) -> str:
    """What a terminal shows, with its colours; empty once it is closed."""
    command = ["tmux", "-L", name, "capture-pane", "-e", "-p"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.rstrip()


def as_page(shown: str) -> str:
    """A screen as HTML."""
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True, legacy_windows=False)
        console.print(Text.from_ansi(shown), soft_wrap=True)
    page = console.export_html(theme=MONOKAI, inline_styles=True)
    look = "<style>body {margin: 0; padding: 14px 18px} pre {font-size: 14px; line-height: 1.25; margin: 0}</style>"
    return page.replace("</head>", f"{look}</head>")


def take(browser: Any, shoot: Callable[..., None], *, seconds: float = 30.0) -> None:
    """Runs the first program of the README, and takes `progress.png` and `first_report.png`.

    Args:
        browser: a browser of Playwright.
        shoot: takes a screenshot of a page under a name.
        seconds: how long the program trains before the picture of its progress is taken.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "first.py").write_text(first_program(), encoding="utf-8")
        command = f"{shlex.quote(sys.executable)} first.py; touch ended; sleep 600"
        with terminal(command, folder) as name:
            begun = time.monotonic()
            while time.monotonic() - begun < seconds or "Best so far" not in screen(name):
                time.sleep(0.5)
            running = screen(name)
            while not (folder / "ended").exists():
                time.sleep(1)
            time.sleep(1)
            print("README.md shows what the program has printed:", screen(name), sep="\n")
        page = browser.new_context(viewport={"width": 930, "height": 100}, device_scale_factor=1.5).new_page()
        page.set_content(as_page(running))
        shoot(page, "progress", full_page=True)
        (project,) = (each.parent.relative_to(folder) for each in folder.glob("spirals/*/*.sqlite"))
        report = [sys.executable, "-m", "manyfit", "report", str(project), "-o", "report.html"]
        subprocess.run(report, check=True, cwd=folder)
        page = browser.new_context(viewport={"width": 1180, "height": 900}).new_page()
        page.goto((folder / "report.html").as_uri())
        page.wait_for_selector("body[data-drawn]", timeout=60_000)
        shoot(page, "first_report")
