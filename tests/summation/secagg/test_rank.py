"""What a server can compute from a transcript, by linear algebra: the sum of each connected part of the inputs, and no more.

Every upload that reached the server is an equation: the client's input, plus its own mask, plus and minus the masks of its pairs.
What is in it is *measured*: those signs are searched for with which the bytes on the wire add up. A mask is known where its key
follows from a secret that can be rebuilt from what was really opened, or from what corrupt clients hold. The others are as good
as independent, so that the combinations of equations in which no unknown mask is left are all that the server knows.

A pair's mask stands in two equations at most, once with each sign, and an own mask in one: such a matrix is totally unimodular,
and its rank modulo 2^b is its rank over any field. Two of them are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import numpy as np
import pytest

from manent.core.errors import ProtocolAbort
from manent.crypto.keystream import Masker
from manent.crypto.shamir import recover
from manent.summation.parties import wire
from manent.summation.parties.fields import Reader
from manent.summation.parties.wire import Kind
from manent.summation.secagg import SecAggClient, bodies, keys, ring
from manent.summation.secagg import client as client_module
from manent.summation.secagg.bodies import Opened

from .attempts import Attempt, Network, terms_of

STAYS, LATE = "stays", "late"  # a late client's upload comes when the list of survivors is closed
FATES = (Kind.SHARES, Kind.UPLOAD, LATE, Kind.CONSENT, Kind.REVEAL, STAYS)
SOME = (Kind.UPLOAD, LATE, Kind.REVEAL, STAYS)
WIDE = {"bits": 63, "size": 2}  # so wide that no wrong signs add up by chance: 3^5 of them against 2^126
FIELDS = (2, 2**61 - 1)


@pytest.fixture(autouse=True)
def _secrets_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever judges a transcript needs what the clients have forgotten by then."""
    monkeypatch.setattr(client_module._Attempt, "forget", lambda now: None)


@dataclass
class Transcript:
    """An attempt that is over: what reached the server, and what corrupt clients know."""

    attempt: Attempt
    network: Network
    corrupt: frozenset[int]

    def sent(self, kind: Kind) -> Iterator[tuple[int, bytes]]:
        for envelope in self.network.sent:
            if envelope.body[4] == kind and envelope.sender in self.network.places:
                yield self.network.places[envelope.sender], envelope.body[wire.HEAD :]

    def equations(self) -> dict[int, dict[bytes, int]]:
        """By honest uploader, the sign of each mask in its upload; a mask is named by its key."""
        found, terms = {}, self.attempt.terms
        for position, body in self.sent(Kind.UPLOAD):
            if position not in self.corrupt:
                now, inputs = self.attempt.clients[position]._now, self.attempt.vectors[position]
                names = [keys.own_mask_key(now.own_seed, now.context), *now.mask_keys.values()]
                rest = ring.unpack(bodies.split_upload(body)[0], terms.size, terms.bits) - ring.lift(inputs, terms.bits)
                found[position] = dict(zip(names, signs_of(rest, names, terms.bits), strict=True))
        return found

    def known(self) -> set[bytes]:
        """The keys of masks that the server can take off."""
        seeds, roots = self.rebuilt("own seed"), self.rebuilt("root")
        found = set()
        for position, client in enumerate(self.attempt.clients):
            if client._now is not None:
                if position in seeds:
                    found.add(keys.own_mask_key(client._now.own_seed, client._now.context))
                found |= {key for v, key in client._now.mask_keys.items() if {position, v} & roots}
        return found

    def rebuilt(self, what: str) -> set[int]:
        """Whose secrets of this kind the server has: corrupt clients', those that were sent, and those of shares enough."""
        context, found, shares = self.attempt.call.context, set(self.corrupt), dict[int, dict[int, list[bytes]]]()
        adverts = {p: client._now.advert for p, client in enumerate(self.attempt.clients) if client._now is not None}
        for opener, body in self.sent(Kind.REVEAL):
            if what == "own seed" and keys.commitment(context, body[:32]) == adverts[opener].commitment:
                found.add(opener)
            for one in opened_in(body[32:]):
                shares.setdefault(one.position, {}).setdefault(1 + opener, []).append(one.share)
        for place in self.corrupt:
            for owner, held in self.attempt.clients[place]._now.shares.items():
                shares.setdefault(owner, {})[1 + place] = [held[what == "root"]]
        for owner, by_point in shares.items():
            if owner not in found and self.fits(adverts[owner], what, by_point):
                found.add(owner)
        return found

    def fits(self, advert, what: str, by_point) -> bool:
        """Whether shares, of which each opener may have sent several, are of a secret of this kind."""
        context, threshold = self.attempt.call.context, self.attempt.terms.threshold

        def right(secret):
            if what == "own seed":
                return keys.commitment(context, secret) == advert.commitment
            return keys.agreement_key(secret, "mask", context).public == advert.mask

        tried = [{point: values[min(turn, len(values) - 1)] for point, values in by_point.items()} for turn in (0, 1)]
        for shares in tried if len(by_point) >= threshold else []:
            try:
                recover(shares, threshold, right)
            except ProtocolAbort:
                continue
            return True
        return False

    def parts(self) -> list[set[int]]:
        """The connected parts of the honest clients in the sum."""
        left = set(self.attempt.server._alive) - self.corrupt
        found = []
        while left:
            part, edge = set(), {min(left)}
            while edge:
                part |= edge
                edge = {v for p in edge for v in self.attempt.call.neighbours(p) if v in left} - part
            found.append(part)
            left -= part
        return found


def opened_in(body: bytes) -> Iterator[Opened]:
    """The shares in one list, or in several one after another."""
    reader = Reader(body)
    while True:
        yield from bodies.read_list(reader, Opened.read, lambda one: one.position, 100)
        try:
            reader.end()
        except ProtocolAbort:
            continue
        return


def signs_of(rest: np.ndarray, names: list[bytes], bits: int) -> tuple[int, ...]:
    """By mask, with which sign it is in the vector: there is one way. Fails where there is none."""
    masks = np.zeros((len(names), rest.size), rest.dtype)
    for mask, name in zip(masks, names, strict=True):
        Masker(rest.dtype).add(mask, name)
    signs = np.array(list(product((1, 0, -1), repeat=len(names))))
    left = signs.astype(np.int64).astype(rest.dtype) @ masks - rest
    fitting = signs[(left & rest.dtype.type(2**bits - 1) == 0).all(1)]
    assert len(fitting) == 1, "an upload is not its input and masks"
    return tuple(fitting[0].tolist())


def span(transcript: Transcript, field: int) -> list[list[int]]:
    """Combinations of the honest inputs that the server can compute, by position: a basis, over a field."""
    equations, known, n = transcript.equations(), transcript.known(), transcript.attempt.terms.clients
    masks = sorted({name for signs in equations.values() for name in signs} - known)
    rows = [[*(signs.get(m, 0) for m in masks), *(int(p == q) for q in range(n))] for p, signs in equations.items()]
    rows = [[entry % field for entry in row] for row in rows]
    for column in range(len(masks)):
        pivot = next((row for row in rows if row[column]), None)
        if pivot is not None:
            rows.remove(pivot)
            scale = pow(pivot[column], -1, field)
            rows = [[(a - row[column] * scale * b) % field for a, b in zip(row, pivot, strict=True)] for row in rows]
    return [row[len(masks) :] for row in rows]


def check(transcript: Transcript) -> None:
    """Fails where the server knows more than sums over connected parts; or, of a sum that was formed, less."""
    parts, done = transcript.parts(), transcript.attempt.server.phase == "done"
    for field in FIELDS:
        found = span(transcript, field)
        for combination in found:
            weights = [{combination[p] for p in part} for part in parts]
            assert all(len(each) == 1 for each in weights), f"inputs within a part are told apart: {combination}"
            outside = set(transcript.network.places.values()) - set().union(*parts)
            assert not any(combination[p] for p in outside), f"an input is known that is not in the sum: {combination}"
        assert len(found) <= len(parts)
        assert len(found) == len(parts) or not done


def transcript_of(terms, fates, corrupt=frozenset()) -> Transcript:
    silent = {p: fate for p, fate in enumerate(fates) if isinstance(fate, Kind)}
    late = frozenset(p for p, fate in enumerate(fates) if fate == LATE)
    attempt = Attempt(terms, 1, spare=0)
    return Transcript(attempt, Network(attempt, silent=silent, late=late).run(), corrupt)


def on_a_ring(fates: Iterable, clients: int, corrupt: frozenset[int]) -> Iterator[tuple]:
    """Every pattern, but those that are another one turned or mirrored."""
    seen = set()
    for pattern in product(fates, repeat=clients):
        if all(pattern[p] == STAYS for p in corrupt):
            marked = [(str(fate), p in corrupt) for p, fate in enumerate(pattern)]
            alike = [tuple((marked[shift:] + marked[:shift])[::way]) for shift in range(clients) for way in (1, -1)]
            if min(alike) not in seen:
                seen.add(min(alike))
                yield pattern


def patterns(terms, corrupt: frozenset[int]) -> Iterator[tuple]:
    """Every way of vanishing; on the complete graph who does is all the same, and the corrupt are the last."""
    fates = tuple(fate for fate in FATES if terms.adversary == "active" or fate is not Kind.CONSENT)
    if terms.degree == terms.clients - 1:
        for chosen in combinations_with_replacement(fates, terms.clients - len(corrupt)):
            yield (*chosen, *(STAYS for _ in corrupt))
    else:
        yield from on_a_ring(SOME, terms.clients, corrupt)


CASES = {
    "4, active": (terms_of(4, threshold=3, **WIDE), ()),
    "4, active, one corrupt": (terms_of(4, threshold=3, **WIDE), (3,)),
    "5, active, one corrupt": (terms_of(5, threshold=4, **WIDE), (4,)),
    "5, active, two corrupt": (terms_of(5, threshold=4, **WIDE), (3, 4)),
    "5, active, post-quantum, one corrupt": (terms_of(5, threshold=4, suite=3, **WIDE), (4,)),
    "5, curious": (terms_of(5, threshold=3, adversary="curious", **WIDE), ()),
    "5, curious, two corrupt": (terms_of(5, threshold=3, adversary="curious", **WIDE), (3, 4)),
    "6 on a ring of 4, active": (terms_of(6, 4, 4, **WIDE), ()),
    "6 on a ring of 4, active, two corrupt": (terms_of(6, 4, 4, **WIDE), (0, 2)),
    "6 on a ring of 2, curious": (terms_of(6, 2, 2, adversary="curious", **WIDE), ()),
    "5 on a ring of 2, curious, one corrupt": (terms_of(5, 2, 2, adversary="curious", **WIDE), (0,)),
}


def check_all(terms, corrupt) -> set[tuple[str, int]]:
    """How attempts ended, and in how many parts."""
    outcomes = set()
    for fates in patterns(terms, corrupt):
        transcript = transcript_of(terms, fates, corrupt)
        check(transcript)
        outcomes.add((transcript.attempt.server.phase, len(transcript.parts())))
    return outcomes


@pytest.mark.parametrize(("terms", "corrupt"), CASES.values(), ids=CASES)
def test_the_server_knows_the_sum_of_each_connected_part_and_nothing_more(terms, corrupt):
    outcomes = check_all(terms, frozenset(corrupt))
    assert {phase for phase, _ in outcomes} == {"done", "aborted"}
    if terms.adversary == "active" or terms.degree == terms.clients - 1:
        assert all(parts == 1 for phase, parts in outcomes if phase == "done"), "the graph was parted"


# Planted mistakes: each has to be found.


def both_shares(monkeypatch):
    """The root's shares too, of everybody."""
    reveal = SecAggClient._reveal

    def wrong(self, now, alive=None):
        both = [Opened(v, of_root) for v, (_, of_root) in sorted(now.shares.items())]
        return reveal(self, now, alive) + bodies.listing(both)

    monkeypatch.setattr(SecAggClient, "_reveal", wrong)


def roots_of_survivors(monkeypatch):
    """The wrong one of the two."""

    def wrong(self, now, alive=None):
        opened = [Opened(v, of_root) for v, (_, of_root) in sorted(now.shares.items())]
        return wire.frame(Kind.REVEAL, now.context, now.own_seed + bodies.listing(opened))

    monkeypatch.setattr(SecAggClient, "_reveal", wrong)


def seeds_of_the_vanished(monkeypatch):
    """Shares of own seeds beside those of the roots, for clients that are not in the sum: theirs may have come late."""
    reveal = SecAggClient._reveal

    def wrong(self, now, alive=None):
        shown = now.alive if alive is None else alive
        more = [Opened(v, of_seed) for v, (of_seed, _) in sorted(now.shares.items()) if v not in shown]
        return reveal(self, now, alive) + bodies.listing(more)

    monkeypatch.setattr(SecAggClient, "_reveal", wrong)


def masks_without(which: Callable[[int], bool]):
    def plant(monkeypatch):
        class Forgetful(Masker):
            """Leaves out some masks, by their number."""

            count = 0

            def _apply(self, operation, total, key):
                if which(self.count):
                    super()._apply(operation, total, key)
                self.count += 1

        monkeypatch.setattr(client_module, "Masker", Forgetful)

    return plant


PLANTED = {
    "both shares": both_shares,
    "the wrong shares": roots_of_survivors,
    "the seeds of the vanished": seeds_of_the_vanished,
    "no own mask": masks_without(lambda number: number != 0),
    "no masks of pairs": masks_without(lambda number: number == 0),
    "not every mask of a pair": masks_without(lambda number: number < 2),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
@pytest.mark.parametrize("name", ["4, active", "5, curious, two corrupt"])
def test_a_planted_mistake_is_found(plant, name, monkeypatch):
    monkeypatch.setattr(client_module, "Masker", Masker)
    plant(monkeypatch)
    terms, corrupt = CASES[name]
    with pytest.raises(AssertionError, match="told apart|not in the sum"):
        check_all(terms, frozenset(corrupt))
