"""A site's own rules, and the decision about a study: from what the site computes of the bundle by itself, and nothing else.

The statement comes from `privacy.check.resolve` on the bundle's plain data and the roster that the site has verified. What a
server says of a study, its cohort or its guarantee plays no part.
"""

from __future__ import annotations

import re
import tomllib
import typing
from collections import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import time
from pathlib import Path
from typing import Any, Literal

from manent.accounting import Budget
from manent.core.errors import InvalidInput
from manent.network.strict import options, read, shown

Isolation = Literal["required", "preferred"]
Observed = Literal["server", "clients", "public"]
_HASH = re.compile(r"[0-9a-f]{64}")
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")
WHOLE_DAY = "00:00-24:00"


@dataclass(frozen=True)
class Policy:
    """What a site takes part in. Nothing that is not allowed here is; a key that is not known is an error.

    Attributes:
        researchers: whose studies: names, and public keys of 64 hexadecimal digits.
        data: which data sets a study may name.

    Raises InvalidInput for what contradicts itself.
    """

    researchers: Mapping[str, str]
    code: CodeRule
    cohort: CohortRule
    summation: SummationRule
    privacy: PrivacyRule
    data: Mapping[str, DataRule]
    limits: LimitRule
    work: WorkRule

    def __post_init__(self) -> None:
        for name, key in self.researchers.items():
            check_hash(f"researchers.{name}", key)
        for name, rule in self.data.items():
            if self.privacy.required and rule.budget is None:
                raise InvalidInput(
                    f"data.{name} has no budget, and privacy.required = true. Add its budget = {{ epsilon = ..., delta = ..., "
                    f"privacy_unit = ..., neighboring_relation = ... }}."
                )

    @staticmethod
    def read(text: str) -> Policy:
        """The policy in a TOML text. Raises InvalidInput, by name, for an unknown key, a missing one, or a value that does not
        fit."""
        try:
            document = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InvalidInput(f"The policy is not TOML: {error}.") from None
        found: Policy = read(Policy, document, "policy", _table)
        return found

    @staticmethod
    def load(path: str | Path) -> Policy:
        """The policy in a file. Raises InvalidInput as `read`, naming the file, and where it cannot be read."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{path} cannot be read as a policy: {error}. Write one with: manent site init") from None
        try:
            return Policy.read(text)
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error}") from None

    @staticmethod
    def example() -> str:
        """A careful policy with every key and what it means; it allows nobody's studies yet."""
        return EXAMPLE


def _table(annotation: object, table: Mapping[str, Any], where: str) -> Any:
    for option in options(annotation):
        if is_dataclass(option) and isinstance(option, type):
            return read(option, table, where, _table)
        if typing.get_origin(option) is abc.Mapping:
            inner: Any = typing.get_args(option)[1]
            return {name: _value(inner, value, f"{where}.{name}") for name, value in table.items()}
    raise InvalidInput(f"{where} expects no table; found {shown(table)}.")


def _value(annotation: Any, value: object, where: str) -> Any:
    if annotation is str and isinstance(value, str):
        return value
    if annotation is not str and isinstance(value, Mapping):
        return _table(annotation, value, where)
    raise InvalidInput(f"{where} expects {'text' if annotation is str else 'a table'}; found {shown(value)}.")


def approved(path: str | Path) -> frozenset[str]:
    """Hashes of the bundles that were approved by hand; none where there is no such file.

    Raises InvalidInput, by line, for what is no approval.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return frozenset()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as approvals: {error}.") from None
    found = set()
    for number, line in enumerate(lines, start=1):
        head = line.split("#", 1)[0].strip()
        if head and not _HASH.fullmatch(head):
            raise InvalidInput(f"{path}, line {number}: expected the hash of a bundle, and perhaps # with a note; found {shown(line)}.")
        found.add(head)
    return frozenset(found - {""})


def approve(path: str | Path, bundle: str, note: str) -> None:
    """Add the hash of a bundle, with a note of who and when, which becomes one line. Raises InvalidInput for what is no hash."""
    check_hash("An approval", bundle)
    line = " ".join(ascii(note)[1:-1].split())
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{bundle}  # {line}\n")
