"""Programs of README.md and docs/: what there is, and what became of it when it ran.

A page is run from top to bottom in a folder of its own, and its programs share their names.

- A `python` block runs as it stands. If it prints, a `text` block behind it shows what.
- A `bash` block runs, too; of `pip install` and `make` it is looked up whether there is such an extra, such a target.
- A `text` block right behind a program is what that prints: `...` stands for anything. Under `<!-- numbers vary -->`
  each number stands for any number: what a machine's clock and the last bits of its arithmetic decide.
- `<!-- tried with: max_seconds=60 -> max_trials=2 -->` above a block: it is run like this. Above what it prints, as
  often as needed: what that says then instead. `<!-- not run: reason -->`.
- `<!-- invisible-code-block: python ... -->` is run and not shown: what a page assumes, and further checks of it.

`python tests/pages.py` lists the blocks of all pages.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NUMBER = re.compile(r"(?<![\w.])[-+±]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.]*\w)")
NOT_RUN = re.compile(r"<!-- not run: ((?:(?!-->).)+?) -->\s*\Z", re.S)  # of one comment, right above a block
TRIED = re.compile(r"<!-- tried with: ((?:(?!-->).)+?) -> ((?:(?!-->).)+?) -->\s*", re.S)
TRIED_WITH = re.compile(rf"{TRIED.pattern}\Z", re.S)
VARY = "<!-- numbers vary -->"


def is_what_it_prints(shown: str, printed: str, *, numbers_vary: bool = False) -> bool:
    """Whether a page shows what its program has printed."""
    if numbers_vary:
        shown, printed = (NUMBER.sub("0", text) for text in (shown, printed))
    pattern = re.escape(" ".join(shown.split())).replace(r"\.\.\.", ".*")
    # "..." stands for no word as well, with the space that would be beside it.
    pattern = re.sub(r"(?:\\ )?\.\*(?:\\ )?", ".*", pattern)
    return re.fullmatch(pattern, " ".join(printed.split())) is not None


def checked_line(line: str) -> bool:
    """Whether a line of a shell is only looked up: what it installs, or makes, has to be there."""
    install = re.match(r"pip install .*?manyfit(?:\[([\w,]+)\])?", line)
    if install:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "optional-dependencies"
        ]
        missing = set(filter(None, (install[1] or "").split(","))) - set(extras)
        assert not missing, f"{line}: there is no such extra"
        return True
    target = re.match(r"make ([\w-]+)", line)
    if target:
        rules = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^(?:[\w-]+ )*{target[1]}\b[\w -]*:", rules, flags=re.M), f"{line}: there is no such target"
        return True
    return False


class Page:
    """One page, run from top to bottom in the folder where the process is.

    Args:
        path: of a Markdown file.
    """

    def __init__(self, path: Path) -> None:
        parsers = [
            CodeBlockParser("python", self.python),
            CodeBlockParser("bash", self.shell),
            CodeBlockParser("text", self.shown),
        ]
        self.path = path
        self.document = Document.parse(str(path), *parsers)
        self._ended = 0  # where the last program ends
        self._printed: str | None = None  # and what it printed, until that has been compared

    def run(self) -> None:
        """Runs each block, and compares each output."""
        for example in self.document.examples():
            if example.region.lexemes.get("arguments") != "text":
                self._expect_nothing()
            example.evaluate()
        self._expect_nothing()

    def blocks(self) -> Iterator[tuple[int, str, str]]:
        """Line, language and fate of each block."""
        for example in self.document.examples():
            language = example.region.lexemes["arguments"]
            hidden = self.document.text[example.region.start :].lstrip().startswith("<!--")
            reason = NOT_RUN.search(self._above(example))
            tried = TRIED_WITH.search(self._above(example))
            if language == "text":
                follows = self._follows(example)
                yield example.line, language, "compared" if follows else "not of a program"
            elif reason:
                yield example.line, language, f"not run: {' '.join(reason[1].split())}"
            else:
                yield (
                    example.line,
                    language,
                    ("run, not shown" if hidden else "run") + (f" with {tried[2]}" if tried else ""),
                )
            if language != "text":
                self._ended = example.region.end

    def python(self, example: Example) -> None:
        """Runs a program with what those above it have left."""
        self._ended = example.region.end
        if NOT_RUN.search(self._above(example)):
            return
        tried = TRIED_WITH.search(self._above(example))
        if tried:
            assert tried[1] in example.parsed, f"{self.path.name}:{example.line}: {tried[1]} is not in this block"
            example.region.parsed = type(example.parsed)(
                example.parsed.replace(tried[1], tried[2]), example.parsed.offset, example.parsed.line_offset
            )
            example.parsed = example.region.parsed
        with contextlib.redirect_stdout(io.StringIO()) as out:
            PythonEvaluator()(example)
        self._printed = out.getvalue()

    def shell(self, example: Example) -> None:
        """Runs commands, but those that install or make."""
        self._ended = example.region.end
        if NOT_RUN.search(self._above(example)):
            return
        lines = [line for line in example.parsed.splitlines() if not checked_line(line)]
        if not lines:
            return
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
            env={**os.environ, "PATH": path, "COLUMNS": "120"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{self.path.name}:{example.line}: {done.stderr}"
        self._printed = done.stdout

    def shown(self, example: Example) -> None:
        """Compares what stands right behind a program with what that has printed."""
        if not self._follows(example) or self._printed is None:
            return
        between, text = self.document.text[self._ended : example.region.start], str(example.parsed)
        for shown, instead in TRIED.findall(between):
            assert shown in text, f"{self.path.name}:{example.line}: {shown} is not in this block"
            text = text.replace(shown, instead)
        assert is_what_it_prints(text, self._printed, numbers_vary=VARY in between), (
            f"{self.path.name}:{example.line} shows\n{text}\nbut this was printed:\n{self._printed}"
        )
        self._printed = None

    def _follows(self, example: Example) -> bool:
        between = self.document.text[self._ended : example.region.start]
        return bool(self._ended) and not TRIED.sub("", between.replace(VARY, "")).strip()

    def _above(self, example: Example) -> str:
        return self.document.text[: example.region.start]

    def _expect_nothing(self) -> None:
        printed, self._printed = self._printed, None
        assert not (printed or "").strip(), f"{self.path.name}: a program ends at {self._ended} and prints\n{printed}"


def main() -> None:
    """Lists the blocks of all pages."""
    for path in PAGES:
        for line, language, fate in Page(path).blocks():
            print(f"{path.relative_to(ROOT)}:{line}  {language}  {fate}")


if __name__ == "__main__":
    main()
