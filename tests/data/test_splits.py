from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manent.core.errors import InvalidInput
from manent.data.splits import IID, Dirichlet, LabelSkew, QuantitySkew, Shards, Split, by_key

SPLITS: dict[str, Callable[[], Split]] = {
    "iid": IID,
    "dirichlet": lambda: Dirichlet(0.3),
    "dirichlet_tiny_alpha": lambda: Dirichlet(1e-4),
    "dirichlet_balanced": lambda: Dirichlet(0.3, balanced=True),
    "dirichlet_balanced_tiny": lambda: Dirichlet(1e-4, balanced=True),
    "shards": lambda: Shards(2),
    "label_skew": lambda: LabelSkew(2),
    "power": lambda: QuantitySkew(power=1.3),
    "dirichlet_sizes": lambda: QuantitySkew(alpha=0.4),
}


def labels_of(rows: int, classes: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, rows)


@pytest.mark.parametrize("name", SPLITS)
@settings(max_examples=30, deadline=None)
@given(rows=st.integers(120, 400), classes=st.integers(2, 5), clients=st.integers(3, 15), seed=st.integers(0, 2**32 - 1))
def test_a_split_is_a_partition_without_empty_clients_and_repeats(name, rows, classes, clients, seed):
    split, labels = SPLITS[name](), labels_of(rows, classes, seed)
    before = labels.copy()
    parts = split(labels, clients, np.random.default_rng(seed))
    assert len(parts) == clients
    assert all(len(part) > 0 and part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(rows))
    assert np.array_equal(labels, before)
    again = split(labels, clients, np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize("name", SPLITS)
def test_another_seed_deals_otherwise(name):
    labels = labels_of(500, 5, 0)
    one, two = (SPLITS[name]()(labels, 10, np.random.default_rng(seed)) for seed in (1, 2))
    assert not all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@given(rows=st.integers(10, 200), clients=st.integers(1, 10))
def test_iid_and_balanced_sizes_differ_by_at_most_one(rows, clients):
    labels = labels_of(rows, 3, rows)
    for split in (IID(), Dirichlet(0.2, balanced=True)):
        sizes = [len(part) for part in split(labels, clients, np.random.default_rng(0))]
        assert max(sizes) - min(sizes) <= 1


def test_shards_are_mcmahans():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 600))
    parts = Shards(2)(labels, 100, np.random.default_rng(0))
    assert {len(part) for part in parts} == {60}
    held = [len(np.unique(labels[part])) for part in parts]
    assert max(held) == 2
    assert min(held) >= 1


@given(clients=st.integers(3, 20), each=st.integers(1, 5), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_label_skew_gives_each_client_exactly_so_many_classes(clients, each, seed):
    labels = np.repeat(np.arange(5), 200)
    if clients * each < 5:
        with pytest.raises(InvalidInput, match="cannot hold all 5 classes"):
            LabelSkew(each)(labels, clients, np.random.default_rng(seed))
        return
    parts = LabelSkew(each)(labels, clients, np.random.default_rng(seed))
    assert all(len(np.unique(labels[part])) == each for part in parts)
    owners = np.array([[label in labels[part] for label in range(5)] for part in parts]).sum(axis=0)
    assert owners.max() - owners.min() <= 1


def test_dirichlet_is_the_more_skewed_the_smaller_alpha():
    labels = labels_of(5000, 10, 0)

    def skew(split):
        shares = [np.bincount(labels[p], minlength=10) / len(p) for p in split(labels, 20, np.random.default_rng(0))]
        return np.mean([share.max() for share in shares])

    for balanced in (False, True):
        assert skew(Dirichlet(0.05, balanced)) > skew(Dirichlet(1.0, balanced)) > skew(Dirichlet(1000.0, balanced))
        assert skew(Dirichlet(1000.0, balanced)) < 0.2


@given(minimum=st.integers(1, 10), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_minimum_is_kept(minimum, seed):
    labels = labels_of(200, 3, 0)
    for split in (
        Dirichlet(0.01, minimum=minimum),
        QuantitySkew(power=3.0, minimum=minimum),
        QuantitySkew(alpha=0.01, minimum=minimum),
    ):
        assert min(len(part) for part in split(labels, 20, np.random.default_rng(seed))) >= minimum


def test_power_law_sizes():
    sizes = np.sort([len(p) for p in QuantitySkew(power=1.0)(np.zeros(10_000), 10, np.random.default_rng(0))])[::-1]
    wanted = 10_000 / np.arange(1, 11) / (1 / np.arange(1, 11)).sum()
    assert np.abs(sizes - wanted).max() < 5
    equal = [len(p) for p in QuantitySkew(power=0.0)(np.zeros(100), 10, np.random.default_rng(0))]
    assert equal == [10] * 10


def test_quantity_splits_need_no_class_labels():
    targets = np.linspace(0, 1, 100)
    for split in (IID(), QuantitySkew(power=1.0)):
        assert sum(len(p) for p in split(targets, 5, np.random.default_rng(0))) == 100
    for split in (Dirichlet(1.0), Shards(2), LabelSkew(1)):
        with pytest.raises(InvalidInput, match="class label"):
            split(targets, 5, np.random.default_rng(0))


@given(st.lists(st.sampled_from(["b", "a", "d", "c"]), min_size=1, max_size=50))
def test_by_key_groups_rows_under_their_name(keys):
    groups = by_key(keys)
    assert list(groups) == sorted(set(keys))
    assert np.array_equal(np.sort(np.concatenate(list(groups.values()))), np.arange(len(keys)))
    assert all(keys[row] == name for name, rows in groups.items() for row in rows)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Dirichlet(0.0), "alpha > 0"),
        (lambda: Dirichlet(float("nan")), "alpha > 0"),
        (lambda: Shards(0), "per_client >= 1"),
        (lambda: QuantitySkew(), "either power or alpha"),
        (lambda: QuantitySkew(power=-1.0), "power >= 0"),
        (lambda: IID()(np.zeros(3), 4, np.random.default_rng(0)), "need 4 rows; found 3"),
        (lambda: IID()(np.zeros(3), 0, np.random.default_rng(0)), "clients >= 1"),
        (lambda: Shards(2)(np.zeros(3, int), 2, np.random.default_rng(0)), "need 4 rows; found 3"),
        (lambda: LabelSkew(3)(np.array([0, 1] * 9), 2, np.random.default_rng(0)), "at least 3 classes"),
        (lambda: by_key(["a", None]), "Row 1 has no client key"),
        (lambda: by_key(["a", float("nan")]), "Row 1 has no client key"),
        (lambda: by_key(["1", 1]), "several types"),
        (lambda: by_key([]), "key for each row"),
    ],
)
def test_what_cannot_be_split_is_refused(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()
