"""The programs in the README run as they stand."""

from __future__ import annotations

import importlib
import math
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
from pages import Page

README = Path(__file__).parents[1] / "README.md"


def programs() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_programs_run_print_what_is_shown_and_their_numbers_are_good(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = Page(README)
    page.run()
    names = page.document.namespace
    x, arm = names["x"][3000:], names["arm"][3000:]
    saved = keras.models.load_model("spirals/winner.keras")
    np.testing.assert_allclose(saved.predict(x, verbose=0), names["winner"].predict(x), rtol=1e-4, atol=1e-5)
    assert np.mean(names["winner"].predict(x).argmax(axis=1) == arm) > 0.5  # of three arms
    assert len(names["tuner"].oracle.trials) == 8
    assert len(names["models"]) == 3
    saved = keras.models.load_model("steps/winner.keras")
    predicted = saved.predict(x, verbose=0)
    assert np.mean(predicted.argmax(axis=1) == arm) > 0.5
    np.testing.assert_allclose(predicted, names["ensemble"].predict(x), rtol=1e-4, atol=1e-5)


def test_what_each_program_prints_is_shown_and_compared():
    blocks = [(language, fate) for _, language, fate in Page(README).blocks() if language != "bash"]
    assert [language for language, _ in blocks] == ["python", "text"] * 2
    assert {fate for language, fate in blocks if language == "text"} == {"compared"}


def test_the_first_program_is_short_and_needs_nothing_but_the_install():
    first = programs()[0]
    assert len(first.splitlines()) < 25
    imported = re.findall(r"^(?:import|from) (\w+)", first, flags=re.MULTILINE)
    assert imported == ["manyfit", "keras", "numpy"]
    assert first.startswith("import manyfit as kt  # isort: skip")
    # The noise of the angle has a standard deviation of 0.5, and half of the way to the next arm is pi / 3.
    assert math.erf(math.pi / 3 / 0.5 / math.sqrt(2)) == pytest.approx(0.964, abs=5e-4)
    assert "96.4 %" in first and "rng.normal(0, 0.5" in first


def test_a_tool_that_sorts_imports_leaves_the_first_one_where_it_is(tmp_path):
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None:
        pytest.skip("needs ruff")
    program = tmp_path / "first.py"
    program.write_text(programs()[0])
    sort = [ruff, "check", "--isolated", "--no-cache", "--select", "I", "--fix", str(program)]
    subprocess.run(sort, check=True, capture_output=True)
    assert program.read_text() == programs()[0]
    program.write_text(programs()[0].replace("  # isort: skip", ""))
    subprocess.run(sort, check=True, capture_output=True)
    assert program.read_text().startswith("import keras")  # so the comment is needed


#: Figures that nobody measured: versions, and what limits or sizes are in examples.
NOT_MEASURED = {"0.2", "0", "1.4", "1.4.8", "1.4.7", "2.0", "5.0", "3.11", "3.13", "2021", "2026", "2", "95", "4"}


def blocks() -> list[str]:
    """Bullets, paragraphs and rows of tables of the README, without its programs and what they print."""
    text = re.sub(r"^```.*?^```|<!--.*?-->", "", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [block for block in re.split(r"\n\s*\n|\n(?=[-|#])", text) if block.strip()]


def figures(text: str) -> set[str]:
    """The numbers of a text, but for those in code and in addresses."""
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)
    return {found.replace(",", "") for found in re.findall(r"(?<![\w.])\d+(?:[.,]\d+)*", text)}


def test_every_figure_occurs_in_the_evidence_that_it_links_to():
    page = (README.parent / "docs" / "evidence.md").read_text(encoding="utf-8")
    sections = {re.match(r'<a id="([\w-]+)"', part)[1]: part for part in re.split(r"(?=^<a id=)", page, flags=re.M)[1:]}
    num_checked = 0
    for block in blocks():
        linked = re.findall(r"docs/evidence\.md#([\w-]+)", block)
        unknown = set(linked) - set(sections)
        assert not unknown, f"docs/evidence.md has no {unknown}"
        shown = {float(figure) for name in linked for figure in figures(sections[name]) if figure.count(".") < 2}
        missing = {figure for figure in figures(block) - NOT_MEASURED if float(figure) not in shown}
        assert not missing, f"{missing} of {block!r}: in none of {linked}"
        num_checked += bool(linked) and len(figures(block))
    assert num_checked > 40


def test_the_page_of_evidence_is_what_the_results_say(monkeypatch):
    monkeypatch.syspath_prepend(README.parent / "benchmarks")
    evidence = importlib.import_module("evidence")
    assert evidence.PAGE.read_text(encoding="utf-8") == evidence.page(), "run python benchmarks/evidence.py"
    for claim in evidence.CLAIMS:
        assert all(evidence.conditions_of(claim.file, claim.run).values()), claim.file
    claimed = set(re.findall(r"docs/evidence\.md#([\w-]+)", README.read_text(encoding="utf-8")))
    assert claimed <= {claim.name for claim in evidence.CLAIMS}
    assert "not measured" in evidence.page() and "GPU" in evidence.page() and "TPU" in evidence.page()


def test_the_version_is_the_same_wherever_it_stands():
    root = README.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = re.search(r"^version: (.+)$", (root / "CITATION.cff").read_text(encoding="utf-8"), flags=re.M)
    assert cited and project["version"] == cited[1] == kt.__version__
    # Extras are named where people look for them, or are for those who work on Manyfit.
    described = set(re.findall(r"`([a-z]+)`", (root / "docs" / "policy.md").read_text(encoding="utf-8")))
    assert set(project["optional-dependencies"]) - {"bench", "test", "check", "docs"} <= described


def test_all_that_is_measured_is_run_by_make_bench(monkeypatch):
    monkeypatch.syspath_prepend(README.parent / "benchmarks")
    run_all = importlib.import_module("run_all")
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    there = set(re.findall(r"^(bench-[\w-]+):", makefile, flags=re.M))
    assert there - {target for targets in run_all.TARGETS.values() for target in targets} == {"bench-gpu"}
    evidence = importlib.import_module("evidence")
    # Two pages share a target, and one page has its rows from another's.
    shared = {"scale_devices", "scale_executors", "moving_optimum"}
    assert {claim.file for claim in evidence.CLAIMS} - shared <= set(run_all.TARGETS)


# A claim of the README, and the test that holds it. The others are held by the program above.
CLAIMS = {
    "train side by side (JAX)": "training/population/test_differences.py::test_one_program",
    "one line says why": "training/population/test_trainer.py::test_falls_back_with_one_line_of_reason",
    "there trials train one after another": "tuners/test_endings.py::test_other_backends_say_what_they_do_without",
    "says so and trains nothing": "tuners/test_endings.py::test_a_search_that_is_complete_says_what_to_type",
    "says why it ended": "tuners/test_endings.py::test_the_reason_is_said_stored_and_shown",
    "from the fourth to the ninth trial": "test_keras_tuner_algorithms.py::test_the_model_decides_from_the_ninth_trial",
    "no configuration twice": "test_keras_tuner_defects.py::test_finite_spaces_are_exhausted_without_a_duplicate",
    "promoted trials continue": "tuners/test_schedules.py::test_promoted_trials_equal_those_that_never_stopped",
    "Kill the process at any": "tuners/test_resume.py::test_death_at_any_commit_changes_nothing",
    "one message groups and counts": "tuners/test_failures.py::test_when_all_failed_one_error_groups_and_counts",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_each_claim_has_its_test(claim):
    text = " ".join(README.read_text(encoding="utf-8").split())
    assert claim in text
    file, name = CLAIMS[claim].split("::")
    assert f"def {name}" in (Path(__file__).parent / file).read_text(encoding="utf-8")


def test_programs_import_manyfit_before_keras():
    root = README.parent
    pages = [README, *sorted((root / "docs").glob("*.md")), *sorted((root / "examples").rglob("*.py"))]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        blocks = [text] if page.suffix == ".py" else re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
        for block in blocks:
            ours, theirs = (re.search(rf"^import {name}\b", block, flags=re.M) for name in ("manyfit", "keras"))
            if ours and theirs:
                assert ours.start() < theirs.start(), f"{page.name} lets Keras choose its backend"
