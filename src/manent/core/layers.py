"""What layers are to each other, to the stack and to engines.

A layer is a declaration. Told what is known of a vector, it becomes a stage, which has two halves: one for the client, one for
the server. A stack is built before anything runs. Each layer is told the `Form` of the vectors that it gets and the `Gathering`
that it acts in. It refuses what does not fit, or answers with a `Stage`, whose own form says what the client's half gives. So
bounds are proven from the declaration alone.

A layer needs `enter` and nothing else. Its optional members, and their defaults, are in `LayerTraits`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from manent.core import validate
from manent.core.errors import ManentError
from manent.core.observers import ObserverName, View, with_server
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Arrays, Layout

Place = Literal["clip", "compression", "grid", "noise"]
PLACES: tuple[Place, ...] = ("clip", "compression", "grid", "noise")
"""The places of layers, in the one order in which they act. A stack has several layers for "compression", one for each other."""

Where = Literal["server", "each client", "shares"]
"""Who draws the noise: the server; each client, all that protects it; or each client a share of what protects them all."""


@dataclass(frozen=True)
class Form:
    """What is known of every client's vector between two layers. Norms bound one client's whole vector, or are None.

    Attributes:
        layout: how the vector is cut into blocks.
        grid: None for real numbers; otherwise the vector holds whole numbers (int64), and one of them is worth this much.
        l1, l2, largest: bounds on the sum of sizes, on the Euclidean norm and on the largest size, in the vector's present unit.
        bits: the sum of whole numbers may be formed modulo 2**bits, as the server's half brings it back; None where it may not.
        spread: the most by which a client's own noise may add to `largest`.
        noise: the name of the layer that has made the sum private, once there is one.
        fault: why the stack cannot run with this much noise, or None.
        unit: what the numbers are multiples of, where that is not the unit of the algorithm's vectors.
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
    unit: str = ""

    @property
    def reach(self) -> float | None:
        """The most that a number which a client sends can be in size, its noise included; None where nothing bounds it.

        Each norm of a vector bounds its numbers too. Below 2^62 it is a whole number.
        """
        known = next((bound for bound in (self.largest, self.l2, self.l1) if bound is not None), None)
        if known is None:
            return None
        total = known + self.spread
        return math.ceil(known) + math.ceil(self.spread) if total < 2.0**62 else total


@dataclass(frozen=True)
class Draws:
    """What the noise in a total is made of: independent draws of one law.

    Attributes:
        law: "gaussian" (rounded), "discrete_gaussian", "laplace" (discrete) or "skellam"; any other is not known.
        count: how many there are in a total, at most: no more than one for each vector, or one in all.
        share: deviation of one (for Laplace: its scale), over noise multiplier times norm bound.
    """

    law: str
    count: int
    share: float


@dataclass(frozen=True)
class Gathering:
    """What is public about the cohort of a sum.

    Attributes:
        expected: how many answers are expected. A private sum is divided by this number.
        minimum: with fewer answers nothing is released.
        most: there are never more answers than this.
        noise_multiplier: the noise that the budget asks for, or None.
        rounds: how often the sum is formed, at most.
        kinds: how many kinds of sums the study has.
        min_separation: the fewest rounds from one participation of a client to its next; None where the cohort keeps no distance.
        whole: whether the summation adds whole numbers only.
        noise: what the noise in a total is made of; None where no layer adds any.
    """

    expected: float
    minimum: int
    most: int
    noise_multiplier: float | None = None
    rounds: int = 1
    min_separation: int | None = None
    whole: bool = False
    kinds: int = 1
    noise: Draws | None = None


@dataclass(frozen=True)
class Cost:
    """What a stage that adds noise costs in privacy, and how much noise that is.

    Each event is one release: an event of `manent.accounting`, which alone looks into it.

    Attributes:
        event: against those who see the total, and know nothing of its noise.
        seen: against those who see one client's vector as it left the client; None where nothing protects that.
        beside: against another client, who takes its own part off the total, and off the noise.
        where: who draws the noise.
        stddev: deviation (for Laplace noise: scale) of the noise in the total, at least, in the unit of the vector before it was
            made whole.
        colluders: the share of those asked whose noise is not counted, as they collude with the observer.

    Raises InvalidInput for a `where` that is not one of those that there are.
    """

    event: Any
    seen: Any | None
    beside: Any
    where: Where
    stddev: float
    colluders: float = 0.0

    def __post_init__(self) -> None:
        validate.one_of("Cost", "where", self.where, get_args(Where))

    @property
    def tells_number(self) -> bool:
        """Whether the noise in a total grows with the number of clients in it, so that it tells how many there were."""
        return self.where != "server"

    def seen_by(self, observer: ObserverName, view: View) -> tuple[Any | None, str]:
        """What one release costs against an observer, or None where nothing protects from them; and why.

        Args:
            view: what the summation shows them of the vectors.
        """
        if self.where == "server" and with_server(observer):
            return None, "The server adds the noise, and sees what it adds it to: it is trusted."
        if view == "every client's vector":
            if self.seen is None:
                return None, (
                    "It sees each vector, which carries one share of the noise only: shares protect in sums that hide their "
                    "terms."
                )
            return self.seen, "Each vector carries its own noise."
        if self.where == "each client":
            return self.event, "In every total there is all the noise of each client whose vector is in it."
        if self.where == "server":
            return self.event, "The server has noised the totals."
        if observer == "clients":
            return self.beside, "Each takes its own share of the noise off the totals; all other certain shares are left."
        known = " of the others" if "colluders" in observer else ""
        return self.event, f"In every total there are the certain shares of the noise{known}."


@dataclass(frozen=True)
class Stage:
    """A layer, resolved for one sum. As it stands it changes nothing.

    Attributes:
        form: of the vectors that the client's half gives.
        cost: of the noise that the stage adds; None for a stage without noise that is accounted.
    """

    form: Form
    cost: Cost | None = field(default=None, kw_only=True)

    def init(self) -> Arrays:
        """The server's first state of this stage: arrays by name."""
        return {}

    def sends(self, state: Arrays) -> Arrays:
        """The part of the server's state that clients need: float32 arrays, sent with the assignment."""
        return {}

    def memory(self) -> Layout | None:
        """What a client keeps of this stage between rounds (float32, starting at zero), or None."""
        return None

    def client(self, vectors: Array, sent: Arrays, random: PrivateRandom) -> Array:
        """Clients' vectors, [k, d] in the form of the stage before, to [k, d'] in this stage's form.

        Raises ManentError for a stage with memory: `remember` takes the place of this method there.
        """
        if self.memory() is not None:
            raise ManentError(f"{type(self).__name__} has memory: `remember` takes the place of `client`.")
        return vectors

    def remember(self, vectors: Array, memory: Array, sent: Arrays, random: PrivateRandom) -> tuple[Array, Array]:
        """`client` for a stage with memory. It also takes what the clients have kept, [k, m].

        Returns the vectors [k, d'], and what each client is to keep, [k, m], if its vector is in the released sum.
        """
        return self.client(vectors, sent, random), memory

    def server(self, total: Array, state: Arrays, random: PrivateRandom) -> tuple[Array, Arrays]:
        """The total [d'] to a total [d] in the form of the stage before, and the next state."""
        return total, state

    def check_round(self, state: Arrays, round: int) -> None:
        """Raises Refused where the sum of this round (from 1) would break what the noise is sized for."""

    def not_covered(self) -> tuple[str, ...]:
        """Lines for the statement: what this stage leaves open."""
        return ()


class Layer(Protocol):
    """What is done to clients' vectors before the sum, and undone on the total: plain data. See also `LayerTraits`."""

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        """The stage for vectors of this form. Raises Refused, saying the right order, where the layer has no place there."""
        ...


def none_needed(most: int) -> int:
    """The minimum of a layer that needs no answers: 0."""
    return 0


def any_cohort(minimum: int, sampled: bool) -> None:
    """The check of a layer that refuses no cohort."""


def any_sum(name: str, every: int) -> None:
    """The check of a layer that refuses no sum."""


def unknown_draws(most: int) -> Draws:
    """The noise of a layer that does not tell its law."""
    return Draws("unknown", most, 1.0)


@dataclass(frozen=True)
class LayerTraits:
    """Optional members of a layer, and their defaults; read by `core.protocols.traits`.

    Attributes:
        place: where it stands in the order, or None: anywhere that the forms allow. A layer at "clip" bounds a client's whole
            vector and sends zeros in place of one that is not finite. A layer at "noise" makes the sum private, and its stage has
            a `cost`.
        noise_multiplier: its noise, relative to the sensitivity, where it is declared; None takes it from the budget.
        correlates_rounds: whether the noise of one round depends on that of others.
        needs_independent_rounds: whether it only goes with noise that does not.
        minimum: given the most clients asked, the fewest answers needed before anything may be released.
        check_cohort: raises Refused for a cohort that it does not go with. It is told the fewest answers with which the study
            releases a sum, and whether the cohort is a Poisson sample, which may have any size.
        beside: given the shares of those asked that the summation lets collude, and vanish, the layer that takes its place, or
            None. Raises Refused where it expects fewer. It is asked where the summation declares such shares.
        check_sum: raises Refused for a sum that it does not go with, told its name and once in how many rounds it is formed.
        draws: for a layer at "noise": given the most clients asked, what the noise in a total is made of. Without it, no sum is
            formed modulo 2**bits, as nothing tells how many bits hold it.
    """

    place: Place | None = None
    noise_multiplier: float | None = None
    correlates_rounds: bool = False
    needs_independent_rounds: bool = False
    minimum: Callable[[int], int] = none_needed
    check_cohort: Callable[[int, bool], None] = any_cohort
    beside: Callable[[float, float], Layer] | None = None
    check_sum: Callable[[str, int], None] = any_sum
    draws: Callable[[int], Draws] = unknown_draws
