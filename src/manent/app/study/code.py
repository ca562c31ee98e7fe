"""The files that travel with a study whose model is its own code."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from manent.core.errors import InvalidInput

ENTRY = "study.py"


def code_of(study: Path, more: Sequence[Path] = ()) -> dict[str, str]:
    """The texts that travel, by file name: the study file as study.py, what it imports from beside it, and `more`.

    What imported files import from beside the study file is found too. Only import statements are looked at; nothing is run.

    Args:
        study: the study file.
        more: files that travel although nothing imports them, such as a word list.

    Raises InvalidInput for an import of a package (a folder) beside the study file, for two different files of one name, and for
    a file that is not UTF-8 text or not Python.
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
    """The lines of a requirements file, without comments and empty lines. `Bundle.of` checks that each is pinned.

    Raises InvalidInput for a file that is not UTF-8 text.
    """
    lines = (line.split("#", 1)[0].strip() for line in _text(path).splitlines())
    return tuple(line for line in lines if line)


def _imported(path: Path) -> Iterator[str]:
    """The top-level modules that a file imports anywhere, without those of the standard library.

    Raises InvalidInput for a file that is not Python.
    """
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
