"""What layers are to each other and to engines: declarations that, told what is known of a vector, become stages of two halves.

A stack is built before anything runs. Each layer is told the `Form` of what it gets and the `Gathering` it acts in, refuses what
does not fit, and answers with a `Stage` whose own form says what it gives. So bounds are proven from the declaration alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from manent.core.errors import ManentError
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Arrays, Layout


@dataclass(frozen=True)
class Form:
    """What is known of every client's vector between two layers. Norms bound one client's whole vector, or are None.

    Attributes:
        layout: how the vector is cut.
        grid: None for real numbers; else the vector holds whole numbers (int64), each worth this much.
        l1, l2, largest: bounds on the sum of sizes, the Euclidean norm and the largest size, in the vector's present unit.
        bits: the sum of whole numbers may be formed modulo 2**bits, as the server's half brings it back; None where it may not.
        spread: the most by which a client's own noise may add to `largest`.
        noise: the layer that has made the sum private, once there is one.
        fault: why it cannot run with this much noise, or None.
    """

    layout: Layout
    grid: float | None = None
    l1: float | None = None
    l2: float | None = None
    largest: float | None = None
    bits: int | None = None
    spread: float = 0.0
    noise: str | None = None
    fault: str | None = None


@dataclass(frozen=True)
class Gathering:
    """What is public about the cohort of a sum.

    Attributes:
        expected: how many answers are expected; what a private sum is divided by.
        minimum: with fewer answers nothing is released.
        most: never more answers than this.
        noise_multiplier: the noise that the budget asks for, or None.
        rounds: how often the sum is formed, at most.
        min_separation: the fewest rounds from one participation of a client to its next, where the cohort holds to one.
        whole: whether the summation adds whole numbers only.
    """

    expected: float
    minimum: int
    most: int
    noise_multiplier: float | None = None
    rounds: int = 1
    min_separation: int | None = None
    whole: bool = False


@dataclass(frozen=True)
class Stage:
    """A layer, resolved for one sum. As it stands it changes nothing.

    Attributes:
        form: of what the client's half gives.
    """

    form: Form

    def init(self) -> Arrays:
        """The server's first state of this stage."""
        return {}

    def sends(self, state: Arrays) -> Arrays:
        """float32 arrays that clients need of the state; they go with the assignment."""
        return {}

    def memory(self) -> Layout | None:
        """What a client keeps of this stage between rounds (float32, starting at zero), or None."""
        return None

    def client(self, vectors: Array, sent: Arrays, random: PrivateRandom) -> Array:
        """Clients' vectors, [k, d] in the form of the stage before, to [k, d'] in this stage's."""
        if self.memory() is not None:
            raise ManentError(f"{type(self).__name__} has memory: `remember` takes the place of `client`.")
        return vectors

    def remember(self, vectors: Array, memory: Array, sent: Arrays, random: PrivateRandom) -> tuple[Array, Array]:
        """`client` for a stage with memory: it also takes what the clients have kept, [k, m], and gives what each is to keep if
        its vector is in the released sum."""
        return self.client(vectors, sent, random), memory

    def server(self, total: Array, state: Arrays, random: PrivateRandom) -> tuple[Array, Arrays]:
        """The total [d'] to a total [d] in the form of the stage before, and the next state."""
        return total, state


class Layer(Protocol):
    """What is done to clients' vectors before the sum, and undone on the total: plain data."""

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        """The stage for vectors of this form. Raises Refused, saying the right order, where it has no place there."""
        ...
