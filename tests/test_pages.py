"""Every program of every page runs and prints what the page shows; links lead somewhere; every public name is there."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pages
import pytest
from pages import ROOT, Page, is_what_it_prints

DOCS = ROOT / "docs"
TEXTS = [*pages.PAGES, *sorted(ROOT.glob("*.md"))]
# Those of the README are run by test_readme.py, which looks at more than at what they print.
WITH_PROGRAMS = [path for path in pages.PAGES[1:] if any(fate.startswith("run") for *_, fate in Page(path).blocks())]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("path", WITH_PROGRAMS, ids=name_of)
def test_programs_run_and_print_what_the_page_shows(path, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    Page(path).run()


@pytest.mark.parametrize("path", pages.PAGES, ids=name_of)
def test_each_block_says_what_it_is_in(path):
    opened = re.findall(r"^```(.*)$", path.read_text(encoding="utf-8"), flags=re.M)[::2]
    known = re.compile(r"python|bash|text|json|diff|\{[\w-]+\}.*")
    assert [language for language in opened if not known.fullmatch(language)] == []


@pytest.mark.parametrize("path", dict.fromkeys(TEXTS), ids=name_of)
def test_links_lead_somewhere(path):
    """Sphinx checks those of docs/ as well, with their anchors. Other sites are not asked: a test has no network."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme in ("http", "https", "mailto") and (parts.netloc or parts.path), link
        elif parts.path:
            assert (path.parent / parts.path).exists(), f"{name_of(path)} links to {link}"


def documented() -> set[str]:
    """Names of reference/, with their modules; of a module that is shown whole, all that it exports."""
    found = set()
    for path in (DOCS / "reference").glob("*.md"):
        module = ""
        for kind, name in re.findall(r"\.\. (currentmodule|auto\w+):: (\S+)", path.read_text(encoding="utf-8")):
            if kind == "currentmodule":
                module = name
            elif kind == "automodule":
                found |= {f"{name}.{each}" for each in public(name)}
            else:
                found.add(f"{module}.{name}")
    return found


def public(module: str) -> list[str]:
    names = getattr(importlib.import_module(module), "__all__", None)
    return list(names) if names is not None else []


@pytest.mark.parametrize(
    "module", ["manyfit", "manyfit.applications", "manyfit.brands", "manyfit.plot", "manyfit.trackers"]
)
def test_every_public_name_is_in_the_reference(module):
    missing = {f"{module}.{name}" for name in public(module)} - documented() - {"manyfit.__version__"}
    assert not missing


@pytest.mark.parametrize("module", ["manyfit.oracles", "manyfit.errors", "manyfit.schedulers", "manyfit.tuners"])
def test_every_class_of_a_part_is_in_the_reference(module):
    shown = {name.rpartition(".")[2] for name in documented()}
    classes = [name for name, value in vars(importlib.import_module(module)).items() if isinstance(value, type)]
    assert not set(classes) - shown - {"Any"}


def test_the_picture_is_what_its_script_draws():
    drawing = runpy.run_path(str(DOCS / "pictures" / "draw.py"))
    assert drawing["FILE"].read_text(encoding="utf-8") == drawing["drawn"]()


def test_what_is_shown_is_compared():
    assert is_what_it_prints("a ... c", "a b c\n") and not is_what_it_prints("a c", "a b c")
    assert is_what_it_prints("score 0.91 [0.90, 0.92]", "score 0.84 [0.8, 0.9]", numbers_vary=True)
    assert not is_what_it_prints("score 0.91", "score 0.84")
    assert not is_what_it_prints("score 0.91", "loss 0.91", numbers_vary=True)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```python\nprint(2)\n```\n\n```text\n3\n```\n", "shows"),
        ("```python\nprint(2)\n```\n\nA sentence.\n", "prints"),
        ("```bash\nls no-such-file\n```\n", "no-such-file"),
        ("```bash\npip install manyfit[nothing]\n```\n", "no such extra"),
        ("```bash\nmake nothing\n```\n", "no such target"),
        ("<!-- tried with: a -> b -->\n```python\nc = 1\n```\n", "not in this block"),
        ("```python\nprint(2)\n```\n\n<!-- tried with: 4 -> 2 -->\n```text\n3\n```\n", "not in this block"),
        ("```python\nprint(2, 2)\n```\n\n<!-- tried with: 4 -> 2 -->\n```text\n4 3\n```\n", "shows"),
    ],
    ids=[
        "other output",
        "no output shown",
        "exit code",
        "extra",
        "target",
        "replacement",
        "replacement of output",
        "output beside a replacement",
    ],
)
def test_a_page_that_is_wrong_is_found(text, problem, tmp_path):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(AssertionError, match=problem):
        Page(tmp_path / "page.md").run()


def test_a_block_that_is_not_run_says_why(tmp_path):
    (tmp_path / "page.md").write_text("<!-- not run: there is no such cluster -->\n```python\n1 / 0\n```\n")
    Page(tmp_path / "page.md").run()
    assert [fate for *_, fate in Page(tmp_path / "page.md").blocks()] == ["not run: there is no such cluster"]


def test_a_reason_holds_for_one_block(tmp_path):
    text = "<!-- not run: a -->\n```python\n1 / 0\n```\n\n<!-- tried with: 1 -> 2 -->\n```python\nb = 1\n```\n"
    (tmp_path / "page.md").write_text(text)
    page = Page(tmp_path / "page.md")
    page.run()
    assert page.document.namespace["b"] == 2


def test_what_is_shown_may_be_of_a_longer_run(tmp_path):
    program = "<!-- tried with: 60 -> 2 -->\n```python\nprint(60, 'a')\n```\n"
    shown = "<!-- tried with: 60 -> 2 -->\n```text\n60 a\n```\n"
    (tmp_path / "page.md").write_text(f"{program}\n{shown}")
    Page(tmp_path / "page.md").run()


def test_blocks_can_be_listed():
    listed = subprocess.run(
        [sys.executable, pages.__file__], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert "docs/explanation/luck.md:11  python  run\n" in listed
