"""Shamir's secret sharing."""

from __future__ import annotations

import itertools
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.crypto import InsecureTestRNG, SystemRandom
from manent.crypto.shamir import PRIME, combine, draw_secret, lagrange, recover, split
from tests.crypto.scripted import Scripted
from tests.statistics import uniform_ok

SECRETS = st.one_of(st.integers(0, PRIME - 1), st.integers(0, 3), st.integers(PRIME - 3, PRIME - 1)).map(
    lambda s: s.to_bytes(32, "big")
)
POINTS = st.lists(
    st.one_of(st.integers(1, 40), st.integers(1, PRIME - 1), st.integers(PRIME - 9, PRIME - 1)),
    min_size=1,
    max_size=40,
    unique=True,
)


@st.composite
def sharings(draw, smallest=1):
    """A secret, its threshold, and its shares by point."""
    points = draw(POINTS.filter(lambda points: len(points) >= smallest))
    threshold = draw(st.integers(smallest, len(points)))
    secret = draw(SECRETS)
    shares = split(secret, threshold, points, InsecureTestRNG(draw(st.integers(0, 99))))
    return secret, threshold, dict(zip(points, shares, strict=True))


def interpolate(values: dict[int, int], x: int) -> int:
    """The value at x of the polynomial through the points, term by term."""
    total = 0
    for a, value in values.items():
        for b in values:
            if b != a:
                value = value * (x - b) * pow(a - b, -1, PRIME) % PRIME
        total += value
    return total % PRIME


def number(share: bytes) -> int:
    return int.from_bytes(share, "big")


def scripted(*numbers: int) -> Scripted:
    """A source whose next 32 bytes are these numbers, one after another."""
    return Scripted(*np.frombuffer(b"".join(n.to_bytes(32, "big") for n in numbers), np.uint64).tolist())


def wrong(share: bytes) -> bytes:
    """Another value, unrelated: errors that fit a polynomial of their own could cancel."""
    return (number(sha256(share).digest()) % PRIME).to_bytes(32, "big")


def test_the_modulus_is_prime():
    """Miller-Rabin to 40 bases; a composite passes one for at most a quarter of all bases."""
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 42):
        assert any(pow(base, odd << k, PRIME) == PRIME - 1 for k in range(twos)) or pow(base, odd, PRIME) == 1


@given(sharings(), st.data())
@settings(max_examples=60, deadline=None)
def test_any_threshold_of_the_shares_give_the_secret(sharing, data):
    secret, threshold, shares = sharing
    chosen = data.draw(st.permutations(list(shares)))[:threshold]
    assert combine([shares[x] for x in chosen], lagrange(chosen)) == secret
    assert recover({x: shares[x] for x in chosen}, threshold, secret.__eq__) == secret
    assert combine(list(shares.values()), lagrange(list(shares))) == secret  # more than enough will do


@given(sharings(smallest=2), SECRETS, st.data())
@settings(max_examples=40, deadline=None)
def test_one_share_less_fits_every_secret(sharing, other, data):
    """Through threshold - 1 shares and any secret goes a polynomial of the right degree, exactly one: all are as likely."""
    _, threshold, shares = sharing
    seen = data.draw(st.permutations(list(shares)))[: threshold - 1]
    through = {0: number(other)} | {x: number(shares[x]) for x in seen}
    elsewhere = {x: interpolate(through, x).to_bytes(32, "big") for x in shares if x not in seen}
    consistent = {x: shares[x] for x in seen} | elsewhere
    for chosen in ([*seen, next(iter(elsewhere))], list(shares)):
        assert combine([consistent[x] for x in chosen], lagrange(chosen)) == other


def test_one_share_less_is_uniform():
    """Chi-square over the top three bits of two of three shares together, of a fixed secret; false alarm 1e-10 a pair."""
    random = SystemRandom()
    drawn = np.array([[share[0] >> 5 for share in split(bytes(32), 3, (1, 2, 3), random)] for _ in range(6400)])
    for a, b in itertools.combinations(range(3), 2):
        assert uniform_ok(np.bincount(8 * drawn[:, a] + drawn[:, b], minlength=64))


def test_a_polynomial_written_out():
    """5 + 3x + 2x^2 at 1, 2, 10; the highest coefficient is drawn first."""
    coefficients = scripted(2, 3)
    shares = split((5).to_bytes(32, "big"), 3, (1, 2, 10), coefficients)
    assert [number(share) for share in shares] == [10, 19, 235]
    assert coefficients.left == 0


def test_the_coefficients_at_zero_written_out():
    """For 1, 2, 3: 3, -3, 1."""
    assert lagrange((1, 2, 3)) == (3, PRIME - 3, 1)
    assert lagrange((3, 1)) == (-pow(2, -1, PRIME) % PRIME, 3 * pow(2, -1, PRIME) % PRIME)
    assert lagrange((7,)) == (1,)


@given(POINTS.map(lambda points: points[:12]))
@settings(max_examples=30, deadline=None)
def test_the_coefficients_are_those_of_the_definition(points):
    for chosen, coefficient in zip(points, lagrange(points), strict=True):
        assert coefficient == interpolate({x: int(x == chosen) for x in points}, 0)


@given(st.lists(st.sampled_from([PRIME, PRIME + 1, 2**256 - 1]), max_size=4), st.sampled_from([0, 7, PRIME - 1]))
def test_a_draw_beyond_the_prime_is_thrown_away(beyond, kept):
    random = scripted(*beyond, kept)
    assert number(draw_secret(random)) == kept
    assert random.left == 0


def test_a_coefficient_beyond_the_prime_is_drawn_again():
    """4x^2 + 6x at 1 and 2."""
    random = scripted(PRIME, 4, PRIME + 5, 6)
    assert [number(share) for share in split(bytes(32), 3, (1, 2, 3), random)] == [10, 28, 54]
    assert random.left == 0


def test_secrets_differ():
    random = SystemRandom()
    assert len({draw_secret(random) for _ in range(50)}) == 50
    assert len({tuple(split(bytes(32), 2, (1, 2), random)) for _ in range(50)}) == 50


@pytest.mark.parametrize("points", [(), (0,), (1, 1), (1, PRIME), (-1,), (1.5,), ("a",), (1, 1 + PRIME)])
def test_bad_points_are_refused(points):
    for use in (lambda: lagrange(points), lambda: split(bytes(32), 1, points, InsecureTestRNG(1))):
        with pytest.raises(InvalidInput):
            use()


def test_points_may_be_numpy_integers():
    assert lagrange(np.arange(1, 9, dtype=np.uint8)) == lagrange(range(1, 9))


@pytest.mark.parametrize("threshold", [-1, 0, 4])
def test_a_threshold_that_cannot_be_met_is_refused(threshold):
    with pytest.raises(InvalidInput, match="threshold"):
        split(bytes(32), threshold, (1, 2, 3), InsecureTestRNG(1))


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33), b"\xff" * 32, PRIME.to_bytes(32, "big")])
def test_what_is_no_secret_is_refused(secret):
    with pytest.raises(InvalidInput):
        split(secret, 1, (1, 2), InsecureTestRNG(1))


def test_malformed_shares_are_not_combined():
    for share in (b"", bytes(31), bytes(33), PRIME.to_bytes(32, "big")):
        with pytest.raises(ProtocolAbort, match="1 of 2 shares"):
            combine([bytes(32), share], lagrange((1, 2)))
    with pytest.raises(InvalidInput, match="Expected 2 shares"):
        combine([bytes(32)], lagrange((1, 2)))


SECRET = b"\x2a" * 32


def shared(count, threshold):
    return dict(zip(range(1, count + 1), split(SECRET, threshold, range(1, count + 1), InsecureTestRNG(7)), strict=True))


def counted(asked):
    def right(secret):
        asked.append(secret)
        return secret == SECRET

    return right


def test_the_lowest_points_are_tried_first():
    for count, threshold in ((9, 6), (100, 67)):
        shares, asked = shared(count, threshold), []
        for x in range(threshold + 1, count + 1):
            shares[x] = wrong(shares[x])
        assert recover(dict(reversed(shares.items())), threshold, counted(asked)) == SECRET
        assert len(asked) == 1


@given(st.integers(1, 7), st.data())
@settings(max_examples=40, deadline=None)
def test_any_wrong_shares_are_worked_around_where_enough_are_right(threshold, data):
    """With few shares, every choice is tried."""
    count = data.draw(st.integers(threshold, 9))
    shares = shared(count, threshold)
    liars = data.draw(st.sets(st.sampled_from(range(1, count + 1)), max_size=count - threshold))
    malformed = data.draw(st.sampled_from([wrong, lambda share: share[:-1], lambda share: b"\xff" * 32]))
    shares |= {x: malformed(shares[x]) for x in liars}
    assert recover(shares, threshold, SECRET.__eq__) == SECRET


@pytest.mark.parametrize(("count", "threshold"), [(100, 67), (60, 58), (40, 39)])
def test_one_wrong_share_of_many_is_worked_around_wherever_it_is(count, threshold):
    asked = []
    for liar in range(1, count + 1):
        shares = shared(count, threshold)
        shares[liar] = wrong(shares[liar])
        before = len(asked)
        assert recover(shares, threshold, counted(asked), limit=-(-count // (count - threshold)) + 1) == SECRET
        assert len(asked) - before <= count / (count - threshold) + 1


@pytest.mark.parametrize("liars", [{1, 100}, {1, 34, 67}, {2, 30, 60, 90}])
def test_a_few_wrong_shares_of_many_are_worked_around(liars):
    shares = shared(100, 67)
    shares |= {x: wrong(shares[x]) for x in liars}
    assert recover(shares, 67, SECRET.__eq__) == SECRET


def test_it_aborts_rather_than_return_a_wrong_secret():
    shares = shared(9, 6)
    with pytest.raises(ProtocolAbort, match="needs 6 shares; of 5 given, 5"):
        recover({x: shares[x] for x in range(1, 6)}, 6, SECRET.__eq__)
    with pytest.raises(ProtocolAbort, match="needs 6 shares; of 6 given, 5"):
        recover({x: shares[x] if x > 1 else b"" for x in range(1, 7)}, 6, SECRET.__eq__)
    asked = []
    with pytest.raises(ProtocolAbort, match="too many are wrong"):
        recover({x: wrong(share) if x < 5 else share for x, share in shares.items()}, 6, counted(asked))
    assert len(asked) == 84  # 9 over 6: each choice once


def test_the_number_of_candidates_is_bounded():
    for count, threshold, limit in ((100, 67, 5), (9, 6, 84), (9, 6, 83)):
        asked = []
        with pytest.raises(ProtocolAbort):
            recover({x: wrong(share) for x, share in shared(count, threshold).items()}, threshold, counted(asked), limit)
        assert len(asked) == limit


def test_bad_questions_are_refused():
    for shares, threshold, limit in ((shared(3, 2), 0, 9), (shared(3, 2), 2, 0), ({0: bytes(32)}, 1, 9), ({}, 1, 9)):
        with pytest.raises(InvalidInput):
            recover(shares, threshold, SECRET.__eq__, limit)
