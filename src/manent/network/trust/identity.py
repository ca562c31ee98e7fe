"""Long-term identities on disk: an Ed25519 key and a name, in a file that only its owner can read."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput
from manent.core.randomness import PrivateRandom
from manent.crypto import SigningKey, SystemRandom

FORMAT = "manent identity 1"
OWNER_ONLY = 0o600
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LARGEST = 1 << 16  # bytes of a key file


@dataclass(frozen=True)
class Identity:
    """Who signs: a site, a server, or a consortium. The secret half never leaves the file and this process.

    Attributes:
        name: 1 to 64 letters, digits, dots, dashes and underscores, of which the first is a letter or digit.
        signing_key: Ed25519.
    """

    name: str
    signing_key: SigningKey

    @classmethod
    def create(cls, path: str | os.PathLike[str], name: str, random: PrivateRandom | None = None) -> Identity:
        """A new identity, written to `path` (mode 0600) and safely on disk when this returns.

        Raises InvalidInput for a name that does not fit, and if the file exists: keys are never overwritten.
        """
        check_name(name)
        key = SigningKey.generate(random or SystemRandom())
        create_file(Path(path), canonical({"format": FORMAT, "name": name, "seed": key.seed.hex()}) + b"\n")
        return cls(name, key)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """The identity in a file. Raises InvalidInput for a file that holds no identity, or that others can read or change."""
        path = Path(path)
        values = read_json(_secret(path), str(path))
        if not isinstance(values, dict) or set(values) != {"format", "name", "seed"} or values["format"] != FORMAT:
            raise InvalidInput(f"{path} holds no identity; name the file that was written when it was created.")
        name, seed = values["name"], values["seed"]
        check_name(name)
        return cls(name, SigningKey(from_hex(f"the seed in {path}", seed, 32)))

    @property
    def public_hex(self) -> str:
        """The public half, 64 hexadecimal digits; no secret."""
        return self.signing_key.public.hex()


def check_name(name: object) -> None:
    """Raises InvalidInput for a name that could not stand as it is in a path, a URL or a terminal."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"A name has 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit; found {name!a:.80}."
        )


def from_hex(what: str, text: object, length: int) -> bytes:
    """Bytes from 2 x `length` hexadecimal digits in lower case. Raises InvalidInput for anything else, without showing it."""
    if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{2 * length}}}", text):
        raise InvalidInput(f"{what} should be {2 * length} hexadecimal digits in lower case; it is not.")
    return bytes.fromhex(text)


def read_json(data: bytes, where: str) -> Any:
    """Plain data from canonical JSON. Raises InvalidInput for any other bytes, such as a repeated key, a space, or a NaN."""
    try:
        values = json.loads(data)
        sound = canonical(values) == data.removesuffix(b"\n")
    except (ValueError, RecursionError):
        sound = False
    if not sound:
        raise InvalidInput(f"{where} is not as manent wrote it: not JSON in its canonical form. Use an unaltered copy.")
    return values


def create_file(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600, safely on disk when this returns. Raises InvalidInput if it exists, or cannot be written."""
    if path.exists():
        raise InvalidInput(f"{path} exists, and is not overwritten. Name another file, or move this one away.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
        try:
            _fill(file, content)
        except OSError:
            path.unlink()
            raise
    except OSError as error:
        raise InvalidInput(f"Cannot write {path}: {error.strerror}. Name a file that can be written.") from None
    _settle(path.parent)


def replace_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file's content in one step: after a crash it has the new content or the old, never a part.

    Raises InvalidInput if it cannot be written.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        _fill(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), content)
        os.replace(fresh, path)
    except OSError as error:
        raise InvalidInput(f"Cannot write {path}: {error.strerror}. Make its folder one that can be written.") from None
    _settle(path.parent)


def read_file(path: Path, most: int) -> bytes:
    """The content of a file of at most so many bytes. Raises InvalidInput for a larger file, and one that cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise InvalidInput(f"Cannot read {path}: {error.strerror}.") from None
    if len(content) > most:
        raise InvalidInput(f"{path} is larger than {most:,} bytes, so it is not what is expected here; name another file.")
    return content


def _secret(path: Path) -> bytes:
    content = read_file(path, _LARGEST)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise InvalidInput(
            f"{path} holds a secret key, and others can read or change it. Run: chmod 600 {path}. "
            "If it may have been read, make a new identity instead."
        )
    return content


def _fill(file: int, content: bytes) -> None:
    with open(file, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _settle(folder: Path) -> None:
    """Make sure that a new file's name is on disk: it is stored with its folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
