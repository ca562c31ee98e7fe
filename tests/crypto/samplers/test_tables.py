"""The table of a law: it gives exactly the law, and where floats prove nothing, more bits decide."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from manent.crypto.samplers.laws import DiscreteGaussian, DiscreteLaplace, Poisson, RoundedGaussian
from manent.crypto.samplers.tables import BUCKETS, Sampler, sampler
from tests.crypto.samplers.test_laws import reference
from tests.crypto.scripted import Scripted, split

SMALL = [
    RoundedGaussian(0.3),
    RoundedGaussian(1.0),
    DiscreteGaussian(0.7),
    DiscreteGaussian(5.0),
    DiscreteLaplace(0.8),
    Poisson(2.5),
]
STRIPS = [RoundedGaussian(128.0), RoundedGaussian(1e6), DiscreteGaussian(3e4), DiscreteLaplace(700.0), Poisson(1e9)]


def attempt(table, strip, k):
    """Probability that one attempt returns k, computed from the table with exact arithmetic."""
    low, high = table.acceptance(strip, k, 300)
    assert low >= 0
    assert high <= 1
    rest = mpmath.mpf(BUCKETS - table.sure) / BUCKETS * int(table.weights[strip]) / mpmath.mpf(2) ** 64
    chance = mpmath.mpf(low.numerator) / low.denominator
    return (mpmath.mpf(int(table.buckets[strip])) / BUCKETS + rest * chance) / 2**table.shift


@pytest.mark.parametrize("law", SMALL, ids=repr)
def test_the_whole_table_gives_the_law(law):
    """Every integer that can be drawn, against mpmath, to 1e-40 (relative 1e-30 in the tails)."""
    table = sampler(law)
    assert table.shift == 0
    with mpmath.workprec(700):
        k = [law.mode + table.first + strip for strip in range(table.buckets.size)]
        drawn = [attempt(table, strip, one) for strip, one in enumerate(k)]
        true = [reference(law, one) for one in k]
        total_drawn, total_true = mpmath.fsum(drawn), mpmath.fsum(true)
        assert total_drawn < 1
        for one, ideal in zip(drawn, true, strict=True):
            assert abs(one / total_drawn - ideal / total_true) < mpmath.mpf(10) ** -40
            assert abs(one / total_drawn / (ideal / total_true) - 1) < mpmath.mpf(10) ** -30


@pytest.mark.parametrize("law", STRIPS, ids=repr)
def test_a_table_of_strips_is_proportional_to_the_law(law):
    """Ends and middles of strips over the whole range: drawn / true is one constant."""
    table = sampler(law)
    width = 1 << table.shift
    assert width > 1
    middle = -table.first
    strips = {0, 1, middle - 2, middle - 1, middle, middle + 1, middle + 70, table.buckets.size // 3, table.buckets.size - 1}
    with mpmath.workprec(700):
        ratios = []
        for strip in sorted(strips):
            start = law.mode + (table.first + strip) * width
            ratios += [attempt(table, strip, k) / reference(law, k) for k in (start, start + width // 3, start + width - 1)]
        assert max(ratios) / min(ratios) - 1 < mpmath.mpf(10) ** -30


@pytest.mark.parametrize("law", SMALL + STRIPS + [RoundedGaussian(2.0**-4), RoundedGaussian(2.0**50)], ids=repr)
def test_a_table_is_a_subprobability_and_wastes_little(law):
    table = sampler(law)
    assert (table.buckets >= 0).all()
    assert 0 < sum(table.weights.tolist()) < 1 << 64
    assert table.sure < BUCKETS
    assert (BUCKETS - table.sure) / BUCKETS < 0.03
    kept = np.bincount(table._strip[: table.sure] - table.first, minlength=table.buckets.size)
    np.testing.assert_array_equal(kept, table.buckets)
    low, high = law.support
    assert law.mode + table.first * (1 << table.shift) <= low
    assert law.mode + (table.first + table.buckets.size << table.shift) > high


def chance(table, strip, k):
    """a(k) by mpmath alone, as the first 512 bits of an integer."""
    with mpmath.workprec(900):
        rest = (BUCKETS - table.sure) * mpmath.mpf(int(table.weights[strip])) / mpmath.mpf(2) ** 64
        proposed = BUCKETS * mpmath.mpf(table.factor) * (1 << table.shift) * reference(table.law, k)
        a = (proposed - int(table.buckets[strip])) / rest
        assert 0 < a < 1
        return int(mpmath.floor(a * mpmath.mpf(2) ** 448))


def pieces(table):
    """A strip that is often proposed, and an integer in it that is neither always nor never accepted."""
    strip = int(np.argmax(table.weights))
    width = 1 << table.shift
    k = table.law.mode + ((table.first + strip) << table.shift) + (width // 3 if width > 1 else 0)
    return strip, k


FORCED = [RoundedGaussian(3.2), RoundedGaussian(1e4), DiscreteGaussian(40.0), DiscreteGaussian(1e6), DiscreteLaplace(1e3)]
FORCED += [Poisson(1e3), Poisson(1e10)]


@pytest.mark.parametrize("law", FORCED, ids=repr)
@pytest.mark.parametrize(("step", "accepted"), [(-1, True), (1, False)])
def test_a_tie_is_decided_by_256_bits(law, step, accepted):
    """U and a(k) agree in the first 255 bits or so: 64 bits in the float band, the next 192 decide."""
    table = sampler(law)
    strip, k = pieces(table)
    first_256 = (chance(table, strip, k) >> 192) + step
    random = Scripted(*split(first_256, 256))
    assert table.accept(np.array([strip]), np.array([k]), random).tolist() == [accepted]
    assert random.left == 0


@pytest.mark.parametrize("law", FORCED, ids=repr)
@pytest.mark.parametrize(("step", "accepted"), [(-(2**20), True), (2**20, False)])
def test_a_tie_in_256_bits_is_decided_by_448(law, step, accepted):
    table = sampler(law)
    strip, k = pieces(table)
    random = Scripted(*split(chance(table, strip, k) + step, 448))
    assert table.accept(np.array([strip]), np.array([k]), random).tolist() == [accepted]
    assert random.left == 0


@pytest.mark.parametrize("law", FORCED, ids=repr)
def test_the_float_comparison_agrees_with_mpmath_next_to_its_band(law, monkeypatch):
    """Levels from far away to next to a(k): the decision is mpmath's, in exact arithmetic near, and in floats far away."""
    exactly = []
    decide = Sampler.decide
    monkeypatch.setattr(Sampler, "decide", lambda self, *given: exactly.append(1) or decide(self, *given))
    table = sampler(law)
    strip, k = pieces(table)
    first = chance(table, strip, k) >> 384
    near = {}
    for power in range(1, 60):
        for level in (first - 2**power, first + 2**power):
            if 0 <= level < 2**64:
                exactly.clear()
                assert table.accept(np.array([strip]), np.array([k]), Scripted(level)).tolist() == [level < first]
                near[power] = bool(exactly)
    assert near[1]
    assert not near[59]


@pytest.mark.parametrize("law", FORCED, ids=repr)
def test_a_whole_draw_through_the_fallback(law):
    """From the words alone: a bucket that does not return, the strip, the place in it, and U to 256 bits."""
    table = sampler(law)
    strip, k = pieces(table)
    below = int(table.weights[:strip].astype(object).sum())
    within = [(k - law.mode) & ((1 << table.shift) - 1)] if table.shift else []
    bucket = [BUCKETS - 1, *([0] if table.shift else [])]
    tie = split((chance(table, strip, k) >> 192) - 1, 256)
    random = Scripted(*bucket, below, *within, *tie)
    out = np.zeros(1, np.int64)
    table.draw(out, random)
    assert out.tolist() == [k]
    assert random.left == 0


def test_a_rejected_draw_starts_again():
    table = sampler(DiscreteGaussian(3.0))
    strip, k = pieces(table)
    below = int(table.weights[:strip].astype(object).sum())
    out = np.zeros(1, np.int64)
    random = Scripted(BUCKETS - 1, below, 2**64 - 1, BUCKETS - 1, 2**64 - 1, 0)
    # Rejected by U, then by the weights, which leave a little over; the third bucket returns the first strip that has any.
    table.draw(out, random)
    assert out[0] == table._strip[0] != k
    assert random.left == 0


def test_bucket_and_place_are_taken_as_they_come():
    law = DiscreteGaussian(1e4)
    table = sampler(law)
    out = np.zeros(4, np.int64)
    buckets, places = [5, 30_000, 60_000, 123], [0, 127, 128, 65_535]
    words = [sum(value << (16 * at) for at, value in enumerate(part)) for part in (buckets, places)]
    table.draw(out, Scripted(*words))
    width = 1 << table.shift
    expected = [int(table._strip[b]) * width + p % width for b, p in zip(buckets, places, strict=True)]
    assert out.tolist() == expected


def test_tables_are_kept():
    assert sampler(RoundedGaussian(2.25)) is sampler(RoundedGaussian(2.25))
