"""The tree sum: equal bits whatever the order and the grouping, each position once, and never a wrong sum."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.sums import Partial, TreeSum


def terms(count: int, size: int = 3, seed: int = 0) -> np.ndarray:
    """Vectors [count, size] of very different magnitudes, whose sum depends on the order in almost every case."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, size)) * 10.0 ** rng.integers(-12, 12, (count, size))).astype(np.float32)


def in_order(vectors: np.ndarray, answered: list[bool]) -> np.ndarray:
    total = TreeSum(vectors.shape[1], len(vectors))
    for position, vector in enumerate(vectors):
        total.add(position, vector) if answered[position] else total.skip(position)
    return total.finish()


@st.composite
def cohorts(draw):
    count = draw(st.integers(1, 40))
    answered = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return terms(count, seed=draw(st.integers(0, 2**20))), answered


@given(cohorts(), st.randoms(use_true_random=False))
def test_any_order_gives_the_same_bits(cohort, random):
    vectors, answered = cohort
    order = list(range(len(vectors)))
    random.shuffle(order)
    total = TreeSum(3, len(vectors))
    for position in order:
        total.add(position, vectors[position]) if answered[position] else total.skip(position)
    assert total.finish().tobytes() == in_order(vectors, answered).tobytes()


def runs(count: int, split) -> list[tuple[int, int]]:
    """The positions 0 to count - 1 cut into aligned runs (level, index): from the root down, `split` says where to cut."""
    found, open_ = [], [(count.bit_length(), 0)]
    while open_:
        level, index = open_.pop()
        if index << level >= count:
            continue
        if level and split():
            open_ += [(level - 1, 2 * index), (level - 1, 2 * index + 1)]
        else:
            found.append((level, index))
    return found


@given(cohorts(), st.randoms(use_true_random=False))
def test_any_grouping_into_aligned_runs_gives_the_same_bits(cohort, random):
    vectors, answered = cohort
    count, total = len(vectors), TreeSum(3, len(vectors))
    units = runs(count, lambda: random.random() < 0.7)
    random.shuffle(units)
    for level, index in units:
        part = TreeSum(3, count)
        positions = list(range(index << level, min((index + 1) << level, count)))
        random.shuffle(positions)
        for position in positions:
            part.add(position, vectors[position]) if answered[position] else part.skip(position)
        total.merge(part.take(level, index))
    assert total.finish().tobytes() == in_order(vectors, answered).tobytes()


@given(cohorts(), st.randoms(use_true_random=False))
def test_what_is_merged_is_only_read_and_may_be_overwritten_afterwards(cohort, random):
    vectors, answered = cohort
    count, total, one = len(vectors), TreeSum(3, len(vectors)), np.empty(3)
    units = runs(count, lambda: random.random() < 0.7)
    random.shuffle(units)
    for level, index in units:
        part = TreeSum(3, count)
        for position in range(index << level, min((index + 1) << level, count)):
            part.add(position, vectors[position]) if answered[position] else part.skip(position)
        taken = part.take(level, index, one)
        before = one.copy()
        total.merge(taken)
        assert taken.total is None or one.tobytes() == before.tobytes()
        one[:] = np.nan
    assert total.finish().tobytes() == in_order(vectors, answered).tobytes()


@given(cohorts(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_runs_may_be_taken_out_and_put_back(cohort, level, random):
    vectors, answered = cohort
    count, total = len(vectors), TreeSum(3, len(vectors))
    for index in random.sample(range(-(-count >> level)), -(-count >> level)):
        for position in range(index << level, min((index + 1) << level, count)):
            total.add(position, vectors[position]) if answered[position] else total.skip(position)
        if count > 1 << level and index == count >> level:  # the last, ragged run, and the only one that is still apart
            total.merge(total.take(level, index))
    assert total.finish().tobytes() == in_order(vectors, answered).tobytes()


@given(cohorts())
def test_it_agrees_with_the_exact_sum(cohort):
    vectors, answered = cohort
    kept = vectors[np.array(answered)].astype(np.float64)
    exact = [math.fsum(column) for column in kept.T]
    bound = [math.fsum(map(abs, column)) for column in kept.T]
    error = np.abs(in_order(vectors, answered) - exact)
    assert (error <= 1e-16 * (2 + math.log2(len(vectors))) * np.array(bound)).all()


def test_the_tree_is_not_the_order_of_arrival():
    five = np.array([[0.1], [0.2], [0.3], [0.4], [0.5]])
    assert in_order(five, [True] * 5)[0] == ((0.1 + 0.2) + (0.3 + 0.4)) + 0.5
    opposite = np.array([[1e17], [3.0], [5.0], [-1e17]])
    assert in_order(opposite, [True] * 4)[0] == (1e17 + 3.0) + (5.0 - 1e17) != 8.0


@settings(max_examples=20)
@given(st.integers(1, 3000))
def test_memory_is_logarithmic_in_order(count):
    total = TreeSum(1, count)
    most = 0
    for position in range(count):
        total.add(position, np.ones(1))
        most = max(most, len(total._nodes))
    assert most <= math.log2(count) + 1
    assert total.finish()[0] == count


@pytest.mark.parametrize("level", [0, 3])
def test_buffers_are_few_however_many_runs_are_merged(level):
    total, most = TreeSum(1, 1 << 12), 0
    for index in range(1 << (12 - level)):
        total.merge(Partial(level, index, np.ones(1)))
        most = max(most, len(total._nodes) + len(total._spare))
    assert most <= 2 * 13


def test_a_total_keeps_its_value_while_its_sum_goes_on():
    total = TreeSum(1, 8)
    for position in range(4):
        total.add(position, np.ones(1))
    taken = total.take(2, 0)
    for position in range(4, 8):
        total.add(position, np.full(1, 7.0))
    assert taken.total is not None
    assert taken.total.tolist() == [4]


def test_nobody_answering_gives_zeros():
    assert in_order(terms(5), [False] * 5).tolist() == [0, 0, 0]
    assert TreeSum(2, 0).finish().tolist() == [0, 0]


def test_what_is_added_is_copied():
    vector = np.ones(2)
    total = TreeSum(2, 2)
    total.add(0, vector)
    total.add(1, vector)
    assert total.finish().tolist() == [2, 2]
    assert vector.tolist() == [1, 1]


@given(st.integers(1, 20), st.data())
def test_a_position_is_taken_once(count, data):
    total = TreeSum(1, count)
    position = data.draw(st.integers(0, count - 1))
    for other in data.draw(st.permutations(range(count))):
        total.add(other, np.ones(1))
        if other == position:
            break
    again = data.draw(st.sampled_from([total.skip, lambda p: total.add(p, np.ones(1))]))
    with pytest.raises(ProtocolAbort, match="twice"):
        again(position)


def test_a_run_that_overlaps_is_refused():
    total = TreeSum(1, 8)
    total.add(5, np.ones(1))
    with pytest.raises(ProtocolAbort, match="twice"):
        total.merge(Partial(2, 1, np.ones(1)))
    total.merge(Partial(2, 0, np.ones(1)))
    with pytest.raises(ProtocolAbort, match="twice"):
        total.merge(Partial(1, 1, np.ones(1)))


@given(st.integers(1, 30), st.data())
def test_an_unfinished_sum_is_no_sum(count, data):
    total = TreeSum(1, count)
    absent = data.draw(st.integers(0, count - 1))
    for position in range(count):
        if position != absent:
            total.add(position, np.ones(1))
    with pytest.raises(ProtocolAbort, match=f"Only {count - 1} of {count}"):
        total.finish()
    total.skip(absent)
    assert total.finish()[0] == count - 1


def full(count: int) -> TreeSum:
    total = TreeSum(1, count)
    for position in range(count):
        total.add(position, np.ones(1))
    return total


def test_a_sum_is_finished_once():
    total = full(4)
    total.finish()
    with pytest.raises(ProtocolAbort):
        total.finish()


def test_what_was_taken_is_no_longer_in_the_sum():
    total = full(5)
    taken = total.take(2, 0)
    assert taken.total is not None
    assert taken.total.tolist() == [4]
    with pytest.raises(ProtocolAbort, match="Only 1 of 5"):
        total.finish()
    total.merge(taken)
    assert total.finish().tolist() == [5]


def test_a_run_with_a_gap_is_not_taken():
    total = TreeSum(1, 8)
    for position in (0, 1, 3):
        total.add(position, np.ones(1))
    with pytest.raises(ProtocolAbort, match="3 of its 4"):
        total.take(2, 0)
    with pytest.raises(ProtocolAbort, match="0 of its 4"):
        total.take(2, 1)
    total.skip(2)
    taken = total.take(2, 0)
    assert taken.total is not None
    assert taken.total.tolist() == [3]


def test_a_run_inside_a_larger_sum_cannot_be_taken_apart():
    with pytest.raises(ProtocolAbort, match="0 of its 2"):
        full(4).take(1, 0)


@pytest.mark.parametrize("position", [-1, 3, 100])
def test_positions_outside_the_cohort_are_refused(position):
    with pytest.raises(InvalidInput, match="outside a cohort of 3"):
        TreeSum(1, 3).add(position, np.ones(1))


@pytest.mark.parametrize("vector", [np.ones(1), np.ones(3), np.ones((2, 1)), np.float64(1)])
def test_a_vector_of_another_size_is_refused(vector):
    with pytest.raises(InvalidInput, match="2 numbers"):
        TreeSum(2, 3).add(0, vector)
    with pytest.raises(InvalidInput, match="2 numbers"):
        TreeSum(2, 3).merge(Partial(1, 0, vector))
