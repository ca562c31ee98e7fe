"""Study files: Python that defines `study` and `data`, and perhaps `conditions`, which says how a simulated world falls short."""

from __future__ import annotations

import difflib
import linecache
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.abc import SourceLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from manent.core import validate
from manent.core.errors import InvalidInput, ManentError
from manent.core.overrides import override
from manent.core.study import Study
from manent.data.federation import Federation
from manent.engines.conditions import Conditions

Kind = TypeVar("Kind")
MODULE = "study_file"
"""The module name of every study file, so that a study's hash does not depend on where the file lies."""


@dataclass(frozen=True)
class StudyFile:
    """What a study file declares.

    Attributes:
        conditions: drop-outs and stragglers of a simulation; none where the file names none.
    """

    study: Study
    data: Federation
    conditions: Conditions


def load_study(path: str | Path, sets: Sequence[str] = (), text: str | None = None) -> StudyFile:
    """Load a study file and apply overrides.

    Args:
        sets: "name=value" each, such as "rounds=10", "algorithm.local.lr=0.05" or "conditions.stragglers=0.5".
        text: the file's source, if it was kept: the file may have changed since, or be gone. Then `path` is not read, and only
            says where the source came from.

    Raises InvalidInput for a missing file; for one that raises, with file and line; for one that lacks `study` or `data`, or
    gives them another type; and for an override whose name is unknown or whose value does not fit.
    """
    module = _execute(Path(path), text)
    study, data = _named(module, path, "study", Study), _named(module, path, "data", Federation)
    conditions = _named(module, path, "conditions", Conditions) if hasattr(module, "conditions") else Conditions()
    return _overridden(StudyFile(study, data, conditions), sets)


def load_data(path: str | Path) -> Federation:
    """The `data` of a study file. Raises InvalidInput as `load_study` does."""
    return _named(_execute(Path(path), None), path, "data", Federation)


def load_names(path: str | Path, names: Sequence[str]) -> tuple[Any, ...]:
    """What a Python file defines under these names, in their order. Raises InvalidInput as `load_study` does."""
    module = _execute(Path(path), None)
    missing = [name for name in names if not hasattr(module, name)]
    if missing:
        raise InvalidInput(f"{path} defines no {missing[0]!r}.")
    return tuple(getattr(module, name) for name in names)


class _Text(SourceLoader):
    """A loader for source that is already in memory."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = str(path), text

    def get_filename(self, fullname: str) -> str:
        """Where the source came from."""
        return self.path

    def get_data(self, path: str) -> bytes:
        """The source."""
        return self.text.encode()


def _execute(path: Path, text: str | None) -> ModuleType:
    """Run a file, or its kept text, as the module `study_file`. Raises InvalidInput for what it raises."""
    if text is None:
        text = _read(path)
    path = path.absolute()
    # The study's hash and error messages show this text, even if the file changes. An entry without a time is never refreshed.
    linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))
    spec = spec_from_loader(MODULE, _Text(path, text))
    if spec is None or spec.loader is None:
        raise InvalidInput(f"{path} cannot be loaded as Python.")
    module = module_from_spec(spec)
    sys.modules[MODULE] = module
    with _beside(path.parent):
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise InvalidInput(_raised(path, error)) from error
    return module


def _read(path: Path) -> str:
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; give a study file. To go on with a run, use: manent run --resume {path}")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidInput(f"There is no file {path}.{_near(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as Python text: {error}.") from None


def _near(path: Path) -> str:
    """A hint at files of a similar name; empty if there is none."""
    names = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 3, 0.6)
    return f" Did you mean {', '.join(str(path.parent / name) for name in near)}?" if near else ""


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Let a study file import the files of its folder."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _raised(path: Path, error: BaseException) -> str:
    """What a study file raised, and where: file and line, the error, and the source line if there is one."""
    if isinstance(error, SyntaxError):
        line, source = error.lineno, (error.text or "").strip()
        what = f"{type(error).__name__}: {error.msg}"
        name = error.filename or str(path)
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line, source = (frames[-1].lineno, frames[-1].line or "") if frames else (None, "")
        what = str(error) if isinstance(error, ManentError) else f"{type(error).__name__}: {error}".rstrip(": ")
        name = str(path)
    where = f"{name}, line {line}" if line else name
    return f"{where} raised\n  {what}" + (f"\n  in: {source}" if source else "")


def _named(module: ModuleType, path: str | Path, name: str, kind: type[Kind]) -> Kind:
    """What a module defines under a name. Raises InvalidInput where it defines none, or one of another type."""
    if not hasattr(module, name):
        own = [n for n, value in vars(module).items() if isinstance(value, kind) and not n.startswith("_")]
        hint = f" It defines {own[0]!r}, a {kind.__name__}: rename it." if own else ""
        raise InvalidInput(f"{path} must define {name!r}, a {kind.__name__}; it does not.{hint}")
    value = getattr(module, name)
    if not isinstance(value, kind):
        raise InvalidInput(f"{path} must define {name!r} as a {kind.__name__}; found {validate.typed(value)}.")
    return value


@dataclass(frozen=True)
class _World:
    """A root for the overrides that begin with "conditions."."""

    conditions: Conditions


def _overridden(declared: StudyFile, sets: Sequence[str]) -> StudyFile:
    """The declaration with each "name=value" applied, in order."""
    for entry in sets:
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not (name and equals and value):
            raise InvalidInput(f"--set expects NAME=VALUE, such as --set rounds=10; found {entry!r}.")
        name = name.removeprefix("study.")
        if name.split(".")[0] == "conditions":
            world: Any = override(_World(declared.conditions), name, value)
            declared = replace(declared, conditions=world.conditions)
        else:
            declared = replace(declared, study=override(declared.study, name, value))
    return declared
