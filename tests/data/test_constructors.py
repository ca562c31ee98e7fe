import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manent.core.errors import InvalidInput, MissingExtra
from manent.core.examples import Column, Schema
from manent.data.constructors import from_arrays, from_csv, from_frame, from_parquet, from_torch
from manent.data.splits import Dirichlet, Shards

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 3)), RNG.integers(0, 3, 60)
HOSPITAL = np.array(["north", "south", "west"])[RNG.integers(0, 3, 60)]


def table(pd, **changes):
    frame = {"hospital": HOSPITAL, "age": np.arange(60) + 20.0, "dose": X[:, 0], "ill": Y > 0}
    return pd.DataFrame({**frame, **changes})


@settings(max_examples=30, deadline=None)
@given(fraction=st.floats(0, 0.95), clients=st.integers(1, 20), seed=st.integers(0, 100))
def test_every_row_lands_once_with_its_target_and_columns(fraction, clients, seed):
    rows = np.arange(60)
    federation = from_arrays(
        X, Y, clients=clients, split=Dirichlet(0.5), columns={"row": rows}, test_fraction=fraction, seed=seed
    )
    parts = [part for client in federation for part in (client.train, client.test) if part is not None]
    dealt = np.concatenate([part.columns["row"] for part in parts])
    assert np.array_equal(np.sort(dealt), rows)
    assert np.array_equal(np.concatenate([part.x for part in parts]), X[dealt].astype(np.float32))
    assert np.array_equal(np.concatenate([part.y for part in parts]), Y[dealt])
    for client in federation:
        test = 0 if client.test is None else len(client.test)
        assert test == min(round((len(client.train) + test) * fraction), len(client.train) + test - 1)


def test_clients_are_views_of_one_copy():
    federation = from_arrays(X, Y, by=HOSPITAL)
    bases = {id(part.x.base) for client in federation for part in (client.train, client.test)}
    assert len(bases) == 1
    assert federation.clients[0].train.x.base.shape == X.shape


def test_seed_decides_and_names_do_not_depend_on_it():
    one, same, other = (from_arrays(X, Y, clients=12, seed=seed) for seed in (1, 1, 2))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert one.names == other.names
    assert one.names[0] == "client-00"


def test_types_follow_what_is_given():
    assert from_arrays(X, Y, clients=2).schema == Schema(shape=(3,), classes=3)
    numbers = from_arrays(X, X[:, 0], clients=2)
    assert numbers.schema.classes is None
    assert numbers.clients[0].train.y.dtype == np.float32
    characters = from_arrays(np.ones((4, 5), np.int32), np.ones((4, 5), np.int32), clients=2)
    assert characters.clients[0].train.x.dtype == np.int64
    declared = Schema(features=(Column("n"),), shape=(1,), classes=2)
    whole = from_arrays(np.ones((4, 1), np.int32), np.array([0.0, 1, 1, 0]), clients=2, schema=declared)
    assert whole.clients[0].train.x.dtype == np.float32
    assert whole.clients[0].train.y.dtype == np.int64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": HOSPITAL, "clients": 3}, "either by"),
        ({}, "either by"),
        ({"by": HOSPITAL, "split": Shards(2)}, "Remove one"),
        ({"by": HOSPITAL[:5]}, "each of the 60 rows; found 5"),
        ({"clients": 100}, "need 100 rows; found 60"),
        ({"clients": 3, "test_fraction": 1.0}, "test_fraction"),
        ({"clients": 3, "y": Y[:4]}, "same number of rows"),
        ({"clients": 3, "x": np.array(["a"] * 60)}, "expected numbers"),
        ({"clients": 3, "x": np.where(np.arange(180).reshape(60, 3) == 7, np.nan, X)}, r"Row 2, column 'x' at \(1,\): value nan"),
        ({"by": HOSPITAL, "y": np.where(np.arange(60) == 9, -1, Y)}, f"Client '{HOSPITAL[9]}', row 9, column 'y': value -1"),
        ({"clients": 3, "y": X[:, 0], "schema": Schema(shape=(3,), classes=2)}, "Row 0: y is .* whole numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_their_own_row_number(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        from_arrays(**{"x": X, "y": Y, **arguments})


def test_a_label_that_lacks_may_drop_its_row():
    y = np.where(np.arange(60) < 5, np.nan, Y)
    schema = Schema(target=Column("y", missing="drop"), shape=(3,), classes=3)
    assert from_arrays(X, y, clients=5, schema=schema, test_fraction=0).sizes.sum() == 55
    refusing = Schema(target=Column("y"), shape=(3,), classes=3)
    with pytest.raises(InvalidInput, match="Row 0: y is nan"):
        from_arrays(X, y, clients=5, schema=refusing)


def test_frame_with_a_client_column():
    pd = pytest.importorskip("pandas", reason="pandas is not installed (extra 'data')")
    federation = from_frame(table(pd), by="hospital", target="ill", columns=["age"])
    assert federation.names == ("north", "south", "west")
    assert [c.name for c in federation.schema.features] == ["dose"]
    assert federation.schema.column("age").name == "age"
    assert federation.schema.classes == 2
    joined = np.concatenate([federation.pooled("train").columns["age"], federation.pooled("test").columns["age"]])
    assert sorted(joined) == list(np.arange(60) + 20.0)


def test_frame_with_a_schema_codes_text_and_drops_what_lacks():
    pd = pytest.importorskip("pandas", reason="pandas is not installed (extra 'data')")
    sex = np.where(np.arange(60) % 2, "male", "female")
    age = np.where(np.arange(60) == 4, np.nan, np.arange(60) + 20.0)
    schema = Schema(
        features=(Column("age", "years", 0, 120, missing="drop"), Column("sex", codes={0: "female", 1: "male"})),
        target=Column("ill", codes={0: "no", 1: "yes"}),
        shape=(2,),
        classes=2,
    )
    frame = table(pd, sex=sex, age=age, ill=np.where(Y > 0, "yes", "no"))
    federation = from_frame(frame, by="hospital", target="ill", schema=schema, test_fraction=0)
    pooled = federation.pooled()
    assert len(pooled) == 59
    assert np.array_equal(pooled.x[:, 1], (pooled.x[:, 0] % 2).astype(np.float32))
    assert np.array_equal(pooled.y, (Y > 0)[pooled.x[:, 0].astype(int) - 20])
    with pytest.raises(InvalidInput, match=r"Client '.*', row 7, column 'age': value 300 is above the highest"):
        from_frame(frame.assign(age=np.where(np.arange(60) == 7, 300, 50.0)), by="hospital", target="ill", schema=schema)


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        ({"by": "clinic"}, {}, "No column 'clinic' in the data; it has hospital, age, dose, ill"),
        ({"features": ["age", "weight"]}, {}, "No column 'weight'"),
        ({}, {"dose": ["high"] * 60}, "'dose', row 0: expected a number, found 'high'"),
        ({}, {"dose": [np.nan] * 60}, "column 'dose': value nan"),
        ({}, {"hospital": [None] + ["a"] * 59}, "Column 'hospital', row 0: no client"),
        ({}, {"ill": [None] + ["yes"] * 59}, "row 0: the target is missing"),
        ({"features": []}, {}, "No feature column"),
    ],
)
def test_frames_that_do_not_fit_are_refused(arguments, changes, message):
    pd = pytest.importorskip("pandas", reason="pandas is not installed (extra 'data')")
    with pytest.raises(InvalidInput, match=message):
        from_frame(table(pd, **changes), **{"by": "hospital", "target": "ill", **arguments})


def test_text_targets_become_classes_with_their_names():
    pd = pytest.importorskip("pandas", reason="pandas is not installed (extra 'data')")
    federation = from_frame(table(pd, ill=np.array(["low", "mid", "high"])[Y]), by="hospital", target="ill")
    assert dict(federation.schema.target.codes) == {0: "high", 1: "low", 2: "mid"}


def test_numeric_clients_are_in_numeric_order():
    pd = pytest.importorskip("pandas", reason="pandas is not installed (extra 'data')")
    assert from_frame(table(pd, hospital=np.arange(60) % 11), by="hospital", target="ill").names[-1] == "10"


def test_files_give_what_the_frame_gives(tmp_path):
    pd = pytest.importorskip("pandas", reason="pandas is not installed (extra 'data')")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra 'data')")
    frame = table(pd, dose=np.round(X[:, 0], 3))
    frame.to_csv(tmp_path / "patients.csv", index=False)
    frame.to_parquet(tmp_path / "patients.parquet")
    wanted = from_frame(frame, by="hospital", target="ill").fingerprint()
    for read, file in ((from_csv, "patients.csv"), (from_parquet, "patients.parquet")):
        federation = read(tmp_path / file, by="hospital", target="ill")
        assert federation.fingerprint() == wanted
        assert federation.name == "patients"


def test_files_that_cannot_be_read_are_refused(tmp_path):
    pytest.importorskip("pandas", reason="pandas is not installed (extra 'data')")
    with pytest.raises(InvalidInput, match="No file"):
        from_csv(tmp_path / "none.csv", by="a", target="b")
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00broken\n1,2,3\n1,2,3,4,5\n")
    (tmp_path / "bad.parquet").write_text("no parquet")
    for read, file in ((from_csv, "bad.csv"), (from_parquet, "bad.parquet")):
        with pytest.raises(InvalidInput, match="could not be read"):
            read(tmp_path / file, by="a", target="b")


def test_without_pandas_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match=r"manent\[data\]"):
        from_csv(tmp_path / "none.csv", by="a", target="b")


def test_torch_data_set():
    torch = pytest.importorskip("torch", reason="torch is not installed (extra 'torch')")
    dataset = torch.utils.data.TensorDataset(torch.tensor(X, dtype=torch.float32), torch.tensor(Y))
    federation = from_torch(dataset, by=HOSPITAL)
    assert federation.fingerprint() == from_arrays(X, Y, by=HOSPITAL).fingerprint()


def test_torch_data_sets_that_do_not_fit_are_refused():
    items = [(np.zeros(3), 0), (np.zeros(4), 1)]
    with pytest.raises(InvalidInput, match=r"Item 1 .* has shape \(4,\), the first \(3,\)"):
        from_torch(items, clients=1)
    with pytest.raises(InvalidInput, match=r"Item 0 .* must be a pair"):
        from_torch([1, 2], clients=1)
    with pytest.raises(InvalidInput, match="empty"):
        from_torch([], clients=1)
