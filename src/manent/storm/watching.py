"""What a federation in the storm did, found out from outside: sums by their bits, uploads by what sites were told of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import httpx
import numpy as np

from manent.core.store import Store
from manent.network.server import documents
from manent.network.server.documents import SumRecord
from manent.network.site.state import SiteState
from manent.network.trust.receipts import stored, verify
from manent.network.wire import protocol
from manent.storage.arrays import decode_arrays
from manent.storage.blobs import Blobs
from manent.summation.parties import wire
from manent.summation.parties.wire import Kind

_MESSAGE = re.compile(r"/v1/sums/([^/]+)/(message|upload/complete)")


class Watch:
    """The judge of a course.

    Args:
        store, blobs: the server's.
        places: numbers of sites by public key.

    Attributes:
        over: whether every study is over.
        exact: how many released sums hold a one for each site that the server says is in it, and zeros else.
        wrong: released sums that hold something else, in words.
        lost: uploads that were acknowledged and are not in the released sum, in words.
        double: sums that have a site in them twice, in words.
        receipts: receipts that say something else than the sum, in words.
        attempts: calls beyond the first, for sums for which too few sites were found.
    """

    def __init__(self, store: Store, blobs: Blobs, places: Mapping[str, int]) -> None:
        self._store, self._blobs, self._places = store, blobs, places
        self._open: dict[str, SumRecord] = {}
        self._over: dict[str, SumRecord] = {}
        self._told: set[tuple[int, bytes]] = set()  # site, and context of the attempt
        self.over = False
        self.exact = self.attempts = 0
        self.wrong: list[str] = []
        self.lost: list[str] = []
        self.double: list[str] = []
        self.receipts: list[str] = []

    @property
    def released(self) -> int:
        """How many sums were released."""
        return sum(record.state == "released" for record in self._over.values())

    @property
    def abandoned(self) -> int:
        """How many sums were abandoned."""
        return sum(record.state == "abandoned" for record in self._over.values())

    @property
    def answers(self) -> list[int]:
        """How many sites are in each released sum."""
        return [len(record.included) for record in self._over.values() if record.state == "released"]

    @property
    def violations(self) -> list[str]:
        """Everything that is not as it should be, in words."""
        return [*self.wrong, *self.lost, *self.double, *self.receipts]

    def attempt(self, id: str) -> tuple[str, int]:
        """A sum's present attempt."""
        return id, self._open[id].attempt if id in self._open else 0

    def under_way(self, id: str, attempt: int) -> bool:
        """Whether this attempt at a sum is under way."""
        return id in self._open and self._open[id].attempt == attempt

    # What the server stores.

    def look(self) -> None:
        """Look at what the server has stored. Call it after every step of the server, so that no sum is missed."""
        with self._store.snapshot() as view:
            studies = {study.hash: study for study in documents.studies(view)}
            for id in {*self._open, *(study.open for study in studies.values() if study.open)}:
                record = documents.sum_of(view, id)
                if record is None:
                    continue
                if record.state == "open":
                    self.attempts += id in self._open and self._open[id].attempt != record.attempt
                    self._open[id] = record
                    continue
                self._open.pop(id, None)
                self._over[id] = record
                if record.state == "released":
                    self._judge(record, studies[record.study].state)
        self.over = bool(studies) and all(study.over for study in studies.values())

    def _judge(self, record: SumRecord, state: str) -> None:
        counts = decode_arrays(b"".join(self._blobs.read(state)))["state.counts"]
        included = {self._places[key] for key in record.included}
        expected = np.zeros_like(counts)
        expected[list(included)] = 1
        about = f"sum {record.round}.{record.index} of {record.study[:8]}"
        if (counts > 1).any() or len(record.included) != len(included):
            self.double.append(f"double: {about} is {counts.tolist()}")
        elif not np.array_equal(counts, expected):
            self.wrong.append(f"wrong sum: {about} is {counts.tolist()}, and is said to be of {sorted(included)}")
        else:
            self.exact += 1
        context = wire.unframe(bytes.fromhex(record.closed))[1]
        told = {site for site, of in self._told if of == context}
        if told - included:
            self.lost.append(f"lost: {about} is without {sorted(told - included)}, whose uploads were acknowledged")

    # What sites are told, and keep.

    def answered(self, site: int, request: httpx.Request, response: httpx.Response) -> None:
        """Note that a site is sent an answer."""
        if response.status_code != 200 or not _MESSAGE.fullmatch(request.url.path):
            return
        frames = [response.content] if request.method == "GET" else protocol.unpack(response.content)
        for kind, context, _ in map(wire.unframe, frames):
            if kind is Kind.RECEIVED:
                self._told.add((site, context))

    def finish(self, site: int, state: SiteState) -> None:
        """Compare a site's receipts with the sums."""
        rows, last = stored(state.store)
        found = verify(rows, state.identity.signing_key.public, last)
        for of, count in Counter((r.study, r.round, r.index) for r in found).items():
            if count > 1:
                self.receipts.append(f"receipts: site {site} has {count} for one sum, {of}")
        for receipt in found:
            record = self._over.get(f"{receipt.study}-{receipt.round}-{receipt.index}")
            said = receipt.outcome == "released"
            if record is None or said != (record.state == "released" and state.identity.public_hex in record.included):
                self.receipts.append(f"receipts: site {site} says {receipt.outcome} of {receipt.round}.{receipt.index}")
