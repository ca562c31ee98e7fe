"""The graph, and the drawing of cohorts."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.errors import InvalidInput
from manent.summation.parties.cohort import draw_cohort
from manent.summation.secagg.graph import is_graph, neighbours


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, int]:
    count = draw(st.integers(2, 40))
    return count, draw(st.sampled_from([k for k in range(1, count) if is_graph(count, k)]))


def reached(count: int, degree: int, present: set[int]) -> set[int]:
    """Whoever of those present is joined to the first of them."""
    found, edge = {min(present)}, [min(present)]
    while edge:
        near = set(neighbours(edge.pop(), count, degree)) & present - found
        found |= near
        edge += near
    return found


@given(graphs())
def test_the_graph_is_symmetric_regular_and_connected(graph):
    count, degree = graph
    near = [neighbours(p, count, degree) for p in range(count)]
    for p in range(count):
        assert len(set(near[p])) == len(near[p]) == degree
        assert list(near[p]) == sorted(near[p])
        assert p not in near[p]
        assert all(p in near[q] for q in near[p])
    assert reached(count, degree, set(range(count))) == set(range(count))


@given(graphs(), st.data())
def test_neighbours_are_the_nearest_on_the_ring(graph, data):
    count, degree = graph
    p = data.draw(st.integers(0, count - 1))
    steps = sorted(min((p - q) % count, (q - p) % count) for q in neighbours(p, count, degree))
    nearest = sorted(min(d, count - d) for d in range(1, count))
    assert steps == nearest[:degree]


@given(graphs(), st.data())
def test_the_graph_parts_only_at_two_gaps_of_half_the_degree(graph, data):
    """What the bounds of `parameters` rest on."""
    count, degree = graph
    present = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    ring = sorted(present)
    gaps = [(after - before - 1) % count for before, after in zip(ring, ring[1:] + ring[:1], strict=True)]
    long = sum(gap >= degree / 2 for gap in gaps)
    parted = reached(count, degree, present) != present
    assert parted == (degree < count - 1 and long >= 2)


@pytest.mark.parametrize(
    ("position", "count", "degree"),
    [(0, 10, 3), (0, 10, 0), (0, 10, 10), (0, 10, -2), (10, 10, 4), (-1, 10, 4), (0, 1, 0), (0, 9, 7)],
)
def test_what_is_no_graph_is_refused(position, count, degree):
    with pytest.raises(InvalidInput):
        neighbours(position, count, degree)


def seeds(number: int) -> list[bytes]:
    return [sha256(b"%d" % i).digest() for i in range(number)]


def test_a_cohort_is_what_it_was():
    """Frozen: other implementations draw the same. In the first, words are thrown away."""
    assert draw_cohort(11, bytes(32), 11) == (9, 0, 1, 5, 2, 10, 4, 6, 3, 8, 7)
    assert draw_cohort(100_000, bytes(range(32)), 6) == (68163, 58755, 72292, 54317, 6440, 47011)
    assert draw_cohort(1, bytes(32), 1) == (0,)


def test_a_cohort_is_drawn_as_the_specification_says():
    """A second reading of the docstring, word by word."""
    from hashlib import shake_256

    seed, n = sha256(b"specification").digest(), 1000
    stream = shake_256(b"manent/secagg/cohort/1" + seed + n.to_bytes(8, "big")).digest(16_000)
    left, drawn, at = {j: j for j in range(n)}, [], 0
    for i in range(n):
        bits = 0
        while 2**bits < n - i:
            bits += 1
        r = n
        while r >= n - i:
            r = int.from_bytes(stream[at : at + 4], "big") % 2**bits
            at += 4
        drawn.append(left[i + r])
        left[i + r] = left[i]
    assert draw_cohort(n, seed, n) == tuple(drawn)
    assert at > 4 * n, "no word was thrown away"


@given(st.integers(1, 300), st.binary(min_size=32, max_size=32), st.data())
def test_a_cohort_is_a_beginning_of_a_permutation(count, seed, data):
    whole = draw_cohort(count, seed, count)
    assert sorted(whole) == list(range(count))
    size = data.draw(st.integers(1, count))
    assert draw_cohort([b"%d" % i for i in range(count)], seed, size) == whole[:size]


def test_cohorts_are_uniform():
    """Chi-square over the 60 ordered triples of 5. The seeds are fixed, so it passes for ever or fails for ever."""
    from scipy.stats import chi2

    found = Counter(draw_cohort(5, seed, 3) for seed in seeds(12_000))
    expected = 12_000 / 60
    assert sum((found[p] - expected) ** 2 / expected for p in permutations(range(5), 3)) < chi2.isf(1e-6, 59)


def test_every_place_is_uniform_where_words_are_often_thrown_away():
    """Chi-square over place and client, 17 of 17 (17 is just above 2^4). The seeds are fixed here too."""
    from scipy.stats import chi2

    found = Counter((place, who) for seed in seeds(6_000) for place, who in enumerate(draw_cohort(17, seed, 17)))
    expected = 6_000 / 17
    statistic = sum((found[place, who] - expected) ** 2 / expected for place in range(17) for who in range(17))
    assert statistic * 16 / 17 < chi2.isf(1e-6, 16 * 16)


def test_seeds_and_rosters_draw_different_cohorts():
    assert len({draw_cohort(1000, seed, 10) for seed in seeds(100)}) == 100
    assert draw_cohort(1000, bytes(32), 10) != draw_cohort(1001, bytes(32), 10)


def test_a_large_roster_is_drawn_whole():
    assert sorted(draw_cohort(100_000, bytes(32), 100_000)) == list(range(100_000))


@pytest.mark.parametrize(
    ("roster", "seed", "size"),
    [(10, bytes(31), 3), (10, bytes(32), 0), (10, bytes(32), 11), (0, bytes(32), 1), ([], bytes(32), 1)],
)
def test_what_draws_no_cohort_is_refused(roster, seed, size):
    with pytest.raises(InvalidInput):
        draw_cohort(roster, seed, size)
