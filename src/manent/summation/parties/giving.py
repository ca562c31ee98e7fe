"""How far a client is with its vector: the part of `core.parties.ClientParty` that every scheme has alike."""

from __future__ import annotations

from typing import ClassVar

from manent.core.vectors import Array


class Giving:
    """Base of clients. A scheme sets `stage`, `uploaded_in` and `_vector` as it goes on.

    Attributes:
        ready: the stage in which the scheme has come to the vector.
        stage: where the client is; "closed" and "aborted" end it.
        uploaded_in: the attempt in which it uploaded, or None.
    """

    ready: ClassVar[str]
    stage: str
    uploaded_in: int | None
    _vector: Array | None

    @property
    def finished(self) -> bool:
        """Whether the sum is over for this client: closed, or aborted."""
        return self.stage in ("closed", "aborted")

    @property
    def needs_vector(self) -> bool:
        """Whether its vector is still to be given."""
        return self._vector is None and self.uploaded_in is None

    @property
    def awaits_vector(self) -> bool:
        """Whether the protocol has come to its vector, which is still to be given."""
        return self.needs_vector and self.stage == self.ready
