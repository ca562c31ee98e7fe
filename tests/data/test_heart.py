import sys
from importlib.resources import files

import numpy as np
import pytest

from manent.core.errors import InvalidInput
from manent.data.heart import heart_disease

CENTRES = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")


def both(client):
    return [client.train, client.test]


def test_the_four_centres_are_flambys():
    federation = heart_disease()
    assert federation.names == CENTRES
    assert [(len(c.train), len(c.test)) for c in federation] == [(199, 104), (172, 89), (30, 16), (85, 45)]
    rates = [np.concatenate([part.y for part in both(client)]).mean() for client in federation]
    assert np.round(rates, 3).tolist() == [0.459, 0.375, 0.978, 0.777]
    assert federation.schema.shape == (13,)
    assert [c.name for c in federation.schema.features][-5:] == ["cp_2", "cp_3", "cp_4", "restecg_1", "restecg_2"]


def test_each_centre_is_normalised_by_its_own_training_rows():
    for client in heart_disease():
        x = client.train.x.astype(np.float64)
        assert np.abs(x.mean(axis=0)).max() < 1e-5
        sd = x.std(axis=0, ddof=1)
        constant = client.name == "Switzerland"  # no cholesterol was measured there
        assert np.allclose(np.delete(sd, 3) if constant else sd, 1, atol=1e-5)
        assert not constant or (client.train.x[:, 3] == 0).all()


def test_pooled_normalisation_uses_all_training_rows_and_none_leaves_units():
    pooled, raw = heart_disease("pooled"), heart_disease("none")
    train = pooled.pooled("train").x.astype(np.float64)
    assert np.abs(train.mean(axis=0)).max() < 1e-5
    assert np.allclose(train.std(axis=0, ddof=1), 1, atol=1e-5)
    values = raw.pooled("train").x.astype(np.float64)
    wanted = (raw.pooled("test").x - values.mean(axis=0)) / values.std(axis=0, ddof=1)
    assert np.allclose(pooled.pooled("test").x, wanted, atol=1e-5)
    assert raw.schema.column("trestbps").unit == "mm Hg"


def test_columns_are_in_their_own_units_and_match_the_raw_features():
    federation = heart_disease("none")
    names = [c.name for c in federation.schema.features]
    for client in federation:
        for part in both(client):
            for name in ("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak"):
                assert np.array_equal(part.columns[name].astype(np.float32), part.x[:, names.index(name)])
            assert np.array_equal(part.columns["num"] > 0, part.y == 1)
            assert np.array_equal(part.columns["cp"] == 4, part.x[:, names.index("cp_4")] == 1)
    # The first patient of the published Cleveland file.
    first = {name: column[0] for name, column in federation.client("Cleveland").train.columns.items()}
    assert (first["age"], first["sex"], first["cp"], first["trestbps"], first["chol"], first["thalach"]) == (
        63,
        1,
        1,
        145,
        233,
        150,
    )
    # The first of the Hungarian file, 28 years old, is with Hungary.
    assert min(part.columns["age"].min() for part in both(federation.client("Hungary"))) == 28


def test_missing_cholesterol_is_what_the_description_says():
    federation = heart_disease()
    zeros = {c.name: sum(int((part.columns["chol"] == 0).sum()) for part in both(c)) for c in federation}
    assert zeros == {"Cleveland": 0, "Hungary": 0, "Switzerland": 46, "VA Long Beach": 33}
    description = federation.schema.column("chol").description
    assert "Zero means missing" in description
    assert "33 of 130" in description


def test_every_column_has_bounds_or_codes_and_a_description():
    schema = heart_disease().schema
    assert all((c.codes or (c.low is not None and c.high is not None)) and c.description for c in schema.columns)


def test_it_needs_neither_pandas_nor_sklearn(monkeypatch):
    for module in ("pandas", "sklearn", "matplotlib"):
        monkeypatch.setitem(sys.modules, module, None)
    assert len(heart_disease()) == 4


def test_the_test_part_is_the_recipes(monkeypatch):
    selection = pytest.importorskip("sklearn.model_selection", reason="scikit-learn is not installed (extra 'sklearn')")
    lines = (files("manent.data") / "bundled" / "heart_disease.csv").read_text().splitlines()[1:]
    for centre in CENTRES:
        rows = [line.split(",") for line in lines if line.startswith(centre)]
        ill = np.array([row[-1] != "0" for row in rows])
        stratify = ill if min(ill.sum(), (~ill).sum()) > 2 else None
        _, test = selection.train_test_split(
            np.arange(len(rows)), test_size=1 - 0.66, train_size=0.66, random_state=43, shuffle=True, stratify=stratify
        )
        assert {i for i, row in enumerate(rows) if row[1] == "test"} == set(test.tolist())


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(InvalidInput, match="'centre', 'pooled', 'none'; found 'center'"):
        heart_disease("center")
