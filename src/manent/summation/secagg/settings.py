"""`SecAgg`: how a study asks for secure aggregation."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Literal, final

from manent.core import validate
from manent.core.errors import Refused
from manent.core.layers import Form
from manent.core.observers import ObserverName, Sight, with_server
from manent.core.protocols import Accumulator, Hiding, Occasion
from manent.crypto.random import SystemRandom
from manent.summation.parties.call import BEACONS, Beacon
from manent.summation.secagg import parameters, ring
from manent.summation.secagg.network import SecAggNetwork
from manent.summation.secagg.parameters import Adversary, Choice
from manent.summation.secagg.simulated import ModelledSum, ProtocolSum
from manent.summation.secagg.terms import CLASSICAL, HYBRID, MILLION, SUITES, Terms

Graph = Literal["auto", "complete", "harary"]


@final
@dataclass(frozen=True)
class SecAgg:
    """The server learns the sum of the cohort's vectors and nothing else about any of them, although clients vanish.

    Source: Bell et al. 2020 (SecAgg+); with the complete graph, Bonawitz et al. 2017. `docs/secagg.md` specifies the protocol.

    | | |
    |---|---|
    | what the server sees | the sum of the survivors' vectors, modulo 2^b |
    | what it takes | whole numbers within a declared bound; anything else is Refused |
    | who may collude with the server | a share `corrupt` of the cohort |
    | how it fails | it aborts without a sum; it never forms a wrong one |
    | not covered | what the sum itself gives away; what a client that lies puts into it |

    Attributes:
        graph: with whom a client shares its secrets. "complete": everyone; "harary": some neighbours, for large cohorts; "auto":
            chosen by the size of the cohort.
        adversary: "active", a server that lies; "curious", one that follows the protocol and looks.
        corrupt: the share of the cohort, in [0, 1), that may collude with the server.
        dropped: the share, in [0, 1), that may vanish. Where more vanish than the threshold allows, no sum is formed.
        minimum_cohort: the fewest vectors in a sum that a client lets be opened, at least 3.
        post_quantum: use ML-KEM-768 beside X25519, so that what is recorded today stays secret.
        beacon: what the cohort and the graph are drawn from. "public": randomness that appears after the roster was signed, which
            the deployment has to supply; "server": the server's own choice.
        modelled: in a simulation, form the same sum without the cryptography.

    Raises InvalidInput for a setting out of range.
    """

    graph: Graph = "auto"
    adversary: Adversary = "active"
    corrupt: float = 0.1
    dropped: float = 0.1
    minimum_cohort: int = 10
    post_quantum: bool = True
    beacon: Beacon = "server"
    modelled: bool = False

    def __post_init__(self) -> None:
        validate.one_of("SecAgg", "graph", self.graph, ("auto", "complete", "harary"))
        validate.one_of("SecAgg", "adversary", self.adversary, ("active", "curious"))
        validate.one_of("SecAgg", "beacon", self.beacon, BEACONS)
        validate.fraction("SecAgg", "corrupt", self.corrupt, one=False)
        validate.fraction("SecAgg", "dropped", self.dropped, one=False)
        validate.count("SecAgg", "minimum_cohort", self.minimum_cohort, ": a sum of fewer hides nobody", minimum=3)

    @property
    def together(self) -> bool:
        """Whether a simulation may add several clients' vectors on their way: only where nothing is masked."""
        return self.modelled

    @property
    def hiding(self) -> Hiding:
        """What the masks withstand."""
        return Hiding(self.adversary, self.corrupt, self.dropped, self.post_quantum, self.modelled)

    @property
    def network(self) -> SecAggNetwork:
        """How it runs between a server and clients."""
        return SecAggNetwork(self.terms, self.beacon, self.adversary)

    def seen_by(self, observer: ObserverName) -> Sight:
        """The server sees sums alone. Whoever takes part learns with whom; from a public beacon everyone works that out."""
        if with_server(observer):
            return Sight("the sum alone", True)
        return Sight("nothing but what is released", observer != "public" or self.beacon == "public")

    def choice(self, count: int) -> Choice:
        """Graph degree and threshold for a cohort of this size. Raises Refused where there are none."""
        complete = None if self.graph == "auto" else self.graph == "complete"
        return parameters.find(count, self.corrupt, self.dropped, self.adversary, complete=complete)

    def minimum(self, most: int) -> int:
        """The fewest answers with which a sum is formed, where at most `most` clients are asked. Raises Refused for too few."""
        if most < self.minimum_cohort:
            raise Refused(
                f"A cohort of {most} is below SecAgg's minimum of {self.minimum_cohort}: few can be told apart in a sum, and "
                f"few must collude to expose one. Ask more clients, or set SecAgg(minimum_cohort=...) knowing that."
            )
        return max(self.minimum_cohort, self.choice(most).threshold)

    def terms(self, form: Form, count: int, minimum: int) -> Terms:
        """The terms of a sum of `count` vectors of this form. Raises Refused for vectors that no ring holds.

        Args:
            minimum: the fewest answers with which the study releases the sum.
        """
        choice, bits = self.choice(count), ring_bits(form, count)
        return Terms(
            clients=count,
            degree=choice.degree,
            threshold=choice.threshold,
            minimum=max(choice.threshold, self.minimum_cohort, min(minimum, count)),
            size=form.layout.size,
            bits=bits,
            corrupt=min(math.ceil(self.corrupt * MILLION), MILLION),
            dropped=min(math.ceil(self.dropped * MILLION), MILLION),
            suite=HYBRID if self.post_quantum else CLASSICAL,
            adversary=self.adversary,
        )

    def init(self, occasion: Occasion) -> Accumulator:
        """An empty sum. Raises Refused for vectors that no ring holds."""
        terms = self.terms(occasion.form, occasion.count, occasion.minimum)
        if self.modelled:
            return ModelledSum(terms, occasion)
        return ProtocolSum(terms, occasion, self.beacon, SystemRandom(), os.cpu_count() or 1)

    def bits(self, form: Form, most: int) -> int:
        """How many bits one number of an upload takes. Raises Refused for vectors that no ring holds."""
        return ring_bits(form, most)

    def explain(self, form: Form, most: int, minimum: int) -> tuple[str, ...]:
        """Lines for the statement: who can expose whom, and by what. Raises Refused for vectors that no ring holds."""
        terms = self.terms(form, most, minimum)
        lying = "a server that lies" if self.adversary == "active" else "a server that follows the protocol, and looks"
        graph = "everyone" if terms.degree == most - 1 else f"{terms.degree} neighbours"
        bound = 2 * terms.threshold - terms.degree - 2 if self.adversary == "active" else terms.threshold - 1
        colluding = parameters.whole(most, self.corrupt)
        fits = ", which hold every sum" if form.bits is None else ""
        lines = [
            f"Adversary: {lying}, with up to {colluding} of {most} clients colluding ({self.corrupt:.0%}).",
            f"Each client shares its secrets with {graph}; {terms.threshold} of them rebuild one. Where {bound + 1} of them "
            f"collude with the server, the client is exposed.",
            f"A sum has at least {terms.minimum} vectors; {terms.minimum - 1} of those clients together with the server can "
            f"subtract theirs, and expose the last.",
            f"Numbers travel as {terms.bits} bits, modulo 2^{terms.bits}{fits}; {SUITES[terms.suite]}.",
            "Cohort and graph follow from a public beacon that appears after the roster was signed."
            if self.beacon == "public"
            else "The server picks the cohort and who shares with whom: it may put those who collude around one client.",
        ]
        if terms.degree != most - 1:
            lines.append(
                f"An unlucky graph exposes a client with probability at most 2^-{parameters.SIGMA} in each sum, and leaves a sum "
                f"unformed, never wrong, with 2^-{parameters.ETA}; over a study these add up."
            )
        if self.modelled:
            lines.append("The sum is modelled: no key, mask or share was made in this run, and this machine saw every vector.")
        return tuple(lines)


def ring_bits(form: Form, count: int) -> int:
    """The ring's bits b: enough that the sum of `count` such vectors does not wrap, or what the layer declares and undoes.

    Raises Refused for real numbers, and for whole numbers that no ring holds.
    """
    if form.grid is None or form.reach is None:
        raise Refused("SecAgg adds whole numbers within a bound. Use FixedPoint() or Discretize() as the last layer before it.")
    bits = form.bits if form.bits is not None else ring.bits_for(count, form.reach)
    if bits > 63:
        raise Refused(
            f"{count} vectors with numbers up to {form.reach:.3g} need a ring of {bits} bits; at most 63 are "
            f"there. Use a coarser grid, or a lower limit."
        )
    return bits
