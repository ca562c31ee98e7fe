"""`Plain`: how a study asks for the sum in the clear."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from manent.core.layers import Form
from manent.core.observers import ObserverName, Sight, with_server
from manent.core.protocols import Occasion
from manent.core.sums import TreeSum
from manent.summation.plain.network import PlainNetwork


@final
@dataclass(frozen=True)
class Plain:
    """Every client sends its vector to the server, which adds them. It hides nothing: the server sees each vector."""

    @property
    def together(self) -> bool:
        """A simulation may add several clients' vectors on their way."""
        return True

    @property
    def network(self) -> PlainNetwork:
        """How it runs between a server and clients."""
        return PlainNetwork()

    def seen_by(self, observer: ObserverName) -> Sight:
        """The server sees every vector, and who sent it. To others, the call of a secret cohort names nobody, no number."""
        return Sight("every client's vector", True) if with_server(observer) else Sight("nothing but what is released", False)

    def minimum(self, most: int) -> int:
        """One answer forms a sum."""
        return 1

    def init(self, occasion: Occasion) -> TreeSum:
        """An empty sum."""
        return TreeSum(occasion.form.layout.size, occasion.count, occasion.dtype)

    def bits(self, form: Form, most: int) -> int:
        """Of one number on its way: 32 for a real number; whole numbers are as narrow as their bound allows."""
        if form.grid is None:
            return 32
        return form.bits or math.ceil(math.log2(2 * (form.reach or 2.0**62) + 1))

    def explain(self, form: Form, most: int, minimum: int) -> tuple[str, ...]:
        """Nothing: it protects nothing."""
        return ()
