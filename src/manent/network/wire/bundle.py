"""Bundles: a study as it travels. Plain data, code as text, pinned requirements, and the researcher's signature.

On the wire a bundle is one canonical JSON text; reading it runs nothing. Each bundle has exactly one text: bytes that do not read
back as the same bytes are refused.
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, final

from manent.core.canonical import canonical, to_plain
from manent.core.errors import InvalidInput, NotAuthorized
from manent.core.examples import Schema
from manent.core.study import Study
from manent.crypto.digest import digest
from manent.crypto.identity import SigningKey, verify
from manent.rounds.strict import check_depth, fit, shown

FORMAT = "manent bundle 1"
ENTRY = "study.py"
MOST_BYTES = 8 << 20
MOST_FILES = 200
_FILE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}\.(py|json|txt)")
_PIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?(?:\[[A-Za-z0-9,._-]{1,100}\])?==[A-Za-z0-9.!+_-]{1,100}")
_DATA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,199}")
_KEY = re.compile(r"[A-Za-z0-9_]+")
_NOT_NAMES = {"manent.py", "sitecustomize.py", "usercustomize.py"}
_PARTS = ("study", "schema", "data", "code", "requirements")


@final
@dataclass(frozen=True)
class Bundle:
    """A study that travels. Equal content has an equal hash, whoever signed it.

    Attributes:
        study: `Study.to_plain()`.
        schema: plain data of the schema that the study's statement is about.
        data: the name under which sites know the data set that it asks for.
        code: files by name, without folders; if there are any, `study.py` is among them.
        requirements: pinned packages, "name==version" each.
        researcher: public key of the signer, 64 hexadecimal digits; "" before it is signed.
        signature: 128 hexadecimal digits; "" before it is signed.

    Raises InvalidInput for what does not fit.
    """

    study: Mapping[str, Any]
    schema: Mapping[str, Any]
    data: str
    code: Mapping[str, str]
    requirements: tuple[str, ...] = ()
    researcher: str = ""
    signature: str = ""

    def __post_init__(self) -> None:
        check_depth(self._content, "The bundle")
        # A copy: what the caller changes later must not change what was checked, hashed and signed.
        for name, value in json.loads(_text(self._content)).items():
            object.__setattr__(self, name, tuple(value) if name == "requirements" else value)
        _check_content(self)
        for name, found, length in (("researcher", self.researcher, 64), ("signature", self.signature, 128)):
            if found and not re.fullmatch(f"[0-9a-f]{{{length}}}", found):
                raise InvalidInput(f"A bundle's {name} is {length} hexadecimal digits; found {shown(found)}.")
        if bool(self.researcher) != bool(self.signature):
            raise InvalidInput("A bundle has a researcher and a signature, or neither. Use Bundle.sign(key).")

    @classmethod
    def of(
        cls, study: Study, schema: Schema, data: str, code: Mapping[str, str] | None = None, requirements: Sequence[str] = ()
    ) -> Bundle:
        """The bundle of a study, not signed yet. Windows line ends in the code become plain ones."""
        files = {name: text.replace("\r\n", "\n") for name, text in (code or {}).items()}
        return cls(study.to_plain(), to_plain(schema), data, files, tuple(requirements))

    @classmethod
    def read(cls, encoded: bytes) -> Bundle:
        """The bundle of its bytes. The signature is not checked here: see `verify`.

        Raises InvalidInput for any other bytes than `encode` gives.
        """
        if len(encoded) > MOST_BYTES + 1024:
            raise InvalidInput(f"A bundle has about {MOST_BYTES:,} bytes at most; found {len(encoded):,}. Send data another way.")
        try:
            document = json.loads(encoded.decode(), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"These bytes are no bundle: {shown(str(error))}.") from None
        names = ("format", *_PARTS, "researcher", "signature")
        if not isinstance(document, dict) or set(document) != set(names):
            raise InvalidInput(f"A bundle is a table of {', '.join(names)}; found {shown(document)}.")
        if document.pop("format") != FORMAT:
            raise InvalidInput(f"Expected the format {FORMAT!r}. Use the same version of manent on all sides.")
        for name in ("data", "researcher", "signature"):
            fit(document[name], str, name, _refuse_table)
        document["requirements"] = fit(document["requirements"], tuple[str, ...], "requirements", _refuse_table)
        bundle = cls(**document)
        if bundle.encode() != encoded:
            raise InvalidInput(
                "These bytes are not the canonical form of their bundle; a key may be there twice. Encode it again."
            )
        return bundle

    def encode(self) -> bytes:
        """The bytes that travel, and that `read` takes."""
        return canonical({"format": FORMAT, **self._content, "researcher": self.researcher, "signature": self.signature})

    def sign(self, key: SigningKey) -> Bundle:
        """The same bundle, signed by a researcher."""
        return replace(self, researcher=key.public.hex(), signature=key.sign(self._signed).hex())

    def verify(self) -> str:
        """The researcher's public key, in hexadecimal. Raises NotAuthorized unless they signed this content."""
        if not self.signature:
            raise NotAuthorized("The bundle is not signed. Sign it with the researcher's key.")
        if not verify(bytes.fromhex(self.researcher), self._signed, bytes.fromhex(self.signature)):
            raise NotAuthorized(
                f"The bundle's signature is not that of {self.researcher[:16]}... over this content: it was altered after it was "
                f"signed, or signed with another key. Get it from the researcher again."
            )
        return self.researcher

    @property
    def hash(self) -> str:
        """SHA-256 of all content, in hexadecimal. A person approves this hash."""
        return digest(FORMAT, canonical(self._content)).hex()

    @property
    def code_hash(self) -> str:
        """SHA-256 of code and requirements alone, in hexadecimal. It stays the same if only settings change."""
        return digest(f"{FORMAT} code", canonical({"code": self.code, "requirements": self.requirements})).hex()

    @property
    def study_hash(self) -> str:
        """The same as `Study.hash`."""
        return sha256(canonical(self.study)).hexdigest()

    @property
    def _content(self) -> dict[str, Any]:
        """What is hashed and signed: all but the signature."""
        return {
            "study": self.study,
            "schema": self.schema,
            "data": self.data,
            "code": self.code,
            "requirements": self.requirements,
        }

    @property
    def _signed(self) -> bytes:
        return digest(f"{FORMAT} signature", bytes.fromhex(self.hash))


def _check_content(bundle: Bundle) -> None:
    for name, found in (("study", bundle.study), ("schema", bundle.schema), ("code", bundle.code)):
        if not isinstance(found, Mapping):
            raise InvalidInput(f"A bundle's {name} is a table; found {shown(found)}.")
    if not isinstance(bundle.data, str) or not _DATA.fullmatch(bundle.data):
        raise InvalidInput(f"A data set's name is 1 to 200 letters, digits or . _ : @ -; found {shown(bundle.data)}.")
    for pin in bundle.requirements:
        if not isinstance(pin, str) or not _PIN.fullmatch(pin):
            raise InvalidInput(
                f"A requirement is pinned, such as numpy==2.1.3; found {shown(pin)}. Options and URLs are refused."
            )
    _check_files(bundle.code)


def _check_files(code: Mapping[str, str]) -> None:
    if len(code) > MOST_FILES:
        raise InvalidInput(f"A bundle has at most {MOST_FILES} files; found {len(code)}.")
    if code and ENTRY not in code:
        raise InvalidInput(
            f"A bundle's code begins with {ENTRY}; found {', '.join(map(shown, sorted(code)[:5]))}. Rename the first."
        )
    seen: set[str] = set()
    for name, text in code.items():
        if not _FILE.fullmatch(name) or name.lower() in _NOT_NAMES:
            raise InvalidInput(
                f"A file of a bundle is named like 'network.py' (or .json, .txt), without folders and not after manent; "
                f"found {shown(name)}. Rename it."
            )
        if name.lower() in seen:
            raise InvalidInput(f"The bundle has another file named like {name!r}, but for capitals. Rename one.")
        seen.add(name.lower())
        _check_text(name, text)


def _check_text(name: str, text: object) -> None:
    """Raises InvalidInput for characters that make code look different from what it is to a reviewer.

    Boucher, Anderson 2023, "Trojan Source: Invisible Vulnerabilities": text that is turned around, hidden, or controls a
    terminal.
    """
    if not isinstance(text, str):
        raise InvalidInput(f"The file {name!r} of a bundle is text; found {shown(text)}.")
    for number, line in enumerate(text.split("\n"), start=1):
        hidden = next((c for c in line if c != "\t" and unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")), None)
        if hidden is not None:
            raise InvalidInput(
                f"{name}, line {number}: the character U+{ord(hidden):04X} is invisible, and may hide what the code does. "
                f"Remove it, or write it as an escape."
            )


def _text(content: Mapping[str, Any]) -> bytes:
    try:
        text = canonical(content)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"A bundle holds only plain data: {shown(str(error))}.") from None
    if len(text) > MOST_BYTES:
        raise InvalidInput(f"A bundle's content has at most {MOST_BYTES:,} bytes; found {len(text):,}. Send data another way.")
    return text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of plain data")


def _refuse_table(annotation: object, table: Mapping[str, Any], where: str) -> None:
    raise InvalidInput(f"A bundle's {where} expects no table; found {shown(table)}.")


def difference(old: Bundle | None, new: Bundle) -> str:
    """What a person reviews: every setting, requirement and line in which `new` differs from `old`; all of them without `old`.

    What runs comes first, and the columns of the data last. Characters that cannot be seen are shown as escapes.
    """
    lines: list[str] = []
    for part in ("study", "data", "requirements"):
        lines += _changed_settings(part, old, new)
    texts = old.code if old else {}
    for name in sorted({*texts, *new.code}):
        a, b = (code[name].split("\n") if name in code else [] for code in (texts, new.code))
        lines += difflib.unified_diff(a, b, f"{name} (approved)" if name in texts else "/dev/null", name, lineterm="")
    return "\n".join([*lines, *_changed_settings("schema", old, new)]) or "No difference."


def _changed_settings(part: str, old: Bundle | None, new: Bundle) -> list[str]:
    before, after = ({} if bundle is None else dict(_settings({part: bundle._content[part]})) for bundle in (old, new))
    lines = []
    for name in sorted({*before, *after}, key=_by_number):
        if before.get(name) != after.get(name):
            lines += [f"{sign} {name} = {side[name]}" for sign, side in (("-", before), ("+", after)) if name in side]
    return lines


def _by_number(name: str) -> list[tuple[int, str]]:
    """A sorting key that puts columns[2] before columns[10]."""
    return [(int(piece), "") if piece.isascii() and piece.isdigit() else (0, piece) for piece in re.split(r"(\d+)", name)]


def _settings(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Names such as study.layers[0].norm with their values, both in visible characters. An empty table or list counts as a
    value.
    """
    items: Sequence[tuple[str, Any]] = ()
    if isinstance(value, Mapping):
        items = [(f".{key}" if _KEY.fullmatch(key) else f"[{_visible(key)}]", inner) for key, inner in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"[{index}]", inner) for index, inner in enumerate(value)]
    if not items:
        yield path, _visible(value)
    for key, inner in items:
        yield from _settings(inner, f"{path}{key}".removeprefix("."))


def _visible(value: object) -> str:
    return json.dumps(value).replace("\x7f", r"\u007f")
