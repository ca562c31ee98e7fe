"""The protocol of docs/secagg.md a second time: slow, plain, and written from that page alone.

Vectors and shares are Python integers, HKDF is written out, and all randomness is an argument. It is the oracle of the tests and
shares no line with the package. A party is a dataclass; every method that makes a message returns the whole frame.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PRIME = 2**256 - 189
CALL, ADVERT, DIRECTORY, SHARES, DELIVERIES, UPLOAD, SURVIVORS = range(1, 8)
CONSENT, CONSENTS, REVEAL, CLOSED, RECEIVED, ABORT, ASK = range(8, 15)
HYBRID, X25519_BYTES, ENCAPSULATION_KEY, CIPHERTEXT, SEALED, KEPT = 3, 32, 1184, 1088, 80, 48


class Refused(Exception):
    """A message that the specification tells its reader to refuse."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Refused(what)


# Notation


def u8(number: int) -> bytes:
    return number.to_bytes(1, "big")


def u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def digest(label: str, *parts: bytes) -> bytes:
    text = len(label.encode()).to_bytes(2, "big") + label.encode()
    return hashlib.sha256(text + b"".join(u32(len(part)) + part for part in parts)).digest()


def derive(secret: bytes, label: str, *parts: bytes, length: int = 32) -> bytes:
    extracted = hmac.digest(bytes(32), secret, "sha256")
    info, block, output, counter = digest(label, *parts), b"", b"", 0
    while len(output) < length:
        counter += 1
        block = hmac.digest(extracted, block + info + u8(counter), "sha256")
        output += block
    return output[:length]


def seal(key: bytes, text: bytes, associated: bytes) -> bytes:
    return AESGCM(key).encrypt(bytes(12), text, associated)


def unseal(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    return AESGCM(key).decrypt(bytes(12), sealed, associated)


def agree(private: X25519PrivateKey, public: bytes) -> bytes:
    return private.exchange(X25519PublicKey.from_public_bytes(public))


def frame(kind: int, context: bytes, body: bytes) -> bytes:
    return b"MSA" + u8(1) + u8(kind) + context + body


def listed(records: Mapping[int, bytes]) -> bytes:
    """A list: the count, then position and record in ascending order."""
    return u32(len(records)) + b"".join(u32(position) + records[position] for position in sorted(records))


class Reader:
    """Reads a frame of one kind from front to back."""

    def __init__(self, message: bytes, kind: int, context: bytes) -> None:
        self.rest = message
        require(self.take(5) == b"MSA" + u8(1) + u8(kind), "not this kind of message")
        require(self.take(32) == context, "another context")

    def take(self, count: int) -> bytes:
        require(len(self.rest) >= count, "too short")
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def positions(self) -> Iterable[int]:
        """The positions of a list; whoever iterates reads the record of each, and the list must end the message."""
        last = -1
        for _ in range(self.number()):
            position = self.number()
            require(position > last, "positions do not ascend")
            yield position
            last = position
        self.end()

    def end(self) -> None:
        require(not self.rest, "bytes left over")


# Shamir's sharing, the ring, masks


def shares_of(secret: bytes, coefficients: Sequence[int], positions: Iterable[int]) -> dict[int, bytes]:
    """Share of each position; the coefficients are those of x, x^2, ..., and there is one fewer than the threshold."""
    polynomial = [int.from_bytes(secret, "big"), *coefficients]
    return {p: (sum(a * (p + 1) ** i for i, a in enumerate(polynomial)) % PRIME).to_bytes(32, "big") for p in positions}


def combine(shares: Mapping[int, bytes]) -> bytes:
    total = 0
    for p, share in shares.items():
        weight = int.from_bytes(share, "big")
        for q in shares:
            if q != p:
                weight = weight * (q + 1) * pow(q - p, -1, PRIME) % PRIME
        total += weight
    return (total % PRIME).to_bytes(32, "big")


def pack(numbers: Sequence[int], b: int) -> bytes:
    return sum(number << (i * b) for i, number in enumerate(numbers)).to_bytes((len(numbers) * b + 7) // 8, "little")


def unpack(packed: bytes, d: int, b: int) -> list[int]:
    whole = int.from_bytes(packed, "little")
    require(len(packed) == (d * b + 7) // 8 and whole >> (d * b) == 0, "not d numbers of b bits")
    return [(whole >> (i * b)) % 2**b for i in range(d)]


def mask(suite: int, key: bytes, d: int, b: int) -> list[int]:
    width = 2 if b <= 16 else 4 if b <= 32 else 8
    aes, chacha = Cipher(algorithms.AES(key), modes.CTR(bytes(16))), Cipher(algorithms.ChaCha20(key, bytes(16)), None)
    stream = (chacha if suite == 2 else aes).encryptor().update(bytes(d * width))
    return [int.from_bytes(stream[i * width : (i + 1) * width], "little") for i in range(d)]


def draw_cohort(roster_size: int, seed: bytes, n: int) -> list[int]:
    """The first n places of a permutation of the roster (the bytes: docstring of summation/secagg/graph.py)."""
    text = b"manent/secagg/cohort/1" + seed + u64(roster_size)
    order, taken, stream = list(range(roster_size)), 0, b""
    for i in range(n):
        m = roster_size - i
        bits = (m - 1).bit_length()
        while True:
            if 4 * taken == len(stream):
                stream = hashlib.shake_256(text).digest(2 * len(stream) + 64)
            r = int.from_bytes(stream[4 * taken : 4 * taken + 4], "big") % 2**bits
            taken += 1
            if r < m:
                break
        order[i], order[i + r] = order[i + r], order[i]
    return order[:n]


# The call and what follows from it


@dataclass(frozen=True)
class Terms:
    suite: int
    adversary: int
    n: int
    k: int
    t: int
    minimum: int
    d: int
    b: int
    corrupt: int
    dropped: int

    def encoded(self) -> bytes:
        counts = b"".join(map(u32, (self.n, self.k, self.t, self.minimum)))
        return u8(self.suite) + u8(self.adversary) + counts + u64(self.d) + u8(self.b) + u32(self.corrupt) + u32(self.dropped)


@dataclass(frozen=True)
class Call:
    terms: Terms
    study: bytes
    sum_name: str
    round: int
    attempt: int
    roster_number: int
    roster: tuple[bytes, ...]
    model: bytes
    beacon_kind: int
    beacon: bytes

    @property
    def roster_root(self) -> bytes:
        return digest("manent roster", u64(self.roster_number), *sorted(self.roster))

    @property
    def seed(self) -> bytes:
        """Of the cohort."""
        beacon = u8(self.beacon_kind) + self.beacon
        return digest("manent cohort", beacon, self.study, self.sum_name.encode(), u32(self.round), self.roster_root)

    @property
    def body(self) -> bytes:
        name = self.sum_name.encode()
        where = self.study + u8(len(name)) + name + u32(self.round) + u32(self.attempt)
        roster = u64(self.roster_number) + self.roster_root
        return self.terms.encoded() + where + roster + self.model + u8(self.beacon_kind) + u8(len(self.beacon)) + self.beacon

    @property
    def context(self) -> bytes:
        return digest("manent call", self.body)

    @property
    def message(self) -> bytes:
        return frame(CALL, self.context, self.body)

    @property
    def identities(self) -> list[bytes]:
        """Public keys of the cohort, by position."""
        keys = sorted(self.roster)
        return [keys[i] for i in draw_cohort(len(keys), self.seed, self.terms.n)]

    def neighbours(self, p: int) -> list[int]:
        n, k = self.terms.n, self.terms.k
        if k == n - 1:
            return [v for v in range(n) if v != p]
        return sorted((p + side * step) % n for step in range(1, k // 2 + 1) for side in (-1, 1))


@dataclass(frozen=True)
class Advert:
    channel: bytes
    mask: bytes
    commitment: bytes
    channel_kem: bytes
    mask_kem: bytes
    signature: bytes

    @staticmethod
    def read(reader: Reader, suite: int) -> Advert:
        kem = ENCAPSULATION_KEY if suite == HYBRID else 0
        return Advert(*(reader.take(count) for count in (X25519_BYTES, X25519_BYTES, 32, kem, kem, 64)))

    def signed(self) -> bytes:
        return self.channel + self.mask + self.commitment + self.channel_kem + self.mask_kem

    def encoded(self) -> bytes:
        return self.signed() + self.signature

    def keys(self) -> list[bytes]:
        return [key for key in (self.channel, self.mask, self.channel_kem, self.mask_kem) if key]


def verify(public: bytes, signature: bytes, signed: bytes) -> None:
    Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)


def keypair(secret: bytes, what: str, context: bytes) -> tuple[X25519PrivateKey, MLKEM768PrivateKey]:
    x25519 = derive(secret, f"manent {what} x25519", context)
    ml_kem = derive(secret, f"manent {what} ml-kem-768", context, length=64)
    return X25519PrivateKey.from_private_bytes(x25519), MLKEM768PrivateKey.from_seed_bytes(ml_kem)


def commitment(context: bytes, own_seed: bytes) -> bytes:
    return digest("manent own seed", context, own_seed)


def directed(label: str, context: bytes, u: int, v: int) -> bytes:
    return digest(label, context, u32(u), u32(v))


def bitmap(positions: Iterable[int], n: int) -> bytes:
    return sum(1 << p for p in positions).to_bytes((n + 7) // 8, "little")


def pair_mask_key(context: bytes, u: int, v: int, agreed: bytes, encapsulated: bytes) -> bytes:
    return derive(agreed + encapsulated, "manent mask", context, u32(min(u, v)), u32(max(u, v)))


# The client


@dataclass(frozen=True)
class Encapsulated:
    secret: bytes
    ciphertext: bytes


@dataclass(frozen=True)
class Chance:
    """All that a client draws: three secrets, coefficients of x, x^2, ..., and for suite 3 what it encapsulated to whom."""

    root: bytes
    own_seed: bytes
    channel: bytes
    seed_coefficients: tuple[int, ...]
    root_coefficients: tuple[int, ...]
    for_channel: dict[int, Encapsulated] = field(default_factory=dict)
    for_mask: dict[int, Encapsulated] = field(default_factory=dict)


@dataclass
class Client:
    call: Call
    position: int
    identity: Ed25519PrivateKey
    chance: Chance

    def __post_init__(self) -> None:
        self.terms, self.context = self.call.terms, self.call.context
        self.hybrid = self.terms.suite == HYBRID
        self.mask_key, self.mask_kem = keypair(self.chance.root, "mask", self.context)
        self.channel_key, self.channel_kem = keypair(self.chance.channel, "channel", self.context)

    def sign(self, label: str, text: bytes) -> bytes:
        return self.identity.sign(digest(label, self.context, text))

    def advertise(self) -> bytes:
        keys = self.channel_key.public_key().public_bytes_raw() + self.mask_key.public_key().public_bytes_raw()
        text = u32(self.position) + keys + commitment(self.context, self.chance.own_seed)
        if self.hybrid:
            text += self.channel_kem.public_key().public_bytes_raw() + self.mask_kem.public_key().public_bytes_raw()
        self.own_keys = {keys[:32], keys[32:], text[100:1284], text[1284:]} if self.hybrid else {keys[:32], keys[32:]}
        return frame(ADVERT, self.context, text + self.sign("manent advert", text))

    def share(self, directory: bytes) -> bytes:
        reader, self.directory = Reader(directory, DIRECTORY, self.context), dict[int, Advert]()
        identities, seen = self.call.identities, set(self.own_keys)
        for v in reader.positions():
            advert = self.directory[v] = Advert.read(reader, self.terms.suite)
            require(v in self.call.neighbours(self.position), "not a neighbour")
            verify(identities[v], advert.signature, digest("manent advert", self.context, u32(v) + advert.signed()))
            require(seen.isdisjoint(advert.keys()) and len(set(advert.keys())) == len(advert.keys()), "a key twice")
            seen.update(advert.keys())
        require(len(self.directory) + 1 >= self.terms.t, "too few advertised")
        of_seed = shares_of(self.chance.own_seed, self.chance.seed_coefficients, self.directory)
        of_root = shares_of(self.chance.root, self.chance.root_coefficients, self.directory)
        self.sent = listed({v: self.record(v, of_seed[v] + of_root[v]) for v in self.directory})
        return frame(SHARES, self.context, self.sent)

    def record(self, v: int, shares: bytes) -> bytes:
        u, text, secret, texts = self.position, b"", b"", (b"", b"")
        if self.hybrid:
            text, secret = self.chance.for_channel[v].ciphertext, self.chance.for_channel[v].secret
            texts = text, self.chance.for_mask[v].ciphertext if u < v else b""
            if u < v:
                kept_key = derive(self.chance.root, "manent kept", self.context, u32(v))
                kept = seal(kept_key, self.chance.for_mask[v].secret, directed("manent kept", self.context, u, v))
                text += self.chance.for_mask[v].ciphertext + kept
        agreed = agree(self.channel_key, self.directory[v].channel)
        key = derive(agreed + secret, "manent channel", self.context, u32(u), u32(v))
        return text + seal(key, shares, digest("manent share", self.context, u32(u), u32(v), *texts))

    def upload(self, deliveries: bytes, vector: Sequence[int]) -> bytes:
        """`vector` holds d integers, of any size and sign."""
        reader, self.held, u = Reader(deliveries, DELIVERIES, self.context), dict[int, bytes](), self.position
        masked = [x + m for x, m in zip(vector, self.own_mask(), strict=True)]
        for v in reader.positions():
            require(v in self.directory, "from nobody in the directory")
            texts = reader.take(CIPHERTEXT if self.hybrid else 0), reader.take(CIPHERTEXT if self.hybrid and v < u else 0)
            channel_secret = self.channel_kem.decapsulate(texts[0]) if self.hybrid else b""
            mask_secret = self.mask_kem.decapsulate(texts[1]) if self.hybrid and v < u else b""
            if self.hybrid and u < v:
                mask_secret = self.chance.for_mask[v].secret
            agreed = agree(self.channel_key, self.directory[v].channel) + channel_secret
            key = derive(agreed, "manent channel", self.context, u32(v), u32(u))
            self.held[v] = unseal(key, reader.take(SEALED), digest("manent share", self.context, u32(v), u32(u), *texts))
            shared = pair_mask_key(self.context, u, v, agree(self.mask_key, self.directory[v].mask), mask_secret)
            sign, noise = 1 if v > u else -1, mask(self.terms.suite, shared, self.terms.d, self.terms.b)
            masked = [x + sign * m for x, m in zip(masked, noise, strict=True)]
        require(len(self.held) + 1 >= self.terms.t, "too few shared")
        by_what = hashlib.sha256(self.sent).digest()
        with_whom = digest("manent masked with", self.context, bitmap(self.held, self.terms.n), by_what)
        return frame(UPLOAD, self.context, pack([x % 2**self.terms.b for x in masked], self.terms.b) + with_whom)

    def own_mask(self) -> list[int]:
        key = derive(self.chance.own_seed, "manent own mask", self.context)
        return mask(self.terms.suite, key, self.terms.d, self.terms.b)

    def take_survivors(self, message: bytes) -> None:
        reader, n = Reader(message, SURVIVORS, self.context), self.terms.n
        bits = int.from_bytes(reader.take((n + 7) // 8), "little")
        reader.end()
        require(bits >> n == 0, "bits beyond the cohort")
        self.survivors = {p for p in range(n) if bits >> p & 1}
        near = self.survivors.intersection(self.call.neighbours(self.position))
        require(self.position in self.survivors and near <= self.held.keys(), "not what this client uploaded to")
        require(len(near) + 1 >= self.terms.t and len(self.survivors) >= self.terms.minimum, "too few survive")

    def consent(self, survivors: bytes) -> bytes:
        self.take_survivors(survivors)
        return frame(CONSENT, self.context, self.sign("manent survivors", bitmap(self.survivors, self.terms.n)))

    def reveal(self, message: bytes) -> bytes:
        """The answer to Consents, or with the curious adversary to Survivors."""
        if self.terms.adversary == 0:
            self.take_survivors(message)
        else:
            self.take_consents(message)
        shares = {v: held[:32] if v in self.survivors else held[32:] for v, held in self.held.items()}
        return frame(REVEAL, self.context, self.chance.own_seed + listed(shares))

    def take_consents(self, message: bytes) -> None:
        reader, identities, agreed = Reader(message, CONSENTS, self.context), self.call.identities, set[int]()
        allowed = self.survivors.intersection({self.position, *self.call.neighbours(self.position)})
        signed = digest("manent survivors", self.context, bitmap(self.survivors, self.terms.n))
        for v in reader.positions():
            require(v in allowed, "a consent from elsewhere")
            verify(identities[v], reader.take(64), signed)
            agreed.add(v)
        require(self.position in agreed and len(agreed) >= self.terms.t, "too few consents")


# The server: what it received, by position, and what it says


@dataclass
class Server:
    call: Call
    adverts: dict[int, bytes] = field(default_factory=dict)
    shares: dict[int, bytes] = field(default_factory=dict)
    uploads: dict[int, bytes] = field(default_factory=dict)
    consents: dict[int, bytes] = field(default_factory=dict)
    reveals: dict[int, bytes] = field(default_factory=dict)

    def near(self, p: int, among: Iterable[int]) -> list[int]:
        return [v for v in self.call.neighbours(p) if v in among]

    def body(self, message: bytes) -> bytes:
        return message[37:]

    def directory(self, p: int) -> bytes:
        adverts = {v: self.body(self.adverts[v])[4:] for v in self.near(p, self.adverts)}
        return frame(DIRECTORY, self.call.context, listed(adverts))

    def records(self, u: int) -> dict[int, tuple[bytes, bytes, bytes, bytes]]:
        """Of the Shares of u, by recipient: ciphertext for the channel, ciphertext for the mask, kept, sealed."""
        reader, found, hybrid = Reader(self.shares[u], SHARES, self.call.context), {}, self.call.terms.suite == HYBRID
        for v in reader.positions():
            pair = hybrid and u < v
            sizes = (CIPHERTEXT * hybrid, CIPHERTEXT * pair, KEPT * pair, SEALED)
            found[v] = tuple(reader.take(size) for size in sizes)
        return found  # type: ignore[return-value]

    def deliveries(self, p: int) -> bytes:
        records = {u: self.records(u)[p] for u in self.near(p, self.shares)}
        return frame(DELIVERIES, self.call.context, listed({u: r[0] + r[1] + r[3] for u, r in records.items()}))

    def received(self) -> bytes:
        return frame(RECEIVED, self.call.context, b"")

    def survivors(self) -> bytes:
        return frame(SURVIVORS, self.call.context, bitmap(self.uploads, self.call.terms.n))

    def consents_for(self, p: int) -> bytes:
        near = {v: self.body(self.consents[v]) for v in (p, *self.near(p, self.consents)) if v in self.consents}
        return frame(CONSENTS, self.call.context, listed(near))

    def closed(self, outcome: int = 0) -> bytes:
        return frame(CLOSED, self.call.context, u8(outcome))

    def advert(self, p: int) -> Advert:
        reader = Reader(self.adverts[p], ADVERT, self.call.context)
        require(reader.number() == p, "another position")
        return Advert.read(reader, self.call.terms.suite)

    def revealed(self) -> tuple[dict[int, bytes], dict[int, dict[int, bytes]]]:
        """Own seeds, by position; shares of somebody's secret, by owner and then holder."""
        seeds, shares = dict[int, bytes](), dict[int, dict[int, bytes]]()
        for p, message in self.reveals.items():
            reader = Reader(message, REVEAL, self.call.context)
            seeds[p] = reader.take(32)
            for v in reader.positions():
                shares.setdefault(v, {})[p] = reader.take(32)
        return seeds, shares

    def total(self) -> list[int]:
        """The sum of the survivors' vectors, read as two's complement; shares are taken to be right."""
        terms, context = self.call.terms, self.call.context
        seeds, shares = self.revealed()
        total = [0] * terms.d
        for u in self.uploads:
            seed = seeds[u] if u in seeds else self.rebuilt(shares.get(u, {}))
            require(self.advert(u).commitment == commitment(context, seed), "another own seed")
            own = mask(terms.suite, derive(seed, "manent own mask", context), terms.d, terms.b)
            masked = unpack(self.body(self.uploads[u])[:-32], terms.d, terms.b)
            total = [a + x - m for a, x, m in zip(total, masked, own, strict=True)]
        for v in (v for v in self.shares.keys() - self.uploads.keys() if self.near(v, self.uploads)):
            for u, key in self.mask_keys_of(v, self.rebuilt(shares.get(v, {}))).items():
                sign = 1 if v > u else -1
                total = [a - sign * m for a, m in zip(total, mask(terms.suite, key, terms.d, terms.b), strict=True)]
        return [(a + 2 ** (terms.b - 1)) % 2**terms.b - 2 ** (terms.b - 1) for a in total]

    def rebuilt(self, shares: Mapping[int, bytes]) -> bytes:
        require(len(shares) >= self.call.terms.t, "too few shares")
        return combine({p: shares[p] for p in sorted(shares)[: self.call.terms.t]})

    def mask_keys_of(self, v: int, root: bytes) -> dict[int, bytes]:
        """The mask keys that a client which vanished shared with the survivors among its neighbours, from its root."""
        context, keys = self.call.context, {}
        private, kem = keypair(root, "mask", context)
        require(private.public_key().public_bytes_raw() == self.advert(v).mask, "another root")
        for u in self.near(v, self.uploads):
            secret = b""
            if self.call.terms.suite == HYBRID and u < v:
                secret = kem.decapsulate(self.records(u)[v][1])
            elif self.call.terms.suite == HYBRID:
                kept_key = derive(root, "manent kept", context, u32(u))
                secret = unseal(kept_key, self.records(v)[u][2], directed("manent kept", context, v, u))
            keys[u] = pair_mask_key(context, u, v, agree(private, self.advert(u).mask), secret)
        return keys
