"""Who may take part: a numbered list of identities that expires, signed by the consortium's offline key."""

from __future__ import annotations

import difflib
import hmac
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, NotAuthorized
from manent.core.validate import is_count
from manent.crypto import SigningKey
from manent.crypto import verify as signature_holds
from manent.crypto.digest import digest
from manent.network.trust.identity import Identity, check_name, create_file, from_hex, read_file, read_json, replace_file
from manent.rounds import strict
from manent.summation.parties.call import Roster

FORMAT: Final = "manent roster 1"
BOOK_FORMAT: Final = "manent roster book 1"
LARGEST: Final = 1 << 24
"""Most bytes of an encoded roster: some 100,000 sites."""
CLOCK: Final = 3600
"""Seconds by which a signer's clock may be ahead of a site's. If it is further ahead, one is wrong, and expiry means nothing."""
DAY: Final = 86400
_MOST: Final = 2**53  # every JSON reader keeps smaller whole numbers exactly


@dataclass(frozen=True)
class Entry:
    """One identity.

    Attributes:
        name: as `identity.check_name` allows.
        public: its key, 64 hexadecimal digits.
        since: seconds since 1970 (UTC).

    Raises InvalidInput for anything else.
    """

    name: str
    public: str
    since: int

    def __post_init__(self) -> None:
        check_name(self.name)
        from_hex(f"The public key of {self.name}", self.public, 32)
        _check_number("since", self.since)


@dataclass(frozen=True)
class SignedRoster:
    """A roster as it travels. Do not trust one that was read before `verify` has passed.

    Attributes:
        number: one more with each signing.
        issued, expires: seconds since 1970 (UTC).
        entries: the sites.
        signer: public key, 64 hexadecimal digits.
        signature: 128 hexadecimal digits.

    Raises InvalidInput for numbers outside 0 to 2**53 - 1, and for other digits.
    """

    number: int
    issued: int
    expires: int
    entries: tuple[Entry, ...]
    signer: str
    signature: str

    def __post_init__(self) -> None:
        _check_number("number", self.number)
        _check_number("issued", self.issued)
        _check_number("expires", self.expires)
        from_hex("A roster's signer", self.signer, 32)
        from_hex("A roster's signature", self.signature, 64)

    @classmethod
    def sign(cls, key: SigningKey, number: int, issued: int, expires: int, entries: tuple[Entry, ...]) -> SignedRoster:
        """A signed roster of these entries, under a number and a date."""
        unsigned = cls(number, issued, expires, entries, key.public.hex(), "0" * 128)
        return replace(unsigned, signature=key.sign(unsigned._signed).hex())

    @property
    def _signed(self) -> bytes:
        content = asdict(self)
        del content["signature"]
        return digest(FORMAT, canonical(content))

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical({"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, data: bytes) -> SignedRoster:
        """The roster in bytes, not verified yet. Raises InvalidInput for bytes that are no roster."""
        if len(data) > LARGEST:
            raise InvalidInput(f"A roster has at most {LARGEST:,} bytes; found {len(data):,}.")
        table = _table(data, FORMAT, "the roster")
        found: SignedRoster = strict.read(cls, table, "the roster", _entry, whole=True)
        return found

    def verify(self, consortium_public: bytes, now: float, newest_seen: int = 0, root_seen: bytes | None = None) -> Roster:
        """Check the roster, and return it as secure aggregation uses it.

        Args:
            consortium_public: the key that the site was given when it joined, 32 bytes.
            now: seconds since 1970 (UTC).
            newest_seen: number of the newest roster that was verified before.
            root_seen: that roster's root. With it, another roster of the same number is refused too.

        Raises NotAuthorized, with the reason, for a roster that is signed by another key, altered, older, expired, issued more
        than an hour in the future, or that names somebody twice.
        """
        if not hmac.compare_digest(bytes.fromhex(self.signer), consortium_public):
            raise _refused(f"it is signed by {self.signer}, not by the consortium's key {consortium_public.hex()}")
        if not signature_holds(consortium_public, self._signed, bytes.fromhex(self.signature)):
            raise _refused("its signature does not hold, so it was altered after signing, or forged")
        if self.number < newest_seen:
            raise _refused(f"it is older (number {self.number}) than the newest seen (number {newest_seen})")
        if now >= self.expires:
            raise _refused(f"it expired {_ago(now - self.expires)} ago; the consortium has to sign a new one")
        if now < self.issued - CLOCK:
            raise _refused(f"it was signed {_ago(self.issued - now)} in the future; set the clock, here or at the signer's")
        names, keys = [entry.name for entry in self.entries], [entry.public for entry in self.entries]
        if len(set(names)) < len(names) or len(set(keys)) < len(keys):
            raise _refused("it names a site or a key twice")
        found = Roster.of(self.number, [bytes.fromhex(key) for key in keys])
        if root_seen is not None and self.number == newest_seen and found.root != root_seen:
            raise _refused(f"another roster of the same number {self.number} was seen before")
        return found

    @property
    def names(self) -> Mapping[str, str]:
        """Names by public key in hexadecimal, for people to read."""
        return {entry.public: entry.name for entry in self.entries}

    @property
    def keys(self) -> Mapping[str, bytes]:
        """Public keys as bytes, by their hexadecimal form: what `Verifier` looks keys up in."""
        return {entry.public: bytes.fromhex(entry.public) for entry in self.entries}


@dataclass(frozen=True)
class RosterBook:
    """The consortium's working copy: a folder with the book, the roster that was signed last, and (unless it is kept elsewhere)
    the key.

    Every change is written at once. Sites see it after it was signed and handed to the server.

    Attributes:
        folder: where the book lies.
        signer: the consortium's public key in hexadecimal.
        number: of the roster that was signed last; 0 before the first.
        entries: the sites.
    """

    folder: str
    signer: str
    number: int = 0
    entries: tuple[Entry, ...] = ()

    @classmethod
    def create(cls, folder: str | Path, name: str, key: str | Path | None = None) -> RosterBook:
        """A new consortium: its key, and an empty book.

        Args:
            name: the consortium's.
            key: where the key goes, such as a removable disk; by default into the folder.

        Raises InvalidInput if there is a book or a key already.
        """
        folder = Path(folder)
        if cls._book(folder).exists():
            raise InvalidInput(f"{cls._book(folder)} exists, and is not overwritten. Name another folder.")
        identity = Identity.create(key or cls.key_path(folder), name)
        book = cls(str(folder), identity.public_hex)
        create_file(cls._book(folder), book._encoded)
        return book

    @classmethod
    def load(cls, folder: str | Path) -> RosterBook:
        """The book in a folder. Raises InvalidInput if there is none."""
        folder = Path(folder)
        path = cls._book(folder)
        if not path.exists():
            raise InvalidInput(f"There is no roster book in {folder}; begin one with: manent roster init NAME --folder {folder}")
        table = _table(read_file(path, LARGEST), BOOK_FORMAT, str(path))
        found: RosterBook = strict.read(cls, {**table, "folder": str(folder)}, str(path), _entry, whole=True)
        return found

    @staticmethod
    def key_path(folder: str | Path) -> Path:
        """Where the consortium's key is, unless it was put elsewhere."""
        return Path(folder) / "consortium.key"

    @staticmethod
    def roster_path(folder: str | Path) -> Path:
        """The roster that was signed last; it is what the server is given."""
        return Path(folder) / "roster.json"

    def add(self, name: str, public: str, now: float) -> RosterBook:
        """The book with one more site. Raises InvalidInput if it has the name or the key already."""
        entry = Entry(name, public, int(now))
        for known in self.entries:
            if name == known.name or public == known.public:
                raise InvalidInput(f"The book has {known.name} with the key {known.public}; remove it first.")
        return replace(self, entries=(*self.entries, entry))._write()

    def remove(self, name: str) -> RosterBook:
        """The book without a site. Raises InvalidInput if it has no such site.

        The server and the other sites refuse the site once they have the next roster.
        """
        names = [entry.name for entry in self.entries]
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise InvalidInput(
                f"The book has no {name!a}; " + (f"did you mean {near[0]}?" if near else "see: manent roster show")
            )
        return replace(self, entries=tuple(entry for entry in self.entries if entry.name != name))._write()

    def sign(self, key: SigningKey, now: float, days: int = 90) -> tuple[RosterBook, SignedRoster]:
        """Sign the entries under the next number, and write the roster to `roster_path`.

        Args:
            key: the consortium's.
            now: seconds since 1970 (UTC).
            days: after which sites refuse the roster, 1 to 3650.

        Raises InvalidInput for another key, or another number of days.
        """
        if key.public.hex() != self.signer:
            raise InvalidInput(
                f"This book is signed with {self.signer}; the key given is {key.public.hex()}. Name the file with the book's key."
            )
        if not (is_count(days) and days <= 3650):
            raise InvalidInput(f"A roster is valid for 1 to 3650 days; found {days}.")
        signed = SignedRoster.sign(key, self.number + 1, int(now), int(now) + days * DAY, self.entries)
        # The book is written first: if this is interrupted, a number is skipped rather than used twice.
        book = replace(self, number=signed.number)._write()
        replace_file(self.roster_path(self.folder), signed.encode() + b"\n")
        return book, signed

    @staticmethod
    def _book(folder: str | Path) -> Path:
        return Path(folder) / "book.json"

    @property
    def _encoded(self) -> bytes:
        content: dict[str, Any] = asdict(self)
        del content["folder"]
        return canonical({"format": BOOK_FORMAT, **content}) + b"\n"

    def _write(self) -> RosterBook:
        replace_file(self._book(self.folder), self._encoded)
        return self


def trusted(signer: str, quick_start: bool) -> str:
    """Who is trusted about who takes part: a line for a study's statement.

    Args:
        signer: public key by which rosters are signed, in hexadecimal.
        quick_start: whether that is the server's own key.
    """
    if quick_start:
        return (
            f"Who takes part is what the server says: it signs the roster itself (a quick start, key {signer[:16]}). One that "
            f"makes up sites can sum a single real site with sites of its own, and see that one's numbers."
        )
    return (
        f"Who takes part is what the consortium says: it signs the roster with the key {signer[:16]}, which is kept from the "
        f"server. The server can neither add a site nor show an older roster; trusted is whoever holds that key."
    )


def read_roster(path: str | Path) -> SignedRoster:
    """The roster in a file, not verified yet. Raises InvalidInput for a file that holds none."""
    return SignedRoster.read(read_file(Path(path), LARGEST + 1).removesuffix(b"\n"))


def _table(data: bytes, format: str, where: str) -> dict[str, Any]:
    values = read_json(data, where)
    if not isinstance(values, dict) or values.pop("format", None) != format:
        raise InvalidInput(f"{where} is not of the format {format!r}; this manent reads no other.")
    return values


def _entry(annotation: object, table: Mapping[str, Any], where: str) -> Any:
    if annotation is not Entry:
        raise InvalidInput(f"{where} should hold no table.")
    return strict.read(Entry, table, where, _entry, whole=True)


def _check_number(name: str, value: object) -> None:
    if type(value) is not int or not 0 <= value < _MOST:
        raise InvalidInput(f"A roster expects {name} as a whole number of at least 0 and below 2**53; found {value!a:.40}.")


def _refused(reason: str) -> NotAuthorized:
    return NotAuthorized(f"This roster is refused: {reason}.")


def _ago(seconds: float) -> str:
    return f"{seconds / DAY:.1f} days" if seconds > DAY else f"{seconds / 3600:.1f} hours"
