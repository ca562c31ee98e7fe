"""The limits of the house, read from syntax trees: sizes, parameters, complexity, circles, private names, contracts."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "manent"
SOURCE = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in SOURCE})
LINES, FUNCTION, PARAMETERS, COMPLEXITY, MODULES = 600, 60, 8, 15, 16

Function = ast.FunctionDef | ast.AsyncFunctionDef
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.comprehension, ast.match_case)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def own(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions inside it."""
    waiting: list[ast.AST] = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if not isinstance(node, Function | ast.ClassDef):
            yield node
            waiting += ast.iter_child_nodes(node)


def complexity(function: Function) -> int:
    """Cyclomatic complexity (McCabe 1976): one, and one a branch, loop, handler, comprehension and further `and` or `or`."""
    found = 1
    for node in own(function):
        found += isinstance(node, BRANCHES)
        found += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
    return found


def is_command(function: Function) -> bool:
    """Whether its parameters are the options of a command: `Annotated` with what the command line says of them."""
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    annotations = [ast.unparse(a.annotation) for a in given if a.annotation is not None]
    return "Annotated" in "".join(annotations) and all(a.startswith("Annotated") or a.isidentifier() for a in annotations)


def parameters(function: Function) -> int:
    """How many it takes, without `self` and `cls`."""
    given = [*function.args.posonlyargs, *function.args.args]
    return len([a for a in given if a.arg not in ("self", "cls")]) + len(function.args.kwonlyargs)


def is_public_entry(function: Function) -> bool:
    """Whether what exceeds the limit is keyword-only, on a function for users."""
    positional = [a for a in (*function.args.posonlyargs, *function.args.args) if a.arg not in ("self", "cls")]
    hidden = function.name.startswith("_") and function.name != "__init__"
    return not hidden and len(positional) <= PARAMETERS and bool(function.args.kwonlyargs)


@pytest.mark.parametrize("path", SOURCE, ids=named)
def test_files_and_functions_are_short_and_simple(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LINES
    for function in functions(ast.parse(text)):
        where = f"{function.name}, line {function.lineno}"
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        assert length <= FUNCTION, f"{where}: {length} lines"
        assert complexity(function) <= COMPLEXITY, f"{where}: complexity {complexity(function)}"
        if not is_command(function) and not is_public_entry(function):
            assert parameters(function) <= PARAMETERS, f"{where}: {parameters(function)} parameters"


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_a_folder_has_few_modules(folder):
    found = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(found) <= MODULES, found


def module_name(path: Path) -> str:
    parts = path.with_suffix("").relative_to(PACKAGE.parent).parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULE = {module_name(path): ast.parse(path.read_text()) for path in SOURCE}


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Module and name of everything that is imported, wherever in the file; the name is empty for a module as a whole."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def graph(modules: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Who imports whom; a package's own exports count as the package."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, tree in modules.items():
        for source, name in imports(tree):
            whole = f"{source}.{name}"
            target = whole if whole in modules else source
            if target in modules and target != module:
                found[module].add(target)
    return found


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that import each other, directly or through others (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            part = [stack.pop()]
            while part[-1] != node:
                part.append(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def test_no_import_goes_in_a_circle():
    assert circles(graph(MODULE)) == []


def test_a_circle_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("module", MODULE)
def test_private_names_stay_in_their_module(module):
    private = [(source, name) for source, name in imports(MODULE[module]) if source.startswith("manent") and is_private(name)]
    assert private == []
    assert not any(is_private(part) for source, _ in imports(MODULE[module]) for part in source.split(".") if "manent" in source)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("module", MODULE)
def test_parts_declare_what_is_asked_of_them(module):
    """`getattr(part, "name", default)` asks what no protocol says; a file may ask so of what is not manent's own."""
    foreign = ("manent.models.", "manent.core.canonical", "manent.storage.", "manent.network.sandbox.confine")
    if module.startswith(foreign):
        pytest.skip("asks frameworks, drivers or the operating system")
    for node in ast.walk(MODULE[module]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) == 3:
            owner = ast.unparse(node.args[0])
            named = isinstance(node.args[1], ast.Constant)
            assert not named or owner in FOREIGN, f"line {node.lineno}: {ast.unparse(node)}"


FOREIGN = {
    "error",
    "error.orig",
    "request.state",
    "route",
    "option",
    "annotation",
    "module",
    "layer_module",
    "value",
    "self._mine",
}


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("def f(x):\n    return x", 1),
        ("def f(x):\n    if x and x or x:\n        return 1", 4),
        ("def f(x):\n    for a in [b for b in x if b]:\n        try:\n            pass\n        except E:\n            pass", 4),
        ("def f(x):\n    def g(y):\n        return 1 if y else 2\n    return g", 1),
    ],
)
def test_complexity_counts_every_branch(text, limit):
    assert complexity(next(functions(ast.parse(text)))) == limit
