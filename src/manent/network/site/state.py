"""What a site keeps: its server, rosters, decisions, the logs of its parties, and its clients' memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, NotAuthorized, ProtocolAbort
from manent.core.store import Snapshot, Store, Transaction
from manent.core.vectors import Vector
from manent.network.trust.identity import Identity, read_file
from manent.network.trust.receipts import Receipt, Receipts
from manent.network.trust.roster import SignedRoster
from manent.network.wire.bundle import MOST_BYTES, Bundle
from manent.storage import open_store
from manent.storage.blobs import Blobs
from manent.summation.parties.call import Roster

IDENTITY, POLICY, APPROVALS, STORE = "identity.key", "policy.toml", "approvals.txt", "site.db"
LEFT = "The site has left the study."
INLINE = 1 << 16
HEAD = 32  # bytes before the memory in its blob


@dataclass(frozen=True)
class Server:
    """The server that a site has joined.

    Attributes:
        url: without a slash at its end.
        pin: SHA-256 of its certificate in hexadecimal; None if an authority vouches for it.
        public: the server's public key, in hexadecimal.
        signer: public key by which rosters are signed, in hexadecimal.
        quick_start: whether that is the server's own key, so that the server says who takes part.
    """

    url: str
    pin: str | None
    public: str
    signer: str
    quick_start: bool


@dataclass(frozen=True)
class Known:
    """A study as the site has decided about it.

    Attributes:
        hash: of the study.
        bundle: digest of its bundle.
        accepted, reason: the decision, and why.
        roster: number of the roster that it was planned for.
        seed: of its repeatable randomness.
        round, index: the last sum in which the site took part.
        kinds: by kind of sum, the last round in which the site took part in one.
        sent: to how many sums that are over the site has sent its vector.
        reservation: of the site's ledger, or "".
        steps: how much of the reservation one sum uses; 0 if none of it is given back sum by sum.
        told: whether the server knows of the decision.
        later: whether it was refused for the moment only.
        over: whether the study is over for this site.
    """

    hash: str
    bundle: str
    accepted: bool
    reason: str
    roster: int
    seed: int
    round: int = 0
    index: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    reservation: str = ""
    steps: int = 0
    told: bool = False
    later: bool = False
    over: bool = False


@dataclass(frozen=True)
class Task:
    """A sum in which the site takes part.

    Attributes:
        id: "STUDY-ROUND-INDEX".
        name: its kind.
        count: how many sites are asked; 0 where that is secret.
        model: digest of what clients were sent for it.
        after: digest of the last message of the server that was taken in.
        upload: digest of the message with the site's term; "" before it is made.
        attempt: in which that message was sent; 0 before.
    """

    id: str
    study: str
    name: str
    round: int
    index: int
    roster: int
    count: int
    model: str
    after: str = ""
    upload: str = ""
    attempt: int = 0

    def followed(self, known: Known) -> Known:
        """The study after this sum of it."""
        kinds, sent = {**known.kinds, self.name: self.round}, known.sent + bool(self.upload)
        return replace(known, round=self.round, index=self.index, kinds=kinds, sent=sent)


class SiteState:
    """A site's folder. Everything that matters is in its store, and is changed in transactions.

    Raises InvalidInput for a folder without an identity.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / IDENTITY).exists():
            raise InvalidInput(
                f"{self.folder} is no site's folder; name another with --folder, or begin a site: manent site init NAME --folder "
                f"{self.folder}"
            )
        self.identity = Identity.load(self.folder / IDENTITY)
        self.store: Store = open_store(self.folder / STORE)
        self.blobs = Blobs(self.folder / "blobs")
        self.receipts = Receipts(self.store, self.identity)

    @classmethod
    def create(cls, folder: str | Path, name: str) -> SiteState:
        """A new site with a new identity. Its folder is readable by its user only, as it will hold keys, rows and vectors."""
        Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        Identity.create(Path(folder) / IDENTITY, name)
        return cls(folder)

    # Documents.

    def get(self, key: str) -> dict[str, Any] | None:
        """A document as plain data, or None."""
        with self.store.snapshot() as view:
            document = view.get(key)
        found: dict[str, Any] | None = None if document is None else json.loads(document)
        return found

    @property
    def server(self) -> Server:
        """The server that the site has joined. Raises InvalidInput if it has joined none."""
        found = self.get("server")
        if found is None:
            raise InvalidInput(f"The site in {self.folder} has joined no server yet; join one with: manent site join TOKEN")
        return Server(**found)

    def put_server(self, server: Server) -> None:
        """Keep which server the site has joined."""
        with self.store.transaction() as transaction:
            transaction.put("server", canonical(asdict(server)))

    def study(self, hash: str) -> Known | None:
        """A study that the site has decided about, or None."""
        found = self.get(f"study/{hash}")
        return None if found is None else Known(**found)

    def studies(self) -> list[Known]:
        """Every study that the site has decided about."""
        with self.store.snapshot() as view:
            keys = view.keys("study/")
            return [Known(**json.loads(view.get(key) or b"{}")) for key in keys]

    def untouched(self, hash: str) -> bool:
        """Whether nothing was done for a study yet, so that the site may decide about it anew."""
        with self.store.snapshot() as view:
            return _untouched(view, hash)

    def put_study(self, known: Known) -> Known:
        """Keep a decision about a study. If something was done for the study already, the decision that there is stays.

        Returns the decision that is kept.
        """
        with self.store.transaction() as transaction:
            if not _untouched(transaction, known.hash):
                return _study(transaction, known.hash)
            transaction.put(f"study/{known.hash}", canonical(asdict(known)))
            return known

    def change_study(self, hash: str, change: Callable[[Known], Known]) -> Known:
        """Change a study as it stands now, in one transaction.

        A thread must not write back what it read earlier: with a server that delays its answers, that could undo how far the site
        has come. Raises InvalidInput for an unknown study.
        """
        with self.store.transaction() as transaction:
            return _changed(transaction, hash, change)

    def close(self, hash: str) -> Known | None:
        """Note that a study is over, so that no sum of it begins any more.

        Returns None, and notes nothing, while a sum is under way, or if it was noted before.
        """
        with self.store.transaction() as transaction:
            if _study(transaction, hash).over or transaction.keys(f"task/{hash}-"):
                return None
            return _changed(transaction, hash, lambda known: replace(known, over=True))

    def leave(self, hash: str) -> Known:
        """Take part in no further sum of a study."""
        return self.change_study(hash, lambda k: replace(k, accepted=False, later=False, told=False, reason=LEFT))

    def bundle_path(self, hash: str) -> Path:
        """Where a study's bundle lies. Raises InvalidInput for what is no hash."""
        if not re.fullmatch(r"[0-9a-f]{64}", hash):
            raise InvalidInput("A study is named by 64 hexadecimal digits.")
        return self.folder / "bundles" / hash

    def bundle(self, hash: str) -> Bundle:
        """A study's bundle as it was fetched."""
        return Bundle.read(read_file(self.bundle_path(hash), MOST_BYTES + 1024))

    # Rosters.

    @property
    def newest_roster(self) -> int:
        """The number of the newest roster that the site has verified; 0 before the first."""
        found = self.get("roster")
        return 0 if found is None else int(found["number"])

    def signed_roster(self, number: int) -> SignedRoster | None:
        """A roster that was verified before, or None."""
        with self.store.snapshot() as view:
            document = view.get(f"rosters/{number:012d}")
        return None if document is None else SignedRoster.read(document)

    def take_roster(self, signed: SignedRoster, signer: bytes, now: float) -> Roster:
        """Verify a roster, keep it, and return it as sums use it.

        An older roster than the newest is taken only if everyone on it is still on the newest, under the same name and key: then
        the newest, which must not have expired, vouches for it.

        Raises NotAuthorized for any other.
        """
        newest = self.newest_roster
        latest = self.signed_roster(newest) if newest else None
        if latest is None or signed.number >= newest:
            root = None if latest is None else _roster(latest).root
            found = signed.verify(signer, now, newest, root)
        else:
            latest.verify(signer, now)
            found = signed.verify(signer, min(now, signed.expires - 1))
            gone = set(signed.names.items()) - set(latest.names.items())
            if gone:
                raise NotAuthorized(
                    f"Roster {signed.number} is older than {newest}, and names {sorted(gone)[0][1]}, who has left."
                )
        with self.store.transaction() as transaction:
            transaction.put(f"rosters/{signed.number:012d}", signed.encode())
            if signed.number > newest:
                transaction.put("roster", canonical({"number": signed.number}))
        return found

    # Sums.

    def tasks(self) -> list[Task]:
        """The sums that are under way for this site."""
        with self.store.snapshot() as view:
            return [Task(**json.loads(view.get(key) or b"{}")) for key in view.keys("task/")]

    def begin(self, task: Task) -> None:
        """Keep a sum that the site is to take part in. Raises ProtocolAbort if its study is over, or the site has left it."""
        with self.store.transaction() as transaction:
            known = _study(transaction, task.study)
            if known.over:
                raise ProtocolAbort(
                    f"Sum {task.id} comes after the end of its study, whose reserved budget may be given back already."
                )
            if not known.accepted:
                raise ProtocolAbort(f"This site takes no part in the study of sum {task.id}.")
            transaction.put(f"task/{task.id}", canonical(asdict(task)))

    def records(self, id: str) -> list[bytes]:
        """The log of a sum's party."""
        with self.store.snapshot() as view:
            rows = [view.get(key) or b"" for key in view.keys(f"party/{id}/")]
        return [row[1:] if row[:1] == b"\x00" else b"".join(self.blobs.read(row[1:].hex())) for row in rows]

    def keep(
        self,
        task: Task,
        records: Sequence[bytes],
        memory: Vector | None = None,
        spend: Callable[[Transaction], None] | None = None,
    ) -> None:
        """Append to the log of a sum's party.

        Args:
            memory: float32[m], what the client keeps if its term is in the sum; staged until then.
            spend: records what is spent by sending these records, in the same transaction; where it raises, nothing is kept.
        """
        rows = [b"\x00" + r if len(r) <= INLINE else b"\x01" + bytes.fromhex(self.blobs.put([r])) for r in records]
        # Equal content is one blob. The head keeps this blob apart from an equal memory of another study.
        head = sha256(task.id.encode()).digest()
        staged = None if memory is None else self.blobs.put([head, np.ascontiguousarray(memory, np.float32).tobytes()])
        with self.store.transaction() as transaction:
            if spend is not None:
                spend(transaction)
            count = len(transaction.keys(f"party/{task.id}/"))
            for number, row in enumerate(rows, start=count):
                transaction.put(f"party/{task.id}/{number:06d}", row)
            if staged is not None:
                transaction.put(f"staged/{task.id}", staged.encode())
            transaction.put(f"task/{task.id}", canonical(asdict(task)))

    def restart(self, task: Task) -> Task:
        """Forget the log of a party that has not uploaded, so that it can take part in another attempt."""
        with self.store.transaction() as transaction:
            gone = self._forget(transaction, task.id)
            transaction.put(f"task/{task.id}", canonical(asdict(task)))
        for digest in gone:
            self.blobs.remove(digest)
        return task

    def memory(self, study: str) -> Vector | None:
        """What the site's client keeps of a study, float32[m]; None before it has kept anything."""
        with self.store.snapshot() as view:
            digest = view.get(f"memory/{study}")
        return None if digest is None else np.frombuffer(b"".join(self.blobs.read(digest.decode())), np.float32, offset=HEAD)

    def finish(self, task: Task, included: bool, receipt: Receipt | None = None) -> None:
        """End a sum: keep or drop the staged memory, forget the party's secrets, and leave a receipt.

        Args:
            included: whether the site's term is in the released sum; only then does the memory count.
        """
        with self.store.transaction() as transaction:
            if receipt is not None:
                self.receipts.add(transaction, receipt)
            gone = self._forget(transaction, task.id)
            staged, before = transaction.get(f"staged/{task.id}"), transaction.get(f"memory/{task.study}")
            if staged is not None:
                transaction.remove(f"staged/{task.id}")
                if included:
                    transaction.put(f"memory/{task.study}", staged)
                else:
                    before = staged
                gone |= {before.decode()} if before is not None and before != transaction.get(f"memory/{task.study}") else set()
            _changed(transaction, task.study, task.followed)
        for digest in gone:
            self.blobs.remove(digest)

    def _forget(self, transaction: Transaction, id: str) -> set[str]:
        """Remove a party's log. Returns the digests of the blobs that it names."""
        gone = set()
        for key in transaction.keys(f"party/{id}/"):
            row = transaction.get(key) or b""
            gone |= {row[1:].hex()} if row[:1] == b"\x01" else set()
            transaction.remove(key)
        transaction.remove(f"task/{id}")
        return gone


def _untouched(view: Snapshot, hash: str) -> bool:
    """Whether no sum of a study was begun and nothing set aside for it, and the site has neither left it nor seen its end."""
    document = view.get(f"study/{hash}")
    known = None if document is None else Known(**json.loads(document))
    if known is None:
        return True
    return not (known.over or known.round or known.reservation or known.reason == LEFT or view.keys(f"task/{hash}-"))


def _study(view: Snapshot, hash: str) -> Known:
    document = view.get(f"study/{hash}")
    if document is None:
        raise InvalidInput(f"This site knows no study {hash[:64]!r}.")
    return Known(**json.loads(document))


def _changed(transaction: Transaction, hash: str, change: Callable[[Known], Known]) -> Known:
    known = change(_study(transaction, hash))
    transaction.put(f"study/{hash}", canonical(asdict(known)))
    return known


def _roster(signed: SignedRoster) -> Roster:
    return Roster.of(signed.number, [bytes.fromhex(entry.public) for entry in signed.entries])
