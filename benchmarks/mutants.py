"""Small errors that can be made in the library, one at a time: `mutate.py` makes them, and tests have to fail.

A mutant is one change of one node inside a function: a comparison that takes the other side of equality, plus for
minus, `and` for `or`, a condition turned round, a number one higher, True for False, a call or an assignment left out,
nothing returned. What nobody can tell from the whole is not drawn: messages of errors and warnings, docstrings,
annotations, assertions of our own state, and whatever stands outside of functions (`__all__`, imports, types).
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import gc
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "manyfit"
PACKAGES = ("core", "space", "stats", "samplers", "schedulers", "oracles", "store")
#: In place of a statement, something that no test survives: shows that a mutant is really what runs.
CERTAIN = "certain to fail"

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.MatMult: ast.Mult,
}  # fmt: skip
WORDS = {"explain", "warn", "say", "note", "print", "debug", "info", "warning"}  # calls of what people read


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        path: of the module, below the library.
        function: the qualified name of the outermost function around it.
        line: of the node.
        statement: the line on which the statement around the node begins.
        place: the number of the node in a walk over the function.
        change: what is done to it.
    """

    path: str
    function: str
    line: int
    statement: int
    place: int
    change: str

    @property
    def package(self) -> str:
        return self.path.partition("/")[0]

    @property
    def key(self) -> str:
        """Its name, which stays the same while the function does."""
        return f"{self.path} {self.function} #{self.place} {self.change}"

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line} {self.function}: {self.change}, of `{source_of(self)}`"


# -- what can be changed ----------------------------------------------------------------------------------------------


def functions_of(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """The outermost functions of a module and of its classes, with their qualified names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            if not any("overload" in ast.dump(each) or "abstract" in ast.dump(each) for each in node.decorator_list):
                yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions_of(node, f"{prefix}{node.name}.")


def nodes_of(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, ast.stmt]]:
    """What may be changed in a function, always in the same order, with the statement that it belongs to."""

    def walk(node: ast.AST, statement: ast.stmt) -> Iterator[tuple[ast.AST, ast.stmt]]:
        if isinstance(node, ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.arguments | ast.Raise):
            return
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in WORDS:
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        statement = node if isinstance(node, ast.stmt) else statement
        yield node, statement
        for name, child in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for each in child if isinstance(child, list) else [child]:
                if isinstance(each, ast.AST):
                    yield from walk(each, statement)

    for each in function.body:
        yield from walk(each, each)


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
    if isinstance(node, ast.Delete):  # a name that is deleted is not used
        return [] if all(isinstance(each, ast.Name) for each in node.targets) else ["left out"]
    if isinstance(node, ast.AugAssign | ast.Break | ast.Continue):
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
    elif what == CERTAIN:
        # pytest itself ends with it, whatever the library or a test catches.
        return ast.Raise(ast.Call(ast.Name("KeyboardInterrupt", ast.Load()), [], []))
    else:
        return ast.Pass()
    return node


def all_mutants(packages: Sequence[str] = PACKAGES) -> list[Mutant]:
    """Every mutant of packages, in the order of the files."""
    found = []
    for path in sorted(each for package in packages for each in (SOURCE / package).rglob("*.py")):
        for name, function in functions_of(ast.parse(path.read_text(encoding="utf-8"))):
            keywords = (each for each in ast.walk(function) if isinstance(each, ast.keyword))
            checks = {id(each.value) for each in keywords if each.arg == "strict"}  # equal lengths are so unchecked
            for place, (node, statement) in enumerate(nodes_of(function)):
                if id(node) in checks:
                    continue
                line = getattr(node, "lineno", None) or getattr(getattr(node, "target", None), "lineno", 0)
                mutant = Mutant(path.relative_to(SOURCE).as_posix(), name, line, statement.lineno, place, "")
                found += [dataclasses.replace(mutant, change=what) for what in changes_of(node)]
    return found


def drawn(mutants: Sequence[Mutant], seed: int) -> list[Mutant]:
    """The mutants in an order of chance, in which each keeps its place when other code changes."""
    return sorted(mutants, key=lambda each: hashlib.sha256(f"{seed} {each.key}".encode()).digest())


def certain_of(mutant: Mutant) -> Mutant:
    """The change that nothing survives, of the statement around a mutant."""
    text = (SOURCE / mutant.path).read_text(encoding="utf-8")
    nodes = list(nodes_of(dict(functions_of(ast.parse(text)))[mutant.function]))
    statement = nodes[mutant.place][1]
    place = next(number for number, (node, _) in enumerate(nodes) if node is statement)
    return dataclasses.replace(mutant, line=statement.lineno, place=place, change=CERTAIN)


def source_of(mutant: Mutant) -> str:
    """What is changed, as it stands in the file."""
    text = (SOURCE / mutant.path).read_text(encoding="utf-8")
    node, _ = list(nodes_of(dict(functions_of(ast.parse(text)))[mutant.function]))[mutant.place]
    shown = node.test if isinstance(node, ast.If | ast.IfExp | ast.While) else node
    shown = shown.ifs[0] if isinstance(shown, ast.comprehension) else shown
    return " ".join((ast.get_source_segment(text, shown) or "").split())


class _Changing(ast.NodeTransformer):
    def __init__(self, node: ast.AST, what: str) -> None:
        self._node, self._what = node, what

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self._node:
            return ast.fix_missing_locations(ast.copy_location(change(copy.copy(node), self._what), node))
        return super().visit(node)


def functions_of_process() -> list[FunctionType]:
    """The functions of the library that this process holds, by whatever names they have been imported."""
    everything = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
    return [each for each in everything if each.__code__.co_filename.startswith(f"{SOURCE}/")]


def exchange(mutant: Mutant, functions: Sequence[FunctionType]) -> bool:
    """Puts the mutant's code into every one of the functions that was made from its source; whether any was."""
    path = SOURCE / mutant.path
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node, _ = list(nodes_of(dict(functions_of(tree))[mutant.function]))[mutant.place]
    old = _codes(compile(path.read_text(encoding="utf-8"), str(path), "exec", dont_inherit=True))
    new = _codes(compile(_Changing(node, mutant.change).visit(tree), str(path), "exec", dont_inherit=True))
    places = [key for key in old if key[0] == mutant.function or key[0].startswith(f"{mutant.function}.<locals>")]
    is_any = False
    for function in functions:
        code = function.__code__
        key = code.co_qualname, code.co_firstlineno, code.co_freevars
        if key in places and key in new and code == old[key] and code.co_filename == str(path):
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
