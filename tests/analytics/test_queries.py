"""Mean and histogram of a declared column, on real patients."""

from __future__ import annotations

import numpy as np
import pytest

import manent as mn


@pytest.fixture(scope="module")
def hearts():
    return mn.data.heart_disease()


def all_values(data, name):
    return np.concatenate([part.columns[name] for client in data.clients for part in (client.train, client.test)])


def test_the_mean_age_of_740_patients(hearts):
    run = mn.simulate(mn.Study(mn.Mean("age")), hearts, workers=2)
    ages = all_values(hearts, "age").astype(np.float64)
    assert len(ages) == 740
    assert float(run.result["mean"]) == pytest.approx(ages.mean(), abs=1e-9)
    assert int(run.result["count"]) == 740
    assert run.history[0]["mean"] == float(run.result["mean"])


def test_a_histogram_between_public_bounds(hearts):
    run = mn.simulate(mn.Study(mn.Histogram("age", bins=12)), hearts, workers=0)
    expected, edges = np.histogram(all_values(hearts, "age"), bins=12, range=(0, 120))
    np.testing.assert_array_equal(run.result["counts"], expected)
    np.testing.assert_allclose(run.result["edges"], edges)


def test_a_histogram_of_a_coded_column(hearts):
    run = mn.simulate(mn.Study(mn.Histogram("cp")), hearts, workers=0)
    np.testing.assert_array_equal(run.result["codes"], [1, 2, 3, 4])
    np.testing.assert_array_equal(run.result["counts"], np.bincount(all_values(hearts, "cp"), minlength=5)[1:])


def test_values_are_clipped_to_the_bounds_and_missing_ones_left_out():
    column = mn.Column("dose", "mg", 0, 10)
    values = np.array([1.0, 2.0, np.nan, 400.0, -5.0])
    part = mn.Examples(np.zeros((5, 1), np.float32), np.zeros(5, np.int64), {"dose": values})
    contribution = mn.Mean("dose").answer(
        _assignment({"bounds": np.array([0, 10], np.float32)}), [mn.Client("a", part)], [None], [None]
    )
    np.testing.assert_array_equal(contribution[0].vector, [13, 4])
    assert column.high == 10


def _assignment(arrays):
    from manent.core.protocols import Assignment

    return Assignment("mean", arrays)


def test_an_unknown_column_lists_those_there_are(hearts):
    with pytest.raises(mn.InvalidInput, match=r"No column 'agee'.*age, sex"):
        mn.check(mn.Study(mn.Mean("agee")), hearts)


def test_a_column_without_bounds_is_refused(hearts):
    with pytest.raises(mn.InvalidInput, match="public bounds"):
        mn.check(mn.Study(mn.Mean("sex")), hearts)


def test_the_statement_of_a_query_says_that_the_server_sees_each_vector(hearts):
    text = str(mn.check(mn.Study(mn.Mean("age")), hearts))
    assert "sum and count of 'age'" in text
    assert "every client's vector" in text
    assert "no differential privacy" in text
