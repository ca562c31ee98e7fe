"""A study as it travels to sites."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from manent.app.study.code import code_of, pins
from manent.app.study.file import StudyFile
from manent.core.errors import InvalidInput
from manent.network.wire.bundle import Bundle
from manent.rounds.declared import declared_model, rebuild


def bundle_of(path: Path, file: StudyFile, data_set: str, more: Sequence[Path], requirements: Path | None) -> Bundle:
    """The study with its schema, and with its code unless its model is built in.

    Args:
        path: the study file.
        data_set: the name under which sites know the data. Characters that no such name may have become dashes.
        more: files that travel with the code although nothing imports them.
        requirements: a file that pins the packages that the code needs, or None.

    Raises InvalidInput for `more` or `requirements` with a built-in model, and for what `code_of` or `Bundle.of` refuses.
    """
    name = re.sub(r"[^A-Za-z0-9._:@-]+", "-", data_set).strip("-")
    own = declared_model(rebuild(file.study.to_plain())) is not None
    if not own and (more or requirements):
        raise InvalidInput(f"{path} has a built-in model, so no code travels. Leave --code and --requirements out.")
    pinned = () if requirements is None else pins(requirements)
    return Bundle.of(file.study, file.data.schema, name, code_of(path, more) if own else {}, pinned)
