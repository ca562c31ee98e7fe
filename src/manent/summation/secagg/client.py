"""A client's part in one masked sum, as a sans-I/O party.

Only records change the state. Each is kept before its reply is sent, and a client that is rebuilt from its records gives the same
replies, byte for byte. So of each neighbour's two secrets it opens a share of one only, and a message that is asked for again is
the same message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import ClassVar, Literal, final

import numpy as np

from manent.core.errors import InvalidInput, ManentError, ProtocolAbort
from manent.core.parties import SERVER, Envelope, KeyRoster, Signer, Step
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array
from manent.crypto.agreement import encapsulate
from manent.crypto.digest import digest
from manent.crypto.identity import verify
from manent.crypto.keystream import Masker
from manent.crypto.seal import seal, unseal
from manent.crypto.shamir import draw_secret, split
from manent.summation.parties import wire
from manent.summation.parties.fields import Reader, u8
from manent.summation.parties.giving import Giving
from manent.summation.parties.wire import Kind
from manent.summation.secagg import bodies, keys, ring
from manent.summation.secagg.bodies import Advert, Opened, Parcel, Signed
from manent.summation.secagg.terms import CHACHA, Call, Expected

Stage = Literal["waiting", "advertised", "shared", "delivered", "uploaded", "consented", "revealed", "closed", "aborted"]


@dataclass
class _Attempt:
    """What a client knows of one attempt.

    Attributes:
        advert: its own.
        root, own_seed, channel_secret: its three secrets, 32 bytes each.
        neighbours: their adverts, by position.
        mask_secrets: by position, the secret that it encapsulated to a neighbour of a higher position.
        mask_keys: by position, the key of the mask that it shares.
        shares: by position, its share of a neighbour's own seed and of its root.
        survivors, alive: the survivors that it agreed to, as the server's bitmap and as a set.
        replies: by kind of message, the digest of its body and the reply to it.
    """

    call: Call
    cohort: tuple[bytes, ...]
    advert: Advert
    root: bytes
    own_seed: bytes
    channel_secret: bytes
    neighbours: dict[int, Advert] = field(default_factory=dict)
    mask_secrets: dict[int, bytes] = field(default_factory=dict)
    mask_keys: dict[int, bytes] = field(default_factory=dict)
    shares: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    survivors: bytes = b""
    alive: frozenset[int] = frozenset()
    replies: dict[Kind, tuple[bytes, bytes]] = field(default_factory=dict)

    @property
    def position(self) -> int:
        return self.advert.position

    @property
    def context(self) -> bytes:
        return self.call.context

    @property
    def hybrid(self) -> bool:
        return self.call.terms.hybrid

    def forget(self) -> None:
        """Drop every secret. The replies that were sent stay, as they may be asked for again."""
        self.root = self.own_seed = self.channel_secret = b""
        for secrets in (self.mask_secrets, self.mask_keys, self.shares):
            secrets.clear()


@final
class SecAggClient(Giving):
    """One client in one masked sum, over as many attempts as the server makes; see `ClientParty`.

    Args:
        identity: its long-term key, listed in the roster.
        roster: the newest that it has verified.
        expected: what it knows by itself of the sum.
        random: for secrets and shares.
        records: its log, where it is rebuilt.

    The vector is given by `contribute`, before or after the server is ready for it. `refusals` has a reason for everything that
    the client did not go along with. The log holds secrets, so it is removed when the client has `finished`. Whoever removes it
    remembers that the client took part, and makes no second client for the same study, sum and round.
    """

    ready: ClassVar[str] = "delivered"

    def __init__(
        self, identity: Signer, roster: KeyRoster, expected: Expected, random: PrivateRandom, records: Sequence[bytes] = ()
    ) -> None:
        self.identity, self.roster, self.expected, self.random = identity, roster, expected, random
        self.name = identity.public.hex()
        self.stage: Stage = "waiting"
        self.refusals: list[str] = []
        self.uploaded_in: int | None = None
        self._now: _Attempt | None = None
        self._vector: Array | None = None
        self._last: bytes = b""
        for record in records:
            self._load(record)

    @property
    def survivors(self) -> int | None:
        """How many vectors are in the sum that this client agreed to open; None before that."""
        return None if self._now is None or not self._now.survivors else len(self._now.alive)

    def receive(self, envelope: Envelope) -> Step:
        """See `Party`. A message that breaks the protocol ends the attempt for this client; the server is told why."""
        try:
            kind, context, body = wire.unframe(envelope.body)
        except ProtocolAbort as error:
            return self._refuse(str(error))
        if kind is Kind.CALL:
            return self._called(context, body)
        now = self._now
        if now is None and kind is Kind.CLOSED:  # this client came too late to take part
            return Step() if self.finished else self._keep(kind, body, b"", b"")
        if now is None or context != now.context:
            return self._refuse(f"{kind.name} belongs to another attempt than this client's.")
        if kind in now.replies:
            seen, reply = now.replies[kind]
            if seen != digest("body", body):
                return self._refuse(f"A second {kind.name}, other than the first, is not answered.")
            return self._send(reply or self._last)
        try:
            return self._follow(now, kind, body)
        except ProtocolAbort as error:
            return self._abort(now, str(error))

    def deadline(self) -> Step:
        """An answer is overdue: send the last message again, or ask to be called."""
        if self.finished or self.stage == "delivered":  # in the latter, this client's own vector is overdue
            return Step()
        return self._send(self._last or wire.frame(Kind.ASK, bytes(32), b""))

    def contribute(self, vector: Array) -> Step:
        """Give the int64[d] vector, once. Raises InvalidInput for another shape or type, and for a second vector."""
        terms = self.expected.terms
        if vector.dtype != np.int64 or vector.shape != (terms.size,):
            raise InvalidInput(f"Expected int64[{terms.size}], found {vector.dtype}{list(vector.shape)}.")
        if not self.needs_vector:
            raise InvalidInput("This client has given its vector; a term is summed once.")
        self._vector = np.array(vector)  # a copy, as the caller may use its array again
        return self._upload() if self.stage == "delivered" else Step()

    # Each step below checks a message and makes a record of it. Only `_load` changes the state.

    def _called(self, context: bytes, body: bytes) -> Step:
        now = self._now
        try:
            call = Call.read(body)
            if call.context != context:
                raise ProtocolAbort("The call does not carry its own context.")
            if now is not None and call.attempt <= now.call.attempt:
                if call.body == now.call.body:
                    return Step() if self.finished else self._send(now.replies[Kind.CALL][1])
                raise ProtocolAbort(f"Attempt {call.attempt} was begun before, or is over; a round is not restarted.")
            if self.uploaded_in is not None:
                raise ProtocolAbort(f"This client has uploaded in attempt {self.uploaded_in}; its vector is not summed again.")
            if call.roster_number < self.roster.number:
                raise ProtocolAbort(f"Roster {call.roster_number} is older than this client's, {self.roster.number}.")
            self.expected.check(call)
            cohort = call.cohort(self.roster)
            if self.identity.public not in cohort:
                raise ProtocolAbort("This client is not in the cohort that the beacon draws.")
        except ManentError as error:
            return self._refuse(str(error), context)
        secrets = b"".join(draw_secret(self.random) for _ in range(3))
        advert = self._advert(call, cohort.index(self.identity.public), secrets)
        return self._keep(Kind.CALL, body, secrets, wire.frame(Kind.ADVERTISE, context, advert.encode()))

    def _advert(self, call: Call, position: int, secrets: bytes) -> Advert:
        root, own_seed, channel, context = secrets[:32], secrets[32:64], secrets[64:], call.context
        hybrid = call.terms.hybrid
        unsigned = Advert(
            position,
            channel=keys.agreement_key(channel, "channel", context).public,
            mask=keys.agreement_key(root, "mask", context).public,
            commitment=keys.commitment(context, own_seed),
            channel_kem=keys.encapsulation_key(channel, "channel", context).public if hybrid else b"",
            mask_kem=keys.encapsulation_key(root, "mask", context).public if hybrid else b"",
        )
        return replace(unsigned, signature=self.identity.sign(unsigned.signed_text(context)))

    def _follow(self, now: _Attempt, kind: Kind, body: bytes) -> Step:
        match self.stage, kind:
            case "advertised", Kind.DIRECTORY:
                return self._share(now, body)
            case "shared", Kind.DELIVERIES:
                step = self._keep(kind, body, b"", b"")
                return step if self._vector is None else Step(step.keep + (last := self._upload()).keep, last.send)
            case "uploaded", Kind.SURVIVORS:
                return self._consent(now, body)
            case "consented", Kind.CONSENTS:
                self._check_consents(now, body)
                return self._keep(kind, body, b"", self._reveal(now))
            case _, Kind.CLOSED if len(body) == 1:
                return self._keep(kind, body, b"", b"")
            case _, Kind.RECEIVED if not body:
                return Step()
            case _, Kind.ABORT:
                return self._refuse(f"The server reports: {wire.read_reason(body)}")
        return self._refuse(f"{kind.name} does not fit a client that has {self.stage}.")

    def _share(self, now: _Attempt, body: bytes) -> Step:
        terms, me, context = now.call.terms, now.position, now.context
        adverts = self._checked_directory(now, body)
        points = [1 + v for v in (*(advert.position for advert in adverts), me)]  # its own counts: t - 1 neighbours are enough
        of_seed = split(now.own_seed, terms.threshold, points, self.random)[:-1]
        of_root = split(now.root, terms.threshold, points, self.random)[:-1]
        channel = keys.agreement_key(now.channel_secret, "channel", context)
        parcels, secrets = [], []
        for advert, seed_share, root_share in zip(adverts, of_seed, of_root, strict=True):
            v, agreed, text, mask_text, kept = advert.position, channel.agree(advert.channel), b"", b"", b""
            if now.hybrid:
                secret, text = encapsulate(advert.channel_kem)
                agreed += secret
            if now.hybrid and me < v:
                secret, mask_text = encapsulate(advert.mask_kem)
                kept = seal(keys.kept_key(now.root, context, v), secret, keys.kept_label(context, me, v))
                secrets.append(secret)
            sealing = keys.channel_key(agreed, context, me, v)
            sealed = seal(sealing, seed_share + root_share, keys.share_label(context, me, v, text, mask_text))
            parcels.append(Parcel(v, sealed, text, mask_text, kept))
        reply = wire.frame(Kind.SHARES, context, bodies.listing(parcels))
        return self._keep(Kind.DIRECTORY, body, b"".join(secrets), reply)

    def _checked_directory(self, now: _Attempt, body: bytes) -> tuple[Advert, ...]:
        """The neighbours' adverts. Raises ProtocolAbort unless each is a neighbour's, signed by it, with keys of its own."""
        adverts, allowed = _read_directory(now, body), set(now.call.neighbours(now.position))
        seen = set(now.advert.keys)
        for advert in adverts:
            if advert.position not in allowed:
                raise ProtocolAbort(f"Position {advert.position} is no neighbour of this client in the graph.")
            if not verify(now.cohort[advert.position], advert.signed_text(now.context), advert.signature):
                raise ProtocolAbort(f"The advert of position {advert.position} is not signed by its identity for this attempt.")
            if seen & set(advert.keys):
                raise ProtocolAbort(f"The advert of position {advert.position} repeats a key.")
            seen |= set(advert.keys)
        _need(now, 1 + len(adverts), "advertised")
        return adverts

    def _upload(self) -> Step:
        now, vector = self._now, self._vector
        if now is None or vector is None:
            return Step()
        terms = now.call.terms
        total = ring.lift(vector, terms.bits)
        masker = Masker(total.dtype, "chacha20" if terms.suite == CHACHA else "aes-256-ctr")
        masker.add(total, keys.own_mask_key(now.own_seed, now.context))
        for v, key in now.mask_keys.items():
            (masker.add if now.position < v else masker.subtract)(total, key)
        self._vector = None
        shares = sha256(wire.unframe(now.replies[Kind.DIRECTORY][1])[2]).digest()
        body = ring.pack(total, terms.bits) + bodies.masked_with(now.context, now.mask_keys, terms.clients, shares)
        return self._keep(Kind.UPLOAD, b"", b"", wire.frame(Kind.UPLOAD, now.context, body))

    def _consent(self, now: _Attempt, body: bytes) -> Step:
        terms = now.call.terms
        alive = bodies.read_bitmap(body, terms.clients)
        if now.position not in alive:
            raise ProtocolAbort("The server leaves this client's upload out of the survivors.")
        near = alive & set(now.call.neighbours(now.position))
        unknown = sorted(near - set(now.shares))
        if unknown:
            raise ProtocolAbort(f"Position {unknown[0]} is named a survivor, but this client holds no shares of it.")
        _need(now, 1 + len(near), "survived")
        if len(alive) < terms.minimum:
            raise ProtocolAbort(f"{len(alive)} clients survive; this client opens nothing with fewer than {terms.minimum}.")
        if terms.adversary == "curious":
            return self._keep(Kind.SURVIVORS, body, b"", self._reveal(now, alive))
        signature = self.identity.sign(digest("manent survivors", now.context, body))
        return self._keep(Kind.SURVIVORS, body, b"", wire.frame(Kind.CONSENT, now.context, signature))

    def _check_consents(self, now: _Attempt, body: bytes) -> None:
        """Raises ProtocolAbort unless enough of the neighbourhood signed the same set of survivors as this client."""
        reader, near = Reader(body), {*now.call.neighbours(now.position), now.position} & now.alive
        signed = bodies.read_list(reader, Signed.read, lambda s: s.position, len(near))
        reader.end()
        text = digest("manent survivors", now.context, now.survivors)
        for one in signed:
            if one.position not in near:
                raise ProtocolAbort(f"Position {one.position} is no survivor in this client's neighbourhood.")
            if not verify(now.cohort[one.position], text, one.signature):
                raise ProtocolAbort(f"Position {one.position} did not sign the survivors that this client was shown.")
        if now.position not in {one.position for one in signed}:
            raise ProtocolAbort("This client's own consent is missing.")
        _need(now, len(signed), "consented")

    def _reveal(self, now: _Attempt, alive: frozenset[int] | None = None) -> bytes:
        alive = now.alive if alive is None else alive
        opened = [Opened(v, of_seed if v in alive else of_root) for v, (of_seed, of_root) in sorted(now.shares.items())]
        return wire.frame(Kind.REVEAL, now.context, now.own_seed + bodies.listing(opened))

    # Records.

    def _keep(self, kind: Kind, body: bytes, private: bytes, reply: bytes) -> Step:
        parts = (body, private, reply)
        record = u8(kind) + b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        self._load(record)
        return Step((record,), self._send(reply).send)

    def _load(self, record: bytes) -> None:
        reader = Reader(record)
        kind = Kind(reader.u8())
        body, private, reply = (reader.take(reader.u64()) for _ in range(3))
        reader.end()
        if kind is Kind.CALL:
            call = Call.read(body)
            advert = Advert.read(Reader(wire.unframe(reply)[2]), call.terms.hybrid)
            self._now = _Attempt(call, call.cohort(self.roster), advert, private[:32], private[32:64], private[64:])
        now = self._now
        if now is not None:
            self._take_in(now, kind, body, private)
            now.replies[kind] = digest("body", body), reply
        self._last = reply
        self.stage = _next(kind, now)

    def _take_in(self, now: _Attempt, kind: Kind, body: bytes, private: bytes) -> None:
        if kind is Kind.DIRECTORY:
            now.neighbours = {advert.position: advert for advert in _read_directory(now, body)}
            later = [v for v in now.neighbours if v > now.position] if now.hybrid else []
            now.mask_secrets = {v: private[32 * i : 32 * i + 32] for i, v in enumerate(later)}
        elif kind is Kind.DELIVERIES:
            self._take_deliveries(now, body)
        elif kind is Kind.UPLOAD:
            self.uploaded_in = now.call.attempt
        elif kind is Kind.SURVIVORS:
            now.survivors, now.alive = body, bodies.read_bitmap(body, now.call.terms.clients)
        elif kind in (Kind.CLOSED, Kind.ABORT):
            now.forget()

    def _take_deliveries(self, now: _Attempt, body: bytes) -> None:
        """Open the neighbours' shares and agree on masks. Raises ProtocolAbort for one that does not open, or too few."""
        reader, me, context = Reader(body), now.position, now.context
        read = bodies.deliveries_reader(me, now.hybrid)
        parcels = bodies.read_list(reader, read, lambda parcel: parcel.peer, len(now.neighbours))
        reader.end()
        _need(now, 1 + len(parcels), "shared")
        channel, mask = keys.agreement_key(now.channel_secret, "channel", context), keys.agreement_key(now.root, "mask", context)
        channel_kem = keys.encapsulation_key(now.channel_secret, "channel", context) if now.hybrid else None
        mask_kem = keys.encapsulation_key(now.root, "mask", context) if now.hybrid else None
        shares, mask_keys = {}, {}
        for parcel in parcels:
            v = parcel.peer
            if v not in now.neighbours:
                raise ProtocolAbort(f"Shares of position {v} are delivered, which is not in the directory.")
            agreed = channel.agree(now.neighbours[v].channel)
            if channel_kem is not None:
                agreed += channel_kem.decapsulate(parcel.channel_text)
            secret = now.mask_secrets.get(v, b"") if mask_kem is None or v > me else mask_kem.decapsulate(parcel.mask_text)
            mask_keys[v] = keys.mask_key(mask.agree(now.neighbours[v].mask) + secret, context, me, v)
            label = keys.share_label(context, v, me, parcel.channel_text, parcel.mask_text)
            opened = unseal(keys.channel_key(agreed, context, v, me), parcel.sealed, label)
            shares[v] = opened[:32], opened[32:]
        now.shares, now.mask_keys = shares, mask_keys

    def _refuse(self, reason: str, context: bytes = b"") -> Step:
        """Change nothing, and note why. The server is told too where the message was a call, of this context."""
        self.refusals.append(reason)
        return self._send(wire.frame(Kind.ABORT, context, wire.reason_bytes(reason))) if context else Step()

    def _abort(self, now: _Attempt, reason: str) -> Step:
        """Leave the attempt for good."""
        self.refusals.append(reason)
        text = wire.reason_bytes(reason)
        return self._keep(Kind.ABORT, text, b"", wire.frame(Kind.ABORT, now.context, text))

    def _send(self, message: bytes) -> Step:
        return Step(send=(Envelope(self.name, SERVER, message),)) if message else Step()


def _read_directory(now: _Attempt, body: bytes) -> tuple[Advert, ...]:
    reader = Reader(body)
    adverts = bodies.read_list(
        reader, lambda r: Advert.read(r, now.hybrid), lambda advert: advert.position, now.call.terms.degree
    )
    reader.end()
    return adverts


def _need(now: _Attempt, found: int, what: str) -> None:
    """Raises ProtocolAbort where fewer of the neighbourhood than the threshold are left, the client itself counted."""
    if found < now.call.terms.threshold:
        raise ProtocolAbort(
            f"{found} of this client's neighbourhood have {what}; at least {now.call.terms.threshold} are needed."
        )


def _next(kind: Kind, now: _Attempt | None) -> Stage:
    """The stage after a record of this kind of message."""
    curious = now is not None and now.call.terms.adversary == "curious"
    stages: dict[Kind, Stage] = {
        Kind.CALL: "advertised",
        Kind.DIRECTORY: "shared",
        Kind.DELIVERIES: "delivered",
        Kind.UPLOAD: "uploaded",
        Kind.SURVIVORS: "revealed" if curious else "consented",
        Kind.CONSENTS: "revealed",
        Kind.CLOSED: "closed",
        Kind.ABORT: "aborted",
    }
    return stages[kind]
