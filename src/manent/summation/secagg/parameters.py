"""How many neighbours a client has (k) and how many of them open a secret (t). A server finds both; every client recomputes them.

**The setting.** n clients sit on a ring, in a random order that nobody chose. Each has two secrets: the seed of its own mask, and
the root of its keys. It shares both with its k neighbours (`graph.neighbours`), so that t of them open one.

* C = floor(corrupt n) clients are corrupt: they collude with the server. They were chosen before the order was drawn.
* D = floor(dropped n) clients do not answer to the end.
* A client's *closed* neighbourhood is its neighbours and itself: k + 1 clients.
* A survivor opens the seed of its own mask itself.
* Under the active adversary a client opens anything only after t of its closed neighbourhood, itself included, signed the same
  set of survivors. It signs one set only, and only one that names it.

For each order that is drawn, security fails with probability at most 2^-sigma, half of that for each of two conditions;
correctness fails with probability at most 2^-eta. The probabilities of rounds and attempts add up: sigma = 40 is 30 over 1,000
orders.

**Security.** Let an honest client have c corrupt neighbours. Then c is hypergeometric: k are drawn of the n - 1 others, of whom C
are corrupt. A union bound runs over the n - C honest clients.

* `curious` (the server keeps to the protocol): c < t, so that corrupt clients alone open nothing.
* `active` (the server lies): 2t > k + 1 + c. To open the seed of a client's mask takes t signatures from its closed neighbourhood
  on a set that names it. To open its root takes shares from neighbours that signed a set that does not name it. Each of the two
  takes at least t - c honest clients, and no honest client helps with both; there are k + 1 - c of them.
* One sum only. The server learns the sum over each connected part of the graph of honest survivors. To part a ring takes two
  separate gaps, each at least k/2 positions long, without an honest survivor. There are fewer than n^2/2 pairs of places.
  - `curious`: everyone in the two gaps is corrupt or dropped, k positions in all. Who drops out does not depend on the order.
  - `active`: the server decides who counts as dropped, and may do so after it has seen the order. Consider the k/2 positions at
    a gap's edge, x of them corrupt. Suppose an honest one was declared dropped and its root opened. The k/2 - 1 others lie within
    its neighbourhood, and of these only the corrupt help, so t <= k/2 + 1 + x. Otherwise none of them took part, or so the
    survivors were told. Then the survivor beside the gap has its t signatures from k/2 clients on its other side, itself, and the
    corrupt: t <= k/2 + 1 + x again. So both gaps hold x >= t - k/2 - 1 corrupt clients. The first does with the probability of a
    hypergeometric tail; then at most C - x are left for the n - k/2 other positions, and the second does with that of another
    tail. The number of drop-outs does not enter.

In the complete graph, k = n - 1, c is C with certainty and nothing can be parted: 2t > n + C, or t > C.

**Correctness.** Each of the D clients that dropped out (or answered all but the last trip) needs t neighbours that answer. Each
of the n - D others needs t clients that answer in its closed neighbourhood. In the complete graph that is n - D >= t, with
certainty.

**Sources.** Bonawitz et al., CCS 2017, for the complete graph; Bell et al., CCS 2020 (SecAgg+), for the sparse one; and the
parameter finder of Google's federated-compute. The search (the smallest even k, then the smallest t) and the halves of sigma are
Google's. Four things differ:

1. A client holds its own seed. So 2t > k + 1 + c, where Google's finder asks for 2t > k + c; t rises by one where k + c is odd.
2. A lying server chooses who drops out, where Google's finder takes drop-outs as random too. At n = 10,000 with a tenth corrupt
   and a tenth dropped, the bound above is 2^-28 for Google's (k, t) at eta = 30.
3. An honest client is none of the corrupt clients that it may meet, and none of the drop-outs among those that it needs. So tails
   are over n - 1, not n.
4. Google's eta is 20.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from manent.core import validate
from manent.core.errors import InvalidInput, Refused
from manent.summation.secagg.graph import is_graph

Adversary = Literal["curious", "active"]

SIGMA, ETA = 40, 30
"""In each sum over a sparse graph, security fails with probability at most 2^-40; correctness (no sum is formed), with 2^-30."""
ALWAYS_COMPLETE = 200  # with fewer clients a sparse graph saves little, and its bound rests on a handful of corrupt clients
LARGEST = 1_000_000  # clients; up to here the tails are exact to 1e-7 of themselves
_FEWEST = 3  # with two clients the sum tells each the other's vector


@dataclass(frozen=True)
class Choice:
    """A graph and a threshold.

    Attributes:
        degree: k, a client's neighbours without itself.
        threshold: t, how many neighbours open a secret.
    """

    degree: int
    threshold: int


@dataclass(frozen=True)
class _Case:
    """What is assumed: `corrupt` and `dropped` count clients."""

    clients: int
    corrupt: int
    dropped: int
    adversary: Adversary
    sigma: float

    def __str__(self) -> str:
        return f"{self.clients} clients ({self.corrupt} corrupt, {self.dropped} dropped, {self.adversary} adversary)"


def whole(clients: int, fraction: float) -> int:
    """floor(fraction x clients). A product within 1e-9 below a whole number counts as that number: 0.29 of 100 is 29."""
    return math.floor(fraction * clients + 1e-9)


def find(
    clients: int,
    corrupt: float,
    dropped: float,
    adversary: Adversary = "active",
    sigma: float = SIGMA,
    eta: float = ETA,
    complete: bool | None = None,
) -> Choice:
    """The smallest even degree that is secure and correct, with the smallest threshold for it; or the complete graph.

    In the complete graph t is floor(2n/3) + 1 (active) or floor(n/2) + 1 (curious), moved no further than the conditions ask.

    Args:
        clients: n, from 3 to 1,000,000.
        corrupt: fraction of the clients in [0, 1) that may collude with the server.
        dropped: fraction of the clients in [0, 1) that may not answer to the end.
        adversary: "active", a server that lies, or "curious", one that keeps to the protocol and looks.
        sigma: bits of statistical security in each round, above 0 and at most 256.
        eta: a round fails for want of answers with probability at most 2^-eta; above 0 and at most 256.
        complete: True or False to insist. None takes the complete graph below 200 clients, and where no sparser graph will do.

    Raises:
        Refused: where nothing fits, with the reason and the cure.
        InvalidInput: for an argument out of range.
    """
    case = _case(clients, corrupt, dropped, adversary, sigma)
    _check_bits("eta", eta)
    whole_graph = _complete(case)  # refuses what no graph can do
    if complete or (complete is None and clients < ALWAYS_COMPLETE):
        return whole_graph
    sparse = _sparse(case, eta)
    if sparse is None and complete is False:
        raise Refused(
            f"No graph sparser than the complete one is secure and correct for {case} at sigma={sigma:g}, eta={eta:g}. "
            "Leave complete=None, which takes the complete graph then, or lower corrupt, dropped, sigma or eta."
        )
    return sparse or whole_graph


def check(
    clients: int, degree: int, threshold: int, corrupt: float, dropped: float, adversary: Adversary, sigma: float = SIGMA
) -> None:
    """A client checks that the degree and threshold that a server proposes are secure. It takes a few milliseconds at most.

    A threshold above the smallest is as secure; it may only lose the round. `dropped` matters to security under the curious
    adversary alone: under the active one no number of drop-outs harms.

    Raises:
        Refused: naming the condition that fails.
        InvalidInput: where the client's own assumptions are out of range.
    """
    case = _case(clients, corrupt, dropped, adversary, sigma)
    proposal = f"The server proposes degree {degree} and threshold {threshold} for {case}"
    if not _is_degree(clients, degree):
        raise Refused(f"{proposal}, but the degree must be even or {clients - 1}. Take no part; ask for parameters that fit.")
    if not _is_threshold(threshold, degree):
        raise Refused(f"{proposal}, but the threshold must be from 2 to the degree. Take no part; ask for parameters that fit.")
    for condition, minimum in _conditions(case, degree):
        if threshold < minimum:
            remedy = f"the threshold must be at least {minimum}" if minimum <= degree else "no threshold will do"
            raise Refused(
                f"{proposal}, which is too weak: {condition} (sigma={sigma:g}). At this degree {remedy}. "
                "Take no part; ask the server for what manent's parameters.find gives."
            )


def most_dropped(clients: int, degree: int, threshold: int, eta: float = ETA) -> int:
    """How many clients may drop out, whoever they are, so that a round fails with probability at most 2^-eta.

    In the complete graph that is n - t, with certainty. In every graph a round bears degree - threshold + 1 drop-outs.

    Raises InvalidInput for a degree or threshold that cannot be.
    """
    _check_bits("eta", eta)
    counted = validate.is_count(clients, _FEWEST) and clients <= LARGEST
    if not (counted and _is_degree(clients, degree) and _is_threshold(threshold, degree)):
        raise InvalidInput(
            f"Expected an even degree below {clients - 1}, or {clients - 1}, and a threshold from 2 to the degree, for "
            f"{_FEWEST} to {LARGEST} clients; found {degree} and {threshold} for {clients}. Use a Choice that find returns."
        )
    low, high = 0, clients
    while high - low > 1:
        middle = (low + high) // 2
        if _answering(clients, middle, degree, eta) >= threshold:
            low = middle
        else:
            high = middle
    return low


def _is_degree(clients: int, degree: int) -> bool:
    return validate.is_count(degree, 2) and is_graph(clients, degree)


def _is_threshold(threshold: int, degree: int) -> bool:
    return validate.is_count(threshold, 2) and threshold <= degree


def _case(clients: int, corrupt: float, dropped: float, adversary: Adversary, sigma: float) -> _Case:
    if not (validate.is_count(clients, _FEWEST) and clients <= LARGEST):
        raise InvalidInput(
            f"Secure aggregation expects {_FEWEST} to {LARGEST:,} clients, found {clients!r}. "
            "With fewer, the sum itself tells one client's vector to another; with more, sum in groups."
        )
    for name, share in (("corrupt", corrupt), ("dropped", dropped)):
        validate.fraction("Secure aggregation", name, share, ", such as 0.1 for one client in ten", one=False)
    validate.one_of("Secure aggregation", "adversary", adversary, ("curious", "active"))
    _check_bits("sigma", sigma)
    return _Case(clients, whole(clients, corrupt), whole(clients, dropped), adversary, sigma)


def _check_bits(name: str, bits: float) -> None:
    if not (validate.is_number(bits) and 0 < bits <= 256):
        raise InvalidInput(f"Expected {name} as a number of bits, above 0 and at most 256, found {bits!r}. Usual are 30 and 40.")


def _complete(case: _Case) -> Choice:
    """The choice for the complete graph. Raises Refused where there is none: then no graph has one."""
    n, k = case.clients, case.clients - 1
    minimum = max(minimum for _, minimum in _conditions(case, k))
    most = min(n - case.dropped, k)
    if minimum > most:
        asked = f"2t > {n} + {case.corrupt}" if case.adversary == "active" else f"t > {case.corrupt}"
        cure = f"dropped to at most {(n - minimum) / n:.3g}" if minimum <= k else "corrupt"
        other = ", or trust the server to keep to the protocol (adversary='curious')" if case.adversary == "active" else ""
        raise Refused(
            f"No threshold t is secure and correct for {case}: {asked} asks for t >= {max(minimum, 2)}, "
            f"and of {n - case.dropped} answering clients a secret can ask for t <= {most}. Lower {cure}{other}."
        )
    usual = 2 * n // 3 + 1 if case.adversary == "active" else n // 2 + 1
    return Choice(k, max(minimum, min(usual, most)))


def _sparse(case: _Case, eta: float) -> Choice | None:
    """The smallest even degree below n - 1 for which a threshold is secure and correct."""
    k, n = 2, case.clients
    while k < n - 1:
        minimum = max(minimum for _, minimum in _conditions(case, k))
        most = _answering(n, case.dropped, k, eta)
        if minimum <= most:
            return Choice(k, minimum)
        # Two more neighbours bring at most two more answers, and no lower bound on t falls: smaller steps would find nothing.
        k += 2 if minimum > k else 2 * math.ceil((minimum - most) / 2)
    return None


def _conditions(case: _Case, k: int) -> Iterator[tuple[str, int]]:
    """Each condition of security in words, and the smallest threshold that meets it (k + 1 where none does)."""
    n, each = case.clients, 2.0 ** -(case.sigma + 1)
    c = _quantile((n - case.corrupt) * _tails(n - 1, case.corrupt, k), each)
    if case.adversary == "active":
        yield f"a lying server could open both secrets of one client: 2t > k + 1 + {c} fails", (k + 1 + c) // 2 + 1
    else:
        yield f"corrupt clients could open a secret by themselves: t > {c} fails", max(c + 1, 2)
    if k == n - 1:
        return
    if case.adversary == "active":
        x = _two_runs(n, case.corrupt, k // 2, 2 * each / n**2)
        yield f"a lying server could part the graph by naming drop-outs: t > k/2 + {x} fails", k // 2 + 1 + x
    else:
        bad = case.corrupt + case.dropped
        parted = n * n / 2 * math.exp(_log_all(n, min(bad, n), k)) > each
        yield "corrupt clients and drop-outs could part the graph", k + 1 if parted else 2


def _two_runs(clients: int, corrupt: int, run: int, bound: float) -> int:
    """The smallest x for which two given runs of positions both hold x or more corrupt clients with at most this probability."""
    one = _tails(clients, corrupt, run)
    x = _quantile(one**2, bound) + 1
    while x > 0:
        left = min(corrupt - x + 1, clients - run)
        if one[x - 1] * _tails(clients - run, left, run)[x - 1] > bound:
            break
        x -= 1
    return x


def _answering(clients: int, dropped: int, k: int, eta: float) -> int:
    """The largest threshold with which every secret that is needed can be opened, except with probability 2^-eta."""
    failing = np.zeros(k + 1)  # indexed by how much smaller than k the threshold is
    if dropped:
        failing += dropped * _tails(clients - 1, dropped - 1, k)[1 : k + 2]
    if dropped < clients:
        failing += (clients - dropped) * _tails(clients - 1, dropped, k)[2 : k + 3]
    return k - 1 - _quantile(failing, 2.0**-eta)


def _quantile(tails: NDArray[np.float64], bound: float) -> int:
    """The last index at which falling tails are above a bound; -1 where none is."""
    return int(np.count_nonzero(tails > bound)) - 1


def _tails(total: int, marked: int, drawn: int) -> NDArray[np.float64]:
    """float64[drawn + 3]: the chance that of `drawn` out of `total` at least 0, 1, ..., drawn + 2 are among the `marked`.

    Positive terms are summed from the small end, so a tail of 2^-60 has the same relative accuracy as one of 1/2.
    """
    low, high = max(0, drawn + marked - total), min(drawn, marked)
    x = np.arange(low, high + 1)
    log = _log_factorials(total.bit_length())
    terms = log[marked] - log[x] - log[marked - x] - log[drawn - x] + log[total - marked] - log[total - marked - drawn + x]
    chances = np.zeros(drawn + 3)
    chances[low : high + 1] = np.exp(terms + (log[drawn] + log[total - drawn] - log[total]))
    return np.cumsum(chances[::-1])[::-1]


def _log_all(total: int, marked: int, drawn: int) -> float:
    """Natural logarithm of the chance that all of `drawn` out of `total` are among the `marked`."""
    if drawn > marked:
        return -math.inf
    log = _log_factorials(total.bit_length())
    return float(log[marked] - log[marked - drawn] + log[total - drawn] - log[total])


@lru_cache(maxsize=8)
def _log_factorials(bits: int) -> NDArray[np.float64]:
    """log 0!, ..., log (2^bits)!; not to be written to."""
    log: NDArray[np.float64] = gammaln(np.arange(1.0, 2**bits + 2))
    log.setflags(write=False)
    return log
