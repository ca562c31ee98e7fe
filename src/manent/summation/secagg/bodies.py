"""The bodies of secure aggregation's messages, as `docs/secagg.md` specifies them: every length is checked."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import TypeVar, final

import numpy as np

from manent.core.errors import ProtocolAbort
from manent.crypto.digest import digest
from manent.summation.parties.fields import Reader, u32

KEM_KEY, KEM_TEXT, KEPT, SEALED = 1184, 1088, 48, 80
OPENED = 4 + 32
MASKED = 32
"""Bytes of `masked_with`, which ends an upload."""


@dataclass(frozen=True)
class Advert:
    """A client's keys for one attempt, signed by its identity.

    Attributes:
        position: of the client in the cohort.
        channel, mask: X25519 public keys, 32 bytes each.
        commitment: 32 bytes that bind the client to the seed of its own mask.
        channel_kem, mask_kem: ML-KEM-768 public keys, 1184 bytes each; empty in a classical suite.
        signature: Ed25519, 64 bytes.
    """

    position: int
    channel: bytes
    mask: bytes
    commitment: bytes
    channel_kem: bytes
    mask_kem: bytes
    signature: bytes = b""

    @property
    def unsigned(self) -> bytes:
        """The advert's bytes without its signature."""
        return b"".join((u32(self.position), self.channel, self.mask, self.commitment, self.channel_kem, self.mask_kem))

    def signed_text(self, context: bytes) -> bytes:
        """The 32 bytes that are signed for the attempt of this context."""
        return digest("manent advert", context, self.unsigned)

    def encode(self) -> bytes:
        """The record's bytes."""
        return self.unsigned + self.signature

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Every public key in it, of which no two may be equal in a cohort."""
        return tuple(key for key in (self.channel, self.mask, self.channel_kem, self.mask_kem) if key)

    @classmethod
    def read(cls, reader: Reader, hybrid: bool) -> Advert:
        """One record, with ML-KEM keys where the suite is hybrid. Raises ProtocolAbort where it is cut short."""
        position, channel, mask, commitment = reader.u32(), reader.take(32), reader.take(32), reader.take(32)
        channel_kem, mask_kem = (reader.take(KEM_KEY), reader.take(KEM_KEY)) if hybrid else (b"", b"")
        return cls(position, channel, mask, commitment, channel_kem, mask_kem, reader.take(64))


@dataclass(frozen=True)
class Parcel:
    """What one client sends another through the server: sealed shares, and in a hybrid suite what agreeing on keys needs.

    Attributes:
        peer: the recipient's position in Shares, the sender's in Deliveries.
        sealed: the two shares, 80 bytes.
        channel_text: ML-KEM ciphertext to the recipient's channel key, 1088 bytes, or empty.
        mask_text: ML-KEM ciphertext to the recipient's mask key, 1088 bytes; only the lower position sends it.
        kept: the secret in `mask_text`, sealed under the sender's root for the server, 48 bytes; it is not delivered.
    """

    peer: int
    sealed: bytes
    channel_text: bytes = b""
    mask_text: bytes = b""
    kept: bytes = b""

    def encode(self) -> bytes:
        """The record's bytes."""
        return b"".join((u32(self.peer), self.channel_text, self.mask_text, self.kept, self.sealed))

    def delivered(self, sender: int) -> Parcel:
        """As the recipient gets it."""
        return Parcel(sender, self.sealed, self.channel_text, self.mask_text)


def shares_reader(sender: int, hybrid: bool) -> Callable[[Reader], Parcel]:
    """A function that reads one record of Shares by `sender`. It raises ProtocolAbort where the record is cut short."""

    def read(reader: Reader) -> Parcel:
        peer = reader.u32()
        channel = reader.take(KEM_TEXT) if hybrid else b""
        mask, kept = (reader.take(KEM_TEXT), reader.take(KEPT)) if hybrid and sender < peer else (b"", b"")
        return Parcel(peer, reader.take(SEALED), channel, mask, kept)

    return read


def deliveries_reader(recipient: int, hybrid: bool) -> Callable[[Reader], Parcel]:
    """A function that reads one record of Deliveries to `recipient`. It raises ProtocolAbort where the record is cut short."""

    def read(reader: Reader) -> Parcel:
        peer = reader.u32()
        channel = reader.take(KEM_TEXT) if hybrid else b""
        mask = reader.take(KEM_TEXT) if hybrid and peer < recipient else b""
        return Parcel(peer, reader.take(SEALED), channel, mask)

    return read


@dataclass(frozen=True)
class Signed:
    """A survivor's consent in a list: its position and its Ed25519 signature, 64 bytes."""

    position: int
    signature: bytes

    def encode(self) -> bytes:
        """The record's bytes."""
        return u32(self.position) + self.signature

    @classmethod
    def read(cls, reader: Reader) -> Signed:
        """One record. Raises ProtocolAbort where it is cut short."""
        return cls(reader.u32(), reader.take(64))


@dataclass(frozen=True)
class Opened:
    """A share that is opened, 32 bytes: of the client's own seed where it survived, of its root where it did not."""

    position: int
    share: bytes

    def encode(self) -> bytes:
        """The record's bytes."""
        return u32(self.position) + self.share

    @classmethod
    def read(cls, reader: Reader) -> Opened:
        """One record. Raises ProtocolAbort where it is cut short."""
        return cls(reader.u32(), reader.take(32))


Listed = TypeVar("Listed", Advert, Parcel, Signed, Opened)


def listing(records: Sequence[Advert | Parcel | Signed | Opened]) -> bytes:
    """A list as bytes: its count, then its records. The caller gives them in ascending order of position."""
    return u32(len(records)) + b"".join(record.encode() for record in records)


def read_list(reader: Reader, read: Callable[[Reader], Listed], place: Callable[[Listed], int], most: int) -> tuple[Listed, ...]:
    """The records of a list. Raises ProtocolAbort for more than `most`, or positions that do not strictly ascend.

    Args:
        read: reads one record.
        place: the position of a record.
    """
    count = reader.u32()
    if count > most:
        raise ProtocolAbort(f"Expected a list of at most {most} records; found {count}.")
    found = tuple(read(reader) for _ in range(count))
    places = [place(record) for record in found]
    if any(a >= b for a, b in pairwise(places)):
        raise ProtocolAbort("The records of a list are not in strictly ascending order of position.")
    return found


@final
class Table:
    """A list whose positions are known, so that each record is found without reading the others.

    Args:
        body: holds the list, from byte `at` to its end.
        positions: there must be one record for each of them; in ascending order.
        lengths: bytes of a record for a position below `own`, and of one above.

    Raises ProtocolAbort unless the bytes are exactly that list.
    """

    def __init__(self, body: bytes, at: int, positions: Sequence[int], lengths: tuple[int, int], own: int = 0) -> None:
        self._body, self._first, (self._below, self._above) = body, at + 4, lengths
        self._positions = array("I", positions)  # four bytes each; a list of Python numbers takes forty
        self._lower = bisect_left(self._positions, own)
        self._middle, above = self._first + self._lower * self._below, len(positions) - self._lower
        if len(body) != self._middle + above * self._above or not self._places(at, above):
            raise ProtocolAbort(f"A list does not have exactly one record for each of {len(positions)} positions.")

    def _places(self, at: int, above: int) -> bool:
        """Whether the count and each record's position are right."""
        runs = (at, 1, 4), (self._first, self._lower, self._below), (self._middle, above, self._above)
        found = [np.ndarray((count,), ">u4", self._body, start, (step,)) for start, count, step in runs if count]
        return np.array_equal(np.concatenate(found), [len(self._positions), *self._positions])

    @property
    def digest(self) -> bytes:
        """SHA-256 of the whole body that holds the list."""
        return sha256(self._body).digest()

    def record(self, position: int) -> bytes:
        """The bytes of the record for a position, which they begin with."""
        index = bisect_left(self._positions, position)
        if index < self._lower:
            start = self._first + index * self._below
            return self._body[start : start + self._below]
        start = self._middle + (index - self._lower) * self._above
        return self._body[start : start + self._above]


def shares_table(sender: int, body: bytes, recipients: Sequence[int], hybrid: bool) -> Table:
    """The records in the body of Shares by `sender`. Raises ProtocolAbort unless there is exactly one for each recipient."""
    below = 4 + SEALED + KEM_TEXT * hybrid
    return Table(body, 0, recipients, (below, below + (KEM_TEXT + KEPT) * hybrid), sender)


def delivered(record: bytes, sender: int, kept: bool) -> bytes:
    """A record of Shares as its recipient gets it.

    Args:
        kept: whether the record holds a `kept` field, which is left out.
    """
    return u32(sender) + (record[4 : -SEALED - KEPT] + record[-SEALED:] if kept else record[4:])


def masked_with(context: bytes, positions: Collection[int], count: int, shares: bytes) -> bytes:
    """The `MASKED` bytes at the end of an upload: with whom the client shares masks, and which Shares it had sent.

    A server that knows of other neighbours, or received other ciphertexts, would form a wrong sum; so it can tell.

    Args:
        positions: with whom the client shares masks.
        count: clients in the cohort.
        shares: SHA-256 of the body of the client's own Shares.
    """
    return digest("manent masked with", context, bitmap(frozenset(positions), count), shares)


def split_upload(body: bytes | memoryview) -> tuple[memoryview, bytes]:
    """The packed vector, not copied, and the 32 bytes of `masked_with`. Raises ProtocolAbort for too few bytes."""
    if len(body) < MASKED:
        raise ProtocolAbort(f"An upload ends with {MASKED} bytes; found {len(body)} in all.")
    return memoryview(body)[:-MASKED], bytes(body[-MASKED:])


def bitmap(positions: Sequence[int] | frozenset[int], count: int) -> bytes:
    """A set of positions as `count` bits, the least significant first, padded with zeros to a byte."""
    bits = np.zeros(count, np.uint8)
    bits[sorted(positions)] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def read_bitmap(body: bytes, count: int) -> frozenset[int]:
    """The set of positions in a bitmap. Raises ProtocolAbort for another length, or padding that is not zero."""
    if len(body) != -(-count // 8):
        raise ProtocolAbort(f"A bitmap of {count} bits has {-(-count // 8)} bytes; found {len(body)}.")
    bits = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little")
    if bits[count:].any():
        raise ProtocolAbort("The padding of a bitmap is not zero.")
    return frozenset(np.flatnonzero(bits).tolist())
