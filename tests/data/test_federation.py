import dataclasses

import numpy as np
import pytest

from manent.core.canonical import canonical, to_plain
from manent.core.errors import InvalidInput
from manent.core.examples import Client, Column, Examples, Schema
from manent.data.federation import Federation

SCHEMA = Schema(
    features=(Column("age", "years", 0, 120), Column("sex", codes={0: "female", 1: "male"}), Column("dose", missing="drop")),
    target=Column("ill", codes={0: "no", 1: "yes"}),
    shape=(3,),
    classes=2,
    columns=(Column("weight", "kg", 20, 300, missing="drop"),),
)


def part(rows: int = 4, **changes) -> Examples:
    x = np.tile(np.array([50, 1, 2.5], np.float32), (rows, 1))
    x[:, 0] += np.arange(rows)
    arrays = {"x": x, "y": np.arange(rows) % 2, "columns": {"weight": np.full(rows, 70.0)}}
    return Examples(**{**arrays, **changes})


def build(*clients: Client, schema: Schema = SCHEMA, **rest) -> Federation:
    return Federation(clients or (Client("a", part(), part(2)), Client("b", part(3))), schema, **rest)


def with_x(row: int, column: int, value: float) -> Examples:
    data = part()
    data.x[row, column] = value
    return data


def test_it_is_a_population_and_answers_plainly():
    federation = build(test=part(2))
    assert federation.names == ("a", "b")
    assert federation.public.schema is SCHEMA
    assert federation.public.clients == len(federation) == 2
    assert federation.sizes.tolist() == [4, 3]
    assert [client.name for client in federation] == ["a", "b"]
    assert len(federation.pooled()) == 7
    assert len(federation.pooled("test")) == 2
    assert federation.client("b").name == "b"
    assert repr(federation) == "<Federation federation: 2 clients, 7 train and 2 test rows, 2 held by the server>"


def test_checked_data_are_not_copied():
    data = part()
    federation = build(Client("a", data))
    assert federation.clients[0].train is data


def test_subset_keeps_the_order_asked_for_and_names_who_is_unknown():
    assert build().subset(["b", "a"]).names == ("b", "a")
    with pytest.raises(InvalidInput, match="No client 'c' in federation; it has a, b"):
        build().subset(["c"])
    with pytest.raises(InvalidInput, match="at least one client"):
        build().subset([])


def test_pooled_test_rows_need_some():
    with pytest.raises(InvalidInput, match="test_fraction"):
        build(Client("a", part())).pooled("test")
    with pytest.raises(InvalidInput, match="part as one of 'train', 'test'"):
        build().pooled("both")


def test_rows_without_a_droppable_value_are_dropped_in_every_part():
    weight = np.array([70.0, np.nan, 80.0, 90.0])
    federation = build(Client("a", with_x(0, 2, np.nan), part(columns={"weight": weight})))
    assert len(federation.clients[0].train) == 3
    assert federation.clients[0].train.x[:, 0].tolist() == [51, 52, 53]
    assert federation.clients[0].test.columns["weight"].tolist() == [70, 80, 90]


@pytest.mark.parametrize(
    ("clients", "words"),
    [
        ((Client("a", part()), Client("a", part())), ["'a' occurs more than once", "Rename"]),
        ((Client("", part()),), ["needs a name"]),
        ((Client("a", part(0)),), ["Client 'a' has no train rows", "Leave the client out"]),
        ((Client("a", part(), part(0)),), ["Client 'a' has no test rows", "test=None"]),
        ((Client("a", with_x(2, 0, np.nan)),), ["Client 'a', train row 2", "'age'", "nan", "missing='drop'"]),
        ((Client("a", part(), with_x(2, 0, np.inf)),), ["Client 'a', test row 2", "'age'", "inf"]),
        ((Client("a", with_x(1, 0, 130)),), ["train row 1", "'age'", "130", "above the highest", "120 years"]),
        ((Client("a", with_x(1, 0, -1)),), ["train row 1", "'age'", "-1", "below the lowest", "0 years"]),
        ((Client("a", with_x(3, 1, 2)),), ["train row 3", "'sex'", "value 2", "0 (female), 1 (male)"]),
        ((Client("a", part(y=np.array([0, 1, 2, 1]))),), ["train row 2", "'ill'", "value 2", "0 (no), 1 (yes)"]),
        ((Client("a", part(columns={"weight": np.array([70, 5.0, 5.0, 5.0])})),), ["train row 1", "'weight'", "2 more"]),
        ((Client("a", part(columns={"weight": np.full(4, np.nan)})),), ["every train row", "'a'"]),
        ((Client("a", part(columns={})),), ["'weight' is declared but absent"]),
        ((Client("a", part(columns={"weight": np.ones(4), "height": np.ones(4)})),), ["'height' is not declared"]),
        ((Client("a", part(columns={"weight": np.array(["x"] * 4)})),), ["'weight' has type", "codes"]),
        ((Client("a", part(x=np.zeros((4, 3)))),), ["float64", "float32"]),
        ((Client("a", part(x=np.zeros((4, 2), np.float32))),), ["shape (2,)", "(3,)"]),
        ((Client("a", part(y=np.zeros(4, np.float32))),), ["y has type float32", "int64"]),
        ((), []),
    ],
)
def test_what_does_not_fit_is_refused_by_client_column_row_and_value(clients, words):
    with pytest.raises(InvalidInput) as caught:
        Federation(clients, SCHEMA)
    for word in words:
        assert word in str(caught.value)


def test_labels_beyond_the_classes_are_refused_by_row():
    plain_schema = Schema(shape=(3,), classes=3)
    bad = Examples(np.zeros((2, 3), np.float32), np.array([0, 3]))
    with pytest.raises(InvalidInput, match=r"Client 'a', train row 1.*value 3.*from 0 to 2.*classes=4"):
        Federation((Client("a", bad),), plain_schema)
    x = np.zeros((2, 3), np.float32)
    x[0, 1] = np.nan
    with pytest.raises(InvalidInput, match=r"row 0.*column 'x' at \(1,\): value nan"):
        Federation((Client("a", Examples(x, np.array([0, 1]))),), plain_schema)


def test_the_servers_test_set_is_checked_too():
    with pytest.raises(InvalidInput, match=r"the server's own.*test row 1.*'age'"):
        build(test=with_x(1, 0, 500))


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (Schema(features=(Column("a"), Column("a")), shape=(2,), classes=2), "'a' occurs more than once"),
        (Schema(features=(Column("a", low=2, high=1),), shape=(1,)), "low <= high"),
        (Schema(features=(Column("a"),), shape=(2,)), r"shape=\(1,\)"),
        (Schema(shape=(3,), classes=1), "classes >= 2"),
        (Schema(target=Column("y", codes={2: "x"}), shape=(3,), classes=2), "code 2"),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(schema, message):
    with pytest.raises(InvalidInput, match=message):
        Federation((Client("a", part()),), schema)


def test_bounds_hold_for_float32_values_at_the_bound():
    schema = Schema(features=(Column("p", low=0.1, high=0.3),), shape=(1,))
    x = np.array([[0.1], [0.3]], np.float32)
    Federation((Client("a", Examples(x, np.zeros(2, np.float32))),), schema)


def test_fingerprint_tells_every_change():
    whole = build(test=part(2))
    seen = {whole.fingerprint()}
    assert build(test=part(2)).fingerprint() in seen
    others = [
        build(),
        build(Client("a", part()), Client("b", part(3)), test=part(2)),
        build(Client("a", with_x(0, 0, 1), part(2)), Client("b", part(3)), test=part(2)),
        build(Client("a", part(y=np.array([1, 1, 0, 1])), part(2)), Client("b", part(3)), test=part(2)),
        build(Client("a", part(columns={"weight": np.full(4, 71.0)}), part(2)), Client("b", part(3)), test=part(2)),
        build(Client("c", part(), part(2)), Client("b", part(3)), test=part(2)),
        whole.subset(["b", "a"]),
        build(test=part(3)),
        dataclasses.replace(
            whole, schema=dataclasses.replace(SCHEMA, columns=(Column("weight", "kg", 20, 301, missing="drop"),))
        ),
    ]
    for other in others:
        assert other.fingerprint() not in seen
        seen.add(other.fingerprint())


def test_a_schema_is_plain_data():
    assert canonical(to_plain(SCHEMA)) == canonical(to_plain(dataclasses.replace(SCHEMA)))
