"""Shamir's secret sharing (Communications of the ACM 22, 1979) over the integers modulo 2^256 - 189.

The secret is the value at zero of a random polynomial of degree threshold - 1. Each share is its value at another point.
Secrets and shares are 32 bytes, most significant first.

| shares known              | what they tell                                                                      |
|---------------------------|-------------------------------------------------------------------------------------|
| fewer than the threshold  | nothing about the secret, whatever computer is used                                 |
| the threshold, all right  | the secret                                                                          |
| the threshold, some wrong | `combine` gives a wrong secret; `recover` tries other shares until one is confirmed |

The time that Python's integers take depends on their values. Run this where nobody can measure it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, count
from math import comb, prod
from operator import index, mul
from typing import Final

from manent.core import validate
from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.randomness import PrivateRandom, repeatable
from manent.crypto.lengths import check_length

PRIME: Final = 2**256 - 189
_SIZE: Final = 32  # bytes of a secret and of a share
_RUN: Final = 16  # steps between reductions modulo the prime: points are small as a rule, so numbers grow slowly


def draw_secret(random: PrivateRandom) -> bytes:
    """A uniform secret, 32 bytes."""
    return _draw(random, 1)[0].to_bytes(_SIZE, "big")


def split(secret: bytes, threshold: int, points: Sequence[int], random: PrivateRandom) -> list[bytes]:
    """The shares of a secret, one for each point, in order. Any `threshold` of them determine it; fewer tell nothing about it.

    Args:
        secret: 32 bytes, a number below PRIME.
        threshold: 1 to the number of points.
        points: distinct whole numbers from 1 to PRIME - 1.
        random: where the polynomial is drawn from.

    Raises InvalidInput for anything else.
    """
    points = _checked(points)
    check_length("a secret", secret, _SIZE)
    constant = int.from_bytes(secret, "big")
    if constant >= PRIME:
        raise InvalidInput("Expected a secret below 2^256 - 189, found a larger one. Draw it with draw_secret.")
    if not validate.is_count(threshold) or threshold > len(points):
        raise InvalidInput(f"Expected a threshold from 1 to the number of shares, {len(points)}; found {threshold!r}.")
    polynomial = [*_draw(random, threshold - 1), constant]
    runs = [polynomial[start : start + _RUN] for start in range(0, threshold, _RUN)]
    return [_evaluate(runs, x).to_bytes(_SIZE, "big") for x in points]


def lagrange(points: Sequence[int]) -> tuple[int, ...]:
    """Lagrange's coefficients: the secret is the sum of each point's share times its coefficient, modulo PRIME.

    They serve every secret that is shared at these points.

    Raises InvalidInput for points that are not distinct whole numbers from 1 to PRIME - 1.
    """
    return _lagrange(tuple(_checked(points)))


@lru_cache(maxsize=32)  # usually the same clients hold the shares of many secrets
def _lagrange(points: tuple[int, ...]) -> tuple[int, ...]:
    divisors = [_product([x, *(y - x for y in points if y != x)]) for x in points]
    before = [1]  # products of the divisors so far: one inversion then serves them all
    for divisor in divisors:
        before.append(before[-1] * divisor % PRIME)
    numerator = _product(points)
    inverse = pow(before.pop(), -1, PRIME) * numerator % PRIME
    coefficients = []
    for divisor, others in zip(reversed(divisors), reversed(before), strict=True):
        coefficients.append(others * inverse % PRIME)
        inverse = inverse * divisor % PRIME
    return tuple(reversed(coefficients))


def combine(shares: Sequence[bytes], coefficients: Sequence[int]) -> bytes:
    """The secret, from shares in the order of the points given to `lagrange`. Wrong shares give a wrong secret: see `recover`.

    Raises InvalidInput for another number of shares, and ProtocolAbort where one is not 32 bytes below PRIME.
    """
    if len(shares) != len(coefficients):
        raise InvalidInput(f"Expected {len(coefficients)} shares, one for each coefficient; found {len(shares)}.")
    values = [_value(share) for share in shares]
    malformed = sum(value is None for value in values)
    if malformed:
        raise ProtocolAbort(f"{malformed} of {len(shares)} shares are not 32 bytes below 2^256 - 189. Leave their senders out.")
    return _combine([value for value in values if value is not None], coefficients)


def recover(shares: Mapping[int, bytes], threshold: int, right: Callable[[bytes], bool], limit: int = 1000) -> bytes:
    """The secret, even where some shares may be wrong: `right` says which candidate is the secret.

    Each candidate is made of `threshold` shares. At most `limit` candidates are tried. The first is made of the lowest points. If
    there are no more than `limit` choices, all are tried; otherwise choices that leave out each share in turn, and after that
    random groups of shares. So one wrong share is always found out if shares / (shares - threshold) is at most `limit`.

    Args:
        shares: by point.
        threshold: with which the secret was shared.
        right: whether a 32-byte candidate is the secret, for instance by its hash or its public key.
        limit: the most candidates to try, at least 1.

    Raises ProtocolAbort where too few shares are well formed, or no candidate was right; and InvalidInput for points that are
    not whole numbers from 1 to PRIME - 1, or a threshold or limit below 1.
    """
    if not (validate.is_count(threshold) and validate.is_count(limit)):
        raise InvalidInput(f"Expected a threshold and a limit of at least 1; found {threshold!r} and {limit!r}.")
    values = {
        x: value for x, share in zip(_checked([*shares]), shares.values(), strict=True) if (value := _value(share)) is not None
    }
    if len(values) < threshold:
        raise ProtocolAbort(f"A secret needs {threshold} shares; of {len(shares)} given, {len(values)} are well formed.")
    for tried, chosen in enumerate(_choices(sorted(values), threshold, limit)):
        if tried == limit:
            break
        secret = _combine([values[x] for x in chosen], lagrange(chosen))
        if right(secret):
            return secret
    raise ProtocolAbort(
        f"None of the choices tried, {threshold} of {len(values)} shares each, gives the right secret: too many are wrong."
    )


def _choices(points: list[int], size: int, limit: int) -> Iterator[Sequence[int]]:
    """Choices of `size` points, the lowest first: all choices, or an endless stream where there are more than `limit`."""
    if comb(len(points), size) <= limit:
        yield from combinations(points, size)
        return
    spare, order = len(points) - size, points[::-1]
    for turn in count():
        for start in range(0, len(points), spare):
            left_out = set(order[start : start + spare])
            yield [x for x in points if x not in left_out][:size]
        order = [points[k] for k in repeatable(turn, "choices of shares").permutation(len(points))]


def _checked(points: Sequence[int]) -> list[int]:
    """The points as Python integers. Raises InvalidInput where they are not distinct, or out of range."""
    try:
        checked = [index(x) for x in points]
    except TypeError:
        raise InvalidInput(f"Expected whole numbers as points, found {points!r}.") from None
    if not checked or not all(1 <= x < PRIME for x in checked) or len(set(checked)) < len(checked):
        raise InvalidInput(f"Expected distinct points from 1 to 2^256 - 190, at least one; found {points!r}. Number from 1.")
    return checked


def _value(share: bytes) -> int | None:
    """The number of a share, or None for what cannot be one."""
    if not isinstance(share, bytes) or len(share) != _SIZE:
        return None
    value = int.from_bytes(share, "big")
    return value if value < PRIME else None


def _draw(random: PrivateRandom, amount: int) -> list[int]:
    """Uniform numbers below PRIME. Larger draws (189 in 2^256) are thrown away."""
    drawn: list[int] = []
    while len(drawn) < amount:
        fresh = random.bytes(_SIZE * (amount - len(drawn)))
        numbers = (int.from_bytes(fresh[at : at + _SIZE], "big") for at in range(0, len(fresh), _SIZE))
        drawn += [number for number in numbers if number < PRIME]
    return drawn


def _evaluate(runs: list[list[int]], x: int) -> int:
    """Horner's rule, highest coefficient first."""
    value = 0
    for run in runs:
        for coefficient in run:
            value = value * x + coefficient
        value %= PRIME
    return value


def _product(factors: Sequence[int]) -> int:
    value = 1
    for start in range(0, len(factors), _RUN):
        value = value * prod(factors[start : start + _RUN]) % PRIME
    return value


def _combine(values: Sequence[int], coefficients: Sequence[int]) -> bytes:
    total: int = sum(map(mul, values, coefficients)) % PRIME
    return total.to_bytes(_SIZE, "big")
