"""The repository checks itself: sizes, imports, names, types, comments, examples."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import functools
import importlib
import re
import subprocess
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import keras
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


# -- the frame of the house -----------------------------------------------------------------------------------------

MAX_SHARE_OF_ANY = 0.06
MIN_SHARE_OF_COMMENTS = 0.02
MAX_FILES_PER_1000_LINES = 5.5
MIN_FILES_OF_A_FOLDER, MIN_LINES_OF_A_FOLDER = 4, 400


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")


MODULES = {module_of(path): path for path in FILES}
NUM_LINES = sum(len(lines_of(path)) for path in FILES)


def room_of(module: str) -> str:
    """The folder or file right below `manyfit`."""
    return ".".join(module.split(".")[:2])


# -- imports ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Import:
    """One of our modules that one of our modules imports."""

    importer: str
    imported: str
    line: int
    in_function: bool
    for_typing: bool


def targets_of(node: ast.Import | ast.ImportFrom, importer: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = importer if MODULES[importer].name == "__init__.py" else importer.rpartition(".")[0]
        above = package.split(".")
        base = ".".join([*above[: len(above) - node.level + 1], *([node.module] if node.module else [])])
    return [full if (full := f"{base}.{alias.name}") in MODULES else base for alias in node.names]


def imports_of(module: str) -> Iterator[Import]:
    def walk(node: ast.AST, in_function: bool, for_typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            function = in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            typing = for_typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test))
            if isinstance(child, ast.Import | ast.ImportFrom):
                for target in targets_of(child, module):
                    if target in MODULES and target != module:
                        yield Import(module, target, child.lineno, function, typing)
            yield from walk(child, function, typing)

    return walk(tree_of(MODULES[module]), False, False)


@functools.cache
def all_imports() -> list[Import]:
    return [each for module in MODULES for each in imports_of(module)]


def circles_of(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected parts of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for following in sorted(graph.get(node, ())):
            if following not in index:
                visit(following)
                low[node] = min(low[node], low[following])
            elif following in stack:
                low[node] = min(low[node], index[following])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1:
                found.append(sorted(part))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_circles_are_found():
    assert circles_of({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}}) == [["b", "c"]]


def test_no_modules_import_each_other_in_a_circle():
    """Whether at the top, in a function or for type checkers only: who needs each other belongs together."""
    graph: dict[str, set[str]] = defaultdict(set)
    for each in all_imports():
        graph[each.importer].add(each.imported)
    assert not circles_of(graph)


def test_no_rooms_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = defaultdict(set)
    for each in all_imports():
        rooms = room_of(each.importer), room_of(each.imported)
        if rooms[0] != rooms[1] and "manyfit" not in rooms:
            graph[rooms[0]].add(rooms[1])
    assert not circles_of(graph)


#: `manyfit/__init__.py` loads its names when they are first used, and tells type checkers where they are.
LAZY = "manyfit"


def test_no_import_for_type_checkers_hides_a_circle():
    hidden = Counter(each.importer for each in all_imports() if each.for_typing and each.importer != LAZY)
    assert not hidden


def test_an_import_inside_a_function_says_why():
    """A comment on its line, or right above: which heavy library must not be loaded with the module."""
    silent = []
    for each in all_imports():
        if each.in_function and each.importer != LAZY:
            rows = lines_of(MODULES[each.importer])
            above = each.line - 2  # of a block of imports, one comment speaks for all
            while rows[above].lstrip().startswith(("import ", "from ")):
                above -= 1
            if "#" not in rows[each.line - 1] and not rows[above].lstrip().startswith("#"):
                silent.append(f"{each.importer}:{each.line} imports {each.imported}")
    assert not silent


# -- classes and types ---------------------------------------------------------------------------------------------


@functools.cache
def classes() -> list[tuple[str, ast.ClassDef]]:
    return [
        (module, node)
        for module, path in MODULES.items()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
    ]


def test_no_class_name_is_used_twice():
    """One class, one name: a search for it finds one definition. Private ones may repeat: they are seen in one file."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, node in classes():
        if not node.name.startswith("_"):
            places[node.name].append(module)
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert not twice


def test_no_class_has_several_bases_of_ours():
    """Parts, not mixins: what a method calls is found in its own class or in the one above."""
    own = {node.name for _, node in classes()}

    def name_of(base: ast.expr) -> str:
        return base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")

    mixed = {node.name for _, node in classes() if sum(name_of(base) in own for base in node.bases) > 1}
    assert not mixed


def test_few_parameters_are_any():
    parameters = [
        argument
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if argument.arg not in ("self", "cls")
    ]
    untyped = [each for each in parameters if isinstance(each.annotation, ast.Name) and each.annotation.id == "Any"]
    assert len(untyped) <= MAX_SHARE_OF_ANY * len(parameters), f"{len(untyped)} of {len(parameters)}"


# -- names that are not ours --------------------------------------------------------------------------------------

#: Where private names of Keras and JAX may stand, with a test each: see its `__init__`.
GATE = SOURCE / "manyfit" / "training" / "keras_internals"


@functools.cache
def private_names_of_keras() -> frozenset[str]:
    """Private attributes of the objects that Keras hands out."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), "mse")
    objects = [model, model.layers[0], model.optimizer, model.optimizer.inner_optimizer, model.weights[0]]
    objects += [model.outputs[0], keras.callbacks.EarlyStopping(), keras.distribution.ModelParallel]
    names = {name for each in objects for name in dir(each) if re.match("_[a-z]", name)}
    ends_of_public_names = {"_initializer", "_regularizer", "_constraint"}
    return frozenset(names - ends_of_public_names | {"_layout_map", "_model", "_inputs", "_stop_batch"})


PRIVATE_MODULE = re.compile(r"(keras\.src|jax\._src|jaxlib)\b")


def is_private_use(node: ast.AST) -> bool:
    """Whether it imports a private module, or reads a private name of Keras from an object or by a text."""
    if isinstance(node, ast.Import):
        return any(PRIVATE_MODULE.match(alias.name) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return any(PRIVATE_MODULE.match(f"{node.module}.{alias.name}") for alias in node.names)
    if isinstance(node, ast.Constant):
        text = node.value
        return isinstance(text, str) and (text in private_names_of_keras() or bool(PRIVATE_MODULE.match(text)))
    if isinstance(node, ast.Attribute):
        own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        return bool(PRIVATE_MODULE.match(ast.unparse(node))) or (node.attr in private_names_of_keras() and not own)
    return False


def private_uses(tree: ast.Module) -> list[ast.AST]:
    return [node for node in ast.walk(tree) if is_private_use(node)]


@pytest.mark.parametrize(
    "text",
    [
        "from keras.src import backend",
        "import jax._src.config",
        "from jax import _src",
        "model._symbolic_build()",
        "getattr(model, '_compile_config')",
        "importlib.import_module('keras.src.utils')",
        "keras.src.backend",
    ],
)
def test_private_names_are_found(text):
    assert private_uses(ast.parse(text))


def test_private_names_of_keras_and_jax_stand_in_one_place():
    found = [
        f"{name_of(path)}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)}"
        for path in FILES
        if GATE not in path.parents
        for node in private_uses(tree_of(path))
    ]
    assert not found, "move them to manyfit.training.keras_internals, with a test of what they mean"


# -- files ---------------------------------------------------------------------------------------------------------


def test_comments_say_why():
    num_comments = sum(line.lstrip().startswith("#") for path in FILES for line in lines_of(path))
    assert num_comments >= MIN_SHARE_OF_COMMENTS * NUM_LINES, f"{num_comments} of {NUM_LINES} lines"


def test_files_are_few_and_full():
    assert len(FILES) <= MAX_FILES_PER_1000_LINES * NUM_LINES / 1000, f"{len(FILES)} files, {NUM_LINES} lines"


FOLDERS = sorted({path.parent for path in FILES} - {SOURCE / "manyfit"})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(SOURCE)))
def test_a_folder_is_worth_a_door(folder):
    """Four files or more, and 400 lines or more: else it is one module."""
    files = [path for path in FILES if folder in path.parents]
    num_lines = sum(len(lines_of(path)) for path in files)
    assert len(files) >= MIN_FILES_OF_A_FOLDER and num_lines >= MIN_LINES_OF_A_FOLDER, f"{len(files)}, {num_lines}"


# -- tests ---------------------------------------------------------------------------------------------------------


def test_what_a_test_needs_is_said_in_one_place():
    """The backend is chosen in `conftest.py`, and skipped by the marks of `marks.py`."""
    own_ways = re.compile(r'setdefault\("KERAS_BACKEND"|skipif\(.*(?:backend\(\)|BACKEND)')
    found = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path.name not in ("conftest.py", "marks.py", Path(__file__).name)
        for number, line in enumerate(lines_of(path), 1)
        if own_ways.search(line)
    ]
    assert not found
