"""People who ask the server: tokens that are shown once, roles, and who may do what with whose study."""

from __future__ import annotations

import hmac
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal, get_args

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, NotAuthorized
from manent.core.randomness import PrivateRandom
from manent.core.store import Snapshot, Store
from manent.crypto import SystemRandom
from manent.network.trust.identity import check_name
from manent.network.trust.journal import note

Role = Literal["viewer", "researcher", "administrator"]
Action = Literal["see", "model", "submit", "stop"]
""""see": statement, history, and how a study stands; "model": its result; "submit" a study; "stop" it."""
ROLES: Final[tuple[Role, ...]] = get_args(Role)
PREFIX: Final = "manent-token-1."
_TOKEN: Final = re.compile(r"manent-token-1\.([0-9a-f]{16})\.[0-9a-f]{64}")
_NOBODY: Final = "0" * 64
_KEY: Final = "person/"

_ANY: Final[Mapping[Role, frozenset[Action]]] = {
    "viewer": frozenset({"see"}),
    "researcher": frozenset({"submit"}),
    "administrator": frozenset({"see", "model", "submit", "stop"}),
}
_OWN: Final[Mapping[Role, frozenset[Action]]] = {
    "viewer": frozenset(),
    "researcher": frozenset({"see", "model", "stop"}),
    "administrator": frozenset(),
}


@dataclass(frozen=True)
class Person:
    """Someone with a token.

    Attributes:
        name: one person's.
        role: what they may do; see `may`.
        id: of the token.
        since: when the token was given, in seconds since the epoch.
        revoked: when it was revoked; None for a valid token.
    """

    name: str
    role: Role
    id: str
    since: float
    revoked: float | None = None

    @property
    def actor(self) -> str:
        """How the audit log and studies name the person."""
        return f"person:{self.name}"


def may(person: Person, action: Action, owner: str | None = None) -> bool:
    """Whether a person may do this with the study of this owner, or at all if no owner is given.

    Args:
        owner: an `actor`.

    | role | own studies | all studies |
    |---|---|---|
    | viewer | | see |
    | researcher | see, model, stop | submit |
    | administrator | | see, model, submit, stop |
    """
    return action in _ANY[person.role] or (owner == person.actor and action in _OWN[person.role])


class People:
    """The people of a server, in its store. Only the SHA-256 of a token is kept: 256 random bits need no slow hash.

    A name stands for one person. Whoever gets a new token under a name whose token was revoked owns what that name owned.

    Args:
        store: the server's.
        clock: seconds since the epoch.
        random: where tokens come from; never seeded outside tests.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time, random: PrivateRandom | None = None) -> None:
        self._store, self._clock, self._random = store, clock, random or SystemRandom()

    def create(self, name: str, role: str, by: str = "operator") -> str:
        """A new token for someone. It can be shown only once.

        Args:
            by: who gives it, for the audit log.

        Raises InvalidInput for a name that does not fit or has a valid token, and for another role.
        """
        check_name(name)
        if role not in ROLES:
            raise InvalidInput(f"A role is one of {', '.join(ROLES)}; found {role!a:.40}.")
        id = self._random.bytes(8).hex()
        token = f"{PREFIX}{id}.{self._random.bytes(32).hex()}"
        values = {"name": name, "role": role, "since": self._clock(), "revoked": None, "hash": _hash(token)}
        with self._store.transaction() as transaction:
            if any(known.name == name and known.revoked is None for known in _all(transaction)):
                raise InvalidInput(f"{name} has a token already; revoke it first, and a new one takes its place.")
            transaction.put(_KEY + id, canonical(values))
            note(transaction, self._clock(), by, "person added", name, {"role": role, "token": id})
        return token

    def check(self, token: str) -> Person:
        """Whose token it is. Raises NotAuthorized, in the same words, for a token that is unknown, wrong or revoked."""
        found = _TOKEN.fullmatch(token)
        id = "" if found is None else found[1]
        with self._store.snapshot() as view:
            document = view.get(_KEY + id) if id else None
        values = {} if document is None else json.loads(document)
        sound = hmac.compare_digest(_hash(token), str(values.get("hash", _NOBODY)))
        if not sound or values.get("revoked") is not None:
            raise NotAuthorized("This token is unknown or was revoked. Ask the server's operator for one: manent people add")
        return _person(id, values)

    def revoke(self, name: str, by: str = "operator") -> None:
        """Take back someone's token, from now on. Raises InvalidInput if nobody of this name has one."""
        with self._store.transaction() as transaction:
            found = next((known for known in _all(transaction) if known.name == name and known.revoked is None), None)
            if found is None:
                names = ", ".join(sorted(known.name for known in _all(transaction) if known.revoked is None))
                raise InvalidInput(f"{name!a:.80} has no token; there are: {names or 'none'}.")
            values = json.loads(transaction.get(_KEY + found.id) or b"{}")
            transaction.put(_KEY + found.id, canonical({**values, "revoked": self._clock()}))
            note(transaction, self._clock(), by, "person revoked", name, {"role": found.role, "token": found.id})

    def list(self) -> tuple[Person, ...]:
        """Everyone who has or had a token, by name and time."""
        with self._store.snapshot() as view:
            return tuple(sorted(_all(view), key=lambda person: (person.name, person.since)))


def _hash(token: str) -> str:
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _all(view: Snapshot) -> list[Person]:
    keys = view.keys(_KEY)
    return [_person(key.removeprefix(_KEY), json.loads(view.get(key) or b"{}")) for key in keys]


def _person(id: str, values: Mapping[str, Any]) -> Person:
    if values["role"] not in ROLES:
        raise NotAuthorized(f"The token of {values['name']} has a role that this manent does not know; revoke it.")
    return Person(values["name"], values["role"], id, values["since"], values["revoked"])
