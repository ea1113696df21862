"""Makes the pictures of README.md (its first program at a terminal, and its report) and of docs/looking.md (a search of
handwritten digits), with a browser.

python docs/pictures/take.py [--browser /usr/bin/chromium] [--only readme|looking]

It needs `pip install manyfit[report,dashboard,sklearn] playwright pillow`, a Chromium, and tmux for the README.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import manyfit as kt  # isort: skip

import first_minute
import keras
from PIL import Image
from playwright.sync_api import sync_playwright
from sklearn.datasets import load_digits
from sklearn.utils import shuffle

HERE = Path(__file__).resolve().parent
DRAWN = "body[data-drawn]"  # the page says when its charts are there


def build_model(hp):
    layers = [
        keras.layers.Dense(hp.Int("units", 16, 128, step=16), activation=hp.Choice("activation", ["relu", "tanh"]))
    ]
    layers.append(keras.layers.Dropout(hp.Float("dropout", 0.0, 0.5)))
    model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
    rate = hp.Float("learning_rate", 1e-4, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def searched(folder: Path) -> Path:
    x, y = shuffle(*load_digits(return_X_y=True), random_state=0)
    x = (x / 16).astype("float32")
    tuner = kt.RandomSearch(build_model, "val_accuracy", max_trials=48, seed=0, directory=folder, project_name="digits")
    tuner.search(x[:1000], y[:1000], validation_data=(x[1000:1400], y[1000:1400]), epochs=15, verbose=0)
    tuner.ensemble(verbose=0)
    tuner.close()
    return Path(tuner.project_dir)


def shoot(page, name: str, *, show: str | None = None, full_page: bool = False) -> None:
    """A screenshot in few colours, since these are files of the repository."""
    page.wait_for_timeout(500)  # the last transitions
    if show is not None:
        page.evaluate("place => document.querySelector(place).scrollIntoView()", show)
        page.wait_for_timeout(500)
    path = HERE / f"{name}.png"
    page.screenshot(path=path, full_page=full_page)
    Image.open(path).convert("RGB").quantize(96).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def looking(browser) -> None:
    """The pictures of docs/looking.md."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        project = searched(Path("run"))  # pictures show the path as a user types it
        snapshot = kt.open_project(project)
        report = Path(folder) / "report.html"
        snapshot.report(report)

        def opened(address: str, height: int, scheme: str = "light"):
            context = browser.new_context(viewport={"width": 1180, "height": height}, color_scheme=scheme)
            page = context.new_page()
            page.goto(address)
            page.wait_for_selector(DRAWN, timeout=60_000)
            return page

        shoot(opened(report.as_uri(), 1150), "report")
        leader = snapshot.best(1)[0].trial_id
        shoot(opened(f"{report.as_uri()}#trial={leader}", 980, "dark"), "report_dark", show="#hyperparameters")
        command = [sys.executable, "-m", "manyfit", "dashboard", str(project), "--port", "8765", "--no-open"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            for _ in range(100):
                try:
                    urllib.request.urlopen("http://127.0.0.1:8765/", timeout=1)
                    break
                except OSError:
                    time.sleep(0.2)
            page = opened("http://127.0.0.1:8765/", 760)
            page.click("summary")
            shoot(page, "dashboard")
        finally:
            server.terminate()
            server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    parser.add_argument("--only", choices=["readme", "looking"], help="pictures of one page only")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.browser, args=["--no-sandbox"])
        if arguments.only != "looking":
            first_minute.take(browser, shoot)
        if arguments.only != "readme":
            looking(browser)
        browser.close()


if __name__ == "__main__":
    main()
