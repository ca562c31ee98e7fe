"""What is public about a study's cohorts: their size, how they are drawn, and how often a sum is released."""

from __future__ import annotations

from manent.accounting.events import FixedSize, NeighboringRelation, Poisson, Sampling, TruncatedPoisson
from manent.core.errors import Refused
from manent.core.layers import Gathering, Layer
from manent.core.protocols import Summation, SumSpec
from manent.core.study import Cohort
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
    return Poisson(q) if cohort.maximum is None or cohort.maximum >= clients else TruncatedPoisson(q, cohort.maximum, clients)


def usual_relation(cohort: Cohort) -> NeighboringRelation:
    """The relation of a study without a budget. A cohort of fixed size, and groups, tell how many clients there are."""
    if cohort.min_separation is not None:
        return "zero_out"
    return "add_or_remove" if cohort.size is None else "replace_one"


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
