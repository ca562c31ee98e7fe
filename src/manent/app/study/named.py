"""Data sets by name: a word on the command line becomes a federation."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from manent import data
from manent.app.study.file import load_data
from manent.core.errors import InvalidInput
from manent.data import Federation

NAMED: Mapping[str, Callable[[], Federation]] = {
    "heart_disease": data.heart_disease,
    "digits": data.digits,
    "mnist": data.mnist,
    "fashion_mnist": data.fashion_mnist,
    "shakespeare": data.shakespeare,
    "synthetic": partial(data.synthetic, 1.0, 1.0),
}


def federation(source: str) -> Federation:
    """A data set by its name, with its default arguments, or the `data` of a study file.

    Raises InvalidInput where `source` is neither, with the nearest name as a hint; and for a study file that does not load.
    """
    if source in NAMED:
        return NAMED[source]()
    if source.endswith(".py") or Path(source).exists():
        return load_data(source)
    near = difflib.get_close_matches(source, NAMED, 1, 0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise InvalidInput(f"Expected a study file or one of {', '.join(NAMED)}; found {source!r}.{hint}")
