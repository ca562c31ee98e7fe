"""What a sum in the clear is of: its terms, the call to it, and its uploads, as bytes.

    terms  = u32 n ‖ u64 d ‖ u8 whole ‖ u64 largest ‖ u32 minimum ‖ u32 enough
    upload = u8 type (0 float32, 1 float64, 2 int64) ‖ d numbers, least significant byte first

A call is that of `parties.call`, under the label "manent plain call".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.parties import StoredMessage
from manent.core.vectors import Array
from manent.summation.parties import wire
from manent.summation.parties.call import EncodedTerms, SumCall
from manent.summation.parties.fields import Reader, u8, u32, u64
from manent.summation.parties.wire import Kind

TYPES: tuple[np.dtype[np.generic], ...] = (np.dtype("<f4"), np.dtype("<f8"), np.dtype("<i8"))
STRETCH = 1 << 16  # coordinates that are read, checked or added at a time


@dataclass(frozen=True)
class PlainTerms:
    """What a sum in the clear is of.

    Attributes:
        clients: n, how many are asked; 0 in the call of a secret cohort, whose members are all waited for.
        size: d, the length of the vectors.
        whole: whether they hold whole numbers, of size at most `largest` (0: no bound is declared); else real numbers.
        minimum: the fewest answers with which the sum is formed; 0 where noise hides that there are none.
        enough: with so many answers it is formed at once; 0 in the call of a secret cohort.
    """

    clients: int
    size: int
    whole: bool
    largest: int
    minimum: int
    enough: int

    def encode(self) -> bytes:
        """The bytes that are hashed and sent."""
        head = u32(self.clients) + u64(self.size) + u8(self.whole) + u64(self.largest)
        return head + u32(self.minimum) + u32(self.enough)

    @classmethod
    def read(cls, reader: Reader) -> PlainTerms:
        """Raises ProtocolAbort for bytes that are no terms."""
        clients, size, whole, largest = reader.u32(), reader.u64(), reader.u8(), reader.u64()
        minimum, enough = reader.u32(), reader.u32()
        if whole > 1 or not (minimum <= enough <= clients or enough == clients == 0):
            raise ProtocolAbort(
                f"Expected terms with minimum <= enough <= clients, or of a secret cohort with enough and clients 0; "
                f"found {minimum}, {enough}, {clients}."
            )
        return cls(clients, size, bool(whole), largest, minimum, enough)


@final
@dataclass(frozen=True)
class PlainCall(SumCall[PlainTerms]):
    """The server's call to one attempt at one sum in the clear."""

    label: ClassVar[str] = "manent plain call"
    terms_type: ClassVar[type[EncodedTerms]] = PlainTerms

    @property
    def first_phase(self) -> str:
        """See `AnyCall`."""
        return "upload"

    @property
    def largest_upload(self) -> int:
        """Bytes of an upload message, at most: that of float64 or int64 numbers."""
        return wire.HEAD + 1 + 8 * self.terms.size

    @property
    def stores_uploads(self) -> bool:
        """Uploads of every size are stored: the total is read from them stretch by stretch."""
        return True

    def examine(self, message: StoredMessage) -> bytes:
        """Check the frame and every number of an upload that is stored; its frame and the type of its numbers.

        Raises ProtocolAbort for another attempt's message, another length or type, and numbers that cannot be summed.
        """
        first = wire.HEAD + 1
        head = b"".join(message.read(0, min(message.size, first), first))
        kind, context, body = wire.unframe(head)
        if kind is not Kind.UPLOAD or context != self.context or not body:
            raise ProtocolAbort("This upload belongs to another attempt, or is none.")
        number = upload_type(body[0], message.size - wire.HEAD, self.terms)
        for chunk in message.read(first, message.size, STRETCH * number.itemsize):
            check_numbers(np.frombuffer(chunk, number), self.terms)
        return head


def upload_message(context: bytes, vector: Array, terms: PlainTerms) -> bytes:
    """An upload, the one copy of the [d] vector. Raises InvalidInput for another shape or type."""
    tag = type_tag(vector, terms)
    numbers = np.ascontiguousarray(vector, TYPES[tag])
    return b"".join((wire.frame(Kind.UPLOAD, context, u8(tag)), numbers.view(np.uint8).data))


def type_tag(vector: Array, terms: PlainTerms) -> int:
    """The place in `TYPES` of a vector's numbers. Raises InvalidInput for a vector of another shape or type."""
    kinds = {np.dtype(np.int64): 2} if terms.whole else {np.dtype(np.float32): 0, np.dtype(np.float64): 1}
    if vector.shape != (terms.size,) or vector.dtype not in kinds:
        raise InvalidInput(
            f"Expected {'int64' if terms.whole else 'float32 or float64'}[{terms.size}], found {vector.dtype}"
            f"{list(vector.shape)}."
        )
    return kinds[vector.dtype]


def upload_type(tag: int, length: int, terms: PlainTerms) -> np.dtype[np.generic]:
    """The type of an upload's numbers, from its first byte and its length. Raises ProtocolAbort where they do not fit."""
    if tag not in ((2,) if terms.whole else (0, 1)):
        raise ProtocolAbort(f"An upload holds {'whole' if terms.whole else 'real'} numbers; found type {tag}.")
    if length != 1 + terms.size * TYPES[tag].itemsize:
        raise ProtocolAbort(
            f"An upload of {terms.size} numbers has {1 + terms.size * TYPES[tag].itemsize} bytes; found {length}."
        )
    return TYPES[tag]


def check_numbers(numbers: Array, terms: PlainTerms) -> None:
    """Raises ProtocolAbort for numbers that are not finite, or beyond the declared bound."""
    if not terms.whole:
        if not np.isfinite(numbers).all():
            raise ProtocolAbort("An upload holds NaN or infinity; every number must be finite.")
    elif terms.largest and (int(numbers.max(initial=0)) > terms.largest or int(numbers.min(initial=0)) < -terms.largest):
        raise ProtocolAbort(f"An upload holds a number beyond the bound of {terms.largest} that the study declares.")
