"""The repository checks itself: sizes, examples in docstrings, nothing about the place where it was written."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
FILES = sorted((SOURCE / "manyfit").rglob("*.py"))
OTHERS = [path for folder in ("tests", "examples", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
PYTHON = [*FILES, *OTHERS]
WITH_EXAMPLES = [path for path in FILES if re.search(r"^ *>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)]
MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 80


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def functions_of(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_the_files_are_found():
    assert len(FILES) > 50 and SOURCE / "manyfit" / "__init__.py" in FILES


def test_no_file_is_longer_than_500_lines():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PYTHON}
    assert not {name: length for name, length in lengths.items() if length > MAX_FILE_LINES}


def length_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    end = function.end_lineno or function.lineno
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    return end - function.lineno + 1 - ((first.end_lineno or first.lineno) - first.lineno + 1 if documented else 0)


def test_no_function_is_longer_than_80_lines():
    long = {
        f"{name_of(path)}:{function.lineno} {function.name}": length_without_docstring(function)
        for path in PYTHON
        for function in functions_of(path)
        if length_without_docstring(function) > MAX_FUNCTION_LINES
    }
    assert not long


def test_every_module_says_what_it_is_for():
    assert not [name_of(path) for path in FILES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]


def test_there_are_examples():
    assert len(WITH_EXAMPLES) > 20


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=name_of)
def test_examples_in_docstrings_run(path):
    try:
        module = importlib.import_module(module_of(path))
    except ImportError as error:
        pytest.skip(f"needs a package that is not installed: {error.name}")
    failed, tried = doctest.testmod(module)
    assert tried and not failed


#: Where somebody works is no part of the repository.
PLACES = re.compile(r"(?<![\w./])/(?:work|home|root|Users|mnt|tmp)/\w")


def test_no_path_of_somebodys_machine_is_in_any_file():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git here")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file() or path == Path(__file__):
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{name}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if PLACES.search(line)]
    assert not found


def test_no_note_to_self_is_left_behind():
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = []
    for path in PYTHON:
        with tokenize.open(path) as file:
            for token in tokenize.generate_tokens(file.readline):
                if token.type == tokenize.COMMENT and marks.search(token.string):
                    found.append(f"{name_of(path)}:{token.start[0]}: {token.string}")
    assert not found
