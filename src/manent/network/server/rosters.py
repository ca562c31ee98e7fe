"""Rosters as the server keeps them: all numbers that were signed, as sums go on under the roster with which they began."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from hashlib import sha256

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, NotAuthorized
from manent.core.store import Snapshot, Store, Transaction
from manent.crypto import SigningKey
from manent.network.server.documents import beat
from manent.network.trust.identity import Identity, check_name, from_hex
from manent.network.trust.join import JoinToken
from manent.network.trust.journal import note
from manent.network.trust.roster import Entry, SignedRoster
from manent.summation.parties.call import Roster

NEWEST = "roster/newest"
SIGNER = "consortium"  # the key of its public key; empty in a quick start
_JOINING = "joining/"
YEAR = 365 * 86400
MOST_NAMED = 100  # sites that the audit log names of one change
MOST_KNOWN = 4  # rosters in memory
_Known = tuple[SignedRoster, Roster, Mapping[str, str]]


def _key(number: int) -> str:
    return f"roster/{number:012d}"


def settle(store: Store, consortium: bytes | None) -> bytes | None:
    """Fix by whose key rosters are signed. A server settles this once, when it first starts.

    Args:
        consortium: the consortium's public key, 32 bytes; None for a quick start, and for a server that has started before.

    Returns:
        The consortium's public key; None in a quick start.

    Raises:
        InvalidInput: for another key than the server first started with, as its sites know it by that one.
    """
    with store.transaction() as transaction:
        known = transaction.get(SIGNER)
        if known is None:
            transaction.put(SIGNER, b"" if consortium is None else consortium.hex().encode())
            return consortium
    if consortium is not None and known.decode() != consortium.hex():
        began = f"takes rosters signed by {known.decode()}" if known else "signs its own rosters (a quick start)"
        raise InvalidInput(
            f"This server {began}, and its sites know it so; the consortium given is {consortium.hex()}. Begin a server in "
            f"another folder, and let the sites join that one."
        )
    return bytes.fromhex(known.decode()) if known else None


class Rosters:
    """Who may take part.

    In a quick start the server signs a new roster for whoever joins with an invitation. With a consortium it only passes on the
    rosters that the consortium has signed.

    Args:
        identity: the server's, which signs in a quick start; None if rosters are only handed in.
        consortium: public key by which rosters are signed, 32 bytes; None in a quick start.
    """

    def __init__(self, store: Store, identity: Identity | None, consortium: bytes | None) -> None:
        self._store, self._identity, self._consortium = store, identity, consortium
        self._known: dict[int, _Known] = {}
        self._lock = threading.Lock()

    @property
    def signer(self) -> bytes:
        """The public key by which rosters are signed."""
        return self._consortium or self._own.public

    @property
    def _own(self) -> SigningKey:
        if self._identity is None:
            raise InvalidInput("This server signs its own rosters, from whoever joins with its invitation; it takes no others.")
        return self._identity.signing_key

    def newest(self, view: Snapshot) -> int:
        """The newest number; 0 before the first roster."""
        return int(view.get(NEWEST) or b"0")

    def signed(self, view: Snapshot, number: int) -> SignedRoster:
        """A roster as it was signed. Raises InvalidInput for an unknown number."""
        return self._all(view, number)[0]

    def roster(self, view: Snapshot, number: int) -> Roster:
        """A roster as sums use it. Raises InvalidInput for an unknown number."""
        return self._all(view, number)[1]

    def members(self, view: Snapshot) -> Mapping[str, str]:
        """Names by public key, of the newest roster."""
        number = self.newest(view)
        return self._all(view, number)[2] if number else {}

    def _all(self, view: Snapshot, number: int) -> _Known:
        with self._lock:
            found = self._known.get(number)
            if found is None:
                document = view.get(_key(number))
                if document is None:
                    raise InvalidInput(f"There is no roster {number}." if number else "There is no roster yet.")
                found = self._remember(SignedRoster.read(document))
            return found

    def _remember(self, signed: SignedRoster) -> _Known:
        """Keep what was made of a roster in memory. Only the last few are kept, as each takes memory for every site."""
        roster = Roster.of(signed.number, [bytes.fromhex(entry.public) for entry in signed.entries])
        self._known[signed.number] = found = signed, roster, dict(signed.names)
        while len(self._known) > MOST_KNOWN:
            del self._known[min(self._known)]
        return found

    def publish(self, signed: SignedRoster, now: float) -> bool:
        """Take a roster that the consortium has signed. Returns False if it was taken before.

        Raises:
            NotAuthorized: if its signature does not hold, it is older than the newest, or it differs from a roster of the same
                number.
            InvalidInput: in a quick start.
        """
        with self._store.transaction() as transaction:
            newest = self.newest(transaction)
            known = self.roster(transaction, newest).root if newest else None
            signed.verify(self.signer, now, newest, known)
            if signed.number > newest:
                self._put(transaction, signed, now)
            return signed.number > newest

    def waiting(self, view: Snapshot) -> Mapping[str, str]:
        """Names by public key of those who asked to join and are not on the newest roster."""
        members = self.members(view)
        asked = {key.removeprefix(_JOINING): (view.get(key) or b"").decode() for key in view.keys(_JOINING)}
        return {public: name for public, name in asked.items() if public not in members}

    def _put(self, transaction: Transaction, signed: SignedRoster, now: float) -> None:
        before, after = set(self.members(transaction).items()), set(signed.names.items())
        added, removed = ([name for _, name in sorted(found)[:MOST_NAMED]] for found in (after - before, before - after))
        by = "server" if self._consortium is None else "consortium"
        change = {"signer": signed.signer, "sites": len(after), "added": added, "removed": removed}
        note(transaction, now, by, "roster", str(signed.number), change)
        transaction.put(_key(signed.number), signed.encode())
        transaction.put(NEWEST, str(signed.number).encode())
        beat(transaction)

    def invite(self, token: JoinToken, uses: int) -> None:
        """Let so many sites join with this invitation. Repeating it changes nothing."""
        with self._store.transaction() as transaction:
            if transaction.get(_invitation(token.secret)) is None:
                transaction.put(_invitation(token.secret), canonical({"uses": uses}))

    def join(self, secret: str, name: str, public: str, now: float) -> bool:
        """Ask to join; repeating it changes nothing.

        Returns:
            Whether the site is on the roster now. If not, it waits for the consortium to sign the next one.

        Raises:
            NotAuthorized: for a secret that was not given out or is used up.
            InvalidInput: for a name or a key that another site has.
        """
        check_name(name)
        from_hex("A site's public key", public, 32)
        with self._store.transaction() as transaction:
            members = self.members(transaction)
            if members.get(public) == name or (self._consortium is not None and public in members):
                return True  # the consortium may name a site as it likes
            if name in members.values() or public in members:
                raise InvalidInput(f"There is another site of the name {name!r}, or with this key; choose another name.")
            asked = transaction.get(_JOINING + public) == name.encode()
            if not asked:
                self._use(transaction, secret)
                transaction.put(_JOINING + public, name.encode())
                note(transaction, now, f"site:{public}", "join", name)
            if self._consortium is not None:
                return False
            number = self.newest(transaction)
            entries = self.signed(transaction, number).entries if number else ()
            entries = (*entries, Entry(name, public, int(now)))
            expires = int(now) + 10 * YEAR
            self._put(transaction, SignedRoster.sign(self._own, number + 1, int(now), expires, entries), now)
            return True

    def _use(self, transaction: Transaction, secret: str) -> None:
        document = transaction.get(_invitation(secret))
        left = 0 if document is None else int(json.loads(document)["uses"])
        if left < 1:
            raise NotAuthorized("This invitation was not given out by this server, or is used up. Ask its operator for another.")
        transaction.put(_invitation(secret), canonical({"uses": left - 1}))


def _invitation(secret: str) -> str:
    return f"invitation/{sha256(secret.encode()).hexdigest()}"
