"""Tests of the tests: one small error at a time is made in the library, and the tests that reach it have to fail.

    python benchmarks/mutate.py                      500 mutants, or what 60 minutes allow; goes on where it stopped
    python benchmarks/mutate.py --minutes 10 --mutants 200
    python benchmarks/mutate.py --survivors          prints what no test saw

A mutant is one change of one node inside a function: a comparison that takes the other side of equality, plus for
minus, `and` for `or`, a condition turned round, a number one higher, True for False, a call or an assignment left out,
nothing returned. The sample is drawn from all of them, over all packages alike, by a fixed seed; of 500, the first 200
are those that 200 would be. What only says something (messages of errors, docstrings, assertions of our own state) is
left alone.

Speed: pytest collects once, in this process. Which test reaches which line is measured once (coverage.py, a context per
test). Each mutant is a fork of this process in which the function's code is exchanged; it runs the tests that reach its
line, the quickest first, until one fails. Tests of more than `SLOWEST` seconds take no part. A mutant that takes
`PATIENCE` times the processor time of its tests is killed, too: it does not end.

A mutant whose line no test of these folders reaches counts as one that survived.
"""

from __future__ import annotations

import argparse
import ast
import copy
import dataclasses
import gc
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "manyfit"
PACKAGES = ("core", "space", "stats", "samplers", "schedulers", "oracles", "store")
#: Tests that need no training, in the main; the rest of the suite would kill more.
TUNERS = (
    "endings",
    "finite_spaces",
    "metrics",
    "parts",
    "requests",
    "results",
    "resume",
    "several_objectives",
    "stopping",
)
TESTS = (
    *(*PACKAGES, "evidence", "contract/test_samplers.py", "contract/test_families.py", "report/test_snapshot.py"),
    *(f"tuners/test_{name}.py" for name in TUNERS),
)
LEFT_OUT = ("schedulers/test_continuing.py", "schedulers/test_population_based.py")
KEPT = ROOT / "build" / "mutation"
SLOWEST, ENOUGH, PATIENCE = 4.0, 25.0, 10.0  # processor seconds: of one test, of all of a mutant; times of those

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.MatMult: ast.Mult,
}  # fmt: skip
WORDS = {"explain", "warn", "say", "note"}  # calls whose arguments are read by people


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        path: of the module, below the library.
        function: the qualified name of the outermost function around it.
        line: of the node.
        place: the number of the node in a walk over the function.
        change: what is done to it.
    """

    path: str
    function: str
    line: int
    place: int
    change: str

    @property
    def package(self) -> str:
        return self.path.partition("/")[0]

    @property
    def key(self) -> str:
        return f"{self.path}:{self.line} {self.function} #{self.place} {self.change}"


# -- what can be changed ----------------------------------------------------------------------------------------------


def functions_of(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """The outermost functions of a module and of its classes, with their qualified names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            if not any("overload" in ast.dump(each) or "abstract" in ast.dump(each) for each in node.decorator_list):
                yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions_of(node, f"{prefix}{node.name}.")


def nodes_of(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """What may be changed in a function, always in the same order."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.arguments | ast.Raise):
            return
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in WORDS:
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        yield node
        for name, child in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for each in child if isinstance(child, list) else [child]:
                if isinstance(each, ast.AST):
                    yield from walk(each)

    for statement in function.body:
        yield from walk(statement)


def changes_of(node: ast.AST) -> list[str]:
    """The names of what can be done to a node."""
    if isinstance(node, ast.Compare):
        return ["comparison"] if type(node.ops[0]) in COMPARISONS else []
    if isinstance(node, ast.BinOp):
        of_texts = any(isinstance(each, ast.JoinedStr) or _is_text(each) for each in (node.left, node.right))
        return ["operator"] if type(node.op) in OPERATORS and not of_texts else []
    if isinstance(node, ast.BoolOp):
        return ["and/or"]
    if isinstance(node, ast.UnaryOp):
        return ["sign"] if isinstance(node.op, ast.Not | ast.USub) else []
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        return ["condition"]
    if isinstance(node, ast.comprehension):
        return ["filter"] if node.ifs else []
    if isinstance(node, ast.Constant):
        return ["constant"] if isinstance(node.value, bool | int | float) else []
    if isinstance(node, ast.Return):
        is_none = node.value is None or (isinstance(node.value, ast.Constant) and node.value.value is None)
        return [] if is_none else ["nothing returned"]
    if isinstance(node, ast.Expr):
        return ["left out"] if isinstance(node.value, ast.Call) else []
    if isinstance(node, ast.AugAssign | ast.Delete | ast.Break | ast.Continue):
        return ["left out"]
    if isinstance(node, ast.Assign):
        return ["left out"] if isinstance(node.targets[0], ast.Attribute | ast.Subscript) else []
    return []


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def change(node: Any, what: str) -> ast.AST:
    """The node, changed."""
    if what == "comparison":
        node.ops[0] = COMPARISONS[type(node.ops[0])]()
    elif what == "operator":
        node.op = OPERATORS[type(node.op)]()
    elif what == "and/or":
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif what == "sign":
        return node.operand
    elif what == "condition":
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif what == "filter":
        node.ifs[0] = ast.UnaryOp(ast.Not(), node.ifs[0])
    elif what == "constant":
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1
    elif what == "nothing returned":
        node.value = ast.Constant(None)
    else:
        return ast.Pass()
    return node


def all_mutants(packages: Sequence[str] = PACKAGES) -> list[Mutant]:
    """Every mutant of packages, in the order of the files."""
    found = []
    for path in sorted(each for package in packages for each in (SOURCE / package).rglob("*.py")):
        for name, function in functions_of(ast.parse(path.read_text(encoding="utf-8"))):
            for place, node in enumerate(nodes_of(function)):
                line = getattr(node, "lineno", None) or getattr(getattr(node, "target", None), "lineno", 0)
                found += [
                    Mutant(path.relative_to(SOURCE).as_posix(), name, line, place, what) for what in changes_of(node)
                ]
    return found


class _Changing(ast.NodeTransformer):
    def __init__(self, node: ast.AST, what: str) -> None:
        self._node, self._what = node, what

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self._node:
            return ast.fix_missing_locations(ast.copy_location(change(copy.copy(node), self._what), node))
        return super().visit(node)


def exchange(mutant: Mutant) -> bool:
    """Puts the mutant's code into every function of this process that was made from its source; whether any was."""
    path = SOURCE / mutant.path
    tree = ast.parse(path.read_text(encoding="utf-8"))
    whole = dict(functions_of(tree))[mutant.function]
    node = list(nodes_of(whole))[mutant.place]
    old = _codes(compile(path.read_text(encoding="utf-8"), str(path), "exec", dont_inherit=True))
    new = _codes(compile(_Changing(node, mutant.change).visit(tree), str(path), "exec", dont_inherit=True))
    places = [key for key in old if key[0] == mutant.function or key[0].startswith(f"{mutant.function}.<locals>")]
    is_any = False
    for function in [each for each in gc.get_objects() if isinstance(each, FunctionType)]:
        code = function.__code__
        key = code.co_qualname, code.co_firstlineno, code.co_freevars
        if key in places and key in new and code.co_filename == str(path):
            function.__code__ = new[key]
            is_any = is_any or key[0] == mutant.function
    return is_any


def _codes(module: CodeType) -> dict[tuple[str, int, tuple[str, ...]], CodeType]:
    found = {}
    waiting = [module]
    while waiting:
        code = waiting.pop()
        found[code.co_qualname, code.co_firstlineno, code.co_freevars] = code
        waiting += [each for each in code.co_consts if isinstance(each, CodeType)]
    return found


# -- which test reaches which line -----------------------------------------------------------------------------------


class Recording:
    """A plugin of pytest that notes which lines each test reaches, and how long it takes."""

    def __init__(self) -> None:
        import coverage

        self._coverage = coverage.Coverage(data_file=None, include=[f"{SOURCE}/*"])
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()

    def pytest_sessionstart(self) -> None:
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        self._coverage.switch_context(item.nodeid)
        start = time.process_time()
        result = yield
        self._seconds[item.nodeid] = time.process_time() - start
        self._coverage.switch_context("")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        lines: dict[str, dict[int, list[str]]] = {}
        for name in data.measured_files():
            path = Path(name).relative_to(SOURCE).as_posix()
            lines[path] = {
                line: [test for test in tests if test and test not in self._failed]
                for line, tests in data.contexts_by_lineno(name).items()
            }
        KEPT.mkdir(parents=True, exist_ok=True)
        (KEPT / "reached.json").write_text(json.dumps({"seconds": self._seconds, "lines": lines}))


# -- one mutant after another ----------------------------------------------------------------------------------------


class Mutating:
    """A plugin of pytest that runs, in place of the tests, the tests of each mutant in a process of its own."""

    def __init__(self, mutants: list[Mutant], results: dict[str, str], until: float) -> None:
        self._mutants, self._results, self._until = mutants, results, until
        reached = json.loads((KEPT / "reached.json").read_text())
        self._seconds, self._lines = reached["seconds"], reached["lines"]
        self._is_child = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._is_child and report.failed:
            os._exit(1)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        for number, mutant in enumerate(self._mutants):
            if mutant.key in self._results:
                continue
            if time.time() > self._until:
                break
            tests = self._tests_of(mutant, items)
            self._results[mutant.key] = self._fate(mutant, [items[each] for each in tests]) if tests else "not reached"
            (KEPT / "results.json").write_text(json.dumps(self._results, indent=1))
            fates = Counter(self._results.values())
            print(number + 1, self._results[mutant.key], mutant.key, dict(fates), file=sys.stderr, flush=True)
        return True

    def _tests_of(self, mutant: Mutant, items: dict[str, pytest.Item]) -> list[str]:
        reaching = self._lines.get(mutant.path, {}).get(str(mutant.line), [])
        quick = sorted((self._seconds[each], each) for each in reaching if each in items)
        chosen, total = [], 0.0
        for seconds, name in quick:
            total += seconds
            if seconds > SLOWEST or (chosen and total > ENOUGH):
                break
            chosen.append(name)
        return chosen

    def _fate(self, mutant: Mutant, tests: list[pytest.Item]) -> str:
        limit = 10.0 + PATIENCE * sum(self._seconds[item.nodeid] for item in tests)
        child = os.fork()
        if child == 0:
            self._in_child(mutant, tests, limit)
        # Processor time ends what loops; what waits for ever ends by the clock, which is slow on a busy machine.
        last = time.time() + 10.0 * limit
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.time() > last:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.02)
        code = os.waitstatus_to_exitcode(status)
        return {0: "survived", 1: "killed", 3: "no mutant"}.get(code, "killed: no end" if code < 0 else "killed: exit")

    def _in_child(self, mutant: Mutant, tests: list[pytest.Item], limit: float) -> None:
        self._is_child = True
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        seconds = int(limit)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        try:
            if not exchange(mutant):
                os._exit(3)
            for number, item in enumerate(tests):
                following = tests[number + 1] if number + 1 < len(tests) else None
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        except BaseException:
            os._exit(1)
        os._exit(0)


# -- the table -------------------------------------------------------------------------------------------------------


def table(mutants: list[Mutant], results: dict[str, str]) -> str:
    """Markdown: for each package how many there were, and how many were killed."""
    by_package: dict[str, Counter[str]] = defaultdict(Counter)
    for each in mutants:
        fate = results.get(each.key)
        if fate not in (None, "no mutant"):
            by_package[each.package][fate.partition(":")[0]] += 1
            by_package["all"][fate.partition(":")[0]] += 1
    lines = ["| package | mutants | killed | survived | not reached | score |", "|---|---|---|---|---|---|"]
    for package in (*PACKAGES, "all"):
        counts = by_package[package]
        total = sum(counts.values())
        score = f"{counts['killed'] / total:.0%}" if total else "-"
        cells = (total, counts["killed"], counts["survived"], counts["not reached"], score)
        lines.append(f"| {package} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--again", action="store_true", help="tries those that survived once more, on the tests of now")
    parser.add_argument("--survivors", action="store_true", help="only prints what survived, of earlier runs")
    options = parser.parse_args()
    mutants = all_mutants()
    sampled = random.Random(0).sample(mutants, len(mutants))[: options.mutants]
    kept = KEPT / "results.json"
    results: dict[str, str] = json.loads(kept.read_text()) if kept.exists() else {}
    if not options.survivors:
        if options.again:
            results = {key: fate for key, fate in results.items() if fate not in ("survived", "not reached")}
        _run(sampled, results, until=time.time() + 60.0 * options.minutes, again=options.again)
    for each in sampled:
        if options.survivors and results.get(each.key) in ("survived", "not reached"):
            print(results[each.key], each.key)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(f"\n{len(mutants)} possible mutants, {len(sampled)} sampled, at {commit.stdout.strip()}\n")
    print(table(sampled, results))


def _run(sampled: list[Mutant], results: dict[str, str], *, until: float, again: bool) -> None:
    os.chdir(ROOT)
    folders = [f"tests/{each}" for each in TESTS]
    arguments = [
        *folders,
        *(f"--ignore=tests/{each}" for each in LEFT_OUT),
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
    ]
    if again or not (KEPT / "reached.json").exists():
        # In a process of its own: what tests leave behind in this one would be in every mutant.
        code = "import sys; sys.path.insert(0, 'benchmarks'); import mutate, pytest; "
        code += f"pytest.main({arguments!r}, plugins=[mutate.Recording()])"
        subprocess.run([sys.executable, "-c", code], check=True)
    gc.disable()
    pytest.main([*arguments, "-s"], plugins=[Mutating(sampled, results, until)])


if __name__ == "__main__":
    main()
