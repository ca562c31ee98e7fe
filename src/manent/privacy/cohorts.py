"""What is public about a study's cohorts: their size, how they are drawn, and how often a sum is released."""

from __future__ import annotations

from manent.accounting.events import FixedSize, NeighboringRelation, Poisson, Sampling, TruncatedPoisson
from manent.core.errors import Refused
from manent.core.layers import Gathering, Layer
from manent.core.protocols import Summation, SumSpec
from manent.core.study import Cohort
from manent.privacy.observers import Secrecy
from manent.privacy.stack import declared_by


def gathering_of(cohort: Cohort, clients: int, noise: Layer | None, summation: Summation) -> Gathering:
    """What is public about each sum's cohort. With noise, a Poisson cohort is released even when it is empty.

    Args:
        clients: how many there are.
        noise: the layer that makes the sums private, or None.

    Raises Refused for a minimum that would tell how many were drawn, and for a cohort that does not suit the noise or
    the summation.
    """
    groups = cohort.min_separation or 1
    most = cohort.size or cohort.maximum or -(-clients // groups)
    minimum = max(cohort.minimum, summation.minimum(most))
    expected = float(cohort.size or (cohort.sampling_probability or 1.0) * clients / groups)
    if noise is None:
        return Gathering(expected, minimum, most)
    sampled, declared = cohort.sampling_probability is not None, declared_by(noise)
    if cohort.maximum is not None and sampled:
        expected = min(expected, float(cohort.maximum))
    declared.check_cohort(minimum, sampled)
    if sampled and minimum > 1:
        raise Refused(
            f"A Poisson cohort is released whatever its size, or its size is told: a minimum of {minimum} forbids that. "
            f"Leave minimum out; empty cohorts release noise."
        )
    return Gathering(expected, max(declared.minimum(most), 0 if minimum <= 1 else minimum), most)


def sampling(cohort: Cohort, clients: int, remembers: bool = False) -> Sampling | None:
    """How a cohort is secretly drawn, or None: where everyone takes part, or whoever's turn it is, there is no secret sample.

    Args:
        clients: how many there are.
        remembers: whether clients remember earlier rounds. Where they do, and were not drawn independently, a sample is no secret
            either: what the others send later depends on who was drawn beside them, so later sums tell of an earlier sample.
    """
    q = cohort.sampling_probability
    if remembers and (cohort.size is not None or cohort.maximum is not None):
        return None
    if cohort.min_separation is not None:
        return None
    if cohort.size is not None:
        return FixedSize(cohort.size, clients) if cohort.size < clients else None
    if q is None or q == 1:
        return None
    # A cohort that only a neighbour with one client more could fill is cut there.
    return Poisson(q) if cohort.maximum is None or cohort.maximum > clients else TruncatedPoisson(q, cohort.maximum, clients)


def drawn_at_random(cohort: Cohort, clients: int) -> bool:
    """Whether some clients, at random, are left out of a sum, and not because it is others' turn."""
    q, most = cohort.sampling_probability, cohort.size or cohort.maximum or clients
    return cohort.min_separation is None and (most < clients or (q is not None and q < 1))


def secrecy(by: Sampling | None, tells_number: bool, releases: int, delta: float) -> Secrecy:
    """How much of the drawing is a secret, from whom.

    Args:
        by: how a cohort is drawn, or None.
        tells_number: whether the noise in a total tells how many are in it. Only a sample whose size is fixed is a secret then.
        releases: how often, at most, something is released.
        delta: what pays for samples that differ, for one who takes part, from how they are said to be drawn. Where it would have
            to pay a quarter, sampling counts for nothing.
    """
    if by is None or (tells_number and not by.same_number):
        return Secrecy()
    member, error = by.known_to_member()
    return Secrecy(by, member, error) if 4 * releases * error <= delta else Secrecy(by)


def population_shown(cohort: Cohort, tells_number: bool, all_secret: bool) -> str | None:
    """Why one client more or less is no secret, so that "add_or_remove" has no honest statement; or None.

    Args:
        tells_number: whether the noise in a total tells how many are in it.
        all_secret: whether sampling amplifies against every observer whom the noise protects from.
    """
    if cohort.min_separation is not None:
        return "Groups that take turns are dealt from a fixed population: one client more deals them anew."
    if cohort.size is not None:
        return "In a cohort of fixed size one client more takes another's place, and tells how many there are."
    if tells_number:
        return "Each client adds noise of its own, so the noise in a total tells how many there are."
    if cohort.maximum is not None and not all_secret:
        return "Of a cohort that is cut, one client more takes another's place, and an observer may know who was drawn."
    return None


def usual_relation(cohort: Cohort, shown: str | None) -> NeighboringRelation:
    """The relation of a study without a budget; `shown`: see `population_shown`."""
    if shown is None:
        return "add_or_remove"
    return "zero_out" if cohort.size is None or cohort.min_separation is not None else "replace_one"


def releases(spec: SumSpec, rounds: int) -> int:
    """How often a sum is released, at most."""
    return max(1, rounds // spec.every)


def describe_cohort(cohort: Cohort) -> str:
    """Who takes part in a sum, in words that go before "of n clients"."""
    if cohort.min_separation is not None:
        some = "all" if cohort.size is None else f"{cohort.size} drawn at random"
        return f"{some} of one of {cohort.min_separation} groups, which take turns, out"
    if cohort.size is not None:
        return f"{cohort.size} drawn at random for each sum, out"
    if cohort.sampling_probability is not None:
        most = "" if cohort.maximum is None else f", at most {cohort.maximum},"
        return f"each with probability {cohort.sampling_probability:g} for each sum{most}, out"
    return "all"
