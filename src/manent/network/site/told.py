"""Checks of what a server says to a site, before anything of it is used: the server may lie, and some names become file names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from manent.core.errors import ProtocolAbort

_HASH = re.compile(r"[0-9a-f]{64}")
_SUM = re.compile(r"[0-9a-f]{64}-[0-9]{1,9}-[0-9]{1,9}")
_MOST = 2**63
Fits = Callable[[object], bool]


def _text(value: object) -> bool:
    return isinstance(value, str)


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _yes_or_no(value: object) -> bool:
    return isinstance(value, bool)


def _hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _sum(value: object) -> bool:
    return isinstance(value, str) and _SUM.fullmatch(value) is not None


def _digits(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"([0-9a-f]{2})*", value) is not None


_STUDY: Mapping[str, Fits] = {
    "hash": _hash, "name": _text, "phase": _text, "reason": _text, "roster": _whole, "seed": _whole, "decided": _yes_or_no,
}  # fmt: skip
_ABOUT: Mapping[str, Fits] = {
    "id": _sum, "name": _text, "call": _digits, "roster": _whole, "assignment": _hash, "state": _text, "included": _yes_or_no,
}  # fmt: skip


def tasks(body: bytes) -> dict[str, Any]:
    """Studies, sums that ask this site, and the number of the newest roster. Raises ProtocolAbort for anything else."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    listed: Mapping[str, Fits] = {"studies": _is_list, "sums": _is_list, "roster": _whole}
    known = _checked("list of tasks", found, listed)
    for study in known["studies"]:
        _checked("study", study, _STUDY)
    if not all(_sum(id) for id in known["sums"]):
        raise ProtocolAbort("The server lists a sum whose id is malformed.")
    return known


def sum(id: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """How the sum of this id stands. Raises ProtocolAbort for anything else."""
    found = _checked("sum", values, _ABOUT)
    if found["id"] != id:
        raise ProtocolAbort(f"The server was asked about sum {id}, and answered about another.")
    return found


def length(values: Mapping[str, Any], minimum: int, most: int) -> int:
    """How many bytes of an upload have arrived. Raises ProtocolAbort unless that is a number from `minimum` to `most`."""
    found = _checked("upload", values, {"length": _whole})["length"]
    if not minimum <= found <= most:
        raise ProtocolAbort(f"The server has {found:,} bytes of an upload; expected {minimum:,} to {most:,}.")
    return int(found)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _checked(what: str, values: object, wanted: Mapping[str, Fits]) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ProtocolAbort(f"The server's {what} is not a JSON object.")
    for name, fits in wanted.items():
        if name not in values or not fits(values[name]):
            raise ProtocolAbort(f"The server's {what} lacks {name!r}, or its value does not fit.")
    return values
