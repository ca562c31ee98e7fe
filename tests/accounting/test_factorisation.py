"""Factorisations of prefix sums: published norms, and every closed form against dense matrices."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import toeplitz

import manent as mn
from manent.accounting import factorisation as mf

IDENTITY = np.ones(1)


def dense(coefficients, rounds):
    """The lower triangular Toeplitz matrix."""
    column = np.zeros(rounds)
    column[: min(len(coefficients), rounds)] = coefficients[:rounds]
    return np.tril(toeplitz(column, np.zeros(rounds)))


@pytest.mark.parametrize(
    ("rounds", "identity", "tree", "root"),
    [(1_024, 32, 10.5, 3.273), (16_384, 128, 14.5, 4.155), (131_072, 362, 17.5, 4.817)],
)
def test_prefix_sums_of_the_acceptance_table(rounds, identity, tree, root):
    assert mf.error(IDENTITY, rounds) == pytest.approx(identity, abs=0.5)
    assert mf.tree_error(rounds) == pytest.approx(tree, abs=0.05)
    assert mf.square_root_error(rounds) == pytest.approx(root, abs=6e-4)
    if rounds == 1_024:
        assert mf.error(mf.square_root(rounds), rounds) == pytest.approx(mf.square_root_error(rounds))


def test_the_square_root_squared_is_the_prefix_sum():
    root = dense(mf.square_root(50), 50)
    np.testing.assert_allclose(root @ root, np.tril(np.ones((50, 50))), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_norms_are_those_of_dense_matrices(rounds, bands):
    c = mf.square_root(bands)
    matrix = dense(c, rounds)
    np.testing.assert_allclose(dense(mf.inverse(c, rounds), rounds), np.linalg.inv(matrix), atol=1e-10)
    rows = np.tril(np.ones((rounds, rounds))) @ np.linalg.inv(matrix)
    assert mf.largest_row(c, rounds) == pytest.approx(np.linalg.norm(rows, axis=1).max())
    assert mf.sensitivity(c, rounds) == pytest.approx(np.linalg.norm(matrix, axis=0).max())


def patterns(rounds, most, apart):
    """Every set of rounds in which one unit may take part."""
    for count in range(1, most + 1):
        for rows in combinations(range(rounds), count):
            if all(b - a >= apart for a, b in pairwise(rows)):
                yield list(rows)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 9), st.integers(0, 10**6))
def test_sensitivity_is_the_worst_of_all_patterns(rounds, apart, bands, seed):
    rng = np.random.default_rng(seed)
    c = np.sort(rng.random(bands))[::-1] if seed % 2 else mf.square_root(bands)
    most = int(rng.integers(1, -(-rounds // apart) + 1))
    matrix = dense(c, rounds)
    worst = max(np.linalg.norm(matrix[:, rows].sum(1)) for rows in patterns(rounds, most, apart))
    found = mf.sensitivity(c, rounds, most, apart)
    assert found == pytest.approx(worst)
    if bands <= apart:
        assert found <= np.sqrt(most) * np.linalg.norm(c) * (1 + 1e-12)
    # Rows that are vectors, of any direction, reach no more.
    for rows in patterns(rounds, most, apart):
        u = rng.normal(size=(len(rows), 3))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        assert np.linalg.norm(matrix[:, rows] @ u) <= found * (1 + 1e-9)


def test_tree_error_is_that_of_a_tree():
    for height in range(6):
        rounds = 1 << height
        nodes = [np.isin(np.arange(rounds), range(s, s + w)) for w in 1 << np.arange(height + 1) for s in range(0, rounds, w)]
        assert np.sum(nodes, axis=0).max() == height + 1
        most = max(length.bit_count() for length in range(1, rounds + 1))
        assert mf.tree_error(rounds) == pytest.approx(np.sqrt((height + 1) * most))


def test_bands_lie_between_none_and_all():
    errors = [mf.error(mf.square_root(bands), 1_024, 4, 256) for bands in (1, 4, 16, 64, 256)]
    assert errors == sorted(errors, reverse=True)
    # Almost four times less noise on the last model than independent noise at the same privacy.
    assert errors[0] / errors[2] > 3


@pytest.mark.parametrize(
    ("rounds", "apart", "buffers"), [(1, 1, 3), (2, 1, 2), (40, 10, 1), (64, 16, 3), (64, 64, 4), (30, 1, 2)]
)
def test_buffers_are_their_dense_matrix_and_well_fitted(rounds, apart, buffers):
    most = -(-rounds // apart)
    scales, decays = map(np.array, mf.fitted_buffers(rounds, most, apart, buffers))
    assert (scales > 0).all()
    assert scales.sum() < 1
    assert ((decays > 0) & (decays < 1)).all()
    c = mf.buffered(scales, decays, rounds)
    matrix = dense(c, rounds)
    np.testing.assert_allclose(dense(mf.buffered_inverse(scales, decays, rounds), rounds), np.linalg.inv(matrix), atol=1e-9)
    found = mf.buffered_error(scales, decays, rounds, most, apart)
    assert found == pytest.approx(mf.error(c, rounds, most, apart))
    assert found <= 1.02 * mf.error(IDENTITY, rounds, most, apart)
    if buffers > 2:
        assert found < 1.02 * mf.error(mf.square_root(apart), rounds, most, apart)


def test_three_buffers_do_what_many_bands_do():
    found = mf.buffered_error(*map(np.array, mf.fitted_buffers(1_024, 4, 256, 3)), 1_024, 4, 256)
    assert found == pytest.approx(7.7, abs=0.1)
    alone = mf.buffered_error(*map(np.array, mf.fitted_buffers(1_024, 1, 1_024, 3)), 1_024)
    assert mf.square_root_error(1_024) <= alone < 1.01 * mf.square_root_error(1_024)


def test_what_has_no_closed_form_is_refused():
    for wrong in ([1.0, 2.0], [1.0, -0.5]):
        with pytest.raises(mn.InvalidInput, match="never grow"):
            mf.sensitivity(np.array(wrong), 10)
    with pytest.raises(mn.InvalidInput, match="do not fit"):
        mf.sensitivity(IDENTITY, 10, 3, 5)


def test_the_norms_are_those_of_jax_privacy():
    theirs = pytest.importorskip("jax_privacy.matrix_factorization.toeplitz")
    for rounds, bands, most, apart in ((64, 8, 4, 16), (100, 100, 1, 100), (128, 16, 8, 16)):
        c = mf.square_root(bands)
        squared = float(theirs.minsep_sensitivity_squared(c, min_sep=apart, max_participations=most, n=rounds))
        assert mf.sensitivity(c, rounds, most, apart) ** 2 == pytest.approx(squared, rel=1e-4)
        variances = np.asarray(theirs.per_query_error(strategy_coef=np.pad(c, (0, rounds - bands)), n=rounds))
        assert mf.largest_row(c, rounds) ** 2 == pytest.approx(float(variances.max()), rel=1e-4)
