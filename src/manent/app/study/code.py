"""The files that travel with a study whose model is its own code."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from manent.core.errors import InvalidInput

ENTRY = "study.py"


def code_of(study: Path, more: Sequence[Path] = ()) -> dict[str, str]:
    """The study file, as study.py; the files beside it that it imports, and those that these import; and more, by name.

    Only what an import statement names is found. Nothing is run.

    Raises InvalidInput for a package (a folder) beside it, two files of one name, and what is no text.
    """
    found = {ENTRY: _text(study)}
    left = [study]
    while left:
        for name in sorted(set(_imported(left.pop()))):
            path = study.parent / f"{name}.py"
            if (study.parent / name / "__init__.py").exists():
                raise InvalidInput(
                    f"{study} imports {name!r}, a folder beside it; what travels has no folders. Put it into one file, {path}."
                )
            if path.is_file() and path.resolve() != study.resolve() and path.name not in found:
                found[path.name] = _text(path)
                left.append(path)
    for path in more:
        text = _text(path)
        if found.get(path.name, text) != text:
            raise InvalidInput(f"Two files that would travel are named {path.name!r}. Rename {path}.")
        found[path.name] = text
    return found


def pins(path: Path) -> tuple[str, ...]:
    """The lines of a file of requirements, without comments; a bundle checks that each is pinned."""
    lines = (line.split("#", 1)[0].strip() for line in _text(path).splitlines())
    return tuple(line for line in lines if line)


def _imported(path: Path) -> Iterator[str]:
    """Names of top-level modules that a file imports, anywhere in it, but for Python's own."""
    try:
        tree = ast.parse(_text(path))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} cannot be read as Python: {error}.") from None
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        yield from (head for name in names if (head := name.partition(".")[0]) not in sys.stdlib_module_names)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as text: {error}.") from None
